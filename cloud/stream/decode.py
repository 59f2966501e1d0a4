"""Messages of every topic that the store reads: devices' events, what stages said of alarms, training runs, dead letters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from cloud.store.told import Letter
from cloud.store.writer import Received, Refused
from cloud.stream.events import decode
from covey import topics, wire, wire_alarms
from covey.errors import WireError

if TYPE_CHECKING:
    from cloud.stream.kafka import Record

_NO_DATA = msgspec.Raw(b"null")
_OF_ALARMS = frozenset({topics.ALARMS_ENRICHED, topics.ALARMS_HIGH, topics.ALARMS_LOW})


def decode_record(record: Record) -> Received | Refused | Letter | None:
    """One message as what the store keeps of it, or the reason why it cannot; None: nothing to keep.

    What the cloud said itself is acknowledged to nobody: a refused one carries no identity.
    """
    if record.topic in _OF_ALARMS:
        return _of_alarm(record)
    if record.topic == topics.LEARNING:
        return _of_run(record)
    if record.topic == topics.DEADLETTER:
        try:
            return Letter(record.partition, record.offset, wire.decode(wire.DeadLetter, record.value))
        except WireError:
            return None  # a dead letter of a dead letter would never end
    return decode(record)


def _of_alarm(record: Record) -> Received | Refused:
    decoder = wire_alarms.decode_routed
    if record.topic == topics.ALARMS_ENRICHED:
        decoder = wire_alarms.decode_enriched  # type: ignore[assignment]  # both give identity, data, trace
    try:
        identity, data, traceparent = decoder(record.value)
    except WireError as error:
        return _refuse(record, error.reason, error.detail)
    if record.key != identity.device:
        return _refuse(record, "source_mismatch", f"key {identity.device} expected, {record.key[:80]!r} received")
    kind = wire_alarms.ENRICHED_TYPE if record.topic == topics.ALARMS_ENRICHED else wire_alarms.ROUTED_TYPE
    return _received(record, identity, kind, data, traceparent)


def _of_run(record: Record) -> Received | None:
    try:
        data = wire.decode_round_event(record.value)
    except WireError:
        return None  # steps of the loop travel here too, and the store has said those itself
    return _received(record, wire.Identity("", data.run, data.seq), wire.ROUND_TYPE, data)


def _received(
    record: Record, identity: wire.Identity, kind: str, data: msgspec.Struct, traceparent: str = ""
) -> Received:
    event = wire.Event("1.0", str(identity), "", kind, "", _NO_DATA, traceparent)
    return Received(identity, event, data, record.value, record.received_s or time.time(), record.topic)


def _refuse(record: Record, reason: str, detail: str) -> Refused:
    return Refused(reason, detail, record.topic, record.value, record.received_s or time.time(), None)
