"""The statements that every event passes, in the database's own fastest way: thousands of rows a call, no row objects.

SQLite takes tuples by `executemany`; PostgreSQL takes them by COPY, straight into tables of events, or into temporary ones
where rows may be there already. Both speak of identities by the primary key and never read a whole table.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from covey.wire import Identity

_TYPES = {"s": ("text", "TEXT"), "i": ("int8", "BIGINT"), "f": ("float8", "DOUBLE PRECISION"), "b": ("bytea", "BYTEA")}
_LOOK_UP = (20, 100, 500, 2000)  # keys at once; up to three parameters each, below SQLite's 32,766


class Columns(NamedTuple):
    """A table's columns in the order of the tuples: `"device:s seq:i"`, s text, i integer, f float, b bytes."""

    table: str
    names: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def quoted(self) -> str:
        """The names for a statement; `group` is a word of SQL."""
        return ", ".join(f'"{name}"' for name in self.names)


class Outbox(NamedTuple):
    """What the store has of an outbox and of its device."""

    ordinal: int | None  # which outbox of its device it is; None: not met
    newest: int  # greatest seq ever stored; 0: none
    release: int | None  # that its device reported last; None: a device not met
    reported: str  # JSON of wire.Reported, what the device reported last


class Known(NamedTuple):
    """What the store has of an identity."""

    sha256: str | None  # of the event's bytes; None: not stored
    aged: bool  # retention has deleted it


def columns(table: str, spec: str) -> Columns:
    """Parse `"name:type ..."`."""
    pairs = [one.split(":") for one in spec.split()]
    return Columns(table, tuple(name for name, _ in pairs), tuple(kind for _, kind in pairs))


def outboxes(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Outbox]:
    """What the store has of these (device, outbox); every one of them is a key of the answer."""
    rows = _joined(connection, _OUTBOXES, wanted, _SELECT_OUTBOXES)
    return {
        (device, outbox): Outbox(ordinal, newest or 0, release, reported or "")
        for device, outbox, ordinal, newest, release, reported in rows
    }


def stored(connection: Connection, wanted: Sequence[Identity]) -> dict[tuple[str, str, int], Known]:
    """What the store has of these identities; every one of them is a key of the answer."""
    rows = _joined(connection, _IDENTITIES, wanted, _SELECT_IDENTITIES)
    return {(device, outbox, seq): Known(sha256, aged is not None) for device, outbox, seq, sha256, aged in rows}


def insert(connection: Connection, to: Columns, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows that are not there yet; one that is makes the database refuse all of them."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, to.table, to, rows)
    else:
        marks = ", ".join("?" * len(to.names))
        connection.exec_driver_sql(f"INSERT INTO {to.table} ({to.quoted}) VALUES ({marks})", list(rows))  # noqa: S608  # names of ours


def upsert(connection: Connection, to: Columns, key: str, changes: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows, or change those that are there.

    Args:
        connection: in a transaction.
        to: the table.
        key: its primary key's columns.
        changes: what follows DO UPDATE SET; `excluded` is the given row, the table's name the one that is there.
        rows: at most one of each key, ascending by it, so that two writers do not wait for each other in a circle.
    """
    if not rows:
        return
    then = f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
    if connection.dialect.name == "postgresql":
        staged = _stage(connection, to, rows)
        connection.exec_driver_sql(
            f"INSERT INTO {to.table} ({to.quoted}) SELECT {to.quoted} FROM {staged} ORDER BY {key} {then}"  # noqa: S608
        )
    else:
        marks = ", ".join("?" * len(to.names))
        connection.exec_driver_sql(f"INSERT INTO {to.table} ({to.quoted}) VALUES ({marks}) {then}", list(rows))  # noqa: S608


_OUTBOXES = columns("wanted_outboxes", "device:s outbox:s")
_SELECT_OUTBOXES = (
    "SELECT w.device, w.outbox, o.ordinal, o.newest, d.release, d.reported FROM {} AS w "
    "LEFT JOIN outboxes AS o ON o.device = w.device AND o.outbox = w.outbox LEFT JOIN devices AS d ON d.device = w.device"
)
_IDENTITIES = columns("wanted_identities", "device:s outbox:s seq:i")
_SELECT_IDENTITIES = (
    "SELECT w.device, w.outbox, w.seq, e.sha256, a.last FROM {} AS w "
    "LEFT JOIN events AS e ON e.device = w.device AND e.outbox = w.outbox AND e.seq = w.seq "
    "LEFT JOIN aged_out AS a ON a.device = w.device AND a.outbox = w.outbox AND a.first <= w.seq AND a.last >= w.seq"
)


def _joined(
    connection: Connection, keys: Columns, wanted: Sequence[tuple[Any, ...]], select: str
) -> Iterable[Sequence[Any]]:
    """Rows of a `select` whose "{}" is a table of the wanted keys."""
    if connection.dialect.name == "postgresql":
        staged = _stage(connection, keys, wanted)
        # Whatever the planner believes of a table that grows by thousands a second: by the key.
        connection.exec_driver_sql(
            "SELECT set_config(name, 'off', true) FROM unnest('{enable_hashjoin,enable_mergejoin,enable_seqscan}'::text[]) name"
        )
        yield from connection.exec_driver_sql(select.format(staged))
        return
    for start in range(0, len(wanted), _LOOK_UP[-1]):
        part = list(wanted[start : start + _LOOK_UP[-1]])
        size = next(size for size in _LOOK_UP if size >= len(part))
        part += part[-1:] * (size - len(part))
        yield from connection.exec_driver_sql(
            select.format(_values(keys, size)), tuple(value for one in part for value in one)
        )


@cache
def _values(keys: Columns, size: int) -> str:
    # `(device, outbox, seq) IN (...)` makes SQLite read the whole table (1.5 s at 900,000 rows).
    row = f"({', '.join('?' * len(keys.names))})"
    names = ", ".join(f"column{n} AS {name}" for n, name in enumerate(keys.names, 1))
    return f"(SELECT {names} FROM (VALUES {', '.join([row] * size)}))"  # noqa: S608  # names of ours


def _stage(connection: Connection, to: Columns, rows: Sequence[tuple[Any, ...]]) -> str:
    """Put rows into a temporary table that the transaction's end empties; returns its name."""
    name = f"staged_{to.table}"
    spec = ", ".join(f'"{column}" {_TYPES[kind][1]}' for column, kind in zip(to.names, to.types, strict=True))
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({spec}) ON COMMIT DELETE ROWS")
    _copy(connection, name, to, rows)
    return name


def _copy(connection: Connection, table: str, to: Columns, rows: Sequence[tuple[Any, ...]]) -> None:
    raw = connection.connection.driver_connection
    assert raw is not None  # noqa: S101  # for the type checker: the connection is open
    statement = f"COPY {table} ({to.quoted}) FROM STDIN (FORMAT BINARY)"
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_TYPES[kind][0] for kind in to.types])
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        lost = connection.dialect.is_disconnect(error, raw, None)
        if lost:
            connection.invalidate(error)
        told = sa.exc.DBAPIError.instance(
            statement, None, error, connection.dialect.loaded_dbapi.Error, connection_invalidated=lost
        )
        raise told from error
