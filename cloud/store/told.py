"""What the cloud's own stages say: context and route of alarms, lines of training runs, dead letters.

None of it comes from a device, so none of it is acknowledged to one. The first of an identity holds; repeats change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from cloud.store import schema, tables
from covey import wire, wire_alarms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from cloud.store.writer import Received

TYPES = frozenset({wire_alarms.ENRICHED_TYPE, wire_alarms.ROUTED_TYPE, wire.ROUND_TYPE})


class Letter(NamedTuple):
    """One dead letter as Kafka has it."""

    partition: int
    offset: int
    letter: wire.DeadLetter


def apply_told(connection: Connection, received: Iterable[Received], change: int) -> None:
    """Put in what stages and training runs said.

    Args:
        connection: in a transaction.
        received: events of `TYPES`.
        change: the transaction's number.
    """
    enriched: list[dict[str, Any]] = []
    routed: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for one in received:
        device, outbox, seq = one.identity
        event = {"device": device, "outbox": outbox, "seq": seq}
        data = one.data
        if isinstance(data, wire_alarms.Enriched):
            context = wire.encode(data.context).decode()
            event |= {"alarm_id": data.alarm.alarm_id, "context": context, "enriched_s": data.enriched_s}
            enriched.append(event)
        elif isinstance(data, wire_alarms.Routed):
            event |= {"alarm_id": data.alarm.alarm_id, "level": data.level, "rule": data.rule}
            routed.append({**event, "routed_s": data.routed_s})
        elif isinstance(data, wire.RoundEvent):
            line = {"run": data.run, "seq": data.seq, "time_s": data.time_s, "kind": data.kind, "round": data.round}
            lines.append({**line, "body": wire.encode(data), "changed": change})
    _put(connection, tables.enrichments, enriched)
    _put(connection, tables.routings, routed)
    _put(connection, tables.rounds, lines)
    seen = sorted({(row["device"], row["alarm_id"]) for row in (*enriched, *routed)})
    if seen:
        table = tables.alarms
        mine = sa.and_(table.c.device == sa.bindparam("of"), table.c.alarm_id == sa.bindparam("id"))
        stamp = sa.update(table).where(mine).values(changed=change)
        connection.execute(stamp, [{"of": device, "id": alarm_id} for device, alarm_id in seen])


def apply_letters(connection: Connection, broker: str, letters: Sequence[Letter]) -> None:
    """Keep dead letters for people, without their bytes: Kafka's topic is the record."""
    _put(
        connection,
        tables.dead_letters,
        [
            {
                "broker": broker,
                "partition": one.partition,
                "offset": one.offset,
                "reason": one.letter.reason,
                "detail": one.letter.detail,
                "topic": one.letter.topic,
                "received_s": one.letter.received_s,
                "size_bytes": one.letter.size_bytes,
            }
            for one in letters
        ],
    )


def _put(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(schema.insert(connection, table).on_conflict_do_nothing(), rows)
