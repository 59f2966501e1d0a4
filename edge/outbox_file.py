"""The outbox's file: its tables, how it is opened, set aside when damaged, and how it gets through a full partition.

`rows.seq` and all other numbers in the file are *places*: they count over the file's life, whatever outbox the rows belong to.
An outbox begins at its `base`, and its sequence numbers are place - base; so one file holds rows of several outboxes in
one order.

`outbox.db.spare` keeps some room of the partition for the moment in which others have taken all the rest. SQLite cannot even
delete then: its log has no room to grow, and emptying the log makes the file grow. With the spare's room the log is written
into the file once (`tighten`); from then on both are overwritten in place, and the file grows no more (max_page_count).

It decides nothing about rows.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from covey.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

PAGE_BYTES = 4096
LEAST_PAGES = 16  # the empty file takes 6
SHM_BYTES = 32 * 1024  # the log's index

_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (outbox TEXT NOT NULL, last_seq INTEGER NOT NULL);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE dropped (seq INTEGER PRIMARY KEY, last INTEGER NOT NULL, told_in INTEGER NOT NULL DEFAULT 0);
CREATE TABLE answered (id TEXT NOT NULL UNIQUE);
CREATE TABLE outboxes (id TEXT PRIMARY KEY, base INTEGER NOT NULL);
INSERT INTO meta VALUES (lower(hex(randomblob(8))), 0);
INSERT INTO outboxes SELECT outbox, 0 FROM meta
"""
_FROM_1 = """
CREATE TABLE IF NOT EXISTS answered (id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS outboxes (id TEXT PRIMARY KEY, base INTEGER NOT NULL);
INSERT OR IGNORE INTO outboxes SELECT outbox, 0 FROM meta
"""

# How many rows are not as they are written here: quick_check knows pages, not what they mean.
_WRONG = """
SELECT (SELECT count(*) <> 1 OR total(typeof(last_seq) <> 'integer' OR last_seq < 0) > 0 FROM meta)
  + (SELECT count(*) = 0 OR total(length(id) <> 16 OR id GLOB '*[^0-9a-f]*' OR typeof(base) <> 'integer' OR base < 0) > 0 FROM outboxes)
  + (SELECT count(*) <> 1 FROM meta JOIN outboxes ON id = outbox AND base <= last_seq
      AND base = (SELECT max(base) FROM outboxes))
  + (SELECT count(*) > 0 FROM rows WHERE typeof(kind) <> 'integer' OR kind NOT BETWEEN 0 AND 2
      OR typeof(body) <> 'blob' OR seq < 1 OR seq > (SELECT last_seq FROM meta))
  + (SELECT count(*) > 0 FROM dropped WHERE seq < 1 OR typeof(last) <> 'integer' OR last < seq
      OR last > (SELECT last_seq FROM meta) OR typeof(told_in) <> 'integer')
"""


