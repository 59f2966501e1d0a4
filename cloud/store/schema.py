"""Opening the store: SQLite (WAL, synchronous=FULL) or PostgreSQL, by URL; transactions on it.

Who makes stores also brings an old one up to date; a reader refuses it, and everybody refuses one that a newer covey has
written. Translates every database error into a StoreError.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url

from cloud.store import migrations
from cloud.store.tables import metadata, schema_version
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

VERSION = migrations.HEAD
UPGRADE_LOCK = 0x636F766579  # "covey": of PostgreSQL's advisory locks, so that two processes do not both upgrade
ALONE_LOCK = UPGRADE_LOCK + 1  # of transactions that must not run beside each other
YIELDS = 5  # tries of a transaction that others were preferred to
_UNDONE = frozenset({"40P01", "40001"})  # PostgreSQL's error codes: deadlock_detected, serialization_failure
BUSY_TIMEOUT_MS = 5_000  # how long one process waits for another's transaction


class StoreRefusesError(StoreError):
    """The store is there and will never take these values: trying again does not help."""


class StoreYieldedError(StoreError):
    """Two transactions waited for each other, and the store has undone this one for the other's sake: doing it again helps."""


def open_store(url: str, *, create: bool = True) -> Engine:
    """Open a store, make its tables where there are none, take what steps an old one lacks.

    Args:
        url: SQLAlchemy URL, or the path of an SQLite file.
        create: make a store that does not exist, upgrade an old one; readers do neither.

    Raises:
        StoreError: cannot be opened or written, is not a store of ours, a newer covey wrote it, or an older one and
            `create` is not given.
    """
    engine = _engine(url, create=create)
    with told(url), write(engine) if create else read(engine) as connection:
        _check_version(connection, url, create=create)
    return engine


def version(url: str) -> int | None:
    """The version of a store that exists, whoever wrote it; None: it holds no tables of ours.

    Raises:
        StoreError: cannot be opened.
    """
    engine = _engine(url, create=False)
    with told(url), read(engine) as connection:
        found = _found(connection, url)
    engine.dispose()
    return found


def _engine(url: str, *, create: bool) -> Engine:
    with told(url):
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
        name = parsed.database or ""
        if not create and parsed.get_backend_name() == "sqlite" and not Path(name).is_file():
            raise StoreError(f"store {name}: no such file; `covey cloud run` makes it")
        # A server that was restarted, or a proxy that hung up, costs nobody a request: each connection is tried before it is used.
        engine = sa.create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_connect)
            sa.event.listen(engine, "begin", _sqlite_begin)
        else:
            sa.event.listen(engine, "connect", _postgres_connect)
    return engine


@contextmanager
def write(engine: Engine, *, alone: bool = False) -> Iterator[Connection]:
    """A transaction that may write. SQLite has one at a time, which takes the lock at once; PostgreSQL has many.

    Args:
        engine: an open store.
        alone: for who decides by what it reads: no other such transaction runs meanwhile, so what people change and retention deletes
            stays as it was read. The stages' batches go on beside it on PostgreSQL; they decide by keys.

    Raises:
        StoreError: the store refuses or is out of reach; nothing of the transaction is kept.
    """
    with told(str(engine.url)), engine.connect().execution_options(covey_write=True) as connection, connection.begin():
        if alone and connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ALONE_LOCK})
        yield connection


def whole(engine: Engine, work: Callable[[Connection], T], *, alone: bool = False) -> T:
    """Do `work` in one transaction, as `write`; again where PostgreSQL has undone it in favour of another, a batch for one.

    Raises:
        StoreError: as of `write`; StoreYieldedError: undone each of so many times.
    """
    for _ in range(YIELDS - 1):
        with suppress(StoreYieldedError), write(engine, alone=alone) as connection:
            return work(connection)
    with write(engine, alone=alone) as connection:
        return work(connection)


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: one moment of the store.

    Raises:
        StoreError: the store refuses or is out of reach.
    """
    # On PostgreSQL each statement would otherwise see a moment of its own.
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    of_dialect = options if engine.dialect.name == "postgresql" else {}
    with told(str(engine.url)), engine.connect().execution_options(**of_dialect) as connection, connection.begin():
        yield connection


def insert(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, for the dialect of the connection."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


@contextmanager
def told(url: str) -> Iterator[None]:
    """Translate the database's errors into one line."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error, ModuleNotFoundError) as error:
        cause = getattr(error, "orig", None) or error
        line = " ".join(str(cause).split())[:300]
        kind = StoreRefusesError if isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError)) else StoreError
        if getattr(cause, "sqlstate", None) in _UNDONE:
            kind = StoreYieldedError
        raise kind(f"store {_shown(url)}: {line[:1].lower()}{line[1:]}") from error


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url


def _check_version(connection: Connection, url: str, *, create: bool) -> None:
    if create and connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    found = _found(connection, url)
    if found is None and not create:
        raise StoreError(f"store {_shown(url)}: holds no covey tables")
    if found is None:
        metadata.create_all(connection)
        connection.execute(sa.insert(schema_version).values(version=VERSION))
        migrations.stamp(connection)
    elif found > VERSION:
        raise StoreError(f"store {_shown(url)}: schema version at most {VERSION} expected, {found} found: newer covey?")
    elif found < VERSION and not create:
        raise StoreError(
            f"store {_shown(url)}: schema version {VERSION} expected, {found} found; `covey cloud store upgrade --store URL`"
        )
    elif found < VERSION:
        migrations.upgrade(connection)


def _found(connection: Connection, url: str) -> int | None:
    try:
        return migrations.found(connection)
    except ValueError:
        raise StoreError(f"store {_shown(url)}: a version number expected, none found: not a store of ours") from None


def _sqlite_connect(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # the driver's own BEGIN would come too late to lock what we read
    raw.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").fetchall()
    # Before the file is made, or it has no effect: what retention frees can be given back in small steps. Only then: it waits for who writes.
    if raw.execute("PRAGMA page_count").fetchone()[0] == 0:
        raw.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "cache_size=-65536",  # KiB; a fleet's indexes stay in memory while a backlog is taken
        "wal_autocheckpoint=16000",  # pages, 64 MB: less often and more at once took a sixth of the time off (measured)
    ):
        raw.execute(f"PRAGMA {pragma}").fetchall()


def _postgres_connect(raw: Any, _record: object) -> None:
    # Statements over temporary tables would be compiled anew each time, for longer than they take (measured: half of the time).
    raw.execute("SET jit = off")
    raw.commit()


def _sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("covey_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
