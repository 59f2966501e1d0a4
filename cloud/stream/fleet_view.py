"""What enrich asks the store: one question a group and two a batch, answers about groups kept for a while. Changes nothing.

A store that cannot be asked is asked again after `ASK_AGAIN_S`: alarms do not wait for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.stream.context import DAY_S, PEER_S, RECENT_S, WEEK_S, Beginning, DeviceView, GroupView, Usual
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.engine import Connection, Engine

GROUP_S = 1.0  # how long an answer about a group's alarms holds
USUAL_S = 300.0  # and one about its last week
ASK_AGAIN_S = 1.0
MONTH_S = 30 * DAY_S
OPEN_S = DAY_S  # an alarm that has not ended for longer was forgotten by its device
MAX_ALARMS = 20_000  # of a group at once
MAX_NAMES = 500  # in one question


class Answer(NamedTuple):
    """All that a batch needs."""

    devices: dict[str, DeviceView]
    groups: dict[str, GroupView]
    published: dict[tuple[str, int, str], float]  # (group, release, digest) -> created_s


class FleetView:
    """Asks, and keeps what was answered."""

    def __init__(self, engine: Engine, window_s: float) -> None:
        self._engine, self._window_s = engine, window_s
        self._groups: dict[str, tuple[float, GroupView]] = {}
        self._usual: dict[str, tuple[float, Usual]] = {}
        self._silent_until = 0.0

    def ask(self, devices: Mapping[str, float]) -> Answer | None:
        """Views of devices and their groups; None: the store cannot be asked now.

        Args:
            devices: name -> when its newest alarm of the batch was received.
        """
        if time.monotonic() < self._silent_until:
            return None
        try:
            with schema.read(self._engine) as connection:
                return self._ask(connection, devices)
        except StoreError:
            self._silent_until = time.monotonic() + ASK_AGAIN_S
            raise

    def _ask(self, connection: Connection, devices: Mapping[str, float]) -> Answer:
        now_s = max(devices.values(), default=time.time())
        names = sorted(devices)
        views: dict[str, DeviceView] = {}
        for start in range(0, len(names), MAX_NAMES):
            views |= _devices(connection, names[start : start + MAX_NAMES], now_s)
        wanted = {view.group for view in views.values()}
        groups = {name: self._group(connection, name, now_s) for name in sorted(wanted)}
        return Answer(views, groups, _published(connection, wanted))

    def _group(self, connection: Connection, name: str, now_s: float) -> GroupView:
        at, now = self._groups.get(name, (-GROUP_S, None)), time.monotonic()
        if at[1] is not None and now - at[0] < GROUP_S:
            return at[1]
        kept = self._usual.get(name)
        if kept is None or now - kept[0] >= USUAL_S:
            kept = self._usual[name] = (now, _usual(connection, name, now_s))
        table = tables.devices
        heard = connection.execute(
            sa.select(sa.func.count()).where(
                table.c.group == name, table.c.state == "active", table.c.last_seen_s >= now_s - PEER_S
            )
        ).scalar_one()
        view = GroupView(int(heard), tuple(_alarms(connection, name, now_s, self._window_s)), kept[1])
        self._groups[name] = (now, view)
        return view


def _devices(connection: Connection, names: list[str], now_s: float) -> dict[str, DeviceView]:
    table, alarm = tables.devices, tables.alarms
    found = connection.execute(
        sa.select(
            table.c.device, table.c.group, table.c.labels, table.c.state, table.c.last_seen_s, table.c.drift_psi
        ).where(table.c.device.in_(names))
    ).all()

    def since(at_s: float) -> sa.ColumnElement[int]:
        begun = sa.and_(alarm.c.begin_seq.is_not(None), alarm.c.received_s >= at_s, alarm.c.received_s <= now_s)
        return sa.func.sum(sa.case((begun, 1), else_=0))

    def judged(verdict: str) -> sa.ColumnElement[int]:
        is_so = sa.and_(alarm.c.verdict == verdict, alarm.c.verdict_s >= now_s - MONTH_S)
        return sa.func.sum(sa.case((is_so, 1), else_=0))

    counted = connection.execute(
        sa.select(alarm.c.device, since(now_s - DAY_S), since(now_s - WEEK_S), judged("confirmed"), judged("rejected"))
        .where(alarm.c.device.in_(names))
        .group_by(alarm.c.device)
    )
    counts = {row[0]: tuple(int(n or 0) for n in row[1:]) for row in counted}
    return {
        row.device: DeviceView(
            row.group,
            _labels(row.labels),
            row.state == "active" and (row.last_seen_s or 0.0) >= now_s - PEER_S,
            row.drift_psi or 0.0,
            *counts.get(row.device, (0, 0, 0, 0)),
        )
        for row in found
    }


def _labels(text: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def _alarms(connection: Connection, group: str, now_s: float, window_s: float) -> Iterable[Beginning]:
    alarm, device = tables.alarms, tables.devices
    lately = alarm.c.received_s >= now_s - 2 * window_s  # a batch may be as long as the window
    is_open = sa.and_(alarm.c.state == "begin", alarm.c.received_s >= now_s - OPEN_S)
    rows = connection.execute(
        sa.select(alarm.c.device, alarm.c.alarm_id, alarm.c.top_channel, alarm.c.received_s, alarm.c.state)
        .join(device, device.c.device == alarm.c.device)
        .where(device.c.group == group, sa.or_(lately, is_open), alarm.c.received_s >= now_s - OPEN_S)
        .order_by(alarm.c.received_s.desc())
        .limit(MAX_ALARMS)
    )
    for row in rows:
        yield Beginning(row.device, row.alarm_id, row.top_channel, row.received_s, row.state == "begin")


def _usual(connection: Connection, group: str, now_s: float) -> Usual:
    alarm, device = tables.alarms, tables.devices
    known = connection.execute(
        sa.select(sa.func.count(), sa.func.min(device.c.first_seen_s)).where(
            device.c.group == group, device.c.state == "active"
        )
    ).one()
    lasted = alarm.c.end_s - alarm.c.begin_s
    bounded = sa.case((lasted < 0, 0.0), (lasted > DAY_S, DAY_S), else_=lasted)  # device clocks
    said = connection.execute(
        sa.select(sa.func.count(), sa.func.sum(sa.func.coalesce(bounded, 0.0)))
        .join(device, device.c.device == alarm.c.device)
        .where(device.c.group == group, alarm.c.received_s >= now_s - WEEK_S, alarm.c.received_s < now_s - RECENT_S)
    ).one()
    first_s = known[1] if known[1] is not None else now_s
    span_s = min(WEEK_S, now_s - first_s) - RECENT_S
    return Usual(int(said[0]), float(said[1] or 0.0), int(known[0]), max(0.0, span_s))


def _published(connection: Connection, groups: set[str]) -> dict[tuple[str, int, str], float]:
    table = tables.releases
    rows = connection.execute(
        sa.select(table.c.group, table.c.number, table.c.digest, table.c.created_s).where(table.c.group.in_(groups))
    )
    return {(row.group, row.number, row.digest): row.created_s for row in rows}
