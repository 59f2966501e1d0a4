"""Questions to the store: fleet, alarms, releases, counts, export. Changes nothing.

Rows come back as plain dicts of JSON values, in the names that `--json` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.store.totals import counts as counts  # noqa: PLC0414  # callers ask here
from covey import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

Row = dict[str, Any]


def fleet(engine: Engine) -> list[Row]:
    """Every device, by name: what it reports, what is wanted of it, what it has sent."""
    with schema.read(engine) as connection:
        return _devices(connection, None)


def names(engine: Engine, group: str | None = None) -> list[str]:
    """Devices by name: all, or one group's."""
    table = tables.devices
    query = sa.select(table.c.device).order_by(table.c.device)
    if group is not None:
        query = query.where(table.c.group == group)
    with schema.read(engine) as connection:
        return [row.device for row in connection.execute(query)]


def device(engine: Engine, name: str) -> Row | None:
    """One device of `fleet`, or None."""
    with schema.read(engine) as connection:
        return next(iter(_devices(connection, name)), None)


def alarms(
    engine: Engine, *, device: str | None = None, open_only: bool = False, limit: int | None = None
) -> list[Row]:
    """Alarms, newest first by their own beginning."""
    table = tables.alarms
    query = sa.select(table).order_by(
        sa.func.coalesce(table.c.begin_s, table.c.end_s).desc(), table.c.device, table.c.alarm_id
    )
    if device is not None:
        query = query.where(table.c.device == device)
    if open_only:
        query = query.where(table.c.state == "begin")
    with schema.read(engine) as connection:
        return [_alarm(row) for row in connection.execute(query.limit(limit)).mappings()]


def releases(engine: Engine, group: str | None = None) -> list[Row]:
    """Releases by group and number, with how many devices want and run each, and how many of those that want it do not run it."""
    table, want, have = tables.releases, tables.desired, tables.devices
    wanted = (
        sa.select(sa.func.count())
        .where(want.c.group == table.c.group, want.c.release == table.c.number)
        .scalar_subquery()
    )
    running = (
        sa.select(sa.func.count())
        .where(have.c.group == table.c.group, have.c.release == table.c.number)
        .scalar_subquery()
    )
    # Not wanted less running: others may run it of whom another is wanted.
    waiting = (
        sa.select(sa.func.count())
        .select_from(want.outerjoin(have, want.c.device == have.c.device))
        .where(want.c.group == table.c.group, want.c.release == table.c.number)
        .where(have.c.release.is_distinct_from(table.c.number))
        .scalar_subquery()
    )
    query = sa.select(table, wanted.label("wanted"), running.label("running"), waiting.label("waiting"))
    query = query.order_by(table.c.group, table.c.number)
    if group is not None:
        query = query.where(table.c.group == group)
    with schema.read(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def learning(engine: Engine, *, kind: str | None = None) -> list[Row]:
    """Steps of the loop in the order they were recorded."""
    table = tables.learning
    query = sa.select(table).order_by(table.c.id)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    with schema.read(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def export(engine: Engine) -> Iterator[bytes]:
    """One JSON line per event: device, outbox, seq, kind, time, sha256, received_s; ordered by device, outbox, seq."""
    table = tables.events
    query = sa.select(
        table.c.device,
        table.c.outbox,
        table.c.seq,
        table.c.kind,
        table.c.time,
        table.c.sha256,
        table.c.received_s,
    )
    query = query.order_by(table.c.device, table.c.outbox, table.c.seq)
    with schema.read(engine) as connection:
        for row in connection.execution_options(yield_per=1000).execute(query).mappings():
            yield msgspec.json.encode(dict(row)) + b"\n"


def _devices(connection: Connection, name: str | None) -> list[Row]:
    table, want, alarm = tables.devices, tables.desired, tables.alarms
    query = sa.select(table, want.c.release.label("desired"), want.c.revision.label("desired_revision"))
    query = query.select_from(table.outerjoin(want, want.c.device == table.c.device)).order_by(table.c.device)
    open_ = sa.func.sum(sa.case((alarm.c.state == "begin", 1), else_=0))
    raised = sa.select(alarm.c.device, sa.func.count(), open_).group_by(alarm.c.device)
    if name is not None:
        query = query.where(table.c.device == name)
        raised = raised.where(alarm.c.device == name)
    flights = _flights(connection, name)
    alarmed = {one: (int(n), int(still)) for one, n, still in connection.execute(raised)}
    result: list[Row] = []
    for row in connection.execute(query).mappings():
        one = row["device"]
        result.append(
            {
                "device": one,
                "group": row["group"],
                "labels": _json(row["labels"]),
                "state": row["state"],
                "online": row["online"],
                "first_seen_s": row["first_seen_s"],
                "last_seen_s": row["last_seen_s"],
                "release": row["release"],
                "desired": row["desired"],
                "desired_revision": row["desired_revision"],
                "windows": row["windows"],
                "alarmed_windows": row["alarmed_windows"],
                "alarms": alarmed.get(one, (0, 0))[0],
                "open_alarms": alarmed.get(one, (0, 0))[1],
                "flights": flights.get(one, []),
                "reported": _whole(row["reported"], wire.Reported),
                "health": _whole(row["health"], wire.Health),
                "position": _json(row["position"]),
            }
        )
    return result


def _flights(connection: Connection, name: str | None) -> dict[str, list[Row]]:
    """Device -> its recordings by name, with windows and alarms; none where the source knows no names."""
    summary, alarm = tables.summaries, tables.alarms
    sums = sa.select(
        summary.c.device, summary.c.flight, sa.func.sum(summary.c.windows), sa.func.sum(summary.c.alarmed_windows)
    )
    sums = sums.where(summary.c.flight != "").group_by(summary.c.device, summary.c.flight)
    raised = sa.select(alarm.c.device, alarm.c.flight, sa.func.count()).group_by(alarm.c.device, alarm.c.flight)
    if name is not None:
        sums, raised = sums.where(summary.c.device == name), raised.where(alarm.c.device == name)
    alarms_of = {(one, flight): n for one, flight, n in connection.execute(raised)}
    result: dict[str, list[Row]] = {}
    for one, flight, n, bad in connection.execute(sums.order_by(summary.c.device, summary.c.flight)):
        row = {"flight": flight, "windows": int(n), "alarmed_windows": int(bad)}
        result.setdefault(one, []).append({**row, "alarms": alarms_of.get((one, flight), 0)})
    return result


def _alarm(row: sa.RowMapping) -> Row:
    return {**row, "attribution": _json(row["attribution"])}


def _whole(text: str, kind: type[msgspec.Struct]) -> dict[str, Any] | None:
    """A part of a message with the fields that were left out because they have their default."""
    if not text:
        return None
    decoded = msgspec.json.decode(text, type=kind)
    return {
        name: [msgspec.to_builtins(one) for one in value] if isinstance(value, list) else value
        for name, value in msgspec.structs.asdict(decoded).items()
    }


def _json(text: str) -> Any:
    return msgspec.json.decode(text) if text else None
