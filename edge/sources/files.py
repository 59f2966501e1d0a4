"""One door to every recorded file: looks at the content and the name, then calls the reader that knows the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from edge.sources.crazyflie import MAGIC, read_crazyflie
from edge.sources.names import origins
from edge.sources.stamps import is_tlog
from edge.sources.table import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.sources import Recording
    from edge.sources.names import ChannelFrom

_TABLES = {".csv", ".npz"}
_TLOG = ".tlog"


def read_recording(
    path: Path | str,
    columns: Sequence[str] | None = None,
    rows: tuple[int, int] | None = None,
    array: str | None = None,
    *,
    rate_hz: float | None = None,
    channel_map: Mapping[str, ChannelFrom] | None = None,
) -> Recording:
    """Read a Crazyflie log (first byte 0xBC), a CSV, an NPZ, or a MAVLink tlog (.tlog, or by its first bytes).

    Args:
        path: the file; Crazyflie logs carry no extension.
        columns: wanted, in this order; all when None.
        rows: (start, stop), stop not included; of a Crazyflie log counted over its rows with finite values.
        array: of an NPZ; `train` when None.
        rate_hz: of a tlog's rows, which have none of their own; that of its most frequent wanted message when None.
        channel_map: column -> where it comes from in the file.

    Raises:
        DataError: no reader knows the file, or its reader refuses it.
        MissingExtra: a tlog, and pymavlink is not installed.
    """
    path = Path(path)
    wanted = None if columns is None else origins(columns, channel_map or {})
    if columns is None or wanted is None:
        return _read(path, None, rows, array, rate_hz)
    recording = _read(path, [origin.source for origin in wanted], rows, array, rate_hz)
    if wanted == origins(columns, {}):
        return recording
    scale = np.array([origin.scale for origin in wanted], np.float64)
    offset = np.array([origin.offset for origin in wanted], np.float64)
    samples = (recording.samples * scale + offset).astype(np.float32)  # (N, C)
    return replace(recording, channels=tuple(columns), samples=samples)


def _read(
    path: Path, columns: Sequence[str] | None, rows: tuple[int, int] | None, array: str | None, rate_hz: float | None
) -> Recording:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return read_table(path, columns, rows, "train" if array is None else array)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DataError(f"{path}: a readable file expected, {error.strerror or error} came") from error
    if head[:1] == bytes([MAGIC]):
        recording = read_crazyflie(path, columns)
    elif suffix == _TLOG or is_tlog(head):
        from edge.sources.tlog import read_tlog  # MAVLink only where it is read

        recording = read_tlog(path, columns, rate_hz=rate_hz)
    else:
        got = f"first byte 0x{head[:1].hex().upper()}" if head else "an empty file"
        raise DataError(
            f"{path}: a .csv, an .npz, a .tlog or a Crazyflie log (first byte 0x{MAGIC:02X}) expected, {got} came"
        )
    return recording if rows is None else _cut(recording, rows)


def _cut(recording: Recording, rows: tuple[int, int]) -> Recording:
    start, stop = rows
    count = len(recording.samples)
    if not 0 <= start < stop <= count:
        raise DataError(f"{recording.name}: rows within 0:{count} expected, {start}:{stop} came")
    clipped = ((max(a, start) - start, min(b, stop) - start) for a, b in recording.segments)
    segments = tuple((a, b) for a, b in clipped if a < b)
    return replace(recording, samples=recording.samples[start:stop], segments=segments)
