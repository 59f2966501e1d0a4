"""Where the beginnings of alarms went, so that their ends go there too (docs/decisions/0033-ends-follow-beginnings.md).

What this instance has decided itself it remembers; for the rest it asks the store: what it has read of covey.alarms.high and .low,
and what targets are told, which route writes down before it decides on anything else.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from cloud.store import schema, tables
from covey.errors import StoreError
from covey.wire_alarms import decode_routed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection, Engine

    from cloud.stream.rules import Level

_log = logging.getLogger("cloud.route")

MOST = 20_000  # alarms remembered; the store has the older ones

Alarm = tuple[str, str]  # device, alarm id


class Way(NamedTuple):
    """Where an alarm's beginning went."""

    level: Level
    rule: str  # "": none fitted


class Beginnings:
    """The ways of alarms that began. For one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ways: OrderedDict[Alarm, Way] = OrderedDict()

    def note(self, alarm: Alarm, way: Way) -> None:
        """A beginning went there."""
        self._ways[alarm] = way
        self._ways.move_to_end(alarm)
        while len(self._ways) > MOST:
            self._ways.popitem(last=False)

    def find(self, alarms: Iterable[Alarm]) -> dict[Alarm, Way]:
        """The ways that are known. A store that is away knows none: an end is not held up for that."""
        wanted = dict.fromkeys(alarms)
        found = {alarm: self._ways[alarm] for alarm in wanted if alarm in self._ways}
        missing = [alarm for alarm in wanted if alarm not in found]
        if missing:
            try:
                found |= self._stored(missing)
            except StoreError as error:
                _log.warning("%s; ends of %d alarms go by their own figures", error, len(missing))
        return found

    def _stored(self, alarms: list[Alarm]) -> dict[Alarm, Way]:
        with schema.read(self._engine) as connection:
            found = _routed(connection, alarms)
            return found | _told(connection, [alarm for alarm in alarms if alarm not in found])


def _routed(connection: Connection, alarms: list[Alarm]) -> dict[Alarm, Way]:
    """What the store stage has read."""
    table = tables.routings
    query = sa.select(table.c.device, table.c.alarm_id, table.c.level, table.c.rule).where(_one_of(table, alarms))
    found: dict[Alarm, Way] = {}
    for row in connection.execute(query.order_by(table.c.routed_s)):  # what was said first is of the beginning
        found.setdefault((row.device, row.alarm_id), Way(row.level, row.rule))
    return _only(alarms, found)


def _told(connection: Connection, alarms: list[Alarm]) -> dict[Alarm, Way]:
    """What targets are told, where the store stage is behind."""
    if not alarms:
        return {}
    table = tables.deliveries
    query = sa.select(table.c.device, table.c.alarm_id, table.c.body).where(_one_of(table, alarms))
    found: dict[Alarm, Way] = {}
    for row in connection.execute(query.order_by(table.c.made_s)):
        if (row.device, row.alarm_id) not in found:
            _, data, _ = decode_routed(row.body)
            found[row.device, row.alarm_id] = Way(data.level, data.rule)
    return _only(alarms, found)


def _one_of(table: sa.Table, alarms: list[Alarm]) -> sa.ColumnElement[bool]:
    """Of these devices and these ids; pairs are sorted out by `_only`."""
    names, ids = sorted({device for device, _ in alarms}), sorted({alarm_id for _, alarm_id in alarms})
    return table.c.device.in_(names) & table.c.alarm_id.in_(ids)


def _only(alarms: list[Alarm], found: dict[Alarm, Way]) -> dict[Alarm, Way]:
    return {alarm: found[alarm] for alarm in alarms if alarm in found}
