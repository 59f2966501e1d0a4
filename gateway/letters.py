"""Dead letters again: read one, choose among them, and judge it by today's rules.

Pure: no Kafka, no clock. Never raises on what is in a letter. What cannot be sent byte for byte to where it belongs is
left, with the reason: a cut payload, a topic whose bytes are lost, a presence that has long changed.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from covey import topics, wire
from covey.errors import WireError
from gateway import mapping
from gateway.admit import Accept, Admission, RateLimit, Refused
from gateway.filters import covers

if TYPE_CHECKING:
    from gateway.config import GatewayConfig

_MAX_TOPIC_CHARS = 1_024  # what a letter keeps of it
_BY_KAFKA = "kafka: "  # begins the detail where Kafka refused what a gateway had let through
_EVENT_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,160})"')  # also in a payload that was cut behind it
_EVENT_TOPICS = frozenset(topics.KAFKA_OF_KIND.values())
_KIND_OF_TYPE = {name: kind for kind, name in wire.TYPE_OF_KIND.items()}
UNREADABLE = "unreadable"  # the reason of a record that is no letter


class Outcome(StrEnum):
    """What a replay does with a letter that was chosen."""

    SENT = "sent"
    REFUSED = "refused"  # today's rules refuse it still
    TRUNCATED = "truncated"  # bytes are missing
    UNSENDABLE = "unsendable"  # no rule could ever let it through


class Letter(NamedTuple):
    """One record of covey.deadletter."""

    partition: int
    offset: int
    reason: str
    topic: str  # MQTT topic; a Kafka topic where Kafka or the store refused it
    key: str  # the record's: the device that a gateway knew by the topic; a store writes none
    device: str  # "" when neither the record's key nor the payload names one
    event_id: str  # "" when none can be read
    received_s: float
    size_bytes: int  # of the whole payload
    payload: bytes
    truncated: bool
    by_store: bool  # the store refused what a gateway had let through
    by_kafka: bool  # Kafka did, for its size
    detail: str


class Send(NamedTuple):
    """A record to produce."""

    topic: str
    key: bytes
    value: bytes


class Left(NamedTuple):
    """Why a letter is not sent."""

    outcome: Outcome
    reason: str  # a dead letter reason when today's rules refuse it, else a word of ours
    detail: str


class Choice(NamedTuple):
    """Which letters a replay is for; an empty field chooses all."""

    reasons: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    topic: str = ""  # MQTT filter
    since_s: float = 0.0  # of receipt, seconds since the epoch
    until_s: float = float("inf")

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is among them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.devices or letter.device in self.devices)
            and (not self.topic or covers(self.topic, letter.topic))
            and self.since_s <= letter.received_s <= self.until_s
        )

    def waits(self, letter: Letter) -> bool:
        """Whether only the store can say if it would take the letter now: sent when its reason is named, not before.

        Sent without a change of the store it would come back as a new letter.
        """
        return letter.by_store and letter.reason not in self.reasons


def open_letter(partition: int, offset: int, key: bytes | None, value: bytes, time_s: float) -> Letter:
    """Read a record; one that is no letter comes back with the reason `unreadable` and Kafka's time, in seconds."""
    try:
        read = wire.decode(wire.DeadLetter, value)
    except WireError as error:
        return Letter(
            partition=partition,
            offset=offset,
            reason=UNREADABLE,
            topic="",
            key=_text(key),
            device=_text(key),
            event_id="",
            received_s=time_s,
            size_bytes=len(value),
            payload=b"",
            truncated=False,
            by_store=False,
            by_kafka=False,
            detail=error.detail,
        )
    found = _EVENT_ID.search(read.payload)
    event_id = found.group(1).decode(errors="replace") if found else ""
    device = _text(key)
    if not device and topics.is_device(event_id.split("/")[0]):
        device = event_id.split("/")[0]
    return Letter(
        partition=partition,
        offset=offset,
        reason=read.reason,
        topic=read.topic,
        key=_text(key),
        device=device,
        event_id=event_id,
        received_s=read.received_s,
        size_bytes=read.size_bytes,
        payload=read.payload,
        truncated=read.truncated or len(read.payload) != read.size_bytes,
        by_store=key is None and read.topic in _EVENT_TOPICS,  # a gateway's key is never null, only empty
        by_kafka=read.reason == "too_large" and read.detail.startswith(_BY_KAFKA),
        detail=read.detail,
    )


