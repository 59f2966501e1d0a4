"""Writes what the stream brings: one transaction per batch, exactly-once effect.

Events go in by identity, so a repeat changes nothing; the consumer's offsets go in with them, so a killed process
begins where its last transaction ended. Whatever the transaction decided to say (dead letters, learning
steps) is written with it and produced afterwards. Knows no Kafka: batches come in, safe identities go out.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import sqlalchemy as sa

from cloud.store import bulk, changes, schema, tables
from cloud.store.apply import Placed, apply_alarm, apply_devices, apply_presence, apply_summaries, first_reports
from cloud.store.told import TYPES, Letter, apply_letters, apply_told
from covey import topics, wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

KIND_OF_DEVICE = {name: kind for kind, name in wire.TYPE_OF_KIND.items()}

DUPLICATES_REFUSED = "duplicates_refused"
CONFLICTS = "conflicts"
UNDECODABLE = "undecodable"


_EVENTS = bulk.columns("events", "device:s outbox:s seq:i kind:s sha256:s time:s received_s:f body:b")
_OUTBOXES = bulk.columns("outboxes", "device:s outbox:s ordinal:i newest:i stored:i alarms:i statuses:i")
_COUNTED = ", ".join(
    [
        "newest = CASE WHEN excluded.newest > outboxes.newest THEN excluded.newest ELSE outboxes.newest END",
        *(f"{name} = outboxes.{name} + excluded.{name}" for name in ("stored", "alarms", "statuses")),
    ]
)


class Envelope(Protocol):
    """What is looked at of a `wire.Event`."""

    @property
    def type(self) -> str:
        """Whose event it is, and of what."""

    @property
    def time(self) -> str:
        """Device clock, RFC 3339."""

    @property
    def traceparent(self) -> str:
        """W3C trace context, or ""."""


class Received(NamedTuple):
    """One decoded event; `event.type` says of whom: a device, the gateway (presence), or the cloud itself (`told.TYPES`)."""

    identity: wire.Identity
    event: Envelope
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


class _Outbox(NamedTuple):
    """What is new of one outbox."""

    device: str
    outbox: str
    ordinal: int  # which outbox of its device it is, from 1
    new: list[tuple[Received, str]]  # ascending by seq, with the sha256 of the bytes


class _Sorted(NamedTuple):
    outboxes: list[_Outbox]  # ascending by (device, outbox): two writers do not wait for each other in a circle
    repeated: int
    conflicts: list[Received]
    reports: list[tuple[str, int, str]]  # device, release, JSON of wire.Reported as it reported them last


def write_batch(
    engine: Engine,
    broker: str,
    offsets: Mapping[tuple[str, int], int],
    received: Sequence[Received],
    refused: Sequence[Refused] = (),
    letters: Sequence[Letter] = (),
    *,
    tell_safe: bool = True,
) -> Applied:
    """Put a batch into the store: all of it, with the offsets, or nothing.

    Args:
        engine: an open store.
        broker: which broker instance the offsets belong to.
        offsets: (topic, partition) -> offset of the next message to read.
        received: events in any order.
        refused: what could not be decoded; becomes dead letters.
        letters: dead letters that Kafka has already.
        tell_safe: whether `Applied.safe` is asked for.

    Raises:
        StoreError: nothing was written; the same batch may be tried again.
    """
    events: list[Received] = []
    presences: list[Received] = []
    told: list[Received] = []
    for one in received:
        of = events if one.event.type in KIND_OF_DEVICE else told if one.event.type in TYPES else presences
        of.append(one)
    with schema.write(engine) as connection:
        change = changes.number(connection)
        parts = _sort(connection, events)
        placed = _take(connection, parts.outboxes)
        seen = [(one.identity.device, one.received_s) for one in (*events, *presences)]
        apply_devices(connection, seen, placed, change)
        apply_summaries(connection, placed)
        for raised in placed:
            if isinstance(raised.data, wire.Alarm):
                apply_alarm(connection, raised, raised.data, change)
        tell_learning(connection, first_reports(connection, placed, parts.reports))
        for presence in presences:
            apply_presence(connection, presence.identity.device, presence.data)
        apply_told(connection, told, change)
        apply_letters(connection, broker, letters)
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
    safe: dict[wire.Identity, None] = {}
    if tell_safe:
        safe = dict.fromkeys(one.identity for one in events)
        safe |= dict.fromkeys(one.identity for one in refused if one.identity is not None)
    return Applied(list(safe), len(placed), parts.repeated, len(parts.conflicts), len(refused))


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


def _sort(connection: Connection, events: Sequence[Received]) -> _Sorted:
    """Into new, repeated and conflicting, against the store and within the batch."""
    arrived: dict[tuple[str, str], list[Received]] = {}
    for one in events:
        device, outbox, _ = one.identity
        arrived.setdefault((device, outbox), []).append(one)
    if not arrived:
        return _Sorted([], 0, [], [])
    known = bulk.outboxes(connection, list(arrived))
    # Past an outbox's newest nothing is stored: the largest index is searched only for what is not.
    old = [one.identity for box, of in arrived.items() for one in of if one.identity.seq <= known[box].newest]
    stored = bulk.stored(connection, list(dict.fromkeys(old))) if old else {}
    ordinals = _ordinals(connection, known, arrived)
    conflicts: list[Received] = []
    outboxes: list[_Outbox] = []
    repeated = 0
    for box in sorted(arrived):
        new, again = _sort_outbox(arrived[box], known[box].newest, stored, conflicts)
        repeated += again
        if new:
            outboxes.append(_Outbox(*box, ordinals[box], new))
    reports = {
        one.device: (one.device, of.release, of.reported)
        for one in outboxes
        if (of := known[one.device, one.outbox]).release is not None
    }
    return _Sorted(outboxes, repeated, conflicts, list(reports.values()))


def _sort_outbox(
    arrived: Sequence[Received],
    newest: int,
    stored: Mapping[tuple[str, str, int], bulk.Known],
    conflicts: list[Received],
) -> tuple[list[tuple[Received, str]], int]:
    """What is new of one outbox, ascending, and how many were there before; adds to `conflicts`."""
    new: dict[int, tuple[Received, str]] = {}
    last, ascending, repeated = 0, True, 0
    for one in arrived:
        seq = one.identity.seq
        before = None
        if seq <= newest:
            there = stored[one.identity]
            if there.aged:  # its bytes are gone: whatever these are, the identity is used
                repeated += 1
                continue
            before = there.sha256
        sha256 = hashlib.sha256(one.body).hexdigest()
        if before is None and seq in new:
            before = new[seq][1]
        if before is None:
            new[seq] = one, sha256
            ascending &= seq > last
            last = seq
        elif before == sha256:
            repeated += 1
        else:
            conflicts.append(one)
    return (list(new.values()) if ascending else [new[seq] for seq in sorted(new)]), repeated


def _take(connection: Connection, outboxes: Sequence[_Outbox]) -> list[Placed]:
    """Put in what is new and count it; returns it by its place, whatever the order of arrival."""
    rows: list[tuple[Any, ...]] = []
    counts: list[tuple[Any, ...]] = []
    for device, outbox, ordinal, new in outboxes:
        alarms = statuses = 0
        for (identity, event, _data, body, received_s, _topic), sha256 in new:
            kind = KIND_OF_DEVICE[event.type]
            rows.append((device, outbox, identity.seq, kind, sha256, event.time, received_s, body))
            if kind != "summary":
                alarms += kind == "alarm"
                statuses += kind == "status"
        newest = new[-1][0].identity.seq
        counts.append((device, outbox, ordinal, newest, len(new), alarms, statuses))
    bulk.insert(connection, _EVENTS, rows)
    bulk.upsert(connection, _OUTBOXES, "device, outbox", _COUNTED, counts)
    return [
        Placed(one.identity, (of.ordinal, one.identity.seq), one.data, one.received_s)
        for of in sorted(outboxes, key=_ordinal)
        for one, _ in of.new
    ]


def _ordinal(of: _Outbox) -> int:
    return of.ordinal


def _ordinals(
    connection: Connection, known: Mapping[tuple[str, str], bulk.Outbox], arrived: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """(device, outbox) -> which outbox of that device it is, from 1; new outboxes are the newest."""
    result = {box: of.ordinal for box, of in known.items() if of.ordinal is not None}
    fresh = [box for box in arrived if box not in result]
    if not fresh:
        return result
    table = tables.outboxes
    names = sorted({device for device, _ in fresh})
    query = sa.select(table.c.device, sa.func.max(table.c.ordinal)).where(table.c.device.in_(names))
    latest = {device: ordinal for device, ordinal in connection.execute(query.group_by(table.c.device))}  # noqa: C416  # rows are not pairs to a type checker
    # First arrival decides between outboxes that are new together: nothing else orders them.
    for device, outbox in fresh:
        latest[device] = result[device, outbox] = latest.get(device, 0) + 1
    return result


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
    """They only grow: after a rebalance, an old owner may write its last batch when the new one is past it."""
    table = tables.offsets
    for (topic, partition), next_offset in sorted(offsets.items()):
        statement = schema.insert(connection, table).values(
            broker=broker, topic=topic, partition=partition, next_offset=next_offset
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["broker", "topic", "partition"],
                set_={"next_offset": next_offset},
                where=table.c.next_offset < next_offset,
            )
        )
