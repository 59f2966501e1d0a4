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

from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
BUSY_TIMEOUT_MS = 5_000  # how long one process waits for another's transaction


class StoreRefusesError(StoreError):
    """The store is there and will never take these values: trying again does not help."""


metadata = sa.MetaData()

_NAME = sa.String(64)
_HEX = sa.String(64)
_TEXT = sa.String(256)
# SQLite's own integers are 64 bits under the name INTEGER only where they number rows.
_ROWID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))

events = sa.Table(
    "events",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("outbox", sa.String(16), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("sha256", _HEX, nullable=False),  # of the bytes as the device wrote them
    sa.Column("time", sa.String(40), nullable=False),  # device clock, RFC 3339
    sa.Column("received_s", sa.Float, nullable=False),  # Kafka's timestamp
    sa.Column("body", sa.LargeBinary, nullable=False),
)

# A device begins a new outbox when its file is lost; the one seen last is the newest (ordinal counts from 1).
outboxes = sa.Table(
    "outboxes",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("outbox", sa.String(16), primary_key=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
)

# What an outbox says it gave up for want of room.
dropped = sa.Table(
    "dropped",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("outbox", sa.String(16), primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, primary_key=True, autoincrement=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("group", _NAME, nullable=False),
    sa.Column("first_seen_s", sa.Float),  # None: named by an operator, never heard
    sa.Column("last_seen_s", sa.Float),
    sa.Column("online", sa.Boolean),  # None: no presence yet
    sa.Column("session", sa.String(16), nullable=False, default=""),
    # Order of what is reported: (ordinal of the outbox, seq); never arrival.
    sa.Column("reported_ordinal", sa.Integer, nullable=False, default=0),
    sa.Column("reported_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("reported", sa.Text, nullable=False, default=""),  # JSON of wire.Reported
    sa.Column("release", sa.BigInteger, nullable=False, default=0),
    sa.Column("revision", sa.BigInteger, nullable=False, default=0),  # of the desired it acted on last
    sa.Column("health_ordinal", sa.Integer, nullable=False, default=0),
    sa.Column("health_seq", sa.BigInteger, nullable=False, default=0),
    sa.Column("health", sa.Text, nullable=False, default=""),  # JSON of wire.Health
    sa.Column("position", sa.Text, nullable=False, default=""),  # JSON of wire.Position
)

summaries = sa.Table(
    "summaries",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("outbox", sa.String(16), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("start_s", sa.Float, nullable=False),
    sa.Column("end_s", sa.Float, nullable=False),
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("alarmed_windows", sa.BigInteger, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("p50", sa.Float, nullable=False),
    sa.Column("p99", sa.Float, nullable=False),
    sa.Column("max", sa.Float, nullable=False),
    sa.Column("drift_input", sa.Float, nullable=False),
    sa.Column("drift_score", sa.Float, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("runtime", _TEXT, nullable=False),
    sa.Column("flight", _TEXT, nullable=False),
)

alarms = sa.Table(
    "alarms",
    metadata,
    # The device too: one device cannot write into another's alarm.
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("alarm_id", _TEXT, primary_key=True),
    sa.Column("outbox", sa.String(16), nullable=False),
    sa.Column("begin_seq", sa.BigInteger),  # event that began it; None while only its end has arrived
    sa.Column("end_seq", sa.BigInteger),
    sa.Column("begin_s", sa.Float),  # device clock: start of the window that raised it
    sa.Column("end_s", sa.Float),  # end of its last anomalous window
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("score", sa.Float, nullable=False),  # of the window that raised it
    sa.Column("peak_score", sa.Float, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("top_channel", _TEXT, nullable=False),
    sa.Column("attribution", sa.Text, nullable=False),  # JSON list of wire.Share
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("window_sha256", _HEX, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("digest", _HEX, nullable=False),
    sa.Column("calibration", _HEX, nullable=False),
    sa.Column("runtime", _TEXT, nullable=False),
    sa.Column("flight", _TEXT, nullable=False),
    sa.Column("trace_id", sa.String(32), nullable=False),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("group", _NAME, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", _HEX, nullable=False),
    sa.Column("target", _TEXT, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("note", _TEXT, nullable=False),
    sa.Column("wide", sa.Boolean, nullable=False),  # for the whole group, new devices too; not for named ones only
)

desired = sa.Table(
    "desired",
    metadata,
    sa.Column("device", _NAME, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("group", _NAME, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),  # bytes of wire.Desired
    sa.Column("created_s", sa.Float, nullable=False),
)

# Steps of the loop; a device's first report of a release is told once.
learning = sa.Table(
    "learning",
    metadata,
    sa.Column("id", _ROWID, primary_key=True, autoincrement=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("group", _NAME, nullable=False),
    sa.Column("device", _NAME, nullable=False),
    sa.Column("release", sa.BigInteger, nullable=False),
    sa.Column("digest", _HEX, nullable=False),
    sa.Column("detail", _TEXT, nullable=False),
)
sa.Index("learning_by_device", learning.c.device, learning.c.kind, learning.c.release)

# Messages that a transaction decided on: written with it, produced after it, deleted on the delivery report.
outgoing = sa.Table(
    "outgoing",
    metadata,
    sa.Column("id", _ROWID, primary_key=True, autoincrement=True),
    sa.Column("topic", sa.String(249), nullable=False),
    sa.Column("key", _TEXT, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,  # an id is never used again, so a late delivery report deletes nothing else
)

offsets = sa.Table(
    "offsets",
    metadata,
    sa.Column("broker", sa.String(128), primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)


# What one of the cloud's processes tells the others, `base_url` for one.
settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


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
    with told(str(engine.url)), engine.connect() as connection, connection.begin():
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
