"""The quick road of admission: what is surely right is accepted with one decode; all else is left to gateway.admit.

A lane is all that one MQTT topic of a device decides, worked out once. `Lane.judge` never refuses: it says "accepted" only
where `Admission.admit` would accept as well (tests/gateway/test_lanes.py holds it to that), and "look closer" otherwise,
so that every reason of a refusal is written in one place. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from covey import topics, wire
from covey.errors import WireError
from covey.sketch import HIGHEST_BIN, LOWEST_BIN, MAX_BINS, MAX_COUNT
from covey.telemetry import is_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.admit import Bucket, RateLimit

_MAX_SEQ = wire.MAX_SEQ
LOOK_CLOSER = 0  # no event has the number 0
MAX_LANES = 131_072  # topics remembered: about 60 MB; above it all are forgotten, and learned again as they speak
_HEX = "0123456789abcdef"
# The kinds whose events carry their trace context as a Kafka header, too: rare ones, because headers cost the batch.
TRACED = frozenset({"alarm"})


def _unpatterned(hint: Any) -> Any:
    """A type of covey.wire with the same bounds but for regular expressions, which cost more than all the rest."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields: list[Any] = []
        hints = get_type_hints(hint, include_extras=True)
        for field in msgspec.structs.fields(hint):
            inner = _unpatterned(hints[field.encode_name])
            if field.required:
                fields.append((field.name, inner))
            elif field.default is not msgspec.NODEFAULT:
                fields.append((field.name, inner, field.default))
            else:
                fields.append((field.name, inner, msgspec.field(default_factory=field.default_factory)))
        return msgspec.defstruct(f"Quick{hint.__name__}", fields, frozen=True, gc=False)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        metas = [Meta(**_bounds(m)) for m in args[1:] if isinstance(m, Meta)]
        return Annotated[(_unpatterned(args[0]), *metas)]
    if origin is list:
        return list[_unpatterned(args[0])]  # type: ignore[misc]  # a type made as it runs
    return hint


def _bounds(meta: Meta) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    return {name: getattr(meta, name) for name in names if getattr(meta, name) is not None}


def _event(kind: str, data: Any) -> Any:
    """covey.wire.Event of one kind, its data decoded with it."""
    plain = get_type_hints(wire.Event, include_extras=True)
    plain |= {"type": Literal[wire.TYPE_OF_KIND[kind]], "data": data}
    required = [(name, plain[name]) for name in ("id", "source", "type", "specversion", "time", "data")]
    optional = [
        ("traceparent", plain["traceparent"], ""),
        ("datacontenttype", plain["datacontenttype"], "application/json"),
    ]
    return msgspec.defstruct(f"Quick{kind.title()}Event", [*required, *optional], frozen=True, gc=False)


class _Scores(wire.Scores, frozen=True, gc=False):
    # pairs with counts, which Sketch.from_wire demands; the first pair's count stands where the others have their bin
    sketch: list[  # type: ignore[assignment]  # narrower than the wire's, on purpose
        tuple[Annotated[int, Meta(ge=LOWEST_BIN, le=MAX_COUNT)], Annotated[int, Meta(ge=0, le=MAX_COUNT)]]
    ]


def _summary() -> Any:
    made = _unpatterned(wire.Summary)
    fields = [
        (f.name, _Scores if f.name == "score" else f.type, *(() if f.required else (_default(f),)))
        for f in msgspec.structs.fields(made)
    ]
    return msgspec.defstruct("QuickSummary", fields, frozen=True, gc=False)


def _default(field: Any) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return msgspec.field(default_factory=field.default_factory)


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "summary": msgspec.json.Decoder(_event("summary", _summary())).decode,
    "alarm": msgspec.json.Decoder(_event("alarm", wire.Alarm)).decode,
    "status": msgspec.json.Decoder(_event("status", wire.Status)).decode,
}


