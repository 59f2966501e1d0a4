"""Crazyflie uSD logs: what the drone itself wrote to its card, read into a `Recording`.

The whole file is checked (magic, version, every record, CRC-32) before one sample is believed; a damaged log is refused,
never repaired. Names stay as the firmware wrote them ("motor.m1"). No unit is converted here.

Format (little-endian): 0xBC; u16 version; u16 number of event types; per type u16 id, NUL-ended name, u16 number of
variables, each NUL-ended "name(T)" with T a struct code; then records of u16 id, time stamp (version 1: u32 ms,
version 2: u64 us), packed variables; last four bytes CRC-32 of all before.

Source: Bitcraze, crazyflie-firmware docs, "uSD deck", and tools/usdlog/cfusdlog.py.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import DataError
from edge.sources import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAGIC = 0xBC
MAIN_EVENT = "fixedFrequency"  # the event the logger writes at its configured rate
GAP_PERIODS = 1.5  # a longer step than this many periods is a gap

# Struct code -> NumPy type, standard sizes (struct's "<" mode).
_TYPES = {
    "b": "i1",
    "B": "u1",
    "?": "u1",
    "h": "<i2",
    "H": "<u2",
    "i": "<i4",
    "I": "<u4",
    "l": "<i4",
    "L": "<u4",
    "q": "<i8",
    "Q": "<u8",
    "e": "<f2",
    "f": "<f4",
    "d": "<f8",
}
_TIME = {1: ("<u4", 1e-3), 2: ("<u8", 1e-6)}  # version -> type of the time stamp, its unit in seconds


@dataclass(frozen=True)
class _Event:
    name: str
    variables: tuple[str, ...]
    dtype: np.dtype[Any]  # packed record without its id: "t", then "v0", "v1", ...


class _Header:
    """Reads the header field by field; every read past the end is told as truncation."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self.offset = 0

    def take(self, fmt: str) -> int:
        try:
            (value,) = struct.unpack_from(fmt, self._data, self.offset)
        except struct.error:
            raise self._truncated() from None
        self.offset += struct.calcsize(fmt)
        return int(value)

    def text(self) -> str:
        end = self._data.find(b"\0", self.offset)
        if end < 0:
            raise self._truncated()
        value = self._data[self.offset : end].decode("utf-8", errors="replace")
        self.offset = end + 1
        return value

    def _truncated(self) -> DataError:
        size = len(self._data)
        return DataError(f"{self._path}: truncated: a complete header expected, the file ends after {size} bytes")


