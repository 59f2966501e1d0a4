"""The outbox: every event on disk before it is sent, kept until the cloud says that it is safe.

SQLite in WAL mode with synchronous=FULL: a committed row survives kill -9 and power loss. Rows are committed in groups (an
alarm at once); only committed rows are given out to be sent, so a sequence number never goes out twice with different bytes.
Acknowledged rows are deleted, and no others; without room the oldest go by priority (summaries before status before alarms)
and are told as ranges in a later event, until the event that tells them is itself acknowledged.

A state folder that is copied, or restored from an older copy, brings back sequence numbers that were already used: the
cloud dead-letters the new events as `identity_conflict` (same identity, other bytes) and acknowledges them, so they are
found there and not in the store. Delete outbox.db in such a copy: a new file has a new outbox id.

It knows no MQTT and reads no clock but the monotonic one. One thread only.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from contextlib import closing, suppress
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from covey.errors import StoreError
from covey.wire import Dropped, Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

PRIORITY = ("summary", "status", "alarm")  # what is dropped first; the index is how a row keeps its kind

GROUP_ROWS = 64
GROUP_S = 0.25
MAX_TOLD = 64  # ranges in one event, as wire.Health has it
_PAGE_BYTES = 4096
_LEAST_PAGES = 16  # the empty file takes 5
_MAX_WAITING = 4096  # rows kept in memory when the disk takes none
_KEPT_ANSWERS = 256  # ids of commands answered; a command may come again, also after a restart

_SCHEMA = """
CREATE TABLE meta (outbox TEXT NOT NULL, last_seq INTEGER NOT NULL);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE dropped (seq INTEGER PRIMARY KEY, last INTEGER NOT NULL, told_in INTEGER NOT NULL DEFAULT 0);
PRAGMA user_version = 1;
"""
_ANSWERED = "CREATE TABLE IF NOT EXISTS answered (id TEXT NOT NULL UNIQUE)"  # files of older versions have none


class Row(NamedTuple):
    """One event as it is sent."""

    seq: int
    kind: str
    body: bytes


class Outbox:
    """The durable queue of one device."""

    def __init__(self, path: Path, device: str, quota_bytes: int = 64 * 1024 * 1024) -> None:
        """Open the file, or make it with a new outbox id; a damaged one is set aside as `<name>.damaged`.

        Args:
            path: the SQLite file, private to its owner.
            device: name in the identities.
            quota_bytes: greatest size of the file; its write-ahead log adds at most about 1 MB.

        Raises:
            StoreError: the file cannot be made or opened.
        """
        self.path = path
        self.device = device
        self.damaged = False  # the old file was set aside: what it held is lost
        self.trouble = ""  # why the last commit failed, until one works
        self._max_pages = max(_LEAST_PAGES, quota_bytes // _PAGE_BYTES)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{path}: outbox cannot be opened: {error}") from error
            self._set_aside()
            self._db = self._open()
        self.id, self.last_seq = self._db.execute("SELECT outbox, last_seq FROM meta").fetchone()
        count, size = self._db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM rows").fetchone()
        self._rows, self._bytes = int(count), int(size)
        self._waiting: list[Row] = []
        self._waiting_since = 0.0
        self._untold: list[tuple[int, int]] = []  # ranges dropped in memory, not committed yet
        self._telling: list[tuple[int, Sequence[Dropped]]] = []
        self._answering: list[str] = []

    def __enter__(self) -> Outbox:  # noqa: PYI034  # Self needs 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def depth(self) -> int:
        """Rows not acknowledged, those not yet on disk included."""
        return self._rows + len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """Bytes of their events."""
        return self._bytes + sum(len(row.body) for row in self._waiting)

    def answered(self, command: str) -> bool:
        """Whether an event answers the command with this id, one on disk or one not yet."""
        if command in self._answering:
            return True
        return self._db.execute("SELECT 1 FROM answered WHERE id = ?", (command,)).fetchone() is not None

    def put(
        self, kind: str, build: Callable[[Identity], bytes], tells: Sequence[Dropped] = (), answers: str = ""
    ) -> Identity:
        """Give an event its identity and queue it; on disk after the next commit (an alarm: now).

        Args:
            kind: summary, status or alarm.
            build: makes the event's bytes, which are stored and sent as they are.
            tells: the dropped ranges that the event tells, from `dropped()`.
            answers: id of the command that the event answers; on disk together with it.
        """
        identity = Identity(self.device, self.id, self.last_seq + 1)
        body = build(identity)
        self.last_seq = identity.seq
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append(Row(identity.seq, kind, body))
        if tells:
            self._telling.append((identity.seq, tells))
        if answers:
            self._answering.append(answers)
        if kind == "alarm" or len(self._waiting) >= GROUP_ROWS:
            self.commit()
        return identity

    def tick(self) -> None:
        """Commit what has waited long enough; call it in every turn of the loop."""
        if self._waiting and time.monotonic() - self._waiting_since >= GROUP_S:
            self.commit()

    def commit(self) -> bool:
        """Bring what waits to disk, dropping by priority where there is no room; False when the disk takes nothing."""
        while self._waiting:
            try:
                self._write()
            except sqlite3.OperationalError as error:
                self.trouble = f"{self.path}: {error}"
                need_bytes = sum(len(row.body) for row in self._waiting)
                # Where the quota has room, the partition has none: giving rows up would not help, and it may pass.
                if "full" not in str(error) or self._has_room(need_bytes) or not self._drop(need_bytes):
                    self._waiting_since = time.monotonic()  # try again later, not at once
                    self._drop_waiting(len(self._waiting) - _MAX_WAITING)
                    return False
            else:
                self._rows += len(self._waiting)
                self._bytes += sum(len(row.body) for row in self._waiting)
                self._waiting, self._untold, self._telling, self._answering = [], [], [], []
                self.trouble = ""
        return True

    def batch(self, after: int, limit: int) -> list[Row]:
        """Committed rows with seq > `after`, oldest first."""
        found = self._db.execute("SELECT seq, kind, body FROM rows WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [Row(seq, PRIORITY[kind], body) for seq, kind, body in found]

    def oldest(self) -> int | None:
        """Seq of the oldest committed row, or None."""
        (seq,) = self._db.execute("SELECT min(seq) FROM rows").fetchone()
        return None if seq is None else int(seq)

    def newest(self, kind: str) -> int:
        """Seq of the newest committed row of a kind; 0 without one."""
        (seq,) = self._db.execute("SELECT max(seq) FROM rows WHERE kind = ?", (PRIORITY.index(kind),)).fetchone()
        return 0 if seq is None else int(seq)

    def acknowledge(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Delete exactly the committed rows in these inclusive ranges; returns how many there were.

        Raises:
            StoreError: the file cannot be written; the rows stay and are acknowledged again after they are resent.
        """
        gone = size = 0
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for first, last in ranges:
                    span = (first, last)
                    sql = "SELECT count(*), coalesce(sum(length(body)), 0) FROM rows WHERE seq BETWEEN ? AND ?"
                    count, found = self._db.execute(sql, span).fetchone()
                    self._db.execute("DELETE FROM rows WHERE seq BETWEEN ? AND ?", span)
                    self._db.execute("DELETE FROM dropped WHERE told_in BETWEEN ? AND ?", span)
                    gone, size = gone + count, size + found
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: acknowledged rows cannot be deleted: {error}") from error
        self._rows -= gone
        self._bytes -= size
        return gone

    def give_up(self, seq: int) -> None:
        """Drop one committed row that can never be sent; told like any other that was dropped.

        Raises:
            StoreError: the file cannot be written.
        """
        found = self._db.execute("SELECT kind FROM rows WHERE seq = ?", (seq,)).fetchone()
        if found is not None and not self._drop_rows(found[0], [seq]):
            raise StoreError(self.trouble)

    def dropped(self, limit: int = MAX_TOLD) -> list[Dropped]:
        """Ranges given up and not told yet, oldest first, neighbours joined."""
        found = self._db.execute("SELECT seq, last FROM dropped WHERE told_in = 0 ORDER BY seq").fetchall()
        telling = {(one.first, one.last) for _, ranges in self._telling for one in ranges}
        joined: list[list[int]] = []
        for first, last in sorted(chain(found, self._untold)):
            if joined and first <= joined[-1][1] + 1:
                joined[-1][1] = max(joined[-1][1], last)
            else:
                joined.append([first, last])
        told = [Dropped(self.id, first, last) for first, last in joined if (first, last) not in telling]
        return told[:limit]

    def dropped_rows(self) -> int:
        """Rows given up that the cloud has not acknowledged being told of."""
        (count,) = self._db.execute("SELECT coalesce(sum(last - seq + 1), 0) FROM dropped").fetchone()
        return int(count) + sum(last - first + 1 for first, last in self._untold)

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # -wal and -shm take its mode
        except OSError as error:
            raise StoreError(f"{self.path}: outbox cannot be made: {error.strerror}") from error
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        try:
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 128")  # pages: bounds the log and what is written twice
            db.execute("PRAGMA journal_size_limit = 1048576")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES (?, 0)", (secrets.token_hex(8),))
                db.execute("COMMIT")
            elif db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError(f"{self.path}: damaged")
            db.execute(_ANSWERED)
            db.execute(f"PRAGMA max_page_count = {self._max_pages}")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self) -> None:
        self.damaged = True
        os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))  # noqa: PTH105  # over an older one
        for mark in ("-wal", "-shm"):
            self.path.with_name(self.path.name + mark).unlink(missing_ok=True)

    def _write(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            rows = [(row.seq, PRIORITY.index(row.kind), row.body) for row in self._waiting]
            self._db.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
            self._note_dropped(self._untold)
            for seq, ranges in self._telling:
                spans = [(seq, one.first, one.last) for one in ranges]
                sql = "UPDATE dropped SET told_in = ? WHERE told_in = 0 AND seq >= ? AND last <= ?"
                self._db.executemany(sql, spans)
            if self._answering:
                self._db.executemany("INSERT OR IGNORE INTO answered VALUES (?)", [(one,) for one in self._answering])
                forget = "DELETE FROM answered WHERE rowid <= (SELECT max(rowid) FROM answered) - ?"
                self._db.execute(forget, (_KEPT_ANSWERS,))
            self._db.execute("UPDATE meta SET last_seq = ?", (self.last_seq,))
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _note_dropped(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO dropped (seq, last) VALUES (?, ?)", ranges)

    def _has_room(self, need_bytes: int) -> bool:
        """Whether the quota surely takes so many bytes more; pages hold rows at least half full."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        room = self._max_pages - pages + free
        return bool(room * _PAGE_BYTES > 2 * need_bytes + _LEAST_PAGES * _PAGE_BYTES)

    def _drop(self, need_bytes: int) -> bool:
        """Give up at least `need_bytes` of the oldest rows of the lowest priority there is; False when nothing went."""
        # An eighth of the file at a time: else every commit of a long outage would begin with a refusal.
        need_bytes = max(need_bytes, self._max_pages * _PAGE_BYTES // 8)
        for kind, name in enumerate(PRIORITY):
            if self._drop_stored(kind, need_bytes):
                return True
            mine = [row for row in self._waiting if row.kind == name]
            others_have_less = name != PRIORITY[-1]
            if mine and others_have_less:
                self._give_up_waiting(mine)
                return True
        return False

    def _drop_stored(self, kind: int, need_bytes: int) -> bool:
        found = self._db.execute("SELECT seq, length(body) FROM rows WHERE kind = ? ORDER BY seq", (kind,))
        gone: list[int] = []
        size = 0
        for seq, length in found:
            gone.append(seq)
            size += length
            if size >= need_bytes:
                break
        found.close()
        return bool(gone) and self._drop_rows(kind, gone)

    def _drop_rows(self, kind: int, gone: list[int]) -> bool:
        ranges = _ranges(gone)
        size = 0
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for span in ranges:
                    # What a dropped event told has to be told again.
                    self._db.execute("UPDATE dropped SET told_in = 0 WHERE told_in BETWEEN ? AND ?", span)
                    own = "FROM rows WHERE kind = ? AND seq BETWEEN ? AND ?"
                    size += self._db.execute(f"SELECT sum(length(body)) {own}", (kind, *span)).fetchone()[0]
                    self._db.execute(f"DELETE {own}", (kind, *span))
                self._note_dropped(ranges)
        except sqlite3.OperationalError as error:  # the partition itself is full: SQLite cannot even delete
            self.trouble = f"{self.path}: {error}"
            return False
        self._rows -= len(gone)
        self._bytes -= size
        return True

    def _drop_waiting(self, count: int) -> None:
        if count > 0:
            ranked = sorted(self._waiting, key=lambda row: (PRIORITY.index(row.kind), row.seq))
            self._give_up_waiting(ranked[:count])

    def _give_up_waiting(self, rows: list[Row]) -> None:
        gone = {row.seq for row in rows}
        self._waiting = [row for row in self._waiting if row.seq not in gone]
        self._telling = [(seq, ranges) for seq, ranges in self._telling if seq not in gone]
        self._untold += _ranges(sorted(gone))


def _ranges(seqs: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as inclusive ranges."""
    out: list[tuple[int, int]] = []
    for seq in seqs:
        if out and seq == out[-1][1] + 1:
            out[-1] = (out[-1][0], seq)
        else:
            out.append((seq, seq))
    return out


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
