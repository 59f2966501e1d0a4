"""The ring: a bounded, private file of windows that a device believes normal; the only training data there is.

Layout: a 4096-byte header (magic, length and CRC of a JSON description, the description), then `capacity` records of
one size. Record n of the ring's life lies in slot (n - 1) mod capacity: 40 bytes of head, then T * C float32, little
endian. A record is valid when its CRC holds, so a torn write costs one window and a reader needs no lock.
The header's last bytes hold what the writer may still write to flash, for the next process; one that is torn is none.
One writer (the agent); readers are the agent (to calibrate) and its learner. Stdlib only: samples are bytes here.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

MAGIC = b"COVRING1"
HEADER_BYTES = 4096
_PREFIX = struct.Struct("<8sII")  # magic, description length, description CRC-32
_LEFT = struct.Struct("<ddI")  # bytes left, wall clock when that was so, CRC-32 of both; ends with the header
_LEFT_AT = HEADER_BYTES - _LEFT.size
_HEAD = struct.Struct("<QdQIIII")  # seq, start_s, index, flight, flags, CRC-32 of the rest of the record, reserved

FITTED = 1  # flag: the group's bundle was fitted on this window already; calibrate with it, do not teach it again


@dataclass(frozen=True)
class RingInfo:
    """What the header says."""

    channels: tuple[str, ...]
    rate_hz: float
    window: int  # T, samples
    capacity: int  # records

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return _HEAD.size + 4 * self.window * len(self.channels)


@dataclass(frozen=True)
class RingRecord:
    """One normal window."""

    seq: int  # counts over the ring's life, from 1
    start_s: float
    index: int  # number of the window in its flight; the next one has index + 1
    flight: int  # counts over the ring's life
    flags: int
    samples: bytes  # T * C float32, little endian, row by row


def create_ring(path: Path, info: RingInfo) -> None:
    """Make an empty ring, readable by its owner only.

    Raises:
        DataError: it exists, or the description does not fit the header.
    """
    described = {"channels": info.channels, "rate_hz": info.rate_hz, "window": info.window, "capacity": info.capacity}
    text = json.dumps(described).encode()
    if _PREFIX.size + len(text) > _LEFT_AT:
        raise DataError(f"{path}: channel names of at most {HEADER_BYTES - 128} bytes expected, {len(text)} received")
    header = _PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise DataError(f"{path}: ring cannot be made: {error.strerror}") from error
    try:
        os.write(fd, header.ljust(HEADER_BYTES, b"\0"))
        os.fsync(fd)
    finally:
        os.close(fd)


class RingReader:
    """Reads the valid records of a ring, oldest first."""

    def __init__(self, path: Path) -> None:
        """Open and check the header.

        Raises:
            DataError: missing, not private, not a ring, or damaged.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: a ring expected, cannot be read: {error.strerror}") from error
        try:
            self.info = _read_header(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> RingReader:  # noqa: PYI034  # Self needs 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def records(self) -> Iterator[RingRecord]:
        """Valid records in order of seq; those that a writer is overwriting just now are left out."""
        found = sorted(_heads(self._fd, self.info))
        for seq, slot in found:
            record = _read_record(self._fd, self.info, slot)
            if record is not None and record.seq == seq:
                yield record


class RingWriter:
    """The one writer of a ring."""

    def __init__(self, path: Path) -> None:
        """Open for writing, alone.

        Raises:
            DataError: not a ring, or another writer has it.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise DataError(f"{path}: a ring expected, cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.info = _read_header(self._fd, path)
        except BlockingIOError as error:
            os.close(self._fd)
            raise DataError(f"{path}: one writer expected, another one has this ring open") from error
        except BaseException:
            os.close(self._fd)
            raise
        heads = list(_heads(self._fd, self.info))
        self._seq = max((seq for seq, _ in heads), default=0)
        last = _read_record(self._fd, self.info, (self._seq - 1) % self.info.capacity) if self._seq else None
        self.flight = last.flight if last is not None else 0
        self.count = len(heads)

    def __enter__(self) -> RingWriter:  # noqa: PYI034  # Self needs 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush to disk and give the ring free."""
        try:
            os.fsync(self._fd)
        except OSError:  # a full disk: what it did not take fails its CRC
            pass
        finally:
            os.close(self._fd)

    def flash_left(self) -> tuple[float, float] | None:
        """(bytes, wall clock) of the last `note_flash_left`; None where there was none."""
        raw = os.pread(self._fd, _LEFT.size, _LEFT_AT)
        if len(raw) != _LEFT.size:
            return None
        left, time_s, crc = _LEFT.unpack(raw)
        whole = crc == zlib.crc32(raw[:-4]) and math.isfinite(left) and math.isfinite(time_s)
        return (left, time_s) if whole and any(raw) else None

    def note_flash_left(self, left: float, time_s: float) -> None:
        """Note how many bytes may still be written, for the next process; it is on disk with the next windows."""
        raw = struct.pack("<dd", left, time_s)
        os.pwrite(self._fd, raw + struct.pack("<I", zlib.crc32(raw)), _LEFT_AT)

    def begin_flight(self) -> int:
        """Number of a new flight: windows of different flights never chain."""
        self.flight += 1
        return self.flight

    def append(self, samples: bytes, start_s: float, index: int, flags: int = 0) -> int:
        """Write one window over the oldest one; returns its seq.

        Raises:
            DataError: the samples are not T * C float32.
            OSError: the disk takes no more.
        """
        expected = self.info.record_bytes - _HEAD.size
        if len(samples) != expected:
            raise DataError(f"{self.path}: {expected} bytes a window expected, {len(samples)} received")
        self._seq += 1
        slot = (self._seq - 1) % self.info.capacity
        body = struct.pack("<QdQII", self._seq, start_s, index, self.flight, flags)
        head = _HEAD.pack(self._seq, start_s, index, self.flight, flags, zlib.crc32(samples, zlib.crc32(body)), 0)
        os.pwrite(self._fd, head + samples, HEADER_BYTES + slot * self.info.record_bytes)
        self.count = min(self.count + 1, self.info.capacity)
        return self._seq


def _read_header(fd: int, path: Path) -> RingInfo:
    raw = os.pread(fd, HEADER_BYTES, 0)
    try:
        magic, length, crc = _PREFIX.unpack_from(raw)
        text = raw[_PREFIX.size : _PREFIX.size + length]
        if magic != MAGIC or len(text) != length or zlib.crc32(text) != crc:
            raise DataError(f"{path}: a ring expected ({MAGIC.decode()}), its header is another or damaged")
        described = json.loads(text)
    except (struct.error, ValueError, RecursionError) as error:
        raise DataError(f"{path}: a ring expected ({MAGIC.decode()}), its header is cut short") from error
    return _info(path, described)


def _info(path: Path, described: object) -> RingInfo:
    """What a header's description says; its CRC holds, so anything else was never written by us."""
    info = described if isinstance(described, dict) else {}
    channels, rate_hz, sizes = info.get("channels"), info.get("rate_hz"), (info.get("window"), info.get("capacity"))
    good = isinstance(channels, list) and channels and all(isinstance(name, str) for name in channels)
    good = good and isinstance(rate_hz, int | float) and 0 < rate_hz < math.inf
    if not good or not all(type(size) is int and 0 < size < 2**32 for size in sizes):
        raise DataError(f"{path}: channels, rate_hz, window and capacity of a ring expected, {str(info)[:80]} found")
    return RingInfo(tuple(info["channels"]), float(info["rate_hz"]), info["window"], info["capacity"])


def _heads(fd: int, info: RingInfo) -> Iterator[tuple[int, int]]:
    """(seq, slot) of every slot that was ever written and claims to lie where it should."""
    size = os.fstat(fd).st_size
    for slot in range(min(info.capacity, max(0, size - HEADER_BYTES) // info.record_bytes)):
        raw = os.pread(fd, _HEAD.size, HEADER_BYTES + slot * info.record_bytes)
        (seq, *_) = _HEAD.unpack(raw)
        if seq and (seq - 1) % info.capacity == slot:
            yield seq, slot


def _read_record(fd: int, info: RingInfo, slot: int) -> RingRecord | None:
    raw = os.pread(fd, info.record_bytes, HEADER_BYTES + slot * info.record_bytes)
    if len(raw) != info.record_bytes:
        return None
    seq, start_s, index, flight, flags, crc, _ = _HEAD.unpack_from(raw)
    samples = raw[_HEAD.size :]
    body = struct.pack("<QdQII", seq, start_s, index, flight, flags)
    if zlib.crc32(samples, zlib.crc32(body)) != crc:
        return None
    return RingRecord(seq, start_s, index, flight, flags, samples)
