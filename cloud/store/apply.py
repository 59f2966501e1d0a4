"""How new events change what the store knows of a device: reported state, health, alarms, presence.

Called in a transaction, once per new event. An event that arrives late never overwrites what a later one said:
places are (ordinal of the outbox, seq). Alarms may end before their beginning arrives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from covey import wire
from covey.topics import is_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

Place = tuple[int, int]  # ordinal of the outbox, seq


class Placed(NamedTuple):
    """What one new event says, and where in its device's order it stands."""

    identity: wire.Identity
    place: Place
    data: msgspec.Struct


def apply_summaries(connection: Connection, events: Sequence[Placed]) -> None:
    """Add the summaries' rows, and each device's health from its newest.

    Args:
        connection: in a transaction.
        events: new ones, ascending by place within a device.
    """
    said = [(one, one.data) for one in events if isinstance(one.data, wire.Summary)]
    if not said:
        return
    connection.execute(sa.insert(tables.summaries), [_summary_row(one.identity, data) for one, data in said])
    gaps = [
        {"device": one.identity.device, "outbox": gap.outbox, "first": gap.first, "last": gap.last}
        for one, data in said
        for gap in data.health.dropped
    ]
    if gaps:
        connection.execute(schema.insert(connection, tables.dropped).on_conflict_do_nothing(), gaps)
    table = tables.devices
    newest = {one.identity.device: (one.place, data) for one, data in said}
    connection.execute(
        sa.update(table)
        .where(table.c.device == sa.bindparam("of"), _older(table.c.health_ordinal, table.c.health_seq))
        .values({name: sa.bindparam(name) for name in ("health_ordinal", "health_seq", "health", "position")}),
        [
            {
                "of": device,
                "new_ordinal": place[0],
                "new_seq": place[1],
                "health_ordinal": place[0],
                "health_seq": place[1],
                "health": wire.encode(data.health).decode(),
                "position": "" if data.position is None else wire.encode(data.position).decode(),
            }
            for device, (place, data) in newest.items()
        ],
    )


def apply_reported(connection: Connection, events: Sequence[Placed]) -> list[wire.Learning]:
    """Take over what devices report, unless something newer is known.

    Args:
        connection: in a transaction.
        events: new ones, ascending by place within a device.

    Returns:
        The steps to tell: devices that run a release for the first time.
    """
    said = [(one, one.data.reported) for one in events if isinstance(one.data, (wire.Summary, wire.Status))]
    if not said:
        return []
    table = tables.devices
    newest = {one.identity.device: (one.place, reported) for one, reported in said}
    columns = ("reported_ordinal", "reported_seq", "reported", "release", "revision")
    connection.execute(
        sa.update(table)
        .where(table.c.device == sa.bindparam("of"), _older(table.c.reported_ordinal, table.c.reported_seq))
        .values({name: sa.bindparam(name) for name in columns}),
        [
            {
                "of": device,
                "new_ordinal": place[0],
                "new_seq": place[1],
                "reported_ordinal": place[0],
                "reported_seq": place[1],
                "reported": wire.encode(reported).decode(),
                "release": reported.release,
                "revision": reported.revision,
            }
            for device, (place, reported) in newest.items()
        ],
    )
    runs: dict[tuple[str, int, str], str] = {}
    for one, reported in said:
        if reported.release:
            runs.setdefault((one.identity.device, reported.release, reported.digest), reported.runtime)
    return _first_reports(connection, runs)


def _first_reports(connection: Connection, runs: dict[tuple[str, int, str], str]) -> list[wire.Learning]:
    """Steps for (device, release, digest) -> runtime that were never told."""
    if not runs:
        return []
    told, table = tables.learning, tables.devices
    names = sorted({device for device, _, _ in runs})
    known = connection.execute(
        sa.select(told.c.device, told.c.release, told.c.digest).where(
            told.c.kind == "reported", told.c.device.in_(names), told.c.release.in_({number for _, number, _ in runs})
        )
    )
    before = {(row.device, row.release, row.digest) for row in known}
    new = {run: runtime for run, runtime in runs.items() if run not in before}
    if not new:
        return []
    groups = connection.execute(sa.select(table.c.device, table.c.group).where(table.c.device.in_(names)))
    group_of = {row.device: row.group for row in groups}
    return [
        wire.Learning(
            kind="reported",
            time_s=time.time(),
            group=group_of[device],
            device=device,
            release=release,
            digest=digest,
            detail=f"runs on {runtime or 'an unnamed runtime'}"[:256],
        )
        for (device, release, digest), runtime in new.items()
    ]


def _summary_row(identity: wire.Identity, summary: wire.Summary) -> dict[str, object]:
    return {
        "device": identity.device,
        "outbox": identity.outbox,
        "seq": identity.seq,
        "start_s": summary.start_s,
        "end_s": summary.end_s,
        "windows": summary.windows,
        "alarmed_windows": summary.alarmed_windows,
        "threshold": summary.threshold,
        "p50": summary.score.p50,
        "p99": summary.score.p99,
        "max": summary.score.max,
        "drift_input": summary.drift.input,
        "drift_score": summary.drift.score,
        "release": summary.reported.release,
        "runtime": summary.reported.runtime,
        "flight": summary.flight,
    }


def apply_alarm(connection: Connection, identity: wire.Identity, alarm: wire.Alarm) -> None:
    """Begin or end an alarm; its two events may come in either order."""
    table = tables.alarms
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
    table = tables.devices
    change = sa.update(table).where(table.c.device == device)
    if not data.online:
        change = change.where(sa.or_(table.c.session == data.session, table.c.session == ""))
    connection.execute(change.values(online=data.online, session=data.session))


def _older(ordinal: sa.Column[int], seq: sa.Column[int]) -> sa.ColumnElement[bool]:
    """Whether a row's place lies before the parameters new_ordinal, new_seq."""
    new_ordinal: sa.BindParameter[int] = sa.bindparam("new_ordinal")
    new_seq: sa.BindParameter[int] = sa.bindparam("new_seq")
    return sa.or_(ordinal < new_ordinal, sa.and_(ordinal == new_ordinal, seq < new_seq))
