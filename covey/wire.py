"""What travels: the CloudEvents envelope and every message in it, as docs/protocol.md says, field by field.

Pure: bytes in, structs out, and back. Readers ignore fields they do not know (a newer device may send more);
they refuse what is missing, mistyped or out of bounds with a `WireError` whose reason is a dead letter reason.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from covey import topics
from covey.errors import WireError
from covey.telemetry import is_traceparent

SUMMARY_TYPE = "covey.summary.v1"
ALARM_TYPE = "covey.alarm.v1"
STATUS_TYPE = "covey.status.v1"
PRESENCE_TYPE = "covey.presence.v1"
ROUND_TYPE = "covey.round.v1"  # on covey.learning, from the cloud: no device sends it

MAX_EVENT_BYTES = 65_536  # a summary is about 1 kB; nothing of ours comes near
MAX_DEADLETTER_PAYLOAD_BYTES = 16_384
MAX_COMMAND_LIFE_S = 86_400.0  # from being produced to `expires_s`; a gateway looks no further back for commands
MAX_SEQ = 2**53 - 1  # exact in every JSON reader

Seq = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
Count = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Text = Annotated[str, Meta(max_length=256)]
Outbox = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
Digest = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$", max_length=64)]
RunId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
NotNegative = Annotated[float, Meta(ge=0)]
Ratio = Annotated[float, Meta(ge=0, le=1)]


class Identity(NamedTuple):
    """The identity by which sinks drop duplicates."""

    device: str
    outbox: str  # 16 hex digits made with the outbox file
    seq: int  # counts in that outbox without gaps, from 1

    def __str__(self) -> str:
        return f"{self.device}/{self.outbox}/{self.seq}"


class Event(Struct, frozen=True):
    """CloudEvents 1.0 in JSON, structured mode; `data` stays undecoded bytes."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(max_length=160)]
    source: Annotated[str, Meta(max_length=128)]
    type: Annotated[str, Meta(max_length=64)]
    time: Annotated[str, Meta(max_length=40)]
    data: msgspec.Raw
    traceparent: Annotated[str, Meta(max_length=55)] = ""
    datacontenttype: Literal["application/json"] = "application/json"


class Scores(Struct, frozen=True):
    """Distribution of a period's scores; 0.0 everywhere when there was no window."""

    p50: NotNegative
    p95: NotNegative
    p99: NotNegative
    max: NotNegative
    sketch: list[list[int]]  # see covey/sketch.py


class Drift(Struct, frozen=True, omit_defaults=True):
    """How far a period is from what the model was fitted on."""

    input: NotNegative  # mean |z| of the period's mean features; about 0 when nothing moved
    score: NotNegative  # period's p50 score / reference p50; about 1
    psi: NotNegative = (
        0.0  # stability index of the recent scores against the reference; above .25: another distribution
    )
    shift: NotNegative = 0.0  # |mean z| of the feature that moved most of late
    channel: Text = ""  # that feature's channel
    sketch: list[list[int]] = []  # mean |z| of each window of the period: mergeable; []: not told


class Reported(Struct, frozen=True, omit_defaults=True):
    """What a device has, beside what the cloud wants (`desired`)."""

    release: Count  # 0: none
    digest: Digest
    runtime: Text  # what really runs: onnx | litert | tflite | ""
    provider: Text = ""
    calibration: Digest = ""
    slot: Literal["", "a", "b"] = ""
    state: Literal["idle", "fetching", "checking", "calibrating", "shadow", "refused"] = "idle"
    target: Count = 0  # the release being worked on, or refused
    reason: Text = ""
    revision: Count = 0  # revision of the `desired` last acted on


class Dropped(Struct, frozen=True):
    """A range of sequence numbers that the outbox gave up for want of room."""

    outbox: Outbox
    first: Seq
    last: Seq


class Health(Struct, frozen=True, omit_defaults=True):
    """State of the device and its queue."""

    memory_bytes: Count
    cpu_s: NotNegative  # CPU-seconds of the agent since its start
    outbox_rows: Count
    outbox_bytes: Count
    raw_bytes: Count  # samples scored since start, as the source gave them
    uplink_bytes: Count  # payload bytes published since start, repeats included
    downlink_model_bytes: Count = 0  # fetched for updates since start
    temperature_c: float | None = None
    battery_v: float | None = None
    dropped: Annotated[list[Dropped], Meta(max_length=64)] = []


class Position(Struct, frozen=True):
    """WGS 84; left out by devices that opted out."""

    lat_deg: Annotated[float, Meta(ge=-90, le=90)]
    lon_deg: Annotated[float, Meta(ge=-180, le=180)]
    alt_m: float = 0.0


class Summary(Struct, frozen=True, omit_defaults=True):
    """What an agent says about a period of windows. About 1 kB."""

    start_s: float  # device clock, seconds since the epoch
    end_s: float
    windows: Count
    alarmed_windows: Count
    threshold: NotNegative
    score: Scores
    drift: Drift
    reported: Reported
    health: Health
    open_alarms: Annotated[list[Text], Meta(max_length=16)] = []
    flight: Text = ""  # name of the recording being flown, where the source knows one
    position: Position | None = None


