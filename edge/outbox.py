"""The outbox: every event on disk before it is sent, kept until the cloud says that it is safe.

SQLite in WAL mode with synchronous=FULL: a committed row survives kill -9 and power loss. Rows are committed in groups (an
alarm at once); only committed rows are given out to be sent, so a sequence number never goes out twice with different bytes.
Acknowledged rows are deleted, and no others; without room the oldest go by priority (summaries before status before alarms)
and are told as ranges in a later event, until the event that tells them is itself acknowledged.

A file that may be a copy (another card, a backup put back, another boot) is read and not counted on in: its rows keep their
identity and bytes, so that whoever else sends them sends the same; new rows belong to a new outbox in the same file
(edge/outbox_mark.py decides, docs/decisions/0015). A row's *place* in the file orders rows of all its outboxes.

It knows no MQTT and reads no clock but the monotonic one. One thread only.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from covey.errors import StoreError
from covey.wire import Dropped, Identity
from edge import outbox_file
from edge.outbox_file import PAGE_BYTES, Budget, count
from edge.outbox_mark import MEMORY, Mark
from edge.outbox_places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["GROUP_ROWS", "GROUP_S", "MAX_TOLD", "PRIORITY", "Outbox", "Row", "count"]

PRIORITY = ("summary", "status", "alarm")  # what is dropped first; the index is how a row keeps its kind

GROUP_ROWS = 64
GROUP_S = 0.25
MAX_TOLD = 64  # ranges in one event, as wire.Health has it
_MAX_WAITING = 4096  # rows kept in memory when the disk takes none
_KEPT_ANSWERS = 256  # ids of commands answered; a command may come again, also after a restart
_SPARE_S = 30.0  # between two looks whether the spare can be had again


class Row(NamedTuple):
    """One event as it is sent."""

    place: int  # in the file, ascending; the sequence number is in the event
    kind: str
    body: bytes


class _Waiting(NamedTuple):
    """An event that is not on disk yet."""

    row: Row
    tells: tuple[tuple[int, int], ...]  # dropped places that it tells
    answers: str


class Outbox:
    """The durable queue of one device.

    Attributes:
        damaged: the old file was set aside; what it held is lost.
        restored: the file is older than what was sent from it on this boot: a backup was put back.
        trouble: why the last commit failed, until one works.
    """

    def __init__(self, path: Path, device: str, quota_bytes: int = 64 * 1024 * 1024, memory: Path = MEMORY) -> None:
        """Open the file, or make it; a damaged one is set aside as `<name>.damaged`.

        Args:
            path: the SQLite file, private to its owner.
            device: name in the identities.
            quota_bytes: greatest size of the file with its log, the log's index and the spare (below 512 kB they may
                pass it).
            memory: where the mark of this boot is; a folder that no copy of a card or a state folder holds.

        Raises:
            StoreError: the file cannot be made or opened.
        """
        self.path = path
        self.device = device
        self.trouble = ""
        self._budget = Budget(quota_bytes)
        self._db, self.damaged = outbox_file.open_file(path, self._budget)
        meta, self._last = self._db.execute("SELECT outbox, last_seq FROM meta").fetchone()
        found = self._db.execute("SELECT id, base FROM outboxes ORDER BY base, rowid")
        self._places = Places(dict(found.fetchall()))
        size = self._db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM rows").fetchone()
        self._rows, self._bytes = int(size[0]), int(size[1])
        self._waiting: list[_Waiting] = []
        self._waiting_since = 0.0
        self._untold: list[tuple[int, int]] = []  # places dropped in memory, not committed yet
        self._unanswered: list[str] = []  # commands whose answer was dropped in memory
        self._new = False  # the outbox begins with the next commit
        self._mark = Mark(path, memory)
        counted = self._mark.read()
        self.restored = counted is not None and counted.outbox == meta and self._last < counted.place
        if counted is None or counted.outbox != meta or self.restored:
            self._places.begin(secrets.token_hex(8), self._last)
            self._new = True
        self._mark.write(self.id, self._last)
        self._mark.sweep()
        self._tight = False  # the partition is full, and the file makes do with the pages that it has
        self._spare = outbox_file.keep_spare(path, self._budget.spare_bytes)
        self._spare_since = time.monotonic()

    def __enter__(self) -> Outbox:  # noqa: PYI034  # Self needs 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """Of the outbox that new events belong to."""
        return self._places.current

    @property
    def last_seq(self) -> int:
        """The outbox's newest sequence number; 0: none yet."""
        return self._places.seq(self._last)

    @property
    def depth(self) -> int:
        """Rows not acknowledged, those not yet on disk included."""
        return self._rows + len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """Bytes of their events."""
        return self._bytes + _size(self._waiting)

    def answered(self, command: str) -> bool:
        """Whether an event answers the command with this id, one on disk or one not yet."""
        if command in self._unanswered or any(one.answers == command for one in self._waiting):
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
        self._last += 1
        if not self._waiting:
            self._waiting_since = time.monotonic()
        places = tuple(span for one in tells for span in self.places(one.outbox, [(one.first, one.last)]))
        self._waiting.append(_Waiting(Row(self._last, kind, body), places, answers))
        if kind == "alarm" or len(self._waiting) >= GROUP_ROWS:
            self.commit()
        return identity

    def tick(self) -> None:
        """Commit what has waited long enough; call it in every turn of the loop."""
        now_s = time.monotonic()
        if self._waiting and now_s - self._waiting_since >= GROUP_S:
            self.commit()
        if not self._spare and now_s - self._spare_since >= _SPARE_S:
            self._spare_since = now_s
            self._spare = outbox_file.keep_spare(self.path, self._budget.spare_bytes)
            if self._spare and self._tight:
                self._tight = False
                outbox_file.loosen(self._db, self._budget)

    def commit(self) -> bool:
        """Bring what waits to disk, dropping by priority where there is no room; False when the disk takes nothing."""
        while self._waiting:
            group = self._group()
            try:
                self._write(group)
            except sqlite3.OperationalError as error:
                self.trouble = f"{self.path}: {error}"
                if "full" not in str(error) or not self._make_room(group):
                    self._waiting_since = time.monotonic()  # try again later, not at once
                    self._drop_waiting(len(self._waiting) - _MAX_WAITING)
                    return False
            else:
                last = group[-1].row.place
                del self._waiting[: len(group)]
                self._rows += len(group)
                self._bytes += _size(group)
                self._untold = [span for span in self._untold if span[1] > last]
                self._unanswered, self._new = [], False
                self.trouble = ""
                self._mark.write(self.id, last)  # before any of them is given out
        return True

    def batch(self, after: int, limit: int) -> list[Row]:
        """Committed rows with place > `after`, oldest first."""
        found = self._db.execute("SELECT seq, kind, body FROM rows WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [Row(place, PRIORITY[kind], body) for place, kind, body in found]

    def oldest(self) -> int | None:
        """Place of the oldest committed row, or None."""
        (place,) = self._db.execute("SELECT min(seq) FROM rows").fetchone()
        return None if place is None else int(place)

    def newest(self, kind: str) -> int:
        """Place of the newest committed row of a kind; 0 without one."""
        (place,) = self._db.execute("SELECT max(seq) FROM rows WHERE kind = ?", (PRIORITY.index(kind),)).fetchone()
        return 0 if place is None else int(place)

    def places(self, outbox: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Where the rows with these sequence numbers of an outbox are; empty where the file knows no such outbox."""
        return self._places.find(outbox, ranges, self._last)

    def acknowledge(self, places: Iterable[tuple[int, int]]) -> int:
        """Delete exactly the committed rows at these inclusive ranges of places; returns how many there were.

        Raises:
            StoreError: the file cannot be written; the rows stay and are acknowledged again after they are resent.
        """
        places = list(places)
        try:
            try:
                gone, size = self._delete(places)
            except sqlite3.OperationalError as error:
                if "full" not in str(error) or self._tight or not self._tighten():
                    raise
                gone, size = self._delete(places)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: acknowledged rows cannot be deleted: {error}") from error
        self._rows -= gone
        self._bytes -= size
        return gone

    def give_up(self, place: int) -> None:
        """Drop one committed row that can never be sent; told like any other that was dropped.

        Raises:
            StoreError: the file cannot be written.
        """
        found = self._db.execute("SELECT kind FROM rows WHERE seq = ?", (place,)).fetchone()
        if found is not None and not self._drop_rows(found[0], [place]):
            raise StoreError(self.trouble)

    def dropped(self, limit: int = MAX_TOLD) -> list[Dropped]:
        """Ranges given up and not told yet, oldest first, neighbours of one outbox joined."""
        found = self._db.execute("SELECT seq, last FROM dropped WHERE told_in = 0 ORDER BY seq").fetchall()
        telling = {span for one in self._waiting for span in one.tells}
        told = self._places.told(sorted(chain(found, self._untold)))
        return [one for span, one in told if span not in telling][:limit]

    def dropped_rows(self) -> int:
        """Rows given up that the cloud has not acknowledged being told of."""
        (rows,) = self._db.execute("SELECT coalesce(sum(last - seq + 1), 0) FROM dropped").fetchone()
        return int(rows) + sum(last - first + 1 for first, last in self._untold)

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._mark.close()
        self._db.close()

    def _delete(self, places: Iterable[tuple[int, int]]) -> tuple[int, int]:
        gone = size = 0
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for span in places:
                sql = "SELECT count(*), coalesce(sum(length(body)), 0) FROM rows WHERE seq BETWEEN ? AND ?"
                rows, found = self._db.execute(sql, span).fetchone()
                self._db.execute("DELETE FROM rows WHERE seq BETWEEN ? AND ?", span)
                self._db.execute("DELETE FROM dropped WHERE told_in BETWEEN ? AND ?", span)
                gone, size = gone + rows, size + found
        return gone, size

    def _group(self) -> list[_Waiting]:
        """What one transaction takes of what waits: at least one row."""
        size, rows = 0, 0
        for one in self._waiting[:GROUP_ROWS]:
            size += len(one.row.body)
            if rows and size > self._budget.commit_bytes:
                break
            rows += 1
        return self._waiting[:rows]

    def _write(self, group: Sequence[_Waiting]) -> None:
        places = self._places
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._new:
                places = self._in_use()
                self._db.execute("DELETE FROM outboxes")
                self._db.executemany("INSERT INTO outboxes VALUES (?, ?)", places.bases.items())
            rows = [(one.row.place, PRIORITY.index(one.row.kind), one.row.body) for one in group]
            self._db.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
            # What was given up beyond the group is noted with its neighbours: a number not on disk may be given again.
            self._note_dropped(span for span in self._untold if span[1] <= group[-1].row.place)
            for one in group:
                spans = [(one.row.place, *span) for span in one.tells]
                sql = "UPDATE dropped SET told_in = ? WHERE told_in = 0 AND seq >= ? AND last <= ?"
                self._db.executemany(sql, spans)
            answers = [*self._unanswered, *(one.answers for one in group if one.answers)]
            if answers:
                self._db.executemany("INSERT OR IGNORE INTO answered VALUES (?)", [(one,) for one in answers])
                forget = "DELETE FROM answered WHERE rowid <= (SELECT max(rowid) FROM answered) - ?"
                self._db.execute(forget, (_KEPT_ANSWERS,))
            self._db.execute("UPDATE meta SET outbox = ?, last_seq = ?", (self.id, group[-1].row.place))
            self._db.execute("COMMIT")
        except BaseException:
            outbox_file.rollback(self._db)
            raise
        self._places = places

    def _in_use(self) -> Places:
        """Outboxes that have rows or something to tell, and the one that begins."""
        used = (
            "SELECT EXISTS(SELECT 1 FROM rows WHERE seq BETWEEN ?1 AND ?2)"
            " OR EXISTS(SELECT 1 FROM dropped WHERE seq BETWEEN ?1 AND ?2)"
        )
        spans = self._places.spans(self._last).items()
        kept = {name for name, span in spans if name == self.id or self._db.execute(used, span).fetchone()[0]}
        return Places({name: base for name, base in self._places.bases.items() if name in kept})

    def _note_dropped(self, ranges: Iterable[tuple[int, int]]) -> None:
        spans = self._places.split(ranges)
        self._db.executemany("INSERT OR REPLACE INTO dropped (seq, last) VALUES (?, ?)", spans)

    def _make_room(self, group: Sequence[_Waiting]) -> bool:
        """After a refusal for want of room: whether it is worth trying again at once."""
        need_bytes = _size(group)
        if not self._tight and not self._has_room(need_bytes):
            # An eighth of the file at a time: else every commit of a long outage would begin with a refusal.
            return self._drop(max(need_bytes, self._budget.max_pages * PAGE_BYTES // 8))
        # The quota has room, the partition has none. That may pass, so nothing is given up for a summary; but an
        # alarm is to be on disk, and is worth the spare and then the oldest summaries.
        if not any(one.row.kind == "alarm" for one in self._waiting):
            return False
        if self._tight:
            return self._drop(2 * need_bytes + PAGE_BYTES)
        return self._tighten()

    def _tighten(self) -> bool:
        self._spare, self._spare_since = False, time.monotonic()
        self._tight = outbox_file.tighten(self._db, self.path, self._budget)
        return self._tight

    def _has_room(self, need_bytes: int) -> bool:
        """Whether the quota surely takes so many bytes more; pages hold rows at least half full."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        room = self._budget.max_pages - pages + free
        return bool(room * PAGE_BYTES > 2 * need_bytes + outbox_file.LEAST_PAGES * PAGE_BYTES)

    def _drop(self, need_bytes: int) -> bool:
        """Give up at least `need_bytes` of the oldest rows of the lowest priority there is; False when nothing went."""
        for kind, name in enumerate(PRIORITY):
            if self._drop_stored(kind, need_bytes):
                return True
            mine = [one for one in self._waiting if one.row.kind == name]
            if mine and name != PRIORITY[-1]:  # for the sake of what has a higher one
                self._give_up_waiting(mine)
                return True
        return False

    def _drop_stored(self, kind: int, need_bytes: int) -> bool:
        found = self._db.execute("SELECT seq, length(body) FROM rows WHERE kind = ? ORDER BY seq", (kind,))
        gone: list[int] = []
        size = 0
        for place, length in found:
            gone.append(place)
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
            ranked = sorted(self._waiting, key=lambda one: (PRIORITY.index(one.row.kind), one.row.place))
            self._give_up_waiting(ranked[:count])

    def _give_up_waiting(self, gone: Sequence[_Waiting]) -> None:
        places = {one.row.place for one in gone}
        self._waiting = [one for one in self._waiting if one.row.place not in places]
        self._unanswered += [one.answers for one in gone if one.answers]
        self._untold += _ranges(sorted(places))


def _size(waiting: Iterable[_Waiting]) -> int:
    return sum(len(one.row.body) for one in waiting)


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as inclusive ranges."""
    out: list[tuple[int, int]] = []
    for one in numbers:
        if out and one == out[-1][1] + 1:
            out[-1] = (out[-1][0], one)
        else:
            out.append((one, one))
    return out
