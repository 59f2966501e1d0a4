"""The chain from sensor to decision of one event or alarm, from what the store holds.

Says nothing that is not stored: the samples stay on the device, here is only their hash.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from covey import wire
from covey.errors import UsageError, WireError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

Chain = dict[str, Any]


def why(engine: Engine, name: str) -> list[Chain]:
    """One chain per event: of an event id its own, of an alarm id those of its begin and end.

    Raises:
        UsageError: neither an event nor an alarm of this name is stored.
    """
    with schema.read(engine) as connection:
        identities = [identity for identity in (_identity(name),) if identity] or _of_alarm(connection, name)
        chains = [chain for identity in identities if (chain := _chain(connection, identity)) is not None]
    if not chains:
        raise UsageError(f"an event id <device>/<outbox>/<seq> or an alarm id expected, nothing is stored as {name!r}")
    return chains


def _identity(name: str) -> wire.Identity | None:
    try:
        return wire.parse_identity(name)
    except WireError:
        return None


def _of_alarm(connection: Connection, alarm_id: str) -> list[wire.Identity]:
    table = tables.alarms
    rows = connection.execute(sa.select(table).where(table.c.alarm_id == alarm_id).order_by(table.c.device))
    return [
        wire.Identity(row.device, row.outbox, seq)
        for row in rows
        for seq in (row.begin_seq, row.end_seq)
        if seq is not None
    ]


def _chain(connection: Connection, identity: wire.Identity) -> Chain | None:
    table = tables.events
    row = connection.execute(
        sa.select(table).where(
            table.c.device == identity.device, table.c.outbox == identity.outbox, table.c.seq == identity.seq
        )
    ).first()
    if row is None:
        return None
    event, _ = wire.decode_event(row.body)
    data = wire.decode_data(event)
    chain: Chain = {"event": str(identity), "kind": row.kind, "device": row.device}
    if isinstance(data, wire.Alarm):
        chain |= _of_alarm_data(data)
        chain["release"] = _release(connection, row.device, data.release, data.digest)
    elif isinstance(data, wire.Summary):
        chain["window"] = {"start_s": data.start_s, "end_s": data.end_s, "windows": data.windows}
        chain["model"] = _reported(data.reported)
        chain["score"] = {"p50": data.score.p50, "p99": data.score.p99, "max": data.score.max}
        chain["score"] |= {"threshold": data.threshold, "alarmed_windows": data.alarmed_windows}
        chain["release"] = _release(connection, row.device, data.reported.release, data.reported.digest)
    elif isinstance(data, wire.Status):
        chain["model"] = _reported(data.reported)
        chain["status"] = {"kind": data.kind, "detail": data.detail}
    chain["stored"] = {
        "written": row.time,
        "received": wire.rfc3339(row.received_s),
        "sha256": row.sha256,
        "intact": hashlib.sha256(row.body).hexdigest() == row.sha256,
        "traceparent": event.traceparent,
    }
    return chain


def _of_alarm_data(alarm: wire.Alarm) -> Chain:
    return {
        "alarm": {
            "alarm_id": alarm.alarm_id,
            "state": alarm.state,
            "kind": alarm.kind,
            "detail": alarm.detail,
            "windows": alarm.windows,
            "flight": alarm.flight,
        },
        "window": msgspec.structs.asdict(alarm.window),
        "model": {
            "release": alarm.release,
            "digest": alarm.digest,
            "calibration": alarm.calibration,
            "runtime": alarm.runtime,
        },
        "score": {
            "score": alarm.score,
            "peak_score": alarm.peak_score,
            "threshold": alarm.threshold,
            "confidence": alarm.confidence,
        },
        "attribution": {
            "top_channel": alarm.top_channel,
            "shares": {part.channel: part.share for part in alarm.attribution},
        },
    }


def _reported(reported: wire.Reported) -> Chain:
    return {
        "release": reported.release,
        "digest": reported.digest,
        "calibration": reported.calibration,
        "runtime": reported.runtime,
    }


def _release(connection: Connection, device: str, number: int, digest: str) -> Chain | None:
    """The signed release that the event names, or None where the cloud never published such a one."""
    table, have = tables.releases, tables.devices
    group = sa.select(have.c.group).where(have.c.device == device).scalar_subquery()
    row = connection.execute(
        sa.select(table)
        .where(table.c.number == number, table.c.digest == digest)
        .order_by((table.c.group == group).desc())
    ).first()
    if row is None:
        return None
    return {
        "group": row.group,
        "number": row.number,
        "target": row.target,
        "published": wire.rfc3339(row.created_s),
        "note": row.note,
    }
