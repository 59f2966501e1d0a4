"""How one new event changes what the store knows of a device: reported state, health, alarms, presence.

Called in a transaction, once per event. An event that arrives late never overwrites what a later one said:
places are (ordinal of the outbox, seq). Alarms may end before their beginning arrives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from cloud.store import schema
from covey import wire
from covey.topics import is_device

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Place = tuple[int, int]  # ordinal of the outbox, seq


def apply_summary(connection: Connection, identity: wire.Identity, place: Place, summary: wire.Summary) -> None:
    """Add the summary's row, and the device's health when it is the newest."""
    connection.execute(
        sa.insert(schema.summaries).values(
            device=identity.device,
            outbox=identity.outbox,
            seq=identity.seq,
            start_s=summary.start_s,
            end_s=summary.end_s,
            windows=summary.windows,
            alarmed_windows=summary.alarmed_windows,
            threshold=summary.threshold,
            p50=summary.score.p50,
            p99=summary.score.p99,
            max=summary.score.max,
            drift_input=summary.drift.input,
            drift_score=summary.drift.score,
            release=summary.reported.release,
            runtime=summary.reported.runtime,
            flight=summary.flight,
        )
    )
    for gap in summary.health.dropped:
        statement = schema.insert(connection, schema.dropped).values(
            device=identity.device, outbox=gap.outbox, first=gap.first, last=gap.last
        )
        connection.execute(statement.on_conflict_do_nothing())
    table = schema.devices
    connection.execute(
        sa.update(table)
        .where(table.c.device == identity.device, _older(table.c.health_ordinal, table.c.health_seq, place))
        .values(
            health_ordinal=place[0],
            health_seq=place[1],
            health=wire.encode(summary.health).decode(),
            position="" if summary.position is None else wire.encode(summary.position).decode(),
        )
    )


def apply_reported(connection: Connection, device: str, place: Place, reported: wire.Reported) -> wire.Learning | None:
    """Take over what a device reports, unless something newer is known.

    Returns:
        The step to tell when the device runs this release of its group for the first time.
    """
    table = schema.devices
    connection.execute(
        sa.update(table)
        .where(table.c.device == device, _older(table.c.reported_ordinal, table.c.reported_seq, place))
        .values(
            reported_ordinal=place[0],
            reported_seq=place[1],
            reported=wire.encode(reported).decode(),
            release=reported.release,
            revision=reported.revision,
        )
    )
    if reported.release == 0:
        return None
    told = schema.learning
    before = sa.select(told.c.id).where(
        told.c.device == device,
        told.c.kind == "reported",
        told.c.release == reported.release,
        told.c.digest == reported.digest,
    )
    if connection.execute(before.limit(1)).first() is not None:
        return None
    group = connection.execute(sa.select(table.c.group).where(table.c.device == device)).scalar_one()
    return wire.Learning(
        kind="reported",
        time_s=time.time(),
        group=group,
        device=device,
        release=reported.release,
        digest=reported.digest,
        detail=f"runs on {reported.runtime or 'an unnamed runtime'}"[:256],
    )


def apply_alarm(connection: Connection, identity: wire.Identity, alarm: wire.Alarm) -> None:
    """Begin or end an alarm; its two events may come in either order."""
    table = schema.alarms
    key = sa.and_(table.c.device == identity.device, table.c.alarm_id == alarm.alarm_id)
    row = connection.execute(sa.select(table).where(key)).mappings().first()
    begins = alarm.state == "begin"
    mine = {"begin_seq": identity.seq, "begin_s": alarm.window.start_s} if begins else {}
    if not begins:
        mine = {"end_seq": identity.seq, "end_s": alarm.window.end_s}
    # What raised the alarm explains it: an end fills these only while no beginning is known.
    lineage = {
        "outbox": identity.outbox,
        "score": alarm.score,
        "threshold": alarm.threshold,
        "confidence": alarm.confidence,
        "top_channel": alarm.top_channel,
        "attribution": msgspec.json.encode(alarm.attribution).decode(),
        "window_sha256": alarm.window.sha256,
        "release": alarm.release,
        "digest": alarm.digest,
        "calibration": alarm.calibration,
        "runtime": alarm.runtime,
        "flight": alarm.flight,
        "trace_id": alarm.trace_id,
    }
    peak = max(alarm.peak_score, alarm.score)
    if row is None:
        values = {"state": alarm.state, "peak_score": peak, "windows": alarm.windows, **mine, **lineage}
        connection.execute(sa.insert(table).values(device=identity.device, alarm_id=alarm.alarm_id, **values))
        return
    values = {
        "state": "end" if not begins or row["end_seq"] is not None else "begin",
        "peak_score": max(peak, row["peak_score"]),
        "windows": max(alarm.windows, row["windows"]),
        **mine,
        **(lineage if begins else {}),
    }
    connection.execute(sa.update(table).where(key).values(values))


def apply_presence(connection: Connection, device: str, data: object) -> None:
    """A session's birth sets the device online; only the death of that same session takes it away.

    A will is published late: the death of an old session may follow the birth of the new one.
    """
    if not isinstance(data, wire.PresenceEvent) or not is_device(device):
        return
    table = schema.devices
    change = sa.update(table).where(table.c.device == device)
    if not data.online:
        change = change.where(sa.or_(table.c.session == data.session, table.c.session == ""))
    connection.execute(change.values(online=data.online, session=data.session))


def _older(ordinal: sa.Column[int], seq: sa.Column[int], place: Place) -> sa.ColumnElement[bool]:
    return sa.or_(ordinal < place[0], sa.and_(ordinal == place[0], seq < place[1]))
