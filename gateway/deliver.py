"""Produce records and wait until Kafka has confirmed each: for work that is counted, not streamed.

What Kafka finds too large is told apart; every other refusal ends the work. Nothing is given up while Kafka answers.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Message

from covey.errors import LinkError
from gateway.kafka import make_producer, told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.config import GatewayConfig
    from gateway.letters import Send


class Deliverer:
    """A producer that is asked for a batch at a time.

    Args:
        config: brokers and logins.
        patience_s: without a single confirmation, after which Kafka counts as away.
    """

    def __init__(self, config: GatewayConfig, patience_s: float) -> None:
        self._kafka = config.kafka
        self._patience_s = patience_s
        self._error = ""
        self._fatal = ""
        self._producer = make_producer(config, self._on_error, lambda _connected: None)

    def deliver(self, records: Sequence[Send], on_confirmed: Callable[[int], None]) -> dict[int, str]:
        """Produce in order and wait; returns what Kafka finds too large: index -> its words.

        Args:
            records: one batch.
            on_confirmed: called with the index of each record that Kafka has.

        Raises:
            LinkError: Kafka is away, or refuses; what was confirmed before was told.
        """
        too_large = self._all(records, range(len(records)), on_confirmed)
        if len(too_large) > 1:  # the broker judges a whole batch: each alone is what counts
            alone = [self._all(records, [index], on_confirmed) for index in sorted(too_large)]
            return {index: detail for one in alone for index, detail in one.items()}
        return too_large

    def close(self) -> None:
        """Give up what is under way; nobody was told that it is safe."""
        self._producer.purge()
        self._producer.flush(1.0)

    def _all(
        self, records: Sequence[Send], indices: Sequence[int], on_confirmed: Callable[[int], None]
    ) -> dict[int, str]:
        waiting = set(indices)
        too_large: dict[int, str] = {}
        refused: list[str] = []

        def report(index: int, error: KafkaError | None, _message: Message) -> None:
            waiting.discard(index)
            if error is None:
                on_confirmed(index)
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                too_large[index] = told(error)
            else:
                refused.append(f"{records[index].topic}: {told(error)}")

        for index in indices:
            if not self._produce(records[index], partial(report, index)):
                waiting.discard(index)
                too_large[index] = "larger than message.max.bytes of this client"
        heard_s, left = time.monotonic(), len(waiting)
        while waiting and not refused:
            self._poll(0.1)
            if len(waiting) < left:
                heard_s, left = time.monotonic(), len(waiting)
            elif time.monotonic() - heard_s > self._patience_s:
                raise self._away()
        if refused:
            raise LinkError(f"kafka {self._kafka}: {refused[0]}")
        return too_large

    def _produce(self, record: Send, report: Callable[[KafkaError | None, Message], None]) -> bool:
        """Hand a record to the library; False when it is too large for it."""
        full_s = time.monotonic()
        while True:
            try:
                self._producer.produce(record.topic, record.value, record.key, on_delivery=report)
            except BufferError as error:  # queue_messages is smaller than a batch
                if time.monotonic() - full_s > self._patience_s:
                    raise self._away() from error
                self._poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    return False
                raise LinkError(f"kafka {self._kafka}: {record.topic}: {told(error)}") from error
            else:
                return True

    def _poll(self, timeout_s: float) -> None:
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:
            self._fatal = self._fatal or told(error)
        if self._fatal:
            raise LinkError(f"kafka {self._kafka}: {self._fatal}")

    def _away(self) -> LinkError:
        why = f": {self._error}" if self._error else ""
        return LinkError(f"kafka {self._kafka}: nothing confirmed for {self._patience_s:g} s{why}")

    def _on_error(self, error: KafkaError) -> None:
        self._error = told(error)
        if error.fatal():
            self._fatal = self._fatal or told(error)
