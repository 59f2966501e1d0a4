"""The file of a truth ledger: its tables, how it is opened, locked, and told from any other file. Knows no rules.

Tables (true time: seconds since the epoch by the simulator's clock; device: 0, 1, ... in order of registration)

    meta     name, value (JSON)              scenario, seed, start_epoch_s, ... as given to `create` and `remember`
    devices  device, name, outbox, body, link, clock_offset_s
    flights  device, start_s, end_s
    truth    device, kind, category ("fault" | "drift"), onset_s, until_s (NULL: for good), size (JSON object)
    events   key, kind, true_s, size_bytes, sha256       one row for each event ever written; key = device * 2^32 + seq
    queue    key, kind, body                             events not acknowledged
    alarms   key, body                                   alarm events, kept
    acks     device, first, last, true_s                 inclusive ranges of seq, as they came
    notes    true_s, device (NULL: the fleet), what, detail

`events`, `acks` and `notes` only grow at their end, so that a commit for a thousand devices writes a few pages.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

APPLICATION_ID = 0x434C4447  # "CLDG": tells a ledger from any other SQLite file
VERSION = 1

_CHECKPOINT_PAGES = 4096  # a page that changes again within 16 MB of log is written to its place once
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE devices (
    device INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, outbox TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL, link TEXT NOT NULL, clock_offset_s REAL NOT NULL);
CREATE TABLE flights (device INTEGER NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL);
CREATE TABLE truth (
    device INTEGER NOT NULL, kind TEXT NOT NULL, category TEXT NOT NULL,
    onset_s REAL NOT NULL, until_s REAL, size TEXT NOT NULL);
CREATE TABLE events (
    key INTEGER NOT NULL, kind INTEGER NOT NULL, true_s REAL NOT NULL, size_bytes INTEGER NOT NULL, sha256 BLOB NOT NULL);
CREATE TABLE queue (key INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE alarms (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE acks (device INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, true_s REAL NOT NULL);
CREATE TABLE notes (true_s REAL NOT NULL, device INTEGER, what TEXT NOT NULL, detail TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: ledger cannot be used: {error}") from error


def check(path: Path) -> None:
    """Refuse what is no ledger of this version, without changing a byte of it.

    Raises:
        StoreError: another file, or a newer covey's.
    """
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: a ledger of covey sim expected: {error}") from error
    finally:
        db.close()
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: a ledger of covey sim expected, another SQLite file came")
    if version > VERSION:
        raise StoreError(f"{path}: ledger version at most {VERSION} expected, {version} found: newer covey?")


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return db


def lock(path: Path) -> int:
    """An open file that holds the writer's lock; the kernel lets go of it when the process ends, however it ends.

    Its own file: closing any handle of the database file would drop the locks that SQLite itself holds on it.
    """
    name = path.with_name(f"{path.name}.lock")
    try:
        held = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreError(f"{name}: ledger's lock cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise StoreError(f"{path}: one writer expected, another process writes this ledger") from error
    return held


def meta_rows(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table `meta`."""
    return [(name, msgspec.json.encode(value).decode()) for name, value in meta.items()]
