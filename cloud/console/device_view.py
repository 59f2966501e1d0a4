"""Devices as their list and their page show them, and a device's scores over time."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from cloud.console import alarm_view, pages
from cloud.console.alarm_view import AlarmRow
from cloud.store import reader, schema, tables
from covey import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Engine

HOUR_S = 3600
MAX_ROWS = 200_000  # of a device's periods read for one picture
_D = tables.devices.c


class DeviceLine(Struct):
    """A row of the list of devices; `status` null of a retired one."""

    device: str
    group: str
    labels: dict[str, str]
    state: Literal["active", "retired"]
    status: str | None
    online: bool | None
    release: int
    desired: int | None
    ratio: float | None
    last_seen_s: float | None


class Period(Struct):
    """A device's newest period."""

    end_s: float
    period_s: float
    p50: float
    max: float
    threshold: float
    drift_psi: float | None
    drift_channel: str


class DeviceWhole(Struct):
    """A device; docs/api.md, "Device"."""

    device: str
    group: str
    labels: dict[str, str]
    state: Literal["active", "retired"]
    status: str | None
    online: bool | None
    first_seen_s: float | None
    last_seen_s: float | None
    release: int
    desired: int | None
    desired_revision: int | None
    windows: int
    alarmed_windows: int
    alarms: int
    open_alarms: int
    flights: int
    reported: dict[str, Any] | None
    health: dict[str, Any] | None
    position: dict[str, float] | None
    parameters: dict[str, Any]
    period: Period | None
    uplink_bytes_per_min: float | None
    last_alarm: AlarmRow | None


class Scores(Struct):
    """Columns of equal length; `t`: the end of a period."""

    from_s: float
    to_s: float
    step_s: float
    resolution: Literal["period", "hour"]
    t: list[float]
    p50: list[float]
    p99: list[float]
    max: list[float]
    threshold: list[float]
    release: list[int]
    alarms: list[list[float | str | None]]


class _Point(Struct):
    t: float
    p50: float
    p99: float
    max: float
    threshold: float
    release: int


def page(
    engine: Engine,
    status_of: Callable[[str], str | None],
    *,
    group: str | None,
    status: str | None,
    state: str | None,
    q: str | None,
    limit: int,
    after: str | None,
) -> tuple[list[DeviceLine], str | None]:
    """Devices by name, and where the next page begins.

    Args:
        engine: an open store.
        status_of: the fleet's view.
        group: only of this one.
        status: only with this one, as the fleet's view has it now.
        state: active or retired only.
        q: part of a name.
        limit: rows of a page.
        after: `next` of the page before.

    Raises:
        Refused: `after` is no page's.
    """
    want = tables.desired
    query = sa.select(tables.devices, want.c.release.label("desired"))
    query = query.select_from(tables.devices.outerjoin(want, want.c.device == _D.device)).order_by(_D.device)
    if group is not None:
        query = query.where(_D.group == group)
    if state is not None:
        query = query.where(_D.state == state)
    if q:
        query = query.where(sa.func.lower(_D.device).contains(q.lower(), autoescape=True))
    place = pages.place(after, str)
    if place is not None:
        query = query.where(_D.device > place)
    if status is None:
        query = query.limit(limit + 1)
    found: list[DeviceLine] = []
    with schema.read(engine) as connection:
        for row in connection.execution_options(yield_per=1000).execute(query).mappings():
            now = status_of(row["device"]) if row["state"] != "retired" else None
            if status is not None and now != status:
                continue
            found.append(_line(row, now))
            if len(found) > limit:
                break
    return pages.cut(found, limit, lambda line: line.device)


def whole(engine: Engine, name: str, status: str | None) -> DeviceWhole | None:
    """One device, or None."""
    one = reader.device(engine, name)
    if one is None:
        return None
    with schema.read(engine) as connection:
        row = connection.execute(sa.select(tables.devices).where(_D.device == name)).mappings().first()
        if row is None:
            return None
        want = tables.desired
        message = connection.execute(sa.select(want.c.message).where(want.c.device == name)).scalar_one_or_none()
        parameters = wire.Parameters() if message is None else wire.decode(wire.Desired, message).parameters
        known = {key: one[key] for key in DeviceWhole.__struct_fields__ if key in one}
        return DeviceWhole(
            **{
                **known,
                "labels": msgspec.json.decode(row["labels"] or "{}"),
                "state": row["state"],
                "status": status if row["state"] != "retired" else None,
                "flights": len(one["flights"]),
                "parameters": msgspec.to_builtins(parameters),
                "period": _period(row),
                "uplink_bytes_per_min": _uplink(connection, name),
                "last_alarm": alarm_view.last_of(connection, name),
            }
        )


