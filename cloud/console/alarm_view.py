"""Alarms as the inbox and the page of one show them: rows with context and level, pages newest first, one with all that belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from cloud.console import pages
from cloud.store import schema, tables
from covey import wire

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

_A, _D, _E, _R = tables.alarms.c, tables.devices.c, tables.enrichments.c, tables.routings.c


class AlarmRow(Struct):
    """A row of the inbox; docs/api.md, "Alarm"."""

    device: str
    group: str
    alarm_id: str
    state: Literal["begin", "end"]
    kind: str
    detail: str
    begin_s: float | None
    end_s: float | None
    received_s: float
    top_channel: str
    score: float
    peak_score: float
    threshold: float
    ratio: float | None
    confidence: float
    windows: int
    release: int
    runtime: str
    flight: str
    level: Literal["high", "low"] | None
    rule: str
    peers: int | None
    peers_alarming: int | None
    lift: float | None
    acknowledged_s: float | None
    acknowledged_by: str
    verdict: Literal["", "confirmed", "rejected"]
    verdict_s: float | None
    verdict_by: str


class Share(Struct):
    """A channel's part in the score."""

    channel: str
    share: float


class VerdictLine(Struct):
    """What somebody said of it."""

    verdict: str
    by: str
    time_s: float
    note: str


class DeliveryLine(Struct):
    """Whom it was told."""

    target: str
    state: str
    tries: int
    done_s: float | None
    error: str


class Filter(Struct):
    """Which alarms; None: all."""

    open: bool | None = None
    unjudged: bool | None = None
    group: str | None = None
    device: str | None = None
    channel: str | None = None
    level: str | None = None
    kind: str | None = None
    from_s: float | None = None
    to_s: float | None = None


def page(engine: Engine, which: Filter, limit: int, after: str | None) -> tuple[list[AlarmRow], str | None]:
    """Alarms, the last heard of first, and where the next page begins.

    Raises:
        Refused: `after` is no page's.
    """
    place = pages.place(after, tuple[float, str, str])
    query = _rows().order_by(_A.received_s.desc(), _A.device, _A.alarm_id).limit(limit + 1)
    if which.open is not None:
        query = query.where((_A.state == "begin") if which.open else (_A.state != "begin"))
    if which.unjudged is not None:
        query = query.where((_A.verdict == "") if which.unjudged else (_A.verdict != ""))
    for column, value in (
        (_D.group, which.group),
        (_A.device, which.device),
        (_A.top_channel, which.channel),
        (_R.level, which.level),
        (_A.kind, which.kind),
    ):
        if value is not None:
            query = query.where(column == value)
    if which.from_s is not None:
        query = query.where(_A.begin_s >= which.from_s)
    if which.to_s is not None:
        query = query.where(_A.begin_s < which.to_s)
    if place is not None:
        received_s, device, alarm_id = place
        later = sa.or_(_A.device > device, sa.and_(_A.device == device, _A.alarm_id > alarm_id))
        query = query.where(sa.or_(_A.received_s < received_s, sa.and_(_A.received_s == received_s, later)))
    with schema.read(engine) as connection:
        found = [_row(row) for row in connection.execute(query).mappings()]
    return pages.cut(found, limit, lambda row: (row.received_s, row.device, row.alarm_id))


def one(connection: Connection, device: str, alarm_id: str) -> tuple[AlarmRow, sa.RowMapping] | None:
    """One alarm, and its row with all columns."""
    row = connection.execute(_rows().where(_A.device == device, _A.alarm_id == alarm_id)).mappings().first()
    return None if row is None else (_row(row), row)


def last_of(connection: Connection, device: str) -> AlarmRow | None:
    """A device's newest alarm."""
    query = _rows().where(_A.device == device).order_by(_A.received_s.desc(), _A.alarm_id).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else _row(row)


def shares(row: sa.RowMapping) -> list[Share]:
    """Attribution, the greatest first."""
    found = msgspec.json.decode(row["attribution"] or "[]", type=list[Share])
    return sorted(found, key=lambda part: -part.share)


def verdicts(connection: Connection, device: str, alarm_id: str) -> list[VerdictLine]:
    """What people said of an alarm, the first first."""
    table = tables.verdicts
    query = sa.select(table).where(table.c.device == device, table.c.alarm_id == alarm_id).order_by(table.c.id)
    return [VerdictLine(row.verdict, row.by, row.time_s, row.note) for row in connection.execute(query)]


def deliveries(connection: Connection, device: str, alarm_id: str) -> list[DeliveryLine]:
    """Whom an alarm was told."""
    table = tables.deliveries
    query = sa.select(table).where(table.c.device == device, table.c.alarm_id == alarm_id)
    rows = connection.execute(query.order_by(table.c.made_s, table.c.target))
    return [DeliveryLine(row.target, row.state, row.tries, row.done_s, row.error) for row in rows]


def _rows() -> sa.Select[Any]:
    """Alarms with their device's group, and what enrich and route said of the event that began them."""
    began = sa.func.coalesce(_A.begin_seq, _A.end_seq)
    joined = (
        tables.alarms.join(tables.devices, _D.device == _A.device)
        .outerjoin(tables.enrichments, sa.and_(_E.device == _A.device, _E.outbox == _A.outbox, _E.seq == began))
        .outerjoin(tables.routings, sa.and_(_R.device == _A.device, _R.outbox == _A.outbox, _R.seq == began))
    )
    columns = (_D.group, _E.context, _E.enriched_s, _R.level, _R.rule, _R.routed_s)
    return sa.select(tables.alarms, *columns).select_from(joined)


def _row(row: sa.RowMapping) -> AlarmRow:
    context = context_of(row)
    values = {name: row[name] for name in AlarmRow.__struct_fields__ if name in row}
    return AlarmRow(
        **{
            **values,
            "rule": row["rule"] or "",
            "ratio": round(row["peak_score"] / row["threshold"], 4) if row["threshold"] else None,
            "peers": context.peers if context else None,
            "peers_alarming": context.peers_alarming if context else None,
            "lift": context.lift if context else None,
        }
    )


def context_of(row: sa.RowMapping) -> Any:
    """wire_alarms.Context of a row, or None before it is enriched."""
    from covey.wire_alarms import Context

    return msgspec.json.decode(row["context"], type=Context) if row["context"] else None


def identity(row: sa.RowMapping) -> wire.Identity:
    """Of the event that began it; of the one that ended it where only that has come."""
    return wire.Identity(row["device"], row["outbox"], row["begin_seq"] or row["end_seq"] or 0)
