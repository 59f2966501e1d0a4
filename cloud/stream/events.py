"""Devices' events and the gateway's presence as Kafka carries them. Pure: a record in, an event or a reason out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import msgspec

from cloud.store.writer import Received, Refused
from cloud.stream.quick import summary
from covey import topics, wire
from covey.errors import WireError

if TYPE_CHECKING:
    from cloud.stream.kafka import Record


class _Id(msgspec.Struct):
    """The one field that an acknowledgement of a refused message needs."""

    id: Annotated[str, msgspec.Meta(max_length=160)]


def decode(record: Record) -> Received | Refused:
    """One message as an event, or the reason why it is none."""
    received_s = record.received_s or time.time()
    quick = summary(record.key, record.value) if record.topic == topics.SUMMARIES else None
    if quick is not None:
        return Received(quick[0], quick[1], quick[1].data, record.value, received_s, record.topic)

    def refuse(reason: str, detail: str) -> Refused:
        return Refused(reason, detail, record.topic, record.value, received_s, _readable(record))

    try:
        event, identity = wire.decode_event(record.value)
        data = wire.decode_data(event)
    except WireError as error:
        return _presence(record, received_s) or refuse(error.reason, error.detail)
    if record.key != identity.device:
        # Acknowledging on another device's word would delete that device's own row.
        return refuse("source_mismatch", f"key {identity.device} expected, {record.key[:80]!r} received")
    return Received(identity, event, data, record.value, received_s, record.topic)


def _presence(record: Record, received_s: float) -> Received | None:
    """A presence event, which the gateway makes and numbers itself, outside the outbox's sequence."""
    try:
        event = wire.decode(wire.Event, record.value)
        if (
            event.type != wire.PRESENCE_TYPE
            or event.source != f"/covey/{record.key}"
            or not topics.is_device(record.key)
        ):
            return None
        data = wire.decode_data(event)
    except WireError:
        return None
    return Received(wire.Identity(record.key, "", 0), event, data, record.value, received_s, record.topic)


def _readable(record: Record) -> wire.Identity | None:
    """Whose row a refused message was, where it can be told and the key agrees."""
    try:
        identity = wire.parse_identity(wire.decode(_Id, record.value).id)
    except WireError:
        return None
    return identity if identity.device == record.key else None