class Share(Struct, frozen=True):
    """One channel's part in a score."""

    channel: Text
    share: Ratio


class WindowRef(Struct, frozen=True):
    """Which samples an alarm speaks of; the samples themselves never leave the device."""

    start_s: float
    end_s: float
    sha256: Digest  # of the window's float32 little-endian samples, row by row


class Alarm(Struct, frozen=True, omit_defaults=True):
    """One detected anomaly, begun or ended; also its lineage record."""

    alarm_id: Text  # begin and end share it
    state: Literal["begin", "end"]
    window: WindowRef  # begin: the window that raised it; end: its last anomalous one
    windows: Count  # anomalous windows so far
    release: Count
    digest: Digest
    calibration: Digest
    runtime: Text
    score: NotNegative
    peak_score: NotNegative
    threshold: NotNegative
    confidence: Ratio  # 1 - tail probability of the score among the reference scores
    top_channel: Text
    attribution: Annotated[list[Share], Meta(max_length=64)]
    trace_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    flight: Text = ""
    kind: Literal["anomaly", "sensor"] = "anomaly"  # sensor: a channel stands still or is missing; no model judged it
    detail: Text = ""


class Status(Struct, frozen=True, omit_defaults=True):
    """A turn in an agent's life, or the answer to a command."""

    kind: Literal["start", "stop", "update", "command"]
    reported: Reported
    detail: Text = ""
    command: Text = ""  # id of the command answered
    ok: bool = True


class Presence(Struct, frozen=True):
    """Payload of `.../presence`: birth by the agent, death by its MQTT will."""

    online: bool
    session: Outbox  # random per connection


class PresenceEvent(Struct, frozen=True):
    """What the gateway makes of a presence message."""

    online: bool
    session: Outbox
    gateway: Text


class AckRanges(Struct, frozen=True):
    """Inclusive ranges of one outbox, ascending."""

    outbox: Outbox
    ranges: Annotated[list[tuple[Seq, Seq]], Meta(min_length=1, max_length=256)]


class Ack(Struct, frozen=True):
    """Rows that are safe: the agent deletes exactly these."""

    acks: Annotated[list[AckRanges], Meta(min_length=1, max_length=16)]


class Parameters(Struct, frozen=True):
    """What the cloud may set on a device; None leaves the device's own value."""

    summary_interval_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None


class Desired(Struct, frozen=True):
    """What the cloud wants of a device; retained on MQTT, compacted in Kafka, newest revision wins."""

    device: Text
    revision: Seq
    group: Text
    release: Seq
    target: Text  # TUF target path
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Seq
    url: Text  # base of the repository: <url>/metadata/, <url>/targets/
    parameters: Parameters = Parameters()


class Command(Struct, frozen=True, omit_defaults=True):
    """An order with an expiry; answered by a status event.

    `false-alarm`: an operator says that `alarm_id` was none; its windows go back into the device's ring.
    `learn`: join the SuperLink at `superlink` for one run, and leave it by `deadline_s`.
    """

    id: Text
    kind: Literal["summarise", "ping", "false-alarm", "learn"]
    expires_s: float
    alarm_id: Annotated[str, Meta(max_length=256)] = ""
    superlink: Annotated[str, Meta(max_length=256)] = ""  # host:port
    deadline_s: float = 0.0  # seconds since the epoch


class GatewayPresence(Struct, frozen=True):
    """Retained on `covey/v1/<shard>/gateway`: someone listens, so agents need not hold back."""

    online: bool
    gateway: Text


class DeadLetter(Struct, frozen=True):
    """What could not be accepted, and why."""

    reason: Text
    detail: Annotated[str, Meta(max_length=1024)]
    topic: Annotated[str, Meta(max_length=1024)]
    received_s: float
    size_bytes: Count
    payload: bytes  # base64 in JSON; the first MAX_DEADLETTER_PAYLOAD_BYTES
    truncated: bool


class RoundEvent(Struct, frozen=True, omit_defaults=True):
    """One line of a training run: what was asked, who answered, what a round brought, how it ended.

    (run, seq) is its identity: seq counts in a run without gaps, also over a run that was killed and went on.
    """

    run: RunId
    seq: Seq
    time_s: float
    kind: Literal[
        "started",
        "resumed",
        "asked",
        "answered",
        "refused",
        "missing",
        "round",
        "ranges",
        "gates",
        "released",
        "failed",
    ]
    round: Count = 0  # 0: of no round
    phase: Text = ""  # what was asked: describe, round 3, ranges, evaluation
    device: Annotated[str, Meta(max_length=1024)] = ""  # or file, where a file is a device
    detail: Annotated[str, Meta(max_length=1024)] = ""
    figures: dict[str, float] = {}


class Learning(Struct, frozen=True):
    """One step of the loop, on `covey.learning`: releases published, assigned, seen on a device; rounds."""

    kind: Literal["release", "desired", "reported", "round"]
    time_s: float
    group: Text = ""
    device: Text = ""
    release: Count = 0
    digest: Digest = ""
    detail: Text = ""


