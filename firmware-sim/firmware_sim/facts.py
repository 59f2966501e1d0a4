"""What a ledger knows, read in one moment of the file as arrays for the report. Changes nothing, judges nothing.

A ledger that a simulator is still writing can be read too; `live` says so, since its figures still move.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from covey import wire
from covey.errors import UsageError, WireError
from firmware_sim.ledger import MAX_SEQ, SEQ_BITS, Truth
from firmware_sim.ledger_file import check, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_LAG_S = 60.0  # an event is written within it of its window's end; anything else is a clock that was set in between
_CHUNK = 50_000  # rows in Python objects at a time


class Registered(NamedTuple):
    """One device as the ledger has it."""

    name: str
    outbox: str
    body: str
    link: str
    clock_offset_s: float


class Wrong(NamedTuple):
    """What was really different about a device."""

    device: int
    item: Truth


class Note(NamedTuple):
    """One entry of the time line."""

    true_s: float
    device: int | None  # None: the whole fleet
    what: str
    detail: str


class AlarmEvent(NamedTuple):
    """An alarm event in true time."""

    key: int
    device: int
    alarm_id: str
    begins: bool
    true_s: float  # when the device wrote it
    window_end_s: float  # end of its window


@dataclass(frozen=True)
class Events:
    """Every event ever written, ascending by key = device * 2^32 + seq; N of them.

    Attributes:
        key: (N,) int64.
        kind: (N,) uint8, index in ledger.KINDS.
        true_s: (N,) when it was written.
        size_bytes: (N,) of its bytes.
        sha256: (N, 4) uint64, the digest's 32 bytes.
        acked_s: (N,) when the device was told that the cloud has it; NaN: never.
    """

    key: NDArray[np.int64]
    kind: NDArray[np.uint8]
    true_s: NDArray[np.float64]
    size_bytes: NDArray[np.int64]
    sha256: NDArray[np.uint64]
    acked_s: NDArray[np.float64]

    @property
    def device(self) -> NDArray[np.int64]:
        """(N,) index of the device of each."""
        return self.key >> SEQ_BITS


@dataclass(frozen=True)
class Facts:
    """A ledger in memory.

    Attributes:
        meta: scenario, seed, start_epoch_s, ...
        devices: by index.
        flights: (F, 3) float64: device, start_s, end_s.
        truth: what was really wrong.
        events: what was written.
        alarms: alarm events, ascending by key.
        notes: the time line, ascending by time.
        live: a simulator had it open.
    """

    meta: Mapping[str, Any]
    devices: tuple[Registered, ...]
    flights: NDArray[np.float64]
    truth: tuple[Wrong, ...]
    events: Events
    alarms: tuple[AlarmEvent, ...]
    notes: tuple[Note, ...]
    live: bool = False

    def identity(self, key: int) -> wire.Identity:
        """The identity of an event."""
        device = self.devices[key >> SEQ_BITS]
        return wire.Identity(device.name, device.outbox, key & MAX_SEQ)


def read_facts(path: Path) -> Facts:
    """Read a ledger.

    Raises:
        UsageError: there is no such file.
        StoreError: it is no ledger, a newer covey's, or damaged.
    """
    if not path.is_file():
        raise UsageError(f"{path}: a ledger expected, there is no such file")
    check(path)
    live = _is_live(path)
    with told(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        db.isolation_level = None
        db.execute("BEGIN")  # one moment of the file
        meta = {name: msgspec.json.decode(value) for name, value in db.execute("SELECT name, value FROM meta")}
        devices = db.execute("SELECT name, outbox, body, link, clock_offset_s FROM devices ORDER BY device")
        flights = db.execute("SELECT device, start_s, end_s FROM flights").fetchall()
        truth = db.execute(
            "SELECT device, kind, category, onset_s, until_s, size FROM truth ORDER BY device, onset_s, kind"
        )
        notes = db.execute("SELECT true_s, device, what, detail FROM notes ORDER BY true_s")
        events = _events(db)
        return Facts(
            meta=meta,
            devices=tuple(Registered(*row) for row in devices),
            flights=np.array(flights, np.float64).reshape(-1, 3),
            truth=tuple(
                Wrong(row[0], Truth(row[1], row[2], row[3], row[4], msgspec.json.decode(row[5]))) for row in truth
            ),
            events=events,
            alarms=tuple(_alarms(db, events)),
            notes=tuple(Note(*row) for row in notes),
            live=live,
        )


def alarm_event(key: int, body: bytes, true_s: float) -> AlarmEvent | None:
    """An alarm's times in true time; None where the bytes are no alarm.

    A device's clock may be wrong by any amount, but one reading of it is as wrong as the next: the event's own device time
    minus its window's is how long before `true_s` the window ended.
    """
    try:
        event, _ = wire.decode_event(body)
        data = wire.decode_data(event)
        written_s = datetime.fromisoformat(event.time).timestamp()
    except (WireError, ValueError):
        return None
    if not isinstance(data, wire.Alarm):
        return None
    lag_s = written_s - data.window.end_s
    if not 0.0 <= lag_s <= MAX_LAG_S:
        lag_s = 0.0
    return AlarmEvent(key, key >> SEQ_BITS, data.alarm_id, data.state == "begin", true_s, true_s - lag_s)


def _events(db: sqlite3.Connection) -> Events:
    parts: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint64]]] = []
    cursor = db.execute("SELECT key, kind, size_bytes, true_s, sha256 FROM events")
    while rows := cursor.fetchmany(_CHUNK):
        keys, kinds, sizes, times, digests = zip(*rows, strict=True)
        whole = np.array([keys, kinds, sizes], np.int64).T
        digest = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 4)
        if len(digest) != len(whole):
            raise sqlite3.DatabaseError("damaged: digests of 32 bytes expected")
        parts.append((np.array(times, np.float64), whole, digest))
    times_s = np.concatenate([part[0] for part in parts]) if parts else np.empty(0)
    numbers = np.concatenate([part[1] for part in parts]) if parts else np.empty((0, 3), np.int64)
    sha256 = np.concatenate([part[2] for part in parts]) if parts else np.empty((0, 4), np.uint64)
    order = np.argsort(numbers[:, 0], kind="stable")
    key = numbers[order, 0]
    return Events(
        key=key,
        kind=numbers[order, 1].astype(np.uint8),
        true_s=times_s[order],
        size_bytes=numbers[order, 2],
        sha256=sha256[order],
        acked_s=_acked(db, key),
    )


def _acked(db: sqlite3.Connection, key: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) when each event was acknowledged, NaN for never; ranges are spread over their events."""
    acked_s = np.full(len(key), np.nan)
    cursor = db.execute("SELECT device, first, last, true_s FROM acks")
    while rows := cursor.fetchmany(_CHUNK):
        device, first, last, true_s = (np.array(column) for column in zip(*rows, strict=True))
        low = np.searchsorted(key, device << SEQ_BITS | first)
        count = np.searchsorted(key, device << SEQ_BITS | last, side="right") - low
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        acked_s[np.repeat(low, count) + within] = np.repeat(true_s, count)
    return acked_s


def _alarms(db: sqlite3.Connection, events: Events) -> Iterator[AlarmEvent]:
    for key, body in db.execute("SELECT key, body FROM alarms ORDER BY key"):
        at = int(np.searchsorted(events.key, key))
        if at < len(events.key) and events.key[at] == key:
            alarm = alarm_event(key, body, float(events.true_s[at]))
            if alarm is not None:
                yield alarm


def _is_live(path: Path) -> bool:
    """Whether a writer holds the ledger's lock."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
