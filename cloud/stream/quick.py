"""The quick road into the store: a summary that is surely right costs one decode; all else is left to events.py, which alone refuses.

Sketches stay bytes here: the store keeps the whole event and reads them when retention puts hours together; the gateway has
looked into them, and retention does again. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from covey import topics, wire
from covey.telemetry import is_traceparent

_OUTBOX = re.compile("[0-9a-f]{16}")
_NOTHING = msgspec.Raw(b"[]")


class QuickScores(wire.Scores, frozen=True, gc=False):
    """Scores whose sketch nobody asked for."""

    sketch: msgspec.Raw  # type: ignore[assignment]  # not looked into, on purpose


class QuickDrift(wire.Drift, frozen=True, omit_defaults=True, gc=False):
    """Drift whose sketch nobody asked for."""

    sketch: msgspec.Raw = _NOTHING  # type: ignore[assignment]


class QuickSummary(wire.Summary, frozen=True, omit_defaults=True, gc=False):
    """A summary whose sketches nobody asked for."""

    score: QuickScores
    drift: QuickDrift


class QuickEvent(msgspec.Struct, frozen=True, gc=False):
    """`wire.Event` of a summary, its data decoded with it."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(max_length=160)]
    source: Annotated[str, Meta(max_length=128)]
    type: Literal["covey.summary.v1"]
    time: Annotated[str, Meta(max_length=40)]
    data: QuickSummary
    traceparent: Annotated[str, Meta(max_length=55)] = ""
    datacontenttype: Literal["application/json"] = "application/json"


_decode = msgspec.json.Decoder(QuickEvent).decode


def summary(key: str, value: bytes) -> tuple[wire.Identity, QuickEvent] | None:
    """Identity and event of a summary that events.py would accept as well; None: look closer.

    Args:
        key: of the Kafka record, the device.
        value: the event.
    """
    if len(value) > wire.MAX_EVENT_BYTES:
        return None
    try:
        event = _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    device, _, rest = event.id.partition("/")
    outbox, _, digits = rest.partition("/")
    if (
        device != key
        or not _is_outbox(device, outbox)
        or not digits.isdecimal()
        or not digits.isascii()
        or digits[0] == "0"
        or len(digits) > 16
        or event.source != f"/covey/{device}"
        or (event.traceparent and not is_traceparent(event.traceparent))
    ):
        return None
    seq = int(digits)
    return None if seq > wire.MAX_SEQ else (wire.Identity(device, outbox, seq), event)


@lru_cache(maxsize=65_536)
def _is_outbox(device: str, outbox: str) -> bool:
    return topics.is_device(device) and _OUTBOX.fullmatch(outbox) is not None
