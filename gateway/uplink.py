"""MQTT batches to Kafka: admit, produce, and say which packets may be acknowledged, once Kafka has them.

The rule: a packet is acknowledged, and its event told to be safe, only after Kafka's delivery report, never before.
What Kafka does not take now is kept in order and offered again; nothing is dropped. One thread.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from covey import topics
from gateway.admit import Accept, Admission, Refused, dead_letter, own_identity
from gateway.kafka import make_producer, told

if TYPE_CHECKING:
    import logging

    from covey import wire
    from gateway.acks import AckBook
    from gateway.config import GatewayConfig
    from gateway.counts import Counts
    from gateway.receiver import Received

_RETRY_S = 0.5
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001  # the library's names


class Record(NamedTuple):
    """One record on its way to Kafka."""

    topic: str
    key: str
    value: bytes


class Settled(NamedTuple):
    """Packets that may be acknowledged on connection `generation`, in order of receipt."""

    generation: int
    mids: list[int]


class _Batch:
    """What one receive brought; settled when each of its records is confirmed."""

    __slots__ = ("accepted", "generation", "mids", "records", "refused", "since_s", "told", "waiting")

    def __init__(self, generation: int, since_s: float) -> None:
        self.generation = generation
        self.since_s = since_s
        self.mids: list[int] = []
        self.records: list[Record] = []
        self.accepted: list[wire.Identity] = []
        self.refused: list[wire.Identity] = []
        self.waiting = 0
        self.told = False


class Uplink:
    """The producing side of a gateway."""

    def __init__(
        self, config: GatewayConfig, admission: Admission, acks: AckBook, counts: Counts, log: logging.Logger
    ) -> None:
        self._config = config
        self._admission = admission
        self._acks = acks
        self._counts = counts
        self._log = log
        self._batches: deque[_Batch] = deque()
        self._backlog: deque[tuple[_Batch, str, list[dict[str, Any]]]] = deque()  # the library's queue was full
        self._failed: list[tuple[_Batch, Record]] = []
        self._retry_at_s = 0.0
        self._epoch = 0  # of the producer; reports of an older one mean nothing
        self._fatal = ""
        self.topics_missing = False
        self.connected = False
        self.pending = 0
        self._producer = self._new_producer()

    @property
    def blocked(self) -> bool:
        """Kafka's queue is full: nothing more should be read."""
        return bool(self._backlog)

    def oldest_s(self, now_s: float) -> float:
        """Age of the oldest batch that Kafka has not confirmed, in seconds; `now_s` is monotonic."""
        return now_s - self._batches[0].since_s if self._batches else 0.0

    def submit(self, generation: int, received: list[Received], now_s: float) -> None:
        """Admit and produce one receive's messages; `now_s` is the time of receipt in seconds since the epoch."""
        batch = _Batch(generation, time.monotonic())
        counts, admit = self._counts, self._admission.admit
        for topic, payload, mid in received:
            if mid:
                batch.mids.append(mid)
            verdict = admit(topic, payload, now_s)
            counts.add("received", label=verdict.kind or "unknown")
            counts.add("received_bytes", len(payload))
            if isinstance(verdict, Accept):
                batch.records.append(Record(verdict.topic, verdict.key, verdict.value))
                if verdict.identity is not None:
                    batch.accepted.append(verdict.identity)
            else:
                self._put_aside(batch, verdict, topic, payload, now_s)
        batch.waiting = len(batch.records)
        self.pending += batch.waiting
        self._batches.append(batch)
        self._produce(batch, batch.records)

    def poll(self, timeout_s: float) -> list[Settled]:
        """Serve delivery reports for up to `timeout_s`; returns what may be acknowledged now, oldest first."""
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:  # fatal ones come out here where no callback took them
            self._fatal = self._fatal or told(error)
        if self._fatal:
            self._rebuild()
        self._offer_again()
        return self._settle()

    def renew(self, why: str) -> None:
        """Make the producer anew in the next `poll`; what is not confirmed is produced again."""
        self._fatal = self._fatal or why

    def flush(self, deadline_s: float) -> list[Settled]:
        """Wait for the reports of all that is under way, until a monotonic deadline."""
        settled: list[Settled] = []
        while self._batches and time.monotonic() < deadline_s:
            settled += self.poll(0.05)
        return settled

    def close(self) -> None:
        """Give up what was not delivered: it was not acknowledged either, so the MQTT broker sends it again."""
        self._epoch += 1
        self._producer.purge()
        self._producer.flush(1.0)

    def _put_aside(self, batch: _Batch, refused: Refused, topic: bytes, payload: bytes, now_s: float) -> None:
        self._counts.add("deadletter", label=refused.reason)
        self._log.debug("dead letter: %s: %s", refused.reason, refused.detail)
        value = dead_letter(refused, topic, payload, now_s)
        batch.records.append(Record(topics.DEADLETTER, refused.device, value))
        if refused.identity is not None:
            batch.refused.append(refused.identity)

    def _produce(self, batch: _Batch, records: list[Record]) -> None:
        by_topic: dict[str, list[dict[str, Any]]] = {}
        for topic, key, value in records:
            by_topic.setdefault(topic, []).append({"key": key, "value": value})
        for topic, messages in by_topic.items():
            if self._backlog:  # keep the order: behind what waits already
                self._backlog.append((batch, topic, messages))
            else:
                self._offer(batch, topic, messages)

    def _offer(self, batch: _Batch, topic: str, messages: list[dict[str, Any]]) -> bool:
        """Hand messages to the library; False when its queue was full and the rest went to the backlog's head."""
        report = partial(self._report, batch, self._epoch)
        if self._producer.produce_batch(topic, messages, on_delivery=report) == len(messages):
            return True
        full: list[dict[str, Any]] = []
        for message in messages:  # produce_batch marks what it did not take; for those no report comes
            error = message.pop("_error", None)
            if error is None:
                continue
            if error.code() == KafkaError._QUEUE_FULL:  # noqa: SLF001
                full.append(message)
            else:
                self._not_delivered(batch, Record(topic, message["key"], message["value"]), error)
        if full:
            self._backlog.appendleft((batch, topic, full))
        return not full

    def _report(self, batch: _Batch, epoch: int, error: KafkaError | None, message: Any) -> None:
        if epoch != self._epoch:
            return
        if error is None:
            batch.waiting -= 1
            self.pending -= 1
            self._counts.add("delivered", label=message.topic())
        elif error.code() not in _PURGED:
            key = (message.key() or b"").decode()
            self._not_delivered(batch, Record(message.topic(), key, message.value()), error)

    def _not_delivered(self, batch: _Batch, record: Record, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            self._fatal = self._fatal or told(error)
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
            self.topics_missing = True
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and record.topic != topics.DEADLETTER:
            # Kafka's own limit is below ours: put the event aside, or it would block its batch for ever
            identity = own_identity(record.value, record.key)
            if identity in batch.accepted:  # the store will never see it: ours to acknowledge
                batch.accepted.remove(identity)
                batch.refused.append(identity)
            refused = Refused("too_large", f"kafka: {told(error)}", record.key, identity, "")
            self._counts.add("deadletter", label="too_large")
            record = Record(
                topics.DEADLETTER, record.key, dead_letter(refused, record.topic.encode(), record.value, time.time())
            )
        if not self._failed:
            self._log.warning("kafka %s: %s: producing again", self._config.kafka, told(error))
            self._retry_at_s = time.monotonic() + _RETRY_S
        self._failed.append((batch, record))

    def _offer_again(self) -> None:
        while self._backlog:
            if not self._offer(*self._backlog.popleft()):
                break
        if self._failed and time.monotonic() >= self._retry_at_s and not self.topics_missing:
            failed, self._failed = self._failed, []
            self._counts.add("retries", len(failed))
            for batch, record in failed:
                self._produce(batch, [record])

    def _settle(self) -> list[Settled]:
        now_s = time.monotonic()
        for batch in self._batches:
            if batch.waiting == 0 and not batch.told:
                batch.told = True
                for identity in batch.refused:
                    self._acks.add(identity, now_s)
                if self._config.ack_after == "kafka":
                    for identity in batch.accepted:
                        self._acks.add(identity, now_s)
        settled: list[Settled] = []
        while self._batches and self._batches[0].waiting == 0:  # PUBACKs go in the order of receipt
            batch = self._batches.popleft()
            if batch.mids:
                settled.append(Settled(batch.generation, batch.mids))
        return settled

    def _rebuild(self) -> None:
        """A new producer after a fatal error; what the old one had not confirmed is produced again (sinks drop repeats)."""
        self._log.warning("kafka %s: %s: making the producer anew", self._config.kafka, self._fatal)
        self._counts.add("producer_rebuilds")
        self._fatal = ""
        self._epoch += 1
        self._producer.purge()
        self._producer = self._new_producer()
        self._backlog.clear()
        self._failed.clear()
        self.pending = 0
        for batch in self._batches:
            if batch.waiting:
                batch.waiting = len(batch.records)
                self.pending += batch.waiting
                self._produce(batch, batch.records)

    def _new_producer(self) -> Producer:
        return make_producer(self._config, self._on_error, self._on_connected)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = self._fatal or told(error)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._on_connected(False)

    def _on_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self._log.info("kafka %s: %s", self._config.kafka, "connected" if connected else "not connected")
        self.connected = connected
