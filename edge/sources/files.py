"""One door to every recorded file: looks at the content and the name, then calls the reader that knows the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from covey.errors import DataError
from edge.sources.crazyflie import MAGIC, read_crazyflie
from edge.sources.table import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.sources import Recording

_TABLES = {".csv", ".npz"}


def read_recording(
    path: Path | str,
    columns: Sequence[str] | None = None,
    rows: tuple[int, int] | None = None,
    array: str | None = None,
) -> Recording:
    """Read a Crazyflie log (first byte 0xBC), a CSV or an NPZ.

    Args:
        path: the file; Crazyflie logs carry no extension.
        columns: wanted, in this order; all when None.
        rows: (start, stop), stop not included; of a Crazyflie log counted over its rows with finite values.
        array: of an NPZ; `train` when None.

    Raises:
        DataError: no reader knows the file, or its reader refuses it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return read_table(path, columns, rows, "train" if array is None else array)
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise DataError(f"{path}: a readable file expected, {error.strerror or error} came") from error
    if first != bytes([MAGIC]):
        got = f"first byte 0x{first.hex().upper()}" if first else "an empty file"
        raise DataError(f"{path}: a .csv, an .npz or a Crazyflie log (first byte 0x{MAGIC:02X}) expected, {got} came")
    recording = read_crazyflie(path, columns)
    return recording if rows is None else _cut(recording, rows)


def _cut(recording: Recording, rows: tuple[int, int]) -> Recording:
    start, stop = rows
    count = len(recording.samples)
    if not 0 <= start < stop <= count:
        raise DataError(f"{recording.name}: rows within 0:{count} expected, {start}:{stop} came")
    clipped = ((max(a, start) - start, min(b, stop) - start) for a, b in recording.segments)
    segments = tuple((a, b) for a, b in clipped if a < b)
    return replace(recording, samples=recording.samples[start:stop], segments=segments)
