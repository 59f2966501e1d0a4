"""How new events change what the store knows of a device: reported state, health, alarms, presence.

Called in a transaction, once per new event. An event that arrives late never overwrites what a later one said:
places are (ordinal of the outbox, seq). Alarms may end before their beginning arrives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud.config import DEFAULT_GROUP
from cloud.store import bulk, schema, tables
from covey import wire
from covey.topics import is_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

Place = tuple[int, int]  # ordinal of the outbox, seq
NOWHERE: Place = (0, 0)  # before every event


class Placed(NamedTuple):
    """What one new event says, and where in its device's order it stands."""

    identity: wire.Identity
    place: Place
    data: msgspec.Struct
    received_s: float


_SUMMARIES = bulk.columns(
    "summaries",
    "device:s outbox:s seq:i start_s:f end_s:f windows:i alarmed_windows:i threshold:f p50:f p99:f max:f drift_input:f "
    "drift_score:f release:i runtime:s flight:s",
)
_DEVICES = bulk.columns(
    "devices",
    "device:s group:s first_seen_s:f last_seen_s:f session:s windows:i alarmed_windows:i changed:i "
    "health_ordinal:i health_seq:i health:s position:s period_end_s:f period_s:f score_p50:f score_max:f threshold:f "
    "drift_psi:f drift_channel:s reported_ordinal:i reported_seq:i reported:s release:i revision:i",
)
_HEALTH = _DEVICES.names[_DEVICES.names.index("health") : _DEVICES.names.index("reported_ordinal")]
_REPORTED = _DEVICES.names[_DEVICES.names.index("reported") :]


def _newer(kind: str, names: Iterable[str]) -> list[str]:
    """Take these columns over where the given row's place is behind the one that is there."""
    newer = (
        f"excluded.{kind}_ordinal > devices.{kind}_ordinal OR "
        f"(excluded.{kind}_ordinal = devices.{kind}_ordinal AND excluded.{kind}_seq > devices.{kind}_seq)"
    )
    return [
        f"{name} = CASE WHEN {newer} THEN excluded.{name} ELSE devices.{name} END"
        for name in (f"{kind}_ordinal", f"{kind}_seq", *names)
    ]


_LATER = "COALESCE(devices.last_seen_s, 0) < excluded.last_seen_s"
_CHANGES = ", ".join(
    [
        "first_seen_s = COALESCE(devices.first_seen_s, excluded.first_seen_s)",
        f"last_seen_s = CASE WHEN {_LATER} THEN excluded.last_seen_s ELSE devices.last_seen_s END",
        "windows = devices.windows + excluded.windows",
        "alarmed_windows = devices.alarmed_windows + excluded.alarmed_windows",
        "changed = excluded.changed",
        *_newer("health", _HEALTH),
        *_newer("reported", _REPORTED),
    ]
)
_NO_HEALTH = (*NOWHERE, "", "", None, None, None, None, None, None, "")
_NO_REPORTED = (*NOWHERE, "", 0, 0)


class _Device:
    """What a batch says of one device: its newest summary, its newest report, sums."""

    __slots__ = ("alarmed_windows", "first_s", "health", "health_at", "last_s", "reported", "reported_at", "windows")

    def __init__(self, seen_s: float) -> None:
        self.first_s = self.last_s = seen_s
        self.windows = self.alarmed_windows = 0
        self.health_at = self.reported_at = NOWHERE
        self.health: wire.Summary | None = None
        self.reported: wire.Reported | None = None


def apply_devices(
    connection: Connection, seen: Iterable[tuple[str, float]], placed: Sequence[Placed], change: int
) -> None:
    """Put what a batch says into the devices' rows: one row, one statement a device.

    Args:
        connection: in a transaction.
        seen: (device, Kafka's timestamp) of everything that came, repeats too.
        placed: what is new.
        change: the transaction's number.
    """
    found: dict[str, _Device] = {}
    for device, seen_s in seen:
        one = found.get(device)
        if one is None:
            found[device] = _Device(seen_s)
        elif seen_s < one.first_s:
            one.first_s = seen_s
        elif seen_s > one.last_s:
            one.last_s = seen_s
    for identity, place, data, _ in placed:
        if isinstance(data, wire.Summary):
            one = found[identity.device]
            one.windows += data.windows
            one.alarmed_windows += data.alarmed_windows
            if place > one.health_at:
                one.health_at, one.health = place, data
        elif isinstance(data, wire.Status):
            one = found[identity.device]
        else:
            continue
        if place > one.reported_at:
            one.reported_at, one.reported = place, data.reported
    bulk.upsert(
        connection, _DEVICES, "device", _CHANGES, [_device_row(one, found[one], change) for one in sorted(found)]
    )