class Judge:
    """Today's rules, without those about pace: letters are as old as they are.

    Args:
        config: the gateway's: its limits and mappings.
    """

    def __init__(self, config: GatewayConfig) -> None:
        endless = RateLimit(rate_s=1.0, burst=2**53)
        self._gateway = f"{config.name}-replay"
        self._admission = Admission(self._gateway, config.max_event_bytes, endless, first_presence=0)
        self._mappings = mapping.Mappings(config.mappings)

    def judge(self, letter: Letter) -> Send | Left:
        """What to produce for a letter, or why nothing."""
        hopeless = _hopeless(letter)
        if hopeless is not None:
            return hopeless
        if letter.by_store or (letter.by_kafka and letter.topic in _EVENT_TOPICS):
            return self._from_kafka(letter)
        if letter.by_kafka and letter.topic in self._mappings.topics:
            return Send(letter.topic, letter.key.encode(), letter.payload)  # a mapping's record, as it was made then
        if letter.topic.startswith(f"{topics.ROOT}/"):
            return self._admit(letter.topic, letter)
        return self._plain(letter)

    def _plain(self, letter: Letter) -> Send | Left:
        """A plain device's message, by today's mappings; its user properties are not in a letter."""
        route = self._mappings.find(letter.topic)
        if route is None:
            return Left(Outcome.REFUSED, "bad_topic", self._mappings.why_not(letter.topic))
        value = letter.payload
        if route.mapping.payload == "envelope":
            # Made of the letter's place, so that a letter sent twice has the same id twice.
            number = int(f"{letter.received_s * 1e3:.0f}{letter.partition:04}{letter.offset}")
            value = mapping.envelope(route.mapping, letter.topic, value, letter.received_s, self._gateway, number)
        if len(value) > route.mapping.max_bytes:
            detail = f"at most {route.mapping.max_bytes} bytes expected, {len(value)} received"
            return Left(Outcome.REFUSED, "too_large", detail)
        return Send(route.mapping.topic, route.key, value)

    def _from_kafka(self, letter: Letter) -> Send | Left:
        """A letter that came after the MQTT side: its device and kind are in the event."""
        if letter.by_store and letter.reason == "source_mismatch":
            # Its record had another device's key, and the letter has none: the event's word is all there is.
            return Left(Outcome.REFUSED, letter.reason, "its key named another device; nobody can say whose it is")
        try:
            event, identity = wire.decode_event(letter.payload)
        except WireError as error:
            return Left(Outcome.REFUSED, error.reason, error.detail)
        kind = _KIND_OF_TYPE.get(event.type)
        if kind is None:
            return Left(Outcome.REFUSED, "unknown_type", f"no topic for {event.type!r}")
        device = identity.device if letter.by_store else letter.key
        return self._admit(topics.mqtt_topic(device, kind), letter)

    def _admit(self, topic: str, letter: Letter) -> Send | Left:
        verdict = self._admission.admit(topic.encode(), letter.payload, letter.received_s)
        if isinstance(verdict, Refused):
            return Left(Outcome.REFUSED, verdict.reason, verdict.detail)
        key = verdict.key.encode() if isinstance(verdict, Accept) else verdict.key
        return Send(verdict.topic, key, verdict.value)


def _hopeless(letter: Letter) -> Left | None:
    """What no rule could let through; None for all else."""
    if letter.reason == UNREADABLE:
        return Left(Outcome.UNSENDABLE, UNREADABLE, f"not a dead letter: {letter.detail}")
    if letter.truncated:
        kept = f"{len(letter.payload)} of {letter.size_bytes} bytes were kept"
        return Left(Outcome.TRUNCATED, "truncated", kept)
    if "\ufffd" in letter.topic:
        return Left(Outcome.UNSENDABLE, "bad_topic", "its topic was not UTF-8: those bytes are lost")
    if len(letter.topic) >= _MAX_TOPIC_CHARS:
        return Left(Outcome.UNSENDABLE, "bad_topic", f"its topic was cut at {_MAX_TOPIC_CHARS} characters")
    if letter.topic.startswith(f"{topics.ROOT}/") and letter.topic.endswith(f"/{topics.PRESENCE}"):
        return Left(Outcome.UNSENDABLE, topics.PRESENCE, "presence of then says nothing about now")
    return None


def _text(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace")
