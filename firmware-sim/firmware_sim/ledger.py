"""The truth ledger: every simulated device's flash, and what only the simulator knows, in one SQLite file.

As flash it is what edge/outbox.py is to one device, for thousands: an event gets its identity when it is put, is on disk after
the next `commit`, is given out to be sent only then, and loses its body when it is acknowledged. WAL and synchronous=FULL: a
simulator killed at any moment loses nothing that was given out, and goes on with the same outbox ids and the next numbers.

As truth it keeps for ever what was written (identity, kind, true time, size, sha256; of alarm events the bytes too), when it was
acknowledged, what was really wrong with each device, when it flew, and a time line of notes. None of that enters an event:
`build` is given the identity and nothing else.

It drops nothing for want of room (a simulated flash is as large as the disk), reads no clock, and knows no MQTT and no store.
One thread, one writer: a second one is refused. `ledger_file.py` has its tables,
`facts.py` reads it for the report.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from array import array
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from covey.errors import StoreError, UsageError
from covey.wire import Identity
from firmware_sim.ledger_file import SCHEMA, check, connect, lock, meta_rows, told
from firmware_sim.spans import extend, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

KINDS = ("summary", "status", "alarm")  # the index is how a row keeps its kind
SEQ_BITS = 32  # a device that writes ten events a second fills them in 13 years
MAX_SEQ = (1 << SEQ_BITS) - 1


class Truth(NamedTuple):
    """Something that is really different about a device, in true time."""

    kind: str  # propeller-cut, season, ...
    category: str  # fault or drift
    onset_s: float
    until_s: float | None = None  # None: for good
    size: Mapping[str, Any] = {}


class Flight(NamedTuple):
    """A stretch of samples that a device scores, in true time."""

    start_s: float
    end_s: float


class Device(NamedTuple):
    """A simulated device as it is registered."""

    name: str
    body: str  # quadrotor, machine
    link: str  # name of its link profile
    clock_offset_s: float = 0.0  # device clock minus true time at the start
    truth: Sequence[Truth] = ()
    flights: Sequence[Flight] = ()


class Row(NamedTuple):
    """One event as it is sent."""

    seq: int
    kind: str
    body: bytes


class Ledger:
    """The open ledger of a running fleet; `create` makes one, `open` goes on with one."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._db, self._lock = db, lock
        self._names: list[str] = []
        self._outboxes: list[str] = []
        self._last = array("q")  # newest seq of each device, in memory or on disk
        self._safe = array("q")  # newest seq on disk
        self._depth = array("q")  # not acknowledged, those in memory included
        self._pending: list[list[tuple[int, int]]] = []  # on disk and not acknowledged, as ascending inclusive ranges
        self._events: list[tuple[int, int, float, int, bytes]] = []
        self._queue: list[tuple[int, int, bytes]] = []
        self._alarms: list[tuple[int, bytes]] = []
        self._acks: list[tuple[int, int, int, float]] = []
        self._notes: list[tuple[float, int | None, str, str]] = []
        self._meta: dict[str, Any] = {}
        self._load()

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any]) -> Ledger:
        """Make a new ledger, private to its owner.

        Args:
            path: a file that is not there yet.
            meta: JSON values: scenario, seed, start_epoch_s, covey (version), ...

        Raises:
            UsageError: the file is there already.
            StoreError: it cannot be made, or another process writes it.
        """
        held = lock(path)
        try:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # -wal and -shm take its mode
            except FileExistsError as error:
                raise UsageError(f"{path}: a new file expected, there is one; resume goes on with a ledger") from error
            except OSError as error:
                raise StoreError(f"{path}: ledger cannot be made: {error.strerror}") from error
            with told(path):
                db = connect(path)
                db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.executemany("INSERT INTO meta VALUES (?, ?)", meta_rows(meta))
                db.execute("COMMIT")
                return cls(path, db, held)
        except BaseException:
            os.close(held)
            raise

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Go on with a ledger, also after a kill -9: the same outbox ids, the next numbers, what was not acknowledged.

        Raises:
            UsageError: there is no such file.
            StoreError: it is no ledger, a newer covey's, damaged, or another process writes it.
        """
        if not path.is_file():
            raise UsageError(f"{path}: a ledger expected, there is no such file")
        held = lock(path)
        try:
            with told(path):
                check(path)
                db = connect(path)
                return cls(path, db, held)
        except BaseException:
            os.close(held)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Sequence[str]:
        """Names of the devices, by index."""
        return self._names

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `create` and `remember` were given, as far as it is on disk."""
        return {name: msgspec.json.decode(value) for name, value in self._db.execute("SELECT name, value FROM meta")}

    def register(self, devices: Sequence[Device | tuple[Any, ...]]) -> None:
        """Add devices, on disk at once; each gets an outbox id of 64 random bits.

        The ids come from the system and not from the scenario's seed: the same fleet run twice against one store is two
        fleets of events, and nothing conflicts.

        Raises:
            UsageError: a name is there twice.
            StoreError: the file cannot be written; nothing was added.
        """
        first, made = len(self._names), [Device(*one) for one in devices]
        outboxes = [secrets.token_hex(8) for _ in made]
        if len(set(self._names).union(one.name for one in made)) != first + len(made):
            raise UsageError(f"{self.path}: device names that are there once expected, one came twice")
        rows = [
            (i, one.name, outbox, one.body, one.link, one.clock_offset_s)
            for i, (one, outbox) in enumerate(zip(made, outboxes, strict=True), first)
        ]
        flights = [(i, *Flight(*flight)) for i, one in enumerate(made, first) for flight in one.flights]
        items = [(i, Truth(*item)) for i, one in enumerate(made, first) for item in one.truth]
        truth = [(i, *item[:4], msgspec.json.encode(dict(item.size)).decode()) for i, item in items]
        with self._transaction():
            self._db.executemany("INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.executemany("INSERT INTO flights VALUES (?, ?, ?)", flights)
            self._db.executemany("INSERT INTO truth VALUES (?, ?, ?, ?, ?, ?)", truth)
        self._add([one.name for one in made], outboxes)

    def outbox(self, i: int) -> str:
        """Outbox id of a device: 16 hex digits."""
        return self._outboxes[i]

    def last_seq(self, i: int) -> int:
        """Newest number of a device, on disk or not; 0 before its first event."""
        return self._last[i]

    def depth(self, i: int) -> int:
        """Events of a device that are not acknowledged, those not yet on disk included."""
        return self._depth[i]

    def put(
        self, i: int, kind: str, true_s: float, build: Callable[[Identity], bytes], alarm: bool = False
    ) -> Identity:
        """Give an event its identity and keep it; given out by `batch` after the next commit.

        Args:
            i: index of the device.
            kind: summary, status or alarm.
            true_s: when it is written, in true time.
            build: makes the event's bytes, which are stored and sent as they are.
            alarm: keep the bytes for the report; events of kind alarm always do.
        """
        seq = self._last[i] + 1
        if seq > MAX_SEQ:
            raise StoreError(f"{self.path}: {self._names[i]}: at most {MAX_SEQ} events expected")
        identity = Identity(self._names[i], self._outboxes[i], seq)
        body = build(identity)
        number, key = KINDS.index(kind), i << SEQ_BITS | seq
        self._last[i] = seq
        self._depth[i] += 1
        self._events.append((key, number, true_s, len(body), hashlib.sha256(body).digest()))
        self._queue.append((key, number, body))
        if alarm or kind == "alarm":
            self._alarms.append((key, body))
        return identity

    def commit(self) -> None:
        """Bring everything new to disk in one transaction: events of all devices, acknowledgements, notes.

        Raises:
            StoreError: the disk takes it not; all of it waits for the next commit, and nothing of it is given out.
        """
        if not (self._events or self._acks or self._notes or self._meta):
            return
        execute = self._db.executemany
        gone = sorted((i << SEQ_BITS | first, i << SEQ_BITS | last) for i, first, last, _ in self._acks)
        with self._transaction():
            execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", self._events)
            execute("INSERT INTO queue VALUES (?, ?, ?)", sorted(self._queue))
            execute("INSERT INTO alarms VALUES (?, ?)", self._alarms)
            execute("INSERT INTO acks VALUES (?, ?, ?, ?)", self._acks)
            execute("DELETE FROM queue WHERE key BETWEEN ? AND ?", gone)
            execute("INSERT INTO notes VALUES (?, ?, ?, ?)", self._notes)
            execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta_rows(self._meta))
        for i in {key >> SEQ_BITS for key, *_ in self._events}:
            extend(self._pending[i], self._safe[i] + 1, self._last[i])
            self._safe[i] = self._last[i]
        for waiting in (self._events, self._queue, self._alarms, self._acks, self._notes):
            waiting.clear()
        self._meta = {}

    def batch(self, i: int, after_seq: int, limit: int) -> list[Row]:
        """Events on disk and not acknowledged with seq > `after_seq`, oldest first.

        Raises:
            StoreError: the file cannot be read.
        """
        rows: list[Row] = []
        with told(self.path):
            for first, last in self._pending[i]:
                if len(rows) >= limit:
                    break
                begin = max(first, after_seq + 1)
                end = min(last, begin + limit - len(rows) - 1)
                sql = "SELECT key, kind, body FROM queue WHERE key BETWEEN ? AND ? ORDER BY key"
                found = self._db.execute(sql, (i << SEQ_BITS | begin, i << SEQ_BITS | end)) if begin <= end else ()
                rows += [Row(key & MAX_SEQ, KINDS[kind], body) for key, kind, body in found]
        return rows

    def acknowledge(self, i: int, outbox: str, ranges: Iterable[tuple[int, int]], true_s: float) -> int:
        """The cloud has these events: not given out any more, their bodies deleted with the next commit.

        Args:
            i: index of the device.
            outbox: which outbox the ranges count in; those of another one change nothing.
            ranges: inclusive.
            true_s: when, in true time.

        Returns:
            How many of them were on disk and not acknowledged before.
        """
        if outbox != self._outboxes[i]:
            return 0
        count = 0
        for first, last in ranges:
            for gone in take(self._pending[i], first, last):
                self._acks.append((i, *gone, true_s))
                count += gone[1] - gone[0] + 1
        self._depth[i] -= count
        return count

    def note(self, i: int | None, what: str, true_s: float, detail: str = "") -> None:
        """Something for the report's time line: connected, lost, reboot, outage, storm, kill, ...; None: the whole fleet."""
        self._notes.append((true_s, i, what, detail))

    def remember(self, name: str, value: Any) -> None:
        """Set a value of `meta` with the next commit: raw_bytes, sent_bytes, end_s, ..."""
        self._meta[name] = value

    def close(self) -> None:
        """Commit and close; another process may open it then."""
        try:
            self.commit()
        finally:
            self._db.close()
            os.close(self._lock)

    def _add(self, names: Sequence[str], outboxes: Sequence[str]) -> None:
        self._names += names
        self._outboxes += outboxes
        for numbers in (self._last, self._safe, self._depth):
            numbers.extend(0 for _ in names)
        self._pending += [[] for _ in names]

    def _load(self) -> None:
        """What a killed simulator left: events without an acknowledgement are pending."""
        devices = self._db.execute("SELECT name, outbox FROM devices ORDER BY device").fetchall()
        self._add([name for name, _ in devices], [outbox for _, outbox in devices])
        sql = "SELECT key >> ?, count(*), max(key & ?), count(DISTINCT key) FROM events GROUP BY 1"
        for i, count, newest, distinct in self._db.execute(sql, (SEQ_BITS, MAX_SEQ)):
            if not count == newest == distinct:
                raise StoreError(
                    f"{self.path}: ledger is damaged: {newest} events of device {i} expected, {count} found"
                )
            self._last[i] = self._safe[i] = newest
            self._pending[i] = [(1, newest)]
        for i, first, last in self._db.execute("SELECT device, first, last FROM acks"):
            take(self._pending[i], first, last)
        for i, ranges in enumerate(self._pending):
            self._depth[i] = sum(last - first + 1 for first, last in ranges)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with told(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.OperationalError):  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise
