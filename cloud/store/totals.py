"""Totals over the fleet, from what is counted as it is stored: asking costs a row an outbox, not one an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.store.writer import CONFLICTS, DUPLICATES_REFUSED, UNDECODABLE
from covey import wire

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

_Outbox = tuple[str, str]
_Ranges = dict[_Outbox, list[tuple[int, int]]]


def counts(engine: Engine) -> dict[str, Any]:
    """Totals over the fleet; what retention has deleted counts as stored.

    `missing`: sequence numbers below an outbox's newest stored one that are neither stored nor told as
    dropped; on their way, or lost.
    """
    box, device, alarm = tables.outboxes.c, tables.devices.c, tables.alarms.c
    with schema.read(engine) as connection:

        def number(query: sa.Select[Any]) -> int:
            return int(connection.execute(query).scalar_one() or 0)

        sums = [sa.func.coalesce(sa.func.sum(one), 0) for one in (box.stored, box.alarms, box.statuses, box.newest)]
        stored, alarms, statuses, newest = (int(one) for one in connection.execute(sa.select(*sums)).one())
        windows = sa.select(sa.func.coalesce(sa.func.sum(device.windows), 0), sa.func.sum(device.alarmed_windows))
        scored, alarmed = connection.execute(windows).one()
        counter = {row.name: row.value for row in connection.execute(sa.select(tables.counters))}
        given_up = _given_up(connection)
        told = connection.execute(sa.select(device.health))
        health = [msgspec.json.decode(text, type=wire.Health) for (text,) in told if text]
        return {
            "devices": number(sa.select(sa.func.count()).select_from(tables.devices)),
            "online": number(sa.select(sa.func.count()).where(device.online.is_(True))),
            "events": stored,
            "summaries": stored - alarms - statuses,
            "alarm_events": alarms,
            "status_events": statuses,
            "alarms": number(sa.select(sa.func.count()).select_from(tables.alarms)),
            "open_alarms": number(sa.select(sa.func.count()).where(alarm.state == "begin")),
            "windows": int(scored),
            "alarmed_windows": int(alarmed or 0),
            "missing": newest - stored - given_up,
            "dropped": given_up,
            "duplicates_refused": counter.get(DUPLICATES_REFUSED, 0),
            "conflicts": counter.get(CONFLICTS, 0),
            "undecodable": counter.get(UNDECODABLE, 0),
            "releases": number(sa.select(sa.func.count()).select_from(tables.releases)),
            "raw_bytes": sum(one.raw_bytes for one in health),
            "uplink_bytes": sum(one.uplink_bytes for one in health),
            "downlink_model_bytes": sum(one.downlink_model_bytes for one in health),
            "waiting_to_publish": number(sa.select(sa.func.count()).select_from(tables.outgoing)),
        }


def _given_up(connection: Connection) -> int:
    """How many numbers below the newest stored one were told as dropped and are not stored all the same."""
    gap, box, aged, event = tables.dropped.c, tables.outboxes.c, tables.aged_out.c, tables.events.c
    same = sa.and_(box.device == gap.device, box.outbox == gap.outbox)
    told = sa.select(gap.device, gap.outbox, gap.first, gap.last, box.newest).where(same).order_by(gap.first)
    spans: _Ranges = {}
    for name, outbox, first, last, newest in connection.execute(told):
        merged = spans.setdefault((name, outbox), [])
        begin, end = first, min(last, newest)
        if merged:  # ranges of several summaries may overlap: ascending by first, cut what is counted
            begin = max(begin, merged[-1][1] + 1)
        if begin <= end:
            merged.append((begin, end))
    total = 0
    for (name, outbox), ranges in spans.items():
        of = sa.and_(aged.device == name, aged.outbox == outbox)
        gone = connection.execute(sa.select(aged.first, aged.last).where(of)).all()
        for first, last in ranges:
            there = sa.select(sa.func.count()).where(
                event.device == name, event.outbox == outbox, event.seq.between(first, last)
            )
            total += last - first + 1 - int(connection.execute(there).scalar_one())
            total -= sum(max(0, min(last, end) - max(first, begin) + 1) for begin, end in gone)
    return total
