"""What the cloud says of an alarm on its way to people: enriched, routed, and what people said of it (docs/protocol.md).

An alarm keeps its event's id through the stages: (device, outbox, seq) is the identity by which every sink drops repeats.
Pure: structs in, bytes out, and back.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from covey import wire
from covey.errors import WireError

ENRICHED_TYPE = "covey.alarm.enriched.v1"
ROUTED_TYPE = "covey.alarm.routed.v1"
ENRICH_SOURCE = "/covey/cloud/enrich"
ROUTE_SOURCE = "/covey/cloud/route"

Name = Annotated[str, Meta(max_length=64)]
Labels = dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=256)]]


class ModelOpinion(Struct, frozen=True):
    """What a model of the operator's own made of the alarm."""

    name: wire.Text
    digest: wire.Digest  # sha256 of the model's file
    value: float  # its first output for this alarm


class Context(Struct, frozen=True, omit_defaults=True):
    """What the fleet looked like when the alarm began; zeros where the store knew nothing."""

    group: Name
    labels: Labels = {}
    peers: wire.Count = 0  # devices of the group, this one left out, heard of late
    peers_alarming: wire.Count = 0  # of them, with an alarm open within the window
    peers_same_channel: wire.Count = 0  # of those, naming the same channel
    lift: wire.NotNegative = 0.0  # share of peers alarming over the group's usual share (smoothed)
    alarms_24h: wire.Count = 0  # of this device, begun in the 24 h before
    alarms_7d: wire.Count = 0
    confirmed_30d: wire.Count = 0  # verdicts on this device's alarms
    rejected_30d: wire.Count = 0
    score_ratio: wire.NotNegative = 0.0  # score / threshold
    drift_psi: wire.NotNegative = 0.0  # of the device's newest summary
    release_age_s: wire.NotNegative = 0.0  # since its release was published; 0: not one of ours
    model: ModelOpinion | None = None
    stale: bool = False  # the store could not be asked: only what the alarm itself says is filled in


class Enriched(Struct, frozen=True, omit_defaults=True):
    """An alarm as its device wrote it, and its context."""

    alarm: wire.Alarm
    alarm_time: Annotated[str, Meta(max_length=40)]  # `time` of the device's event
    received_s: float  # Kafka's timestamp of the alarm
    context: Context
    enriched_s: float


class Routed(Struct, frozen=True, omit_defaults=True):
    """An enriched alarm, where it goes, and by which rule."""

    alarm: wire.Alarm
    alarm_time: Annotated[str, Meta(max_length=40)]
    received_s: float
    context: Context
    enriched_s: float
    level: Literal["high", "low"]
    rule: Name  # "": none fitted
    targets: Annotated[list[Name], Meta(max_length=64)] = []  # webhooks and mailboxes told
    routed_s: float = 0.0


class Feedback(Struct, frozen=True, omit_defaults=True):
    """A person's verdict on an alarm, on covey.feedback, keyed by device. The newest of an alarm holds."""

    id: wire.Text  # unique for ever
    device: Name
    alarm_id: wire.Text
    verdict: Literal["confirmed", "rejected", "undone"]
    by: Name
    time_s: float
    release: wire.Count = 0  # what raised the alarm
    digest: wire.Digest = ""
    top_channel: wire.Text = ""
    note: wire.Text = ""


def make_enriched(identity: wire.Identity, data: Enriched, traceparent: str = "") -> bytes:
    """The event on covey.alarms.enriched: the alarm's own identity and trace."""
    return _make(identity, ENRICHED_TYPE, ENRICH_SOURCE, data.enriched_s, data, traceparent)


def make_routed(identity: wire.Identity, data: Routed, traceparent: str = "") -> bytes:
    """The event on covey.alarms.high or covey.alarms.low: the alarm's own identity and trace."""
    return _make(identity, ROUTED_TYPE, ROUTE_SOURCE, data.routed_s, data, traceparent)


def decode_enriched(payload: bytes) -> tuple[wire.Identity, Enriched, str]:
    """Identity, data and traceparent.

    Raises:
        WireError: reasons `too_large`, `not_json`, `bad_schema`, `bad_identity`, `source_mismatch`, `unknown_type`.
    """
    identity, event = _open(payload, ENRICHED_TYPE, ENRICH_SOURCE)
    return identity, wire.decode(Enriched, bytes(event.data)), event.traceparent


def decode_routed(payload: bytes) -> tuple[wire.Identity, Routed, str]:
    """Identity, data and traceparent.

    Raises:
        WireError: reasons `too_large`, `not_json`, `bad_schema`, `bad_identity`, `source_mismatch`, `unknown_type`.
    """
    identity, event = _open(payload, ROUTED_TYPE, ROUTE_SOURCE)
    return identity, wire.decode(Routed, bytes(event.data)), event.traceparent


def _make(identity: wire.Identity, type_: str, source: str, time_s: float, data: Struct, traceparent: str) -> bytes:
    body: dict[str, object] = {
        "specversion": "1.0",
        "id": str(identity),
        "source": source,
        "type": type_,
        "time": wire.rfc3339(time_s),
        "data": data,
    }
    if traceparent:
        body["traceparent"] = traceparent
    return msgspec.json.encode(body)


def _open(payload: bytes, type_: str, source: str) -> tuple[wire.Identity, wire.Event]:
    if len(payload) > wire.MAX_EVENT_BYTES:
        raise WireError("too_large", f"at most {wire.MAX_EVENT_BYTES} bytes expected, {len(payload)} received")
    event = wire.decode(wire.Event, payload)
    if event.type != type_:
        raise WireError("unknown_type", f"{type_} expected, {event.type!r} received")
    if event.source != source:
        raise WireError("source_mismatch", f"source {source} expected, {event.source!r} received")
    return wire.parse_identity(event.id), event
