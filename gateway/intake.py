"""One receive's messages, judged and laid out for Kafka. Pure: no socket, no clock, no Kafka client.

What one MQTT topic decides is worked out once and kept (gateway/lanes.py for covey's devices, `_Mapped` for plain ones);
what the quick road does not accept goes to gateway.admit, which alone refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from covey import topics
from covey.errors import WireError
from covey.tracing import child
from gateway.admit import Accept, Mapped, Refused, dead_letter
from gateway.lanes import LOOK_CLOSER, MAX_LANES, Lane

if TYPE_CHECKING:
    import logging

    from gateway.admit import Admission, Bucket
    from gateway.counts import Counts
    from gateway.mapping import Route
    from gateway.receiver import Received

# As `produce_batch` takes it: value, key, and headers where there are some.
Record = dict[str, Any]


class Batch:
    """What one receive brought; settled when each of its records is confirmed.

    Attributes:
        generation: of the MQTT connection it came by.
        since_s: when it came, monotonic.
        mids: packets to acknowledge, in order.
        parts: Kafka topic -> records, in order.
        accepted: (device, outbox, seq) of events on their way to the store.
        refused: the same of those put aside.
        headed: some of its records have headers, which `produce_batch` does not take.
        kept: records that the Kafka library has not got, or has given back.
        size_bytes: payloads together.
        traces: (device, kind, the event's trace context, ours) of those whose spans are told.
    """

    __slots__ = (
        "accepted",
        "generation",
        "headed",
        "kept",
        "mids",
        "parts",
        "refused",
        "since_s",
        "size_bytes",
        "traces",
    )

    def __init__(self, generation: int, since_s: float) -> None:
        self.generation = generation
        self.since_s = since_s
        self.traces: list[tuple[str, str, str, str]] = []
        self.mids: list[int] = []
        self.parts: dict[str, list[Record]] = {}
        self.accepted: list[tuple[str, str, int]] = []
        self.refused: list[tuple[str, str, int]] = []
        self.headed = False
        self.kept = 0
        self.size_bytes = 0

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(map(len, self.parts.values()))

    def put(self, topic: str, record: Record) -> None:
        """One more record for a topic."""
        part = self.parts.get(topic)
        if part is None:
            self.parts[topic] = [record]
        else:
            part.append(record)


class _Mapped:
    """One topic of a plain device."""

    __slots__ = ("bucket", "key", "max_bytes", "plain", "route", "topic")

    def __init__(self, route: Route, bucket: Bucket) -> None:
        mapping = route.mapping
        self.route, self.key, self.topic = route, route.key, mapping.topic
        self.max_bytes = mapping.max_bytes
        self.plain = mapping.payload == "raw" and not mapping.headers
        self.bucket = bucket


class _Nobody:
    """A topic that the quick road knows nothing of."""


_NOBODY = _Nobody()


class Intake:
    """The judging side of a gateway: remembers topics, counts what comes.

    Args:
        admission: what is accepted.
        counts: of what came.
        log: of what is put aside.
        traced: spans are told: an event with a trace context goes on with a span of the gateway above it.
    """

    def __init__(self, admission: Admission, counts: Counts, log: logging.Logger, *, traced: bool = False) -> None:
        self._traced = traced
        self._admission = admission
        self._counts = counts
        self._log = log
        self._lanes: dict[bytes, Lane | _Mapped | _Nobody] = {}
        self._sweeps = 0

    def take(self, generation: int, received: list[Received], since_s: float, now_s: float) -> Batch:
        """Judge one receive's messages.

        Args:
            generation: of the MQTT connection.
            received: as they came.
            since_s: monotonic time of receipt.
            now_s: the same in seconds since the epoch.
        """
        batch = Batch(generation, since_s)
        lanes, parts, accepted, rate = self._lanes, batch.parts, batch.accepted, self._admission.rate
        rate_s, burst = rate.rate_s, rate.burst
        kinds: dict[str, int] = {}
        mapped = size = 0
        part: list[Record] = []
        part_of = ""
        for topic, payload, _mid, user in received:
            length = len(payload)
            size += length
            lane = lanes.get(topic)
            if lane is None:
                lane = self._lane(topic, now_s)
            if lane.__class__ is _Mapped:
                # `rate.take`, written out: called, it costs a fifth of all that is done for a plain message here
                bucket = lane.bucket
                passed_s = now_s - bucket.then_s
                tokens = bucket.tokens + passed_s * rate_s
                if tokens > burst:  # noqa: PLR1730  # min() is a call, for each message
                    tokens = burst
                if not lane.plain or length > lane.max_bytes or tokens < 1.0 or passed_s < 0.0:
                    self._closer(batch, kinds, topic, payload, user, now_s)
                    continue
                bucket.tokens = tokens - 1.0
                bucket.then_s = now_s
                mapped += 1
                record: Record = {"key": lane.key, "value": payload}
            elif lane.__class__ is Lane and (seq := lane.judge(payload, now_s)) != LOOK_CLOSER:
                record = {"key": lane.key, "value": payload}
                if lane.traced and lane.trace:
                    record["headers"] = [("traceparent", self._trace(batch, lane).encode())]
                accepted.append((lane.device, lane.outbox, seq))
                kinds[lane.kind] = kinds.get(lane.kind, 0) + 1
            else:
                self._closer(batch, kinds, topic, payload, user, now_s)
                continue
            if lane.topic != part_of:
                part_of = lane.topic
                part = parts.setdefault(part_of, [])
            part.append(record)
        if mapped:
            kinds["mapped"] = kinds.get("mapped", 0) + mapped
        batch.mids = [message[2] for message in received if message[2]]
        batch.size_bytes = size
        for kind, count in kinds.items():
            self._counts.add("received", count, kind)
        for name, part in parts.items():
            if name not in topics.KAFKA_TOPICS:
                self._counts.add("mapped", len(part), name)
        self._counts.add("received_bytes", size)
        self._counts.observe("batch_messages", len(received))
        return batch

    def _trace(self, batch: Batch, lane: Lane) -> str:
        """The trace context that the record goes on with: the event's own, or a span of ours under it."""
        batch.headed = True
        if not self._traced:
            return lane.trace
        own = child(lane.trace)
        batch.traces.append((lane.device, lane.kind, lane.trace, own))
        return own

    def _lane(self, topic: bytes, now_s: float) -> Lane | _Mapped | _Nobody:
        if len(self._lanes) >= MAX_LANES:
            self._lanes.clear()
        made: Lane | _Mapped | _Nobody = _NOBODY
        admission = self._admission
        try:
            name = topic.decode()
            if name.startswith(f"{topics.ROOT}/"):
                address = topics.parse(name)
                if address.kind in topics.UP_KINDS:
                    bucket = admission.rate.bucket(address.device, now_s)
                    made = Lane(address, admission.rate, bucket, admission.max_event_bytes)
                    made.traced = made.traced or self._traced
            elif (route := admission.mappings.find(name)) is not None:
                made = _Mapped(route, admission.rate.bucket(admission.rate_key(route), now_s))
        except (UnicodeDecodeError, WireError):
            return made  # not remembered: anybody can make up topics that are none
        if admission.rate.sweeps != self._sweeps:
            self._sweeps = admission.rate.sweeps
            self._lanes.clear()  # all lanes of a device share one bucket
        self._lanes[topic] = made
        return made

    def _closer(
        self,
        batch: Batch,
        kinds: dict[str, int],
        topic: bytes,
        payload: bytes,
        user: tuple[tuple[str, str], ...],
        now_s: float,
    ) -> None:
        """The slow road: admission decides, and says why not."""
        verdict = self._admission.admit(topic, payload, now_s, user)
        if isinstance(verdict, Accept):
            batch.put(verdict.topic, {"key": verdict.key.encode(), "value": verdict.value})
            if verdict.identity is not None:
                batch.accepted.append(verdict.identity)
        elif isinstance(verdict, Mapped):
            record: Record = {"key": verdict.key, "value": verdict.value}
            if verdict.headers:
                record["headers"] = verdict.headers
                batch.headed = True
            batch.put(verdict.topic, record)
        else:
            self._put_aside(batch, verdict, topic, payload, now_s)
        kind = verdict.kind or "unknown"
        kinds[kind] = kinds.get(kind, 0) + 1

    def _put_aside(self, batch: Batch, refused: Refused, topic: bytes, payload: bytes, now_s: float) -> None:
        self._counts.add("deadletter", label=refused.reason)
        self._log.debug("dead letter: %s: %s", refused.reason, refused.detail)
        value = dead_letter(refused, topic, payload, now_s)
        batch.put(topics.DEADLETTER, {"key": refused.device.encode(), "value": value})
        if refused.identity is not None:
            batch.refused.append(refused.identity)