class Budget:
    """How a quota is divided, so that file, log and log's index stay within it together.

    Attributes:
        max_pages: of the file.
        log_pages: after so many the log is written back into the file.
        commit_bytes: of events in one transaction, but always one event: the log grows by at most one transaction more.
        spare_bytes: kept for a full partition.
    """

    def __init__(self, quota_bytes: int) -> None:
        pages = quota_bytes // PAGE_BYTES
        self.log_pages = min(128, max(4, pages // 16))
        self.commit_bytes = min(128 * 1024, max(PAGE_BYTES, quota_bytes // 32))
        self.spare_bytes = (self.log_pages + (24 if pages >= 512 else 0)) * PAGE_BYTES  # the log's, once, and its index
        # Of a transaction's pages half may be tables' inner ones and lists; `commit` checks what the file really takes.
        log_bytes = self.log_pages * PAGE_BYTES + 2 * self.commit_bytes
        beside = -(-(log_bytes + SHM_BYTES + self.spare_bytes) // PAGE_BYTES)
        self.max_pages = max(LEAST_PAGES, pages - beside)


def open_file(path: Path, budget: Budget) -> tuple[sqlite3.Connection, bool]:
    """Open the file, or make it (0600) with its first outbox; one that is damaged is set aside.

    Returns:
        The connection, and whether a damaged file was set aside as `<name>.damaged`.

    Raises:
        StoreError: it cannot be made or opened.
    """
    tries, aside = 0, False
    while True:
        tries += 1
        try:
            db = _open(path, budget)
            if tries > 1 and not aside:
                _reserve_log(path, budget)
            return db, aside
        except sqlite3.OperationalError as error:
            if tries == 1 and _is_full(error) and release_spare(path):
                continue
            if aside or any(word in str(error) for word in _NOT_DAMAGE):
                raise StoreError(f"{path}: outbox cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            if aside:
                raise StoreError(f"{path}: outbox cannot be opened: {error}") from error
        _set_aside(path)
        aside = True


def _open(path: Path, budget: Budget) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # -wal and -shm take its mode
    except OSError as error:
        raise StoreError(f"{path}: outbox cannot be made: {error.strerror}") from error
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {budget.log_pages}")  # bounds the log and what is written twice
        db.execute(f"PRAGMA journal_size_limit = {(budget.log_pages + 8) * PAGE_BYTES}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _run(db, _SCHEMA)
        elif version > _VERSION:
            raise StoreError(f"{path}: an outbox of version {_VERSION} or older expected, {version} found")
        else:
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError(f"{path}: damaged")
            if version < _VERSION:
                _run(db, _FROM_1)
            if db.execute(_WRONG).fetchone() != (0,):
                raise sqlite3.DatabaseError(f"{path}: damaged: rows that no outbox writes")
        db.execute(f"PRAGMA max_page_count = {budget.max_pages}")
    except BaseException:
        db.close()
        raise
    return db


def _run(db: sqlite3.Connection, script: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in script.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {_VERSION}")
    db.execute("COMMIT")


def _set_aside(path: Path) -> None:
    try:
        os.replace(path, path.with_name(f"{path.name}.damaged"))  # noqa: PTH105  # over an older one
        for mark in ("-wal", "-shm"):
            path.with_name(path.name + mark).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: damaged, and cannot be set aside: {error.strerror}") from error


def keep_spare(path: Path, size_bytes: int) -> bool:
    """Have the spare where the partition has room for four of them; whether it is there."""
    spare = _spare(path)
    try:
        if spare.exists() and spare.stat().st_size == size_bytes:
            return True
        about = os.statvfs(path.parent)
        if size_bytes == 0 or about.f_bavail * about.f_frsize < 4 * size_bytes:
            return False
        fd = os.open(spare, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size_bytes)  # room without bytes: ext4 and f2fs write no data for it
        finally:
            os.close(fd)
    except OSError:
        release_spare(path)
        return False
    return True


def tighten(db: sqlite3.Connection, path: Path, budget: Budget) -> bool:
    """On a full partition: make file and log as large as they are to be for now, with the spare's room; whether it worked."""
    release_spare(path)
    try:
        busy, log_pages, done_pages = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        db.execute(f"PRAGMA wal_autocheckpoint = {max(1, budget.log_pages // 2)}")
    except sqlite3.OperationalError:
        return False
    _reserve_log(path, budget)
    return not busy and log_pages == done_pages


def loosen(db: sqlite3.Connection, budget: Budget) -> None:
    """There is room again."""
    db.execute(f"PRAGMA max_page_count = {budget.max_pages}")
    db.execute(f"PRAGMA wal_autocheckpoint = {budget.log_pages}")


def _reserve_log(path: Path, budget: Budget) -> None:
    """Blocks for all of the log; SQLite reads zeros behind its frames as the log's end."""
    with suppress(OSError):
        fd = os.open(path.with_name(f"{path.name}-wal"), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, budget.log_pages * PAGE_BYTES)
        finally:
            os.close(fd)


def release_spare(path: Path) -> bool:
    """Give the spare's room back to the partition; whether there was one."""
    try:
        _spare(path).unlink()
    except OSError:
        return False
    return True


def _spare(path: Path) -> Path:
    return path.with_name(f"{path.name}.spare")


# What SQLite says of a disk or of another process; all else that it says at opening is of the file's content.
_NOT_DAMAGE = ("locked", "full", "I/O", "unable to open", "readonly")


def _is_full(error: sqlite3.Error) -> bool:
    """SQLite has three words for it: no page to be had, no room for the log's index, and a write that failed."""
    text = str(error)
    return "full" in text or "disk I/O" in text or "unable to open" in text


def count(path: Path) -> tuple[int, int]:
    """(rows, bytes of their events) of an outbox that another process may have open.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
            rows, size = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM rows").fetchone()
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: outbox cannot be read: {error}") from error
    return int(rows), int(size)


def rollback(db: sqlite3.Connection) -> None:
    """End a transaction that failed; a full disk may have ended it already."""
    with suppress(sqlite3.OperationalError):
        db.execute("ROLLBACK")
