"""What the fleet's view reads of the store: everything once, then what changed from a cursor to a horizon.

Each in one read transaction (docs/decisions/0031-live-views.md). What is deleted leaves no changed row: receipts of erasure tell that, and a
view reads everything anew now and then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud.console import incidents
from cloud.console.status import UNJUDGED_S, Alarm, Device
from cloud.store import changes, schema, tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection, Engine

INBOX_S = 7 * UNJUDGED_S  # ended alarms without a verdict are counted this long
MAX_INBOX = 20_000  # and so many of them: what a process holds is bounded


class Step(NamedTuple):
    """A line of a training run that came."""

    run: str
    kind: str
    round: int


class Everything(NamedTuple):
    """One moment of the store."""

    devices: list[Device]
    alarms: list[Alarm]
    usual: dict[str, float]  # group -> devices expected to begin an alarm within ten minutes; of those old enough
    horizon: int
    erased: int  # id of the newest receipt of erasure


class Changed(NamedTuple):
    """What changed up to a horizon."""

    devices: list[Device]
    alarms: list[Alarm]
    steps: list[Step]
    horizon: int
    erased: int


class _Slot(msgspec.Struct):
    state: str = "idle"


class _Place(msgspec.Struct):
    lat_deg: float
    lon_deg: float


_slot = msgspec.json.Decoder(_Slot)
_place = msgspec.json.Decoder(_Place)


def everything(engine: Engine, now_s: float | None = None) -> Everything:
    """All devices, and the alarms that are open or lately ended without a verdict."""
    now_s = time.time() if now_s is None else now_s
    with schema.read(engine) as connection:
        horizon = changes.horizon(connection)
        devices = _devices(connection, sa.true())
        table = tables.alarms
        open_ = table.c.state == "begin"
        lately = sa.and_(table.c.state == "end", table.c.verdict == "", table.c.received_s >= now_s - INBOX_S)
        alarms = _alarms(connection, sa.select(*_ALARM).where(open_), now_s)
        newest = sa.select(*_ALARM).where(lately).order_by(table.c.received_s.desc()).limit(MAX_INBOX)
        alarms += _alarms(connection, newest, now_s)
        return Everything(devices, alarms, _usual(connection, devices, now_s), horizon, _erased(connection))


def changed(engine: Engine, cursor: int, now_s: float | None = None) -> Changed:
    """Rows whose change number is in [cursor, horizon)."""
    now_s = time.time() if now_s is None else now_s
    with schema.read(engine) as connection:
        horizon, erased = changes.horizon(connection), _erased(connection)
        if horizon <= cursor:
            return Changed([], [], [], cursor, erased)
        device, alarm, line = tables.devices.c.changed, tables.alarms.c.changed, tables.rounds
        alarms = sa.select(*_ALARM).where(alarm >= cursor, alarm < horizon)
        rounds = sa.select(line.c.run, line.c.kind, line.c.round).order_by(line.c.run, line.c.seq)
        steps = connection.execute(rounds.where(line.c.changed >= cursor, line.c.changed < horizon))
        return Changed(
            _devices(connection, sa.and_(device >= cursor, device < horizon)),
            _alarms(connection, alarms, now_s),
            [Step(row.run, row.kind, row.round) for row in steps],
            horizon,
            erased,
        )


def usual(engine: Engine, devices: Iterable[Device], now_s: float) -> dict[str, float]:
    """What `Everything.usual` is, looked up again."""
    with schema.read(engine) as connection:
        return _usual(connection, devices, now_s)


_D, _A, _W = tables.devices.c, tables.alarms.c, tables.desired.c
_Columns = tuple[sa.ColumnElement[Any], ...]
_DEVICE: _Columns = (_D.device, _D.group, _D.state, _D.release, _W.release.label("wanted"), _D.reported, _D.online)
_DEVICE += (_D.last_seen_s, _D.period_s, _D.score_max, _D.threshold, _D.drift_psi, _D.position, _D.first_seen_s)
_ALARM: _Columns = (_A.device, _A.alarm_id, _A.top_channel, _A.peak_score, _A.threshold, _A.begin_s, _A.end_s)
_ALARM += (_A.received_s, _A.state, _A.verdict, _A.acknowledged_by)


def _devices(connection: Connection, which: sa.ColumnElement[bool]) -> list[Device]:
    joined = tables.devices.outerjoin(tables.desired, _W.device == _D.device)
    found = []
    for row in connection.execute(sa.select(*_DEVICE).select_from(joined).where(which)):
        place = _place.decode(row.position) if row.position else None
        found.append(
            Device(
                device=row.device,
                group=row.group,
                active=row.state != "retired",
                release=row.release,
                wanted=row.wanted,
                slot=_slot.decode(row.reported).state if row.reported else "idle",
                online=row.online,
                seen_s=row.last_seen_s,
                period_s=row.period_s,
                score_max=row.score_max,
                threshold=row.threshold,
                drift_psi=row.drift_psi,
                lat=None if place is None else round(place.lat_deg, 5),  # a metre
                lon=None if place is None else round(place.lon_deg, 5),
                first_s=row.first_seen_s,
            )
        )
    return found


def _alarms(connection: Connection, query: sa.Select[Any], now_s: float) -> list[Alarm]:
    return [
        Alarm(
            device=row.device,
            alarm_id=row.alarm_id,
            channel=row.top_channel,
            ratio=row.peak_score / row.threshold if row.threshold else 0.0,
            begin_s=row.received_s if row.begin_s is None else row.begin_s,
            received_s=row.received_s,
            # A device's clock may be years behind or ahead: never before it was heard of, never after now.
            ended_s=None if row.state == "begin" else max(row.received_s, min(now_s, row.end_s or 0.0)),
            verdict=row.verdict,
            seen_by=row.acknowledged_by,
        )
        for row in connection.execute(query)
    ]


def _usual(connection: Connection, devices: Iterable[Device], now_s: float) -> dict[str, float]:
    begun = sa.select(_D.group, sa.func.count()).select_from(tables.alarms.join(tables.devices, _A.device == _D.device))
    span = _A.received_s >= now_s - incidents.USUAL_S, _A.received_s < now_s - incidents.RECENT_S
    counts = {group: count for group, count in connection.execute(begun.where(*span).group_by(_D.group))}  # noqa: C416  # rows are not pairs to a type checker
    since: dict[str, float] = {}
    for device in devices:
        since[device.group] = min(since.get(device.group, now_s), now_s if device.first_s is None else device.first_s)
    found = {group: incidents.usual(counts.get(group, 0), now_s - first_s) for group, first_s in since.items()}
    return {group: expected for group, expected in found.items() if expected is not None}


def _erased(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.max(tables.receipts.c.id))).scalar_one_or_none() or 0)
