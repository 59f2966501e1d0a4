"""How stages write: messages and the offsets of what they came from, at least once or in Kafka transactions.

A sink that has raised is given up and made anew, with its source: both begin at what is committed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from cloud.stream.kafka import Place, Writer, client_settings, told
from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloud.config import CloudConfig
    from cloud.stream.group import Member, Source

TRANSACTION_MS = 10_000  # a transaction that nobody ends holds readers back for so long
WAIT_S = 10.0  # for one step of a transaction


class Out(NamedTuple):
    """One message to produce."""

    topic: str
    key: str
    value: bytes
    traceparent: str = ""


class Plain:
    """Produces, waits until all is delivered, then commits the offsets: at least once."""

    def __init__(self, config: CloudConfig) -> None:
        self._writer = Writer(config)

    def send(self, messages: Sequence[Out], offsets: Mapping[Place, int], source: Source) -> None:
        """Produce and commit.

        Raises:
            LinkError: something was not delivered; nothing is committed.
        """
        delivered: list[bool] = []
        for one in messages:
            headers = {"traceparent": one.traceparent} if one.traceparent else None
            while not self._writer.produce(one.topic, one.key, one.value, delivered.append, headers):
                self._writer.flush(0.1)
        if messages:
            self._writer.flush(WAIT_S)
        if delivered.count(True) < len(messages):
            missing = len(messages) - delivered.count(True)
            raise LinkError(f"kafka: {missing} of {len(messages)} messages not delivered")
        source.commit(offsets)


class Transactions:
    """Produces and commits the offsets in one Kafka transaction: a reader of committed messages sees each once.

    Source: KIP-98 (transactions), KIP-447 (fencing by the group's generation).
    """

    def __init__(self, config: CloudConfig, name: str) -> None:
        """Take the name over: what an earlier owner began and did not end is undone.

        Raises:
            LinkError: no broker answers.
        """
        self._kafka = config.kafka
        settings = client_settings(config) | {
            "transactional.id": name,
            "transaction.timeout.ms": TRANSACTION_MS,
            "message.timeout.ms": TRANSACTION_MS,
            "linger.ms": 1,
        }
        self._producer = Producer(settings)
        self._step(self._producer.init_transactions, WAIT_S)

    def send(self, messages: Sequence[Out], offsets: Mapping[Place, int], source: Member) -> None:
        """Produce and commit: all of it or nothing.

        Raises:
            LinkError: nothing is committed, or it cannot be told; begin anew at what is committed.
        """
        self._step(self._producer.begin_transaction)
        for one in messages:
            self._produce(one)
        places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        self._step(self._producer.send_offsets_to_transaction, places, source.metadata, WAIT_S)
        self._step(self._producer.commit_transaction, WAIT_S)

    def _produce(self, one: Out) -> None:
        headers: list[tuple[str, str | bytes | None]] = [("traceparent", one.traceparent)] if one.traceparent else []
        while True:
            try:
                self._producer.produce(one.topic, one.value, one.key or None, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise LinkError(f"kafka {self._kafka}: {one.topic}: {told(error)}") from error

    def _step(self, call: Callable[..., Any], *arguments: Any) -> None:
        """One step, again while the library says that it may be tried again and the time is not up."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                call(*arguments)
                return
            except KafkaException as error:
                inner = error.args[0]
                if isinstance(inner, KafkaError) and inner.retriable() and time.monotonic() < end:
                    continue
                raise LinkError(f"kafka {self._kafka}: transaction: {told(error)}") from error
