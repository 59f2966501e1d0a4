"""Tables, opening and migration of the store: SQLite (WAL, synchronous=FULL) or PostgreSQL, by URL.

Refuses a store that a newer covey has written. Translates every database error into a StoreError.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url

from cloud.store.tables import metadata
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
BUSY_TIMEOUT_MS = 5_000  # how long one process waits for another's transaction


class StoreRefusesError(StoreError):
    """The store is there and will never take these values: trying again does not help."""


schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))


def open_store(url: str, *, create: bool = True) -> Engine:
    """Open a store, make its tables where there are none, and check its version.

    Args:
        url: SQLAlchemy URL, or the path of an SQLite file.
        create: make a store that does not exist; readers do not.

    Raises:
        StoreError: cannot be opened or written, is not a store of ours, or a newer covey wrote it.
    """
    with told(url):
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
        name = parsed.database or ""
        if not create and parsed.get_backend_name() == "sqlite" and not Path(name).is_file():
            raise StoreError(f"store {name}: no such file; `covey cloud run` makes it")
        engine = sa.create_engine(parsed)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_connect)
            sa.event.listen(engine, "begin", _sqlite_begin)
        with write(engine) if create else read(engine) as connection:
            _check_version(connection, url, create=create)
    return engine


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A transaction that takes the write lock at once, so that what it reads is what it changes.

    Raises:
        StoreError: the store refuses or is out of reach; nothing of the transaction is kept.
    """
    with told(str(engine.url)), engine.connect().execution_options(covey_write=True) as connection, connection.begin():
        yield connection


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
        raise kind(f"store {_shown(url)}: {line[:1].lower()}{line[1:]}") from error


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url


def _check_version(connection: Connection, url: str, *, create: bool) -> None:
    known = sa.inspect(connection).has_table(schema_version.name)
    if not known and not create:
        raise StoreError(f"store {_shown(url)}: holds no covey tables")
    if not known:
        metadata.create_all(connection)
        connection.execute(sa.insert(schema_version).values(version=VERSION))
        return
    found = connection.execute(sa.select(schema_version.c.version)).scalar_one_or_none()
    if found is None or found > VERSION:
        raise StoreError(f"store {_shown(url)}: schema version at most {VERSION} expected, {found} found: newer covey?")
    # Version 1 is the first: a later one puts its steps from `found` here.


def _sqlite_connect(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # the driver's own BEGIN would come too late to lock what we read
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL"):
        raw.execute(f"PRAGMA {pragma}").fetchall()


def _sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("covey_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
