"""What the store forgets, and when: old summaries become hours, old identities ranges, in transactions too small to be in the way.

A deleted event is still a repeat when it comes again (`aged_out`). Age is counted from receipt by Kafka; what is looked at begins with an
outbox's oldest and ends at the first page without an old one, so a run costs what it deletes. SQLite gives freed pages back a little each time.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from cloud.store import hours, schema, tables
from covey import wire
from covey.errors import StoreError, WireError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

    from cloud.config import RetentionConfig

_log = logging.getLogger("cloud.retention")

EVERY_S = 3600.0
PAGE = 500  # rows of a transaction: some ten milliseconds of the write lock
PAUSE_S = 0.02  # between two, for those who wait for the lock
FREE_PAGES = 2_000  # given back to the file system at once (8 MB)
DAY_S = 86_400.0


class _Old(NamedTuple):
    """Simple tables: what is deleted by one column alone."""

    table: sa.Table
    column: str
    days: float
    only: sa.ColumnElement[bool] | None = None


def run(config: RetentionConfig, engine: Engine, stop: threading.Event) -> None:
    """Forget what is old, every hour, until `stop`; a store that refuses is tried again the next hour."""
    while not stop.wait(EVERY_S):
        try:
            forgotten = forget(config, engine, time.time(), stop)
        except StoreError as error:
            _log.warning("%s; trying again in an hour", error)
            continue
        if forgotten:
            _log.info("forgotten: %s", ", ".join(f"{count} {name}" for name, count in sorted(forgotten.items())))


def forget(
    config: RetentionConfig, engine: Engine, now_s: float, stop: threading.Event | None = None, *, dry_run: bool = False
) -> dict[str, int]:
    """Delete what is older than it may be.

    Args:
        config: days of each kind.
        engine: an open store.
        now_s: seconds since the epoch.
        stop: ends it between two transactions; what is done is done.
        dry_run: count only.

    Returns:
        Table -> rows deleted, or that would be; none where there are none.

    Raises:
        StoreError: the store refuses; what was deleted before is deleted.
    """
    found: dict[str, int] = {}
    with schema.read(engine) as connection:
        box = tables.outboxes.c
        outboxes = connection.execute(sa.select(box.device, box.outbox).order_by(box.device, box.outbox)).all()
    for device, outbox in outboxes:
        after = 0
        while after >= 0 and not _stopped(stop):
            with schema.read(engine) if dry_run else schema.write(engine, alone=True) as connection:
                after, count = _page(connection, config, (device, outbox, after), now_s, dry_run=dry_run)
            if count:
                found["events"] = found.get("events", 0) + count
                _pause(stop, dry_run=dry_run)
    for one in _simple(config):
        if one.days and not _stopped(stop):
            count = _delete(engine, one, now_s - one.days * DAY_S, stop, dry_run=dry_run)
            if count:
                found[one.table.name] = count
    if found and not dry_run and engine.dialect.name == "sqlite":
        _give_back(engine)
    return found


def ranges(seqs: Sequence[int], there: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Inclusive ranges of these numbers and those ranges together, ascending, none touching another. Pure."""
    result: list[tuple[int, int]] = []
    for first, last in sorted([*there, *((seq, seq) for seq in seqs)]):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def _page(
    connection: Connection, config: RetentionConfig, place: tuple[str, str, int], now_s: float, *, dry_run: bool
) -> tuple[int, int]:
    """One page of an outbox; returns where the next one begins (-1: there is no old one after it) and how many are gone."""
    device, outbox, after = place
    table = tables.events
    mine = sa.and_(table.c.device == device, table.c.outbox == outbox)
    columns = (table.c.seq, table.c.kind, table.c.received_s, table.c.body)
    rows = connection.execute(
        sa.select(*columns).where(mine, table.c.seq > after).order_by(table.c.seq).limit(PAGE)
    ).all()
    limit_s = {"alarm": config.alarms_days, "summary": config.events_days, "status": config.events_days}
    cut_s = {kind: now_s - days * DAY_S if days else float("-inf") for kind, days in limit_s.items()}
    old = [row for row in rows if row.received_s < cut_s[row.kind]]
    aged = any(row.received_s < max(cut_s.values()) for row in rows)
    following = rows[-1].seq if len(rows) == PAGE and aged else -1
    if old and not dry_run:
        hours.put(connection, _summaries(device, [row.body for row in old if row.kind == "summary"]))
        seqs = [row.seq for row in old]
        for dead in (table, tables.summaries):
            key = sa.and_(dead.c.device == device, dead.c.outbox == outbox, dead.c.seq.in_(seqs))
            connection.execute(sa.delete(dead).where(key))
        _remember(connection, device, outbox, seqs)
    return following, len(old)


