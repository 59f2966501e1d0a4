"""Writes what the stream brings: one transaction per batch, exactly-once effect.

Events go in by identity, so a repeat changes nothing; the consumer's offsets go in with them, so a killed process
begins where its last transaction ended. Whatever the transaction decided to say (dead letters, learning
steps) is written with it and produced afterwards. Knows no Kafka: batches come in, safe identities go out.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud.config import DEFAULT_GROUP
from cloud.store import schema, tables
from cloud.store.apply import Placed, apply_alarm, apply_presence, apply_reported, apply_summaries
from covey import topics, wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

KIND_OF_TYPE = {name: kind for kind, name in wire.TYPE_OF_KIND.items()} | {wire.PRESENCE_TYPE: topics.PRESENCE}

DUPLICATES_REFUSED = "duplicates_refused"
CONFLICTS = "conflicts"
UNDECODABLE = "undecodable"


class Received(NamedTuple):
    """One decoded event."""

    identity: wire.Identity
    event: wire.Event
    data: msgspec.Struct
    body: bytes  # as the device wrote it
    received_s: float  # Kafka's timestamp, seconds since the epoch
    topic: str


class Refused(NamedTuple):
    """One message that could not be decoded."""

    reason: str
    detail: str
    topic: str
    body: bytes
    received_s: float
    identity: wire.Identity | None  # where it could be read and the message's key agrees


class Applied(NamedTuple):
    """What became of a batch, after its transaction."""

    safe: list[wire.Identity]  # stored, repeated or refused: their rows may be deleted on the device
    stored: int
    repeated: int
    conflicts: int
    refused: int


class _Sorted(NamedTuple):
    new: list[tuple[Received, str]]  # with the sha256 of the bytes
    repeated: int
    conflicts: list[Received]


def write_batch(
    engine: Engine,
    broker: str,
    offsets: Mapping[tuple[str, int], int],
    received: Sequence[Received],
    refused: Sequence[Refused] = (),
) -> Applied:
    """Put a batch into the store: all of it, with the offsets, or nothing.

    Args:
        engine: an open store.
        broker: which broker instance the offsets belong to.
        offsets: (topic, partition) -> offset of the next message to read.
        received: events in any order.
        refused: what could not be decoded; becomes dead letters.

    Raises:
        StoreError: nothing was written; the same batch may be tried again.
    """
    events = [one for one in received if one.event.type != wire.PRESENCE_TYPE]
    presences = [one for one in received if one.event.type == wire.PRESENCE_TYPE]
    with schema.write(engine) as connection:
        parts = _sort(connection, events)
        _see_devices(connection, received)
        ordinals = _ordinals(connection, parts.new)
        _insert_events(connection, parts.new)
        # Order is a property of the store: by outbox and seq, whatever the order of arrival.
        placed = sorted((_placed(one, ordinals) for one, _ in parts.new), key=lambda one: one.place)
        apply_summaries(connection, placed)
        for one in placed:
            if isinstance(one.data, wire.Alarm):
                apply_alarm(connection, one.identity, one.data)
        tell_learning(connection, apply_reported(connection, placed))
        for presence in presences:
            apply_presence(connection, presence.identity.device, presence.data)
        conflicts = [_conflict_letter(one) for one in parts.conflicts]
        enqueue(
            connection,
            ((topics.DEADLETTER, "", wire.encode(letter)) for letter in [*conflicts, *map(_dead_letter, refused)]),
        )
        _count(
            connection,
            {DUPLICATES_REFUSED: parts.repeated, CONFLICTS: len(parts.conflicts), UNDECODABLE: len(refused)},
        )
        _save_offsets(connection, broker, offsets)
    safe = dict.fromkeys(one.identity for one in events)
    safe |= dict.fromkeys(one.identity for one in refused if one.identity is not None)
    return Applied(list(safe), len(parts.new), parts.repeated, len(parts.conflicts), len(refused))


def load_offsets(engine: Engine, broker: str) -> dict[tuple[str, int], int]:
    """(topic, partition) -> next offset, for one broker instance; empty for one never met."""
    table = tables.offsets
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(table).where(table.c.broker == broker))
        return {(row.topic, row.partition): row.next_offset for row in rows}


def enqueue(connection: Connection, messages: Iterable[tuple[str, str, bytes]]) -> None:
    """Have (topic, key, value) messages produced once this transaction is done."""
    rows = [{"topic": topic, "key": key, "value": value} for topic, key, value in messages]
    if rows:
        connection.execute(sa.insert(tables.outgoing), rows)


def tell_learning(connection: Connection, steps: Sequence[wire.Learning]) -> None:
    """Record steps of the loop and have them produced to covey.learning."""
    if steps:
        connection.execute(sa.insert(tables.learning), [msgspec.structs.asdict(step) for step in steps])
        enqueue(connection, ((topics.LEARNING, step.device or step.group, wire.encode(step)) for step in steps))


_LOOK_UP = (20, 100, 500)  # identities at once; three parameters each, far below any dialect's limit


@cache
def _look_up(size: int) -> sa.TextClause:
    """What the store has of so many identities, by the primary key.

    As text, since `(device, outbox, seq) IN (...)` makes SQLite read the whole table (1.5 s at 900,000 rows), and other ways
    of saying it cost more in SQLAlchemy than in the database. Both dialects name the columns of VALUES column1 to column3.
    """
    rows = ", ".join(f"(:d{n}, :o{n}, :s{n})" for n in range(size))
    return sa.text(
        f"SELECT e.device, e.outbox, e.seq, e.sha256 FROM (VALUES {rows}) AS wanted CROSS JOIN events AS e "  # noqa: S608  # names of parameters only
        "WHERE e.device = wanted.column1 AND e.outbox = wanted.column2 AND e.seq = wanted.column3"
    )


def _sort(connection: Connection, events: Sequence[Received]) -> _Sorted:
    """Into new, repeated and conflicting, against the store and within the batch."""
    known: dict[wire.Identity, str] = {}
    wanted = list(dict.fromkeys(one.identity for one in events))
    for start in range(0, len(wanted), _LOOK_UP[-1]):
        part = wanted[start : start + _LOOK_UP[-1]]
        size = next(size for size in _LOOK_UP if size >= len(part))
        part += part[-1:] * (size - len(part))
        given = {f"{name}{n}": value for n, one in enumerate(part) for name, value in zip("dos", one, strict=True)}
        for device, outbox, seq, sha256 in connection.execute(_look_up(size), given):
            known[wire.Identity(device, outbox, seq)] = sha256
    new: list[tuple[Received, str]] = []
    conflicts: list[Received] = []
    repeated = 0
    for one in events:
        sha256 = hashlib.sha256(one.body).hexdigest()
        before = known.get(one.identity)
        if before is None:
            known[one.identity] = sha256
            new.append((one, sha256))
        elif before == sha256:
            repeated += 1
        else:
            conflicts.append(one)
    return _Sorted(new, repeated, conflicts)


def _see_devices(connection: Connection, received: Sequence[Received]) -> None:
    seen: dict[str, tuple[float, float]] = {}
    for one in received:
        device = one.identity.device
        first, last = seen.get(device, (one.received_s, one.received_s))
        seen[device] = (min(first, one.received_s), max(last, one.received_s))
    if not seen:
        return
    table = tables.devices
    statement = schema.insert(connection, table)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["device"],
            set_={
                "first_seen_s": sa.func.coalesce(table.c.first_seen_s, new.first_seen_s),
                "last_seen_s": sa.case(
                    (sa.func.coalesce(table.c.last_seen_s, 0.0) < new.last_seen_s, new.last_seen_s),
                    else_=table.c.last_seen_s,
                ),
            },
        ),
        [
            {"device": device, "group": DEFAULT_GROUP, "first_seen_s": first, "last_seen_s": last}
            for device, (first, last) in sorted(seen.items())
        ],
    )


def _ordinals(connection: Connection, new: Sequence[tuple[Received, str]]) -> dict[tuple[str, str], int]:
    """(device, outbox) -> which outbox of that device it is, from 1; new outboxes are the newest."""
    table = tables.outboxes
    names = sorted({one.identity.device for one, _ in new})
    rows = connection.execute(sa.select(table).where(table.c.device.in_(names))) if names else ()
    result: dict[tuple[str, str], int] = {(row.device, row.outbox): row.ordinal for row in rows}
    latest: dict[str, int] = {}
    for (device, _), ordinal in result.items():
        latest[device] = max(ordinal, latest.get(device, 0))
    fresh = []
    # First arrival decides between outboxes that are new together: nothing else orders them.
    for one, _ in new:
        device, outbox, _seq = one.identity
        if (device, outbox) not in result:
            latest[device] = result[device, outbox] = latest.get(device, 0) + 1
            fresh.append({"device": device, "outbox": outbox, "ordinal": latest[device]})
    if fresh:
        connection.execute(sa.insert(table), fresh)
    return result


def _insert_events(connection: Connection, new: Sequence[tuple[Received, str]]) -> None:
    rows = [
        {
            "device": one.identity.device,
            "outbox": one.identity.outbox,
            "seq": one.identity.seq,
            "kind": KIND_OF_TYPE[one.event.type],
            "sha256": sha256,
            "time": one.event.time,
            "received_s": one.received_s,
            "body": one.body,
        }
        for one, sha256 in new
    ]
    if rows:
        connection.execute(sa.insert(tables.events), rows)


def _placed(one: Received, ordinals: Mapping[tuple[str, str], int]) -> Placed:
    device, outbox, seq = one.identity
    return Placed(one.identity, (ordinals[device, outbox], seq), one.data)


def _conflict_letter(one: Received) -> wire.DeadLetter:
    return _letter(
        "identity_conflict",
        f"{one.identity} is stored with other bytes: a cloned card?",
        one.topic,
        one.body,
        one.received_s,
    )


def _dead_letter(one: Refused) -> wire.DeadLetter:
    return _letter(one.reason, one.detail, one.topic, one.body, one.received_s)


def _letter(reason: str, detail: str, topic: str, body: bytes, received_s: float) -> wire.DeadLetter:
    limit = wire.MAX_DEADLETTER_PAYLOAD_BYTES
    return wire.DeadLetter(
        reason=reason,
        detail=detail[:1024],
        topic=topic[:1024],
        received_s=received_s or time.time(),
        size_bytes=len(body),
        payload=body[:limit],
        truncated=len(body) > limit,
    )


def _count(connection: Connection, more: Mapping[str, int]) -> None:
    table = tables.counters
    for name, value in more.items():
        if value:
            statement = schema.insert(connection, table).values(name=name, value=value)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_={"value": table.c.value + value})
            )


def _save_offsets(connection: Connection, broker: str, offsets: Mapping[tuple[str, int], int]) -> None:
    table = tables.offsets
    for (topic, partition), next_offset in offsets.items():
        statement = schema.insert(connection, table).values(
            broker=broker, topic=topic, partition=partition, next_offset=next_offset
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["broker", "topic", "partition"], set_={"next_offset": next_offset}
            )
        )