def read_crazyflie(path: Path | str, columns: Sequence[str] | None = None) -> Recording:
    """Read one log.

    Args:
        path: the log file.
        columns: variables wanted, in this order; all of the fixed-frequency event (of the most frequent event where a
            log has none) when None.

    Returns:
        Samples with the rate from the median period. Steps of more than 1.5 periods, steps back in time and rows with a
        non-finite value (left out) split the segments.

    Raises:
        DataError: not such a log, truncated, wrong CRC, unknown struct code or event id, missing column, too short.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: a readable log expected, {error.strerror or error} came") from error
    events, version, start = _read_header(path, data)
    records = _read_records(path, data, events, start)
    event, rows = _choose(events, records, columns)
    names = event.variables if columns is None else tuple(columns)
    missing = [name for name in names if name not in event.variables]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; there are {', '.join(event.variables)}")
    if len(rows) < 2:
        raise DataError(f"{path}: at least 2 records of {event.name} expected, {len(rows)} came")
    unit_s = _TIME[version][1]
    times_s = rows["t"].astype(np.float64) * unit_s  # (N,)
    samples = np.stack([rows[f"v{event.variables.index(n)}"].astype(np.float32) for n in names], axis=1)  # (N, C)
    return _recording(path, names, times_s, samples)


def _read_header(path: Path, data: bytes) -> tuple[dict[int, _Event], int, int]:
    header = _Header(path, data)
    magic = header.take("<B")
    if magic != MAGIC:
        raise DataError(f"{path}: a Crazyflie log begins with 0x{MAGIC:02X}, 0x{magic:02X} came")
    version = header.take("<H")
    if version not in _TIME:
        raise DataError(f"{path}: log version 1 or 2 expected, {version} came")
    events: dict[int, _Event] = {}
    for _ in range(header.take("<H")):
        event_id = header.take("<H")
        name = header.text()
        variables: list[str] = []
        fields: list[tuple[str, str]] = [("t", _TIME[version][0])]
        for _ in range(header.take("<H")):
            variable, _, code = header.text().rpartition("(")
            if not variable or code[1:] != ")" or code[:1] not in _TYPES:
                got = f"{variable}({code}" if variable else code
                raise DataError(
                    f"{path}: {name}: a variable as name(T), T one of {''.join(_TYPES)}, expected, {got} came"
                )
            fields.append((f"v{len(variables)}", _TYPES[code[0]]))
            variables.append(variable)
        events[event_id] = _Event(name, tuple(variables), np.dtype(fields))
    return events, version, header.offset


def _read_records(path: Path, data: bytes, events: dict[int, _Event], start: int) -> dict[int, NDArray[Any]]:
    """Walk the records once, then view each event's records as one structured array."""
    end = len(data) - 4
    if end < start:
        raise DataError(f"{path}: truncated: a CRC-32 after the header expected, the file ends after {len(data)} bytes")
    (expected,) = struct.unpack_from("<I", data, end)
    crc = zlib.crc32(data[:end])
    sizes = {event_id: event.dtype.itemsize + 2 for event_id, event in events.items()}
    offsets: dict[int, list[int]] = {event_id: [] for event_id in events}
    at = start
    fault = ""
    while at < end:
        event_id = int.from_bytes(data[at : at + 2], "little")
        size = sizes.get(event_id)
        if size is None or at + size > end:
            fault = "ends inside a record" if size else f"event id {event_id} at byte {at} is not declared"
            break
        offsets[event_id].append(at + 2)
        at += size
    if crc != expected:
        what = f"truncated or damaged ({fault}): " if fault else "damaged: "
        raise DataError(f"{path}: {what}CRC-32 {crc:08x} expected at the end, {expected:08x} came")
    if fault:
        raise DataError(f"{path}: whole records of declared events expected, {fault}")
    raw = np.frombuffer(data, dtype=np.uint8)
    records: dict[int, NDArray[Any]] = {}
    for event_id, event in events.items():
        starts = np.array(offsets[event_id], dtype=np.intp)
        block = raw[starts[:, None] + np.arange(event.dtype.itemsize)]  # (N, bytes of a record)
        records[event_id] = np.ascontiguousarray(block).view(event.dtype).reshape(-1)
    return records


def _choose(
    events: dict[int, _Event], records: dict[int, NDArray[Any]], columns: Sequence[str] | None
) -> tuple[_Event, NDArray[Any]]:
    """The event that holds every wanted column; the fixed-frequency one first, then the most frequent."""
    if not events:
        return _Event("no event", (), np.dtype([("t", "<u8")])), np.zeros(0, dtype=[("t", "<u8")])
    order = sorted(events, key=lambda i: (events[i].name != MAIN_EVENT, -len(records[i])))
    holding = [i for i in order if columns is not None and set(columns) <= set(events[i].variables)]
    chosen = (holding or order)[0]
    return events[chosen], records[chosen]


def _recording(
    path: Path, names: tuple[str, ...], times_s: NDArray[np.float64], samples: NDArray[np.float32]
) -> Recording:
    period_s = float(np.median(np.diff(times_s)))
    if period_s <= 0:
        raise DataError(f"{path}: growing time stamps expected, a median period of {period_s} s came")
    finite = np.isfinite(samples).all(axis=1)
    if finite.sum() < 2:
        raise DataError(f"{path}: at least 2 rows of finite values expected, {int(finite.sum())} of {len(finite)} came")
    # A dropped row leaves a step of two periods, so the rule for gaps finds it as well.
    times_s, samples = times_s[finite], samples[finite]
    steps = np.diff(times_s)
    cuts = np.flatnonzero((steps > GAP_PERIODS * period_s) | (steps < 0)) + 1
    bounds = [0, *(int(c) for c in cuts), len(samples)]
    segments = tuple(pairwise(bounds))
    return Recording(str(path), names, 1.0 / period_s, samples, segments)