class Lane:
    """One kind of one device.

    Attributes:
        device: its name.
        key: of its Kafka records.
        kind: summary, alarm or status.
        topic: of Kafka.
        outbox: of the event judged last.
        trace: traceparent of the event judged last, where the lane is traced.
    """

    __slots__ = (
        "_bucket",
        "_decode",
        "_head",
        "_head_size",
        "_is_summary",
        "_last",
        "_max_bytes",
        "_rate",
        "_source",
        "device",
        "key",
        "kind",
        "outbox",
        "topic",
        "trace",
        "traced",
    )

    def __init__(self, address: topics.Address, rate: RateLimit, bucket: Bucket, max_bytes: int) -> None:
        self.device, self.kind = address.device, address.kind
        self.key = address.device.encode()
        self.topic = topics.KAFKA_OF_KIND[address.kind]
        self.outbox = self.trace = ""
        self.traced = address.kind in TRACED
        self._decode = _DECODERS[address.kind]
        self._source = f"/covey/{address.device}"
        self._head, self._head_size, self._last = "/", 1, 0  # no identity begins so
        self._is_summary = address.kind == "summary"
        self._rate, self._bucket, self._max_bytes = rate, bucket, max_bytes

    def judge(self, payload: bytes, now_s: float) -> int:  # noqa: PLR0911  # one return for each doubt
        """The event's number when it is surely right (its outbox is then `outbox`), else LOOK_CLOSER.

        Takes a token only when it accepts.
        """
        if len(payload) > self._max_bytes:
            return LOOK_CLOSER
        try:
            event = self._decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return LOOK_CLOSER
        seq = self._last + 1  # one after the other, but for repeats and for what went by another lane
        if event.id != f"{self._head}{seq}":
            seq = self._number(event.id)
            if seq == LOOK_CLOSER:
                return LOOK_CLOSER
        if (
            seq > _MAX_SEQ
            or event.source != self._source
            or (event.traceparent and not is_traceparent(event.traceparent))
        ):
            return LOOK_CLOSER
        if self._is_summary:  # what the patterns of wire.Summary and Sketch.from_wire demand
            data = event.data
            reported, pairs = data.reported, data.score.sketch
            if (
                (reported.digest not in _digests and not _is_digest(reported.digest))
                or (reported.calibration not in _digests and not _is_digest(reported.calibration))
                or data.health.dropped  # outbox names with a pattern: rare, and the slow road knows it
                or not pairs
                or len(pairs) > MAX_BINS + 1
            ):
                return LOOK_CLOSER
            zero, mark = pairs.pop(0)
            bins = dict(pairs)
            if zero < 0 or mark or len(bins) != len(pairs) or 0 in bins.values() or (bins and max(bins) > HIGHEST_BIN):
                return LOOK_CLOSER
        # `rate.take`, written out as in Intake.take
        rate, bucket = self._rate, self._bucket
        passed_s = now_s - bucket.then_s
        tokens = bucket.tokens + passed_s * rate.rate_s
        if tokens > rate.burst:  # noqa: PLR1730  # min() is a call, for each message
            tokens = rate.burst
        if tokens < 1.0 or passed_s < 0.0:
            return LOOK_CLOSER
        bucket.tokens = tokens - 1.0
        bucket.then_s = now_s
        self._last = seq
        if self.traced:
            self.trace = event.traceparent
        return seq

    def _number(self, identity: str) -> int:
        """The number of an identity of this device that is not the one after the last; LOOK_CLOSER when it is none."""
        digits = identity[self._head_size :]
        # one to sixteen ASCII digits that do not begin with 0
        if (
            identity.startswith(self._head)
            and digits.isdecimal()
            and digits.isascii()
            and digits[0] != "0"
            and len(digits) <= 16
        ):
            return int(digits)
        try:
            device, outbox, seq = wire.parse_identity(identity)
        except WireError:
            return LOOK_CLOSER
        if device != self.device:
            return LOOK_CLOSER
        self._head, self.outbox = f"{device}/{outbox}/", outbox
        self._head_size = len(self._head)
        return seq


# Digests that were found right: a fleet says the same few again and again (its releases', and each device's calibration).
_digests: dict[str, None] = {"": None}
_MAX_DIGESTS = 65_536


def _is_digest(text: str) -> bool:
    if len(text) != 64 or text.strip(_HEX):
        return False
    if len(_digests) >= _MAX_DIGESTS:
        _digests.clear()
        _digests[""] = None
    _digests[text] = None
    return True