def scores(engine: Engine, name: str, from_s: float, to_s: float, points: int) -> Scores | None:
    """A device's scores from `from_s` up to `to_s`, at most `points` of them; None: no such device.

    Where retention has taken periods, hours stand for them, and then everything is told by hours.
    """
    table, hour, alarm = tables.summaries, tables.hours, tables.alarms
    with schema.read(engine) as connection:
        if connection.execute(sa.select(_D.device).where(_D.device == name)).first() is None:
            return None
        columns = (table.c.end_s, table.c.p50, table.c.p99, table.c.max, table.c.threshold, table.c.release)
        query = sa.select(*columns).where(table.c.device == name, table.c.windows > 0)
        query = query.where(table.c.end_s >= from_s, table.c.end_s < to_s).order_by(table.c.end_s).limit(MAX_ROWS)
        fine = [_Point(*row) for row in connection.execute(query)]
        before_s = fine[0].t if fine else to_s
        columns = (hour.c.hour_s, hour.c.p50, hour.c.p99, hour.c.max, hour.c.threshold, hour.c.release)
        query = sa.select(*columns).where(hour.c.device == name, hour.c.windows > 0, hour.c.hour_s >= from_s - HOUR_S)
        query = query.where(hour.c.hour_s < min(to_s, before_s - HOUR_S)).order_by(hour.c.hour_s)
        coarse = [_Point(row[0] + HOUR_S, *row[1:]) for row in connection.execute(query)]
        spans = sa.select(alarm.c.begin_s, alarm.c.end_s, alarm.c.alarm_id).where(
            alarm.c.device == name,
            alarm.c.begin_s < to_s,
            sa.or_(alarm.c.end_s.is_(None), alarm.c.end_s >= from_s),
        )
        alarms = [[row.begin_s, row.end_s, row.alarm_id] for row in connection.execute(spans.order_by(alarm.c.begin_s))]
    if coarse:
        by_hour: dict[float, list[_Point]] = {}
        for point in fine:
            by_hour.setdefault(math.floor(point.t / HOUR_S), []).append(point)
        fine = coarse + [_together(some) for _, some in sorted(by_hour.items())]
    size = math.ceil(len(fine) / points) or 1
    told = [_together(fine[start : start + size]) for start in range(0, len(fine), size)]
    steps = [later.t - earlier.t for earlier, later in itertools.pairwise(told)]
    return Scores(
        from_s=from_s,
        to_s=to_s,
        step_s=statistics.median(steps) if steps else 0.0,
        resolution="hour" if coarse else "period",
        t=[point.t for point in told],
        p50=[point.p50 for point in told],
        p99=[point.p99 for point in told],
        max=[point.max for point in told],
        threshold=[point.threshold for point in told],
        release=[point.release for point in told],
        alarms=alarms,
    )


def newest_s(engine: Engine, name: str) -> float:
    """When a device's newest period ended; now where it has none."""
    with schema.read(engine) as connection:
        found = connection.execute(sa.select(_D.period_end_s).where(_D.device == name)).scalar_one_or_none()
    return time.time() if found is None else float(found)


def _together(points: list[_Point]) -> _Point:
    """Several periods as one: nothing that stood out is lost."""
    last = points[-1]
    return _Point(
        last.t,
        statistics.median(point.p50 for point in points),
        max(point.p99 for point in points),
        max(point.max for point in points),
        last.threshold,
        last.release,
    )


def _line(row: sa.RowMapping, status: str | None) -> DeviceLine:
    ratio = row["score_max"] / row["threshold"] if row["score_max"] is not None and row["threshold"] else None
    return DeviceLine(
        device=row["device"],
        group=row["group"],
        labels=msgspec.json.decode(row["labels"] or "{}"),
        state=row["state"],
        status=status,
        online=row["online"],
        release=row["release"],
        desired=row["desired"],
        ratio=None if ratio is None else round(ratio, 3),
        last_seen_s=row["last_seen_s"],
    )


def _period(row: sa.RowMapping) -> Period | None:
    if row["period_end_s"] is None:
        return None
    return Period(
        end_s=row["period_end_s"],
        period_s=row["period_s"] or 0.0,
        p50=row["score_p50"] or 0.0,
        max=row["score_max"] or 0.0,
        threshold=row["threshold"] or 0.0,
        drift_psi=row["drift_psi"],
        drift_channel=row["drift_channel"],
    )


def _uplink(connection: Connection, name: str) -> float | None:
    """Bytes a minute that its newest events took; of the last hundred, so that a long history costs nothing."""
    event, outbox = tables.events.c, tables.outboxes.c
    query = sa.select(outbox.outbox).where(outbox.device == name).order_by(outbox.ordinal.desc()).limit(1)
    newest = connection.execute(query).scalar_one_or_none()
    if newest is None:
        return None
    last = sa.select(sa.func.length(event.body).label("size"), event.received_s)
    last = last.where(event.device == name, event.outbox == newest).order_by(event.seq.desc()).limit(100)
    rows = connection.execute(last).all()
    span_s = rows[0].received_s - rows[-1].received_s if rows else 0.0
    if span_s <= 0:
        return None
    return round(
        60.0 * float(sum(row.size for row in rows[:-1])) / float(span_s), 1
    )  # the first one came before the span