DATA_OF_TYPE: dict[str, type[Struct]] = {
    SUMMARY_TYPE: Summary,
    ALARM_TYPE: Alarm,
    STATUS_TYPE: Status,
    PRESENCE_TYPE: PresenceEvent,
}
TYPE_OF_KIND = {"summary": SUMMARY_TYPE, "alarm": ALARM_TYPE, "status": STATUS_TYPE}

_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(Event)
_data_decoders = {name: msgspec.json.Decoder(kind) for name, kind in DATA_OF_TYPE.items()}
_decoders: dict[type, msgspec.json.Decoder[Struct]] = {}

S = TypeVar("S", bound=Struct)


def encode(message: Struct) -> bytes:
    """JSON bytes of any message of this file."""
    return _encoder.encode(message)


def decode(kind: type[S], payload: bytes) -> S:
    """One message other than an event.

    Raises:
        WireError: reasons `not_json`, `bad_schema`.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return _decode(decoder, payload, kind.__name__.lower())  # type: ignore[return-value]  # the decoder is of this kind


def rfc3339(time_s: float) -> str:
    """UTC with milliseconds, as RFC 3339 has it."""
    return datetime.fromtimestamp(time_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_event(identity: Identity, kind: str, time_s: float, data: Struct, traceparent: str = "") -> bytes:
    """The bytes that an event keeps from the device's disk to the store.

    Args:
        identity: device, outbox, seq.
        kind: summary, alarm or status.
        time_s: device clock, seconds since the epoch.
        data: a struct of that kind.
        traceparent: W3C trace context; left out when empty.
    """
    body: dict[str, object] = {
        "specversion": "1.0",
        "id": str(identity),
        "source": f"/covey/{identity.device}",
        "type": TYPE_OF_KIND[kind],
        "time": rfc3339(time_s),
        "data": data,
    }
    if traceparent:
        body["traceparent"] = traceparent
    return _encoder.encode(body)


def make_round_event(data: RoundEvent) -> bytes:
    """A line of a training run as `covey.learning` carries it, keyed by the run."""
    return _encoder.encode(
        {
            "specversion": "1.0",
            "id": f"{data.run}/{data.seq}",
            "source": f"/covey/learning/{data.run}",
            "type": ROUND_TYPE,
            "time": rfc3339(data.time_s),
            "data": data,
        }
    )


def decode_round_event(payload: bytes) -> RoundEvent:
    """The inverse of `make_round_event`.

    Raises:
        WireError: reasons `too_large`, `not_json`, `bad_schema`, `unknown_type`, `bad_identity`.
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise WireError("too_large", f"at most {MAX_EVENT_BYTES} bytes expected, {len(payload)} received")
    event = _decode(_event_decoder, payload, "event")
    if event.type != ROUND_TYPE:
        raise WireError("unknown_type", f"{ROUND_TYPE} expected, {event.type!r} received")
    data = decode(RoundEvent, bytes(event.data))
    if event.id != f"{data.run}/{data.seq}" or event.source != f"/covey/learning/{data.run}":
        raise WireError("bad_identity", f"{data.run}/{data.seq} expected, {event.id!r} received")
    return data


def parse_identity(event_id: str) -> Identity:
    """The inverse of `str(identity)`.

    Raises:
        WireError: reason `bad_identity`.
    """
    parts = event_id.split("/")
    if len(parts) == 3 and topics.is_device(parts[0]) and re.fullmatch("[0-9a-f]{16}", parts[1]):
        digits = parts[2]
        if re.fullmatch("[1-9][0-9]{0,15}", digits) and int(digits) <= MAX_SEQ:
            return Identity(parts[0], parts[1], int(digits))
    raise WireError("bad_identity", f"<device>/<16 hex>/<seq> expected, {event_id[:120]!r} received")


def decode_event(payload: bytes) -> tuple[Event, Identity]:
    """Envelope and identity; the data is left for `decode_data`.

    Raises:
        WireError: reasons `too_large`, `not_json`, `bad_schema`, `bad_identity`, `source_mismatch`.
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise WireError("too_large", f"at most {MAX_EVENT_BYTES} bytes expected, {len(payload)} received")
    event = _decode(_event_decoder, payload, "event")
    identity = parse_identity(event.id)
    if event.source != f"/covey/{identity.device}":
        raise WireError("source_mismatch", f"source /covey/{identity.device} expected, {event.source!r} received")
    if event.traceparent and not is_traceparent(event.traceparent):
        raise WireError("bad_schema", "traceparent: W3C trace context expected")
    return event, identity


def decode_data(event: Event) -> Struct:
    """The data of an event, as the struct of its type.

    Raises:
        WireError: reasons `unknown_type`, `bad_schema`.
    """
    decoder = _data_decoders.get(event.type)
    if decoder is None:
        raise WireError("unknown_type", f"one of {', '.join(DATA_OF_TYPE)} expected, {event.type!r} received")
    return _decode(decoder, bytes(event.data), event.type)


D = TypeVar("D")


def _decode(decoder: msgspec.json.Decoder[D], payload: bytes, what: str) -> D:
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise WireError("bad_schema", f"{what}: {_lower(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("not_json", f"{what}: {_lower(error)}") from error


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
