"""MQTT batches to Kafka: produce, and say which packets may be acknowledged, once Kafka has them.

The rule: a packet is acknowledged, and its event told to be safe, only when Kafka has it, never before. The library
reports failures alone; what it has let go of without one is delivered, and that is certain for everything at the moment
in which it holds nothing at all (a report for each success would cost as much as producing it). What Kafka does not take
now is kept and offered again in the order of receipt; nothing is dropped, and nothing overtakes what failed before it.
One thread.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from covey import topics
from gateway.admit import Refused, dead_letter, own_identity
from gateway.intake import Batch, Intake, Record
from gateway.kafka import make_producer, told

if TYPE_CHECKING:
    import logging

    from covey.tracing import Tracing
    from gateway.acks import AckBook
    from gateway.admit import Admission
    from gateway.config import GatewayConfig
    from gateway.counts import Counts
    from gateway.receiver import Received

_RETRY_S = 0.5
# The library is mostly empty at the end of a turn. Where Kafka answers more slowly than messages come, reading waits for
# it so long after the oldest was given, or nothing could ever be acknowledged; unless nothing moves at all, which is an
# outage: there the bounds of the queue hold.
_DRAIN_AFTER_S = 0.05
_STUCK_S = 2.0
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001  # the library's names


class Settled(NamedTuple):
    """Packets that may be acknowledged on connection `generation`, in order of receipt."""

    generation: int
    mids: list[int]


class _Flight:
    """Records given to the library together; takes the reports of those that failed."""

    __slots__ = ("alone", "batch", "failures")

    def __init__(self, batch: Batch, failures: list[tuple[_Flight, KafkaError, Any]], *, alone: bool) -> None:
        self.batch = batch
        self.failures = failures
        self.alone = alone

    def report(self, error: KafkaError | None, message: Any) -> None:
        """Called by `poll`; only enqueues."""
        if error is not None:
            self.failures.append((self, error, message))


class _Waiting(NamedTuple):
    """Records that the library has not got."""

    batch: Batch
    topic: str
    records: list[Record]
    alone: bool  # one at a time: Kafka found their batch too large


class Uplink:
    """The producing side of a gateway."""

    def __init__(
        self,
        config: GatewayConfig,
        admission: Admission,
        acks: AckBook,
        counts: Counts,
        log: logging.Logger,
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._intake = Intake(admission, counts, log, traced=tracing is not None)
        self._acks = acks
        self._counts = counts
        self._log = log
        self._batches: deque[Batch] = deque()
        self._backlog: deque[_Waiting] = deque()  # the library's queue was full, or something before it failed
        self._again: deque[_Waiting] = deque()  # failed; goes before the backlog, when nothing is under way
        self._failures: list[tuple[_Flight, KafkaError, Any]] = []
        self._retry_at_s = 0.0
        self._fatal = ""
        self._size_bytes = 0  # payloads of all batches
        self._held = 0  # records in the library at the last poll, and given to it since
        self._moved_s = 0.0  # when it last let go of some
        self.topics_missing = False
        self.connected = False
        self.pending = 0
        self._files_told = ""
        self._producer = self._new_producer()

    @property
    def blocked(self) -> bool:
        """Kafka does not keep up: nothing more should be read."""
        return bool(self._backlog) or bool(self._again) or self._size_bytes > self._config.queue_bytes

    def draining(self, now_s: float) -> bool:
        """Kafka is at work and behind: reading should wait until it has all; `now_s` is monotonic."""
        return self.oldest_s(now_s) > _DRAIN_AFTER_S and now_s - self._moved_s < _STUCK_S

    @property
    def queued(self) -> int:
        """Records in the library, sent or not."""
        return len(self._producer)

    def oldest_s(self, now_s: float) -> float:
        """Age of the oldest batch that Kafka has not confirmed, in seconds; `now_s` is monotonic."""
        return now_s - self._batches[0].since_s if self._batches else 0.0

    def submit(self, generation: int, received: list[Received], now_s: float) -> None:
        """Admit and produce one receive's messages; `now_s` is the time of receipt in seconds since the epoch."""
        batch = self._intake.take(generation, received, time.monotonic(), now_s)
        self.pending += batch.records
        self._size_bytes += batch.size_bytes
        self._batches.append(batch)
        for topic, records in batch.parts.items():
            waiting = _Waiting(batch, topic, records, alone=False)
            if self._backlog or self._again or not self._offer(waiting):
                batch.kept += len(records)
                self._backlog.append(waiting)

    def poll(self, timeout_s: float) -> list[Settled]:
        """Let the library work for up to `timeout_s`; returns what may be acknowledged now, oldest first."""
        try:
            self._producer.poll(timeout_s)
        except KafkaException as error:  # fatal ones come out here where no callback took them
            self._fatal = self._fatal or told(error)
        held, before = len(self._producer), self._held
        self._held = held
        if held < before:
            self._moved_s = time.monotonic()
        if self._failures:
            self._judge_failures()
        if self._fatal:
            self._rebuild()
            return []
        settled = self._settle() if held == 0 and self._batches else []
        if self._again or self._backlog:
            self._offer_again()
        return settled

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
        self._batches.clear()
        self._producer.purge()
        self._producer.flush(1.0)

    def _offer(self, waiting: _Waiting) -> bool:
        """Hand records to the library; False when it has no room for them, and then it has none of them."""
        records = waiting.records
        if len(self._producer) + len(records) > self._config.queue_messages and len(self._producer):
            return False  # asked before: taken in part, what comes behind could overtake what was not
        self._held += len(records)
        flight = _Flight(waiting.batch, self._failures, alone=waiting.alone)
        if waiting.batch.headed and any("headers" in record for record in records):
            self._offer_one_by_one(waiting, flight)
            return True
        if self._producer.produce_batch(waiting.topic, records, on_delivery=flight.report) != len(records):
            for record in records:  # produce_batch marks what it did not take; for those no report comes
                error = record.pop("_error", None)
                if error is not None:
                    self._fail(flight, waiting.topic, record, error)
        return True

    def _offer_one_by_one(self, waiting: _Waiting, flight: _Flight) -> None:
        for record in waiting.records:
            try:
                self._producer.produce(
                    waiting.topic,
                    record["value"],
                    record["key"],
                    headers=record.get("headers"),
                    on_delivery=flight.report,
                )
            except BufferError:
                error = KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001  # the library's name
                self._fail(flight, waiting.topic, record, error)
            except KafkaException as refused:
                self._fail(flight, waiting.topic, record, refused.args[0])
        self._counts.add("headers_produced", len(waiting.records))

    def _judge_failures(self) -> None:
        """What becomes of records that were not delivered, in the order in which they failed."""
        failures = self._failures[:]
        self._failures.clear()
        before = len(self._again)
        for flight, error, message in failures:
            if error.code() in _PURGED:
                continue
            record: Record = {"key": message.key() or b"", "value": message.value()}
            if message.headers():
                record["headers"] = message.headers()
            self._fail(flight, message.topic(), record, error)
        # they are older than what waits to be tried again already
        self._again.rotate(len(self._again) - before)

    def _fail(self, flight: _Flight, topic: str, record: Record, error: KafkaError) -> None:
        code, alone = error.code(), False
        if error.fatal() or code == KafkaError._FATAL:  # noqa: SLF001
            self._fatal = self._fatal or told(error)
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
            self.topics_missing = True
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            # Kafka judges whole batches: only what it refuses alone is too large itself
            if flight.alone and topic != topics.DEADLETTER:
                self._put_aside(flight.batch, topic, record, error)
                return
            alone = True
        if not self._again:
            self._log.warning("kafka %s: topic %s: %s: producing again", self._config.kafka, topic, told(error))
            self._retry_at_s = time.monotonic() + (0.0 if alone else _RETRY_S)
        flight.batch.kept += 1
        self._again.append(_Waiting(flight.batch, topic, [record], alone))

    def _put_aside(self, batch: Batch, topic: str, record: Record, error: KafkaError) -> None:
        """Kafka's own limit is below ours: a dead letter instead, or the record would block its batch for ever."""
        key, value = record["key"].decode(), record["value"]
        identity = own_identity(value, key)
        if identity in batch.accepted:  # the store will never see it: ours to acknowledge
            batch.accepted.remove(identity)
            batch.refused.append(identity)
        refused = Refused("too_large", f"kafka: {told(error)}", key, identity, "")
        self._counts.add("deadletter", label="too_large")
        part = batch.parts[topic]
        part.pop(next(i for i, one in enumerate(part) if (one["key"], one["value"]) == (record["key"], value)))
        letter: Record = {"key": record["key"], "value": dead_letter(refused, topic.encode(), value, time.time())}
        batch.put(topics.DEADLETTER, letter)
        batch.kept += 1
        self._again.append(_Waiting(batch, topics.DEADLETTER, [letter], alone=False))

    def _offer_again(self) -> None:
        """What failed, when all reports are in, so that nothing is overtaken; then what waits behind it."""
        if self._again:
            if time.monotonic() < self._retry_at_s or self.topics_missing or len(self._producer):
                return
            alone = self._again[0].alone
            self._counts.add("retries")
            while self._again and self._again[0].alone == alone and self._offer(self._again[0]):
                self._again.popleft().batch.kept -= 1
                if alone:
                    return
        while self._backlog and not self._again:
            batch, topic, records, alone = waiting = self._backlog.popleft()
            room = max(1, self._config.queue_messages - len(self._producer))
            if len(records) > room:  # one receive may bring more than the queue ever holds
                self._backlog.appendleft(_Waiting(batch, topic, records[room:], alone))
                waiting = _Waiting(batch, topic, records[:room], alone)
            if not self._offer(waiting):
                self._backlog.appendleft(waiting)
                return
            batch.kept -= len(waiting.records)
            if len(records) > room:
                return

    def _settle(self) -> list[Settled]:
        """What Kafka has; only right while the library holds nothing."""
        settled: list[Settled] = []
        batches, counts = self._batches, self._counts
        while batches and not batches[0].kept:  # PUBACKs go in the order of receipt
            batch = batches.popleft()
            now_s = time.monotonic()
            records = 0
            for topic, part in batch.parts.items():
                counts.add("delivered", len(part), topic)
                records += len(part)
            self.pending -= records
            self._size_bytes -= batch.size_bytes
            if batch.refused:
                self._acks.add_all(batch.refused, now_s)
            if batch.accepted and self._config.ack_after == "kafka":
                self._acks.add_all(batch.accepted, now_s)
            counts.observe("ack_delay_s", now_s - batch.since_s, records)
            if batch.traces:
                self._tell(batch.traces, now_s - batch.since_s)
            if batch.mids:
                settled.append(Settled(batch.generation, batch.mids))
        return settled

    def _tell(self, traces: list[tuple[str, str, str, str]], took_s: float) -> None:
        """Spans of a batch that Kafka has: from receipt to its confirmation."""
        if self._tracing is None:
            return
        now_s = time.time()
        for device, kind, above, own in traces:
            what = {"covey.device": device, "covey.kind": kind, "covey.gateway": self._config.name}
            self._tracing.record("gateway", own, above, now_s - took_s, now_s, what)

    def _rebuild(self) -> None:
        """A new producer after a fatal error; what the old one had not confirmed is produced again (sinks drop repeats)."""
        wrong = "; ".join(self._config.kafka_credentials.problems())
        if wrong:  # no new producer can be made: wait for the files to be mended
            if wrong != self._files_told:
                self._log.warning("kafka %s: %s: trying again", self._config.kafka, wrong)
                self._files_told = wrong
            return
        self._files_told = ""
        self._log.warning("kafka %s: %s: making the producer anew", self._config.kafka, self._fatal)
        self._counts.add("producer_rebuilds")
        self._fatal = ""
        self._producer.purge()
        self._failures = []  # the old producer's reports go where nobody looks
        self._producer = self._new_producer()
        self._again.clear()
        self._backlog.clear()
        for batch in self._batches:
            batch.kept = batch.records
            self._backlog += [_Waiting(batch, topic, part, alone=False) for topic, part in batch.parts.items()]

    def _new_producer(self) -> Producer:
        self._held = 0
        return make_producer(self._config, self._on_error, self._on_connected, only_failures=True)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = self._fatal or told(error)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._on_connected(False)

    def _on_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self._log.info("kafka %s: %s", self._config.kafka, "connected" if connected else "not connected")
        self.connected = connected
