"""Are we losing data: counts, stages, dead letters, deliveries, and one sentence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from msgspec import Struct

from cloud.console import pages
from cloud.store import reader, schema, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

STALE_S = 30.0  # a stage says every few seconds that it is there
STORE = "store"  # the stage without which nothing is stored
GONE_S = 86_400.0  # an instance unheard for so long has been taken away


class Stage(Struct):
    """An instance of a stage as it told of itself last."""

    stage: str
    instance: str
    seen_s: float
    partitions: int
    lag: int
    rate: float
    wanted: int
    detail: str
    stale: bool


class Deliveries(Struct):
    """How many messages to people are in which state."""

    waiting: int = 0
    delivered: int = 0
    failed: int = 0


class StoreInfo(Struct):
    """Which database, and how large."""

    kind: str
    size_bytes: int | None


class System(Struct):
    """docs/api.md, "System"."""

    losing: bool
    late: bool
    text: str
    counts: dict[str, int]
    stages: list[Stage]
    dead_letters: dict[str, int]
    deliveries: Deliveries
    store: StoreInfo
    embedded: dict[str, str]


class DeadLetterLine(Struct):
    """What could not be accepted; `broker`, `partition` and `offset` are its place on covey.deadletter."""

    broker: str
    partition: int
    offset: int
    reason: str
    detail: str
    topic: str
    received_s: float
    size_bytes: int


class DeliveryRow(Struct):
    """A message to a webhook or mailbox."""

    device: str
    alarm_id: str
    event: str
    target: str
    state: str
    tries: int
    made_s: float
    next_s: float
    done_s: float | None
    error: str


def system(engine: Engine, embedded: dict[str, str], now_s: float | None = None) -> System:
    """The whole page."""
    now = time.time() if now_s is None else now_s
    counts = reader.counts(engine)
    with schema.read(engine) as connection:
        stages = _stages(connection, now)
        letters = tables.dead_letters
        grouped = sa.select(letters.c.reason, sa.func.count()).group_by(letters.c.reason).order_by(letters.c.reason)
        reasons = {reason: int(n) for reason, n in connection.execute(grouped)}
        table = tables.deliveries
        states = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        sent = Deliveries(**{state: int(n) for state, n in connection.execute(states)})
        store = StoreInfo(connection.dialect.name, _size(connection))
    losing, late, text = verdict(counts, stages, sent)
    return System(losing, late, text, counts, stages, reasons, sent, store, embedded)


def verdict(counts: dict[str, int], stages: list[Stage], sent: Deliveries) -> tuple[bool, bool, str]:
    """Whether data are being lost, whether some are late, and a sentence: what is lost, then what is late, else how much is safe."""
    lost = []
    if counts["dropped"]:
        lost.append(f"{counts['dropped']:,} events were given up by full devices")
    if counts["conflicts"]:
        lost.append(f"{counts['conflicts']:,} events had another's identity")
    if counts["undecodable"]:
        lost.append(f"{counts['undecodable']:,} messages could not be read")
    if sent.failed:
        lost.append(f"{sent.failed:,} deliveries were given up")
    late = []
    if counts["missing"]:
        late.append(f"{counts['missing']:,} events are on their way or lost")
    # A store stage that is gone for a day is in no list any more; what it would have stored is missing all the same.
    up = {stage.stage for stage in stages if not stage.stale}
    if STORE not in up:
        late.append("no store stage is up: what arrives waits in Kafka")
    # An instance that is gone while others of its stage are up has been taken away.
    gone = dict.fromkeys(stage.stage for stage in stages if stage.stage not in up)
    late += [f"stage {name} has not been heard of since" for name in gone]
    if lost or late:
        return bool(lost), bool(late), "; ".join(lost + late)
    return False, False, f"nothing is lost: {counts['events']:,} events stored, none missing"


def dead_letters(
    engine: Engine, reason: str | None, limit: int, after: str | None
) -> tuple[list[DeadLetterLine], str | None]:
    """Dead letters, newest first.

    Raises:
        Refused: `after` is no page's.
    """
    table = tables.dead_letters.c
    key = (table.received_s, table.broker, table.partition, table.offset)
    query = sa.select(tables.dead_letters).order_by(*(column.desc() for column in key)).limit(limit + 1)
    if reason is not None:
        query = query.where(table.reason == reason)
    place = pages.place(after, tuple[float, str, int, int])
    if place is not None:
        query = query.where(sa.tuple_(*key) < sa.tuple_(*(sa.literal(part) for part in place)))
    with schema.read(engine) as connection:
        found = [DeadLetterLine(**row) for row in connection.execute(query).mappings()]
    return pages.cut(found, limit, lambda row: (row.received_s, row.broker, row.partition, row.offset))


def deliveries(
    engine: Engine, state: str | None, limit: int, after: str | None
) -> tuple[list[DeliveryRow], str | None]:
    """Messages to people, newest first.

    Raises:
        Refused: `after` is no page's.
    """
    table = tables.deliveries.c
    key = (table.made_s, table.device, table.outbox, table.seq, table.target)
    query = sa.select(tables.deliveries).order_by(*(column.desc() for column in key)).limit(limit + 1)
    if state is not None:
        query = query.where(table.state == state)
    place = pages.place(after, tuple[float, str, str, int, str])
    if place is not None:
        query = query.where(sa.tuple_(*key) < sa.tuple_(*(sa.literal(part) for part in place)))
    with schema.read(engine) as connection:
        rows = list(connection.execute(query).mappings())
    found, more = pages.cut(rows, limit, lambda row: tuple(row[column.name] for column in key))
    return [_delivery(row) for row in found], more


def _delivery(row: sa.RowMapping) -> DeliveryRow:
    values = {name: row[name] for name in DeliveryRow.__struct_fields__ if name != "event"}
    return DeliveryRow(event=f"{row['device']}/{row['outbox']}/{row['seq']}", **values)


def _stages(connection: Connection, now: float) -> list[Stage]:
    table = tables.stages
    query = sa.select(table).where(table.c.seen_s > now - GONE_S).order_by(table.c.stage, table.c.instance)
    return [Stage(**row, stale=row["seen_s"] < now - STALE_S) for row in connection.execute(query).mappings()]


def _size(connection: Connection) -> int | None:
    ask: Any = "SELECT pg_database_size(current_database())"
    if connection.dialect.name == "sqlite":
        ask = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    return int(connection.exec_driver_sql(ask).scalar_one())