def _summaries(device: str, bodies: Sequence[bytes]) -> list[tuple[str, wire.Summary]]:
    found = []
    for body in bodies:
        try:
            data = wire.decode_data(wire.decode_event(body)[0])
        except WireError as error:  # stored by the quick road, which does not look into sketches
            _log.warning("%s: a summary whose scores cannot be kept: %s", device, error)
            continue
        if isinstance(data, wire.Summary):
            found.append((device, data))
    return found


def _remember(connection: Connection, device: str, outbox: str, seqs: Sequence[int]) -> None:
    table = tables.aged_out
    mine = sa.and_(table.c.device == device, table.c.outbox == outbox)
    there = [(row.first, row.last) for row in connection.execute(sa.select(table.c.first, table.c.last).where(mine))]
    connection.execute(sa.delete(table).where(mine))
    now = [{"device": device, "outbox": outbox, "first": a, "last": b} for a, b in ranges(seqs, there)]
    connection.execute(sa.insert(table), now)


def _simple(config: RetentionConfig) -> list[_Old]:
    alarm, delivery, days = tables.alarms, tables.deliveries, config.alarms_days
    ended = sa.and_(alarm.c.state == "end", alarm.c.received_s > 0)
    return [
        _Old(alarm, "received_s", days, ended),
        _Old(tables.enrichments, "enriched_s", days),
        _Old(tables.routings, "routed_s", days),
        _Old(tables.verdicts, "time_s", days),
        _Old(tables.hours, "hour_s", config.hours_days),
        _Old(tables.learning, "time_s", config.learning_days, tables.learning.c.kind != "reported"),  # told once only
        _Old(tables.rounds, "time_s", config.learning_days),
        _Old(delivery, "made_s", config.deliveries_days, delivery.c.state != "waiting"),
        _Old(tables.dead_letters, "received_s", config.dead_letters_days),
        _Old(tables.sessions, "expires_s", 1e-9),  # an ended one is worth nothing
    ]


def _delete(engine: Engine, one: _Old, cut_s: float, stop: threading.Event | None, *, dry_run: bool) -> int:
    table, total = one.table, 0
    key = list(table.primary_key.columns)
    old = table.c[one.column] < cut_s
    which = old if one.only is None else sa.and_(old, one.only)
    if dry_run:
        with schema.read(engine) as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(which)).scalar_one())
    while not _stopped(stop):
        with schema.write(engine, alone=True) as connection:
            rows = connection.execute(sa.select(*key).where(which).limit(PAGE)).all()
            for row in rows:
                mine = sa.and_(*(column == value for column, value in zip(key, row, strict=True)))
                connection.execute(sa.delete(table).where(mine))
        total += len(rows)
        if len(rows) < PAGE:
            break
        _pause(stop, dry_run=False)
    return total


def _give_back(engine: Engine) -> None:
    """Freed pages to the file system; the rest is used again (the file was made with auto_vacuum=INCREMENTAL)."""
    with schema.told(str(engine.url)):
        raw = engine.raw_connection()
        try:
            raw.cursor().execute(f"PRAGMA incremental_vacuum({FREE_PAGES})").fetchall()
        finally:
            raw.close()


def _stopped(stop: threading.Event | None) -> bool:
    return stop is not None and stop.is_set()


def _pause(stop: threading.Event | None, *, dry_run: bool) -> None:
    if stop is not None and not dry_run:
        stop.wait(PAUSE_S)