def _device_row(device: str, said: _Device, change: int) -> tuple[Any, ...]:
    data, reported = said.health, said.reported
    health: tuple[Any, ...] = _NO_HEALTH
    if data is not None:
        health = (
            *said.health_at,
            wire.encode(data.health).decode(),
            "" if data.position is None else wire.encode(data.position).decode(),
            data.end_s,
            data.end_s - data.start_s,
            data.score.p50,
            data.score.max,
            data.threshold,
            data.drift.psi,
            data.drift.channel,
        )
    report: tuple[Any, ...] = _NO_REPORTED
    if reported is not None:
        report = (*said.reported_at, wire.encode(reported).decode(), reported.release, reported.revision)
    seen = (device, DEFAULT_GROUP, said.first_s, said.last_s, "", said.windows, said.alarmed_windows, change)
    return (*seen, *health, *report)


def apply_summaries(connection: Connection, placed: Sequence[Placed]) -> None:
    """Add the summaries' rows, and what they say was given up for want of room."""
    said = [(one.identity, one.data) for one in placed if isinstance(one.data, wire.Summary)]
    bulk.insert(connection, _SUMMARIES, [_summary_row(identity, data) for identity, data in said])
    gaps = [
        {"device": identity.device, "outbox": gap.outbox, "first": gap.first, "last": gap.last}
        for identity, data in said
        for gap in data.health.dropped
    ]
    if gaps:
        connection.execute(schema.insert(connection, tables.dropped).on_conflict_do_nothing(), gaps)


def _summary_row(identity: wire.Identity, summary: wire.Summary) -> tuple[Any, ...]:
    score, drift, reported = summary.score, summary.drift, summary.reported
    return (
        *identity,
        summary.start_s,
        summary.end_s,
        summary.windows,
        summary.alarmed_windows,
        summary.threshold,
        score.p50,
        score.p99,
        score.max,
        drift.input,
        drift.score,
        reported.release,
        reported.runtime,
        summary.flight,
    )


def first_reports(
    connection: Connection, placed: Sequence[Placed], before: Iterable[tuple[str, int, str]]
) -> list[wire.Learning]:
    """The steps to tell: devices that run a release for the first time.

    Args:
        connection: in a transaction.
        placed: new events, ascending by place within a device.
        before: (device, release, JSON of wire.Reported) as the devices' rows say: told long ago.
    """
    known = {device: (release, reported) for device, release, reported in before}
    runs: dict[tuple[str, int, str], str] = {}
    for identity, _, data, _ in placed:
        if not isinstance(data, (wire.Summary, wire.Status)) or not data.reported.release:
            continue
        release, digest = data.reported.release, data.reported.digest
        was = known.get(identity.device)
        if was is None or was[0] != release or f'"digest":"{digest}"' not in was[1]:
            runs.setdefault((identity.device, release, digest), data.reported.runtime)
    return _first_reports(connection, runs) if runs else []


def _first_reports(connection: Connection, runs: dict[tuple[str, int, str], str]) -> list[wire.Learning]:
    """Steps for (device, release, digest) -> runtime that were never told."""
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


def apply_alarm(connection: Connection, one: Placed, alarm: wire.Alarm, change: int) -> None:
    """Begin or end an alarm; its two events may come in either order."""
    table, identity = tables.alarms, one.identity
    key = sa.and_(table.c.device == identity.device, table.c.alarm_id == alarm.alarm_id)
    row = connection.execute(sa.select(table).where(key)).mappings().first()
    begins = alarm.state == "begin"
    mine = {"begin_seq": identity.seq, "begin_s": alarm.window.start_s} if begins else {}
    if not begins:
        mine = {"end_seq": identity.seq, "end_s": alarm.window.end_s}
    # What raised the alarm explains it: an end fills these only while no beginning is known.
    lineage = {
        "outbox": identity.outbox,
        "kind": alarm.kind,
        "detail": alarm.detail,
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
        values |= {"received_s": one.received_s, "changed": change}
        connection.execute(sa.insert(table).values(device=identity.device, alarm_id=alarm.alarm_id, **values))
        return
    values = {
        "state": "end" if not begins or row["end_seq"] is not None else "begin",
        "peak_score": max(peak, row["peak_score"]),
        "windows": max(alarm.windows, row["windows"]),
        "changed": change,
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
