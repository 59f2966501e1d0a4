"""Accept or refuse one uplink message: topic, size, rate, schema, and whether topic and event agree.

Pure: no socket, no clock (the time is an argument). Never raises on what a device sent; what is refused
comes back as a `Refused` with a dead letter reason, and with the identity where one can be read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from covey import topics, wire
from covey.errors import WireError
from covey.sketch import Sketch
from gateway import mapping


class Accept(NamedTuple):
    """A record for Kafka; `value` is the device's bytes, unchanged (presence excepted)."""

    topic: str
    key: str
    value: bytes
    identity: wire.Identity | None  # None for presence, which is outside the sequence
    kind: str


class Mapped(NamedTuple):
    """A plain device's record for Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    kind: str = "mapped"


class Refused(NamedTuple):
    """Why a message is put aside; `identity` only where it is the topic's device's own."""

    reason: str
    detail: str
    device: str  # "" when the topic names none
    identity: wire.Identity | None
    kind: str  # "" when the topic names none


class _OnlyId(msgspec.Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_OnlyId)
_parse = lru_cache(maxsize=65_536)(topics.parse)  # sha256 and two patterns per message otherwise


class Bucket:
    """Tokens of one device."""

    __slots__ = ("then_s", "tokens")

    def __init__(self, tokens: float, then_s: float) -> None:
        self.tokens, self.then_s = tokens, then_s


class RateLimit:
    """Token bucket per device.

    Args:
        rate_s: events per second, sustained.
        burst: events that may come at once.
    """

    _SWEEP = 4_096  # devices remembered before full buckets are forgotten

    def __init__(self, rate_s: float, burst: int) -> None:
        self.rate_s = rate_s
        self.burst = float(burst)
        self._buckets: dict[str, Bucket] = {}
        self._sweep_at = self._SWEEP
        self.sweeps = 0  # after one, a bucket that somebody holds may not be its device's any more

    def bucket(self, device: str, now_s: float) -> Bucket:
        """The device's tokens; a new device's bucket is full."""
        found = self._buckets.get(device)
        if found is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now_s)
            found = self._buckets[device] = Bucket(self.burst, now_s)
        return found

    def take(self, bucket: Bucket, now_s: float) -> bool:
        """Take one token; False when there is none. A clock that goes backwards adds nothing."""
        if now_s != bucket.then_s:
            bucket.tokens = min(self.burst, bucket.tokens + max(0.0, now_s - bucket.then_s) * self.rate_s)
            bucket.then_s = now_s
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def allow(self, device: str, now_s: float) -> bool:
        """Take one token of a device."""
        return self.take(self.bucket(device, now_s), now_s)

    def _sweep(self, now_s: float) -> None:
        full_after_s = self.burst / self.rate_s
        self._buckets = {d: b for d, b in self._buckets.items() if now_s - b.then_s < full_after_s}
        self._sweep_at = max(self._SWEEP, 2 * len(self._buckets))
        self.sweeps += 1


class Admission:
    """The gate of one gateway.

    Args:
        gateway: name, told in presence events.
        max_event_bytes: larger events are refused as `too_large`.
        rate: per-device limit.
        first_presence: where numbering of presence events and envelopes begins; each process life must begin higher.
        mappings: of plain devices' topics.
    """

    def __init__(
        self,
        gateway: str,
        max_event_bytes: int,
        rate: RateLimit,
        first_presence: int,
        mappings: tuple[mapping.Mapping, ...] = (),
    ) -> None:
        self._gateway = gateway
        self._number = first_presence
        self.max_event_bytes = max_event_bytes
        self.rate = rate
        self.mappings = mapping.Mappings(mappings)

    def admit(
        self, topic: bytes, payload: bytes, now_s: float, user: tuple[tuple[str, str], ...] = ()
    ) -> Accept | Mapped | Refused:
        """Judge one message.

        Args:
            topic: of MQTT.
            payload: as it came.
            now_s: the time of receipt in seconds since the epoch.
            user: MQTT 5 user properties, where mappings want them.
        """
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            return Refused("bad_topic", "topic is not UTF-8", "", None, "")
        if not name.startswith(f"{topics.ROOT}/"):
            return self._plain(name, payload, now_s, user)
        try:
            address = _parse(name)
        except WireError as error:
            return Refused(error.reason, error.detail, "", None, "")
        device, kind = address.device, address.kind
        if kind not in topics.KAFKA_OF_KIND:
            return Refused("bad_topic", f"devices do not send {kind!r}", device, None, "")
        try:
            return self._judge(device, kind, payload, now_s)
        except WireError as error:
            return Refused(error.reason, error.detail, device, own_identity(payload, device), kind)

    @staticmethod
    def rate_key(route: mapping.Route) -> str:
        """What the rate limit counts a plain device by; a colon, so that it is never the name of one of ours."""
        return f"mqtt:{route.key.decode()}"

    def _plain(self, topic: str, payload: bytes, now_s: float, user: tuple[tuple[str, str], ...]) -> Mapped | Refused:
        route = self.mappings.find(topic)
        if route is None:
            return Refused("bad_topic", self.mappings.why_not(topic), "", None, "")
        wanted, key = route.mapping, route.key.decode()
        value = payload
        if wanted.payload == "envelope":
            self._number += 1
            trace = mapping.traceparent_of(user)
            value = mapping.envelope(wanted, topic, payload, now_s, self._gateway, self._number, trace)
        if len(value) > wanted.max_bytes:
            detail = f"at most {wanted.max_bytes} bytes expected, {len(value)} received"
            return Refused("too_large", detail, key, None, "mapped")
        if not self.rate.allow(self.rate_key(route), now_s):
            return Refused("too_fast", f"{key} sends faster than its rate limit", key, None, "mapped")
        return Mapped(wanted.topic, route.key, value, mapping.headers(user) if wanted.headers else [])

    def _judge(self, device: str, kind: str, payload: bytes, now_s: float) -> Accept:
        if len(payload) > self.max_event_bytes:
            raise WireError("too_large", f"at most {self.max_event_bytes} bytes expected, {len(payload)} received")
        if not self.rate.allow(device, now_s):
            raise WireError("too_fast", f"{device} sends faster than its rate limit")
        if kind == topics.PRESENCE:
            return self._presence_event(device, payload, now_s)
        event, identity = wire.decode_event(payload)
        if identity.device != device:
            raise WireError("topic_mismatch", f"device {device} expected by the topic, {identity.device} received")
        if event.type != wire.TYPE_OF_KIND[kind] and event.type in wire.DATA_OF_TYPE:
            raise WireError("topic_mismatch", f"type of {kind} expected by the topic, {event.type} received")
        data = wire.decode_data(event)
        if isinstance(data, wire.Summary):
            Sketch.from_wire(data.score.sketch)  # or the store would have to refuse it
        return Accept(topics.KAFKA_OF_KIND[kind], device, payload, identity, kind)

    def _presence_event(self, device: str, payload: bytes, now_s: float) -> Accept:
        presence = wire.decode(wire.Presence, payload)
        self._number += 1
        value = wire.encode(
            wire.Event(
                specversion="1.0",
                id=f"{device}/{topics.PRESENCE}/{self._gateway}/{self._number}",
                source=f"/covey/{device}",
                type=wire.PRESENCE_TYPE,
                time=wire.rfc3339(now_s),
                data=msgspec.Raw(wire.encode(wire.PresenceEvent(presence.online, presence.session, self._gateway))),
            )
        )
        return Accept(topics.KAFKA_OF_KIND[topics.PRESENCE], device, value, None, topics.PRESENCE)


def own_identity(payload: bytes, device: str) -> wire.Identity | None:
    """The identity in a refused payload, when it is this device's: it is acknowledged, or it would come for ever."""
    try:
        identity = wire.parse_identity(_id_decoder.decode(payload).id)
    except (WireError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return identity if identity.device == device else None


def dead_letter(refused: Refused, topic: bytes, payload: bytes, now_s: float) -> bytes:
    """The record for the dead letter topic: reason, topic and bytes, bounded."""
    kept = payload[: wire.MAX_DEADLETTER_PAYLOAD_BYTES]
    return wire.encode(
        wire.DeadLetter(
            reason=refused.reason,
            detail=refused.detail[:1024],
            topic=topic.decode(errors="replace")[:1024],
            received_s=now_s,
            size_bytes=len(payload),
            payload=kept,
            truncated=len(kept) < len(payload),
        )
    )
