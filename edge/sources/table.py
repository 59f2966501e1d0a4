"""Tables without a clock: CSV and NPZ read into a `Recording` of one row a second.

A cell that is no finite number is told with its line and column, never filled in. An NPZ's `label` is never opened, and a
column named like a clock is left out unless it is asked for. No pickle is ever loaded.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from covey.errors import DataError
from edge.sources import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLOCK_NAMES = frozenset({"timestamp", "datetime", "time", "date"})
LABEL = "label"  # the array of an NPZ that is truth, not data
RATE_HZ = 1.0


def read_table(
    path: Path | str,
    columns: Sequence[str] | None = None,
    rows: tuple[int, int] | None = None,
    array: str = "train",
) -> Recording:
    """Read a CSV (header; `;` or `,`) or one array of an NPZ.

    Args:
        path: `.npz` is read as NPZ, all else as CSV.
        columns: wanted, in this order; all but a leading clock column when None. The columns of an NPZ are named "0",
            "1", ...
        rows: (start, stop), counted from 0 without the header, stop not included; all when None.
        array: of an NPZ, `train` or `test` in the public sets; ignored for CSV.

    Raises:
        DataError: unreadable, empty, ragged, a missing column or array, rows out of range, a cell that is no finite number.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".npz":
                names, samples = _read_npz(path, file, columns, rows, array)
            else:
                names, samples = _read_csv(path, file, columns, rows)
    except OSError as error:
        raise DataError(f"{path}: a readable table expected, {error.strerror or error} came") from error
    return Recording(str(path), names, RATE_HZ, samples, ((0, len(samples)),))


def _read_csv(
    path: Path, file: BinaryIO, columns: Sequence[str] | None, rows: tuple[int, int] | None
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a CSV in UTF-8 expected, byte {error.object[error.start]:#04x} came") from error
    first = text.partition("\n")[0].rstrip("\r")
    if not first.strip():
        raise DataError(f"{path}: a CSV with a header line expected, an empty first line came")
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        # A blank line is no row (files end with one); line numbers are the file's.
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: a CSV line expected, {error}") from error
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: different column names expected, {', '.join(repeated)} came twice")
    clock = header[0].lower() in CLOCK_NAMES
    names = tuple(columns) if columns is not None else tuple(header[1:] if clock else header)
    _check_columns(path, names, header)
    start, stop = _row_range(path, rows, len(lines))
    wanted = [header.index(name) for name in names]
    samples = np.empty((stop - start, len(names)), dtype=np.float32)
    for n, (line, cells) in enumerate(lines[start:stop]):
        if len(cells) != len(header):
            raise DataError(f"{path}: line {line}: {len(header)} cells expected, {len(cells)} came")
        for j, index in enumerate(wanted):
            samples[n, j] = _number(path, line, header[index], cells[index])
    return names, samples


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = math.nan if "_" in cell else float(cell)  # Python would read 1_0 as 10
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:  # NaN included; beyond it float32 would be infinite
        raise DataError(f"{path}: line {line}, column {column}: a finite number expected, {cell!r} came")
    return value


_LARGEST = float(np.finfo(np.float32).max)


def _read_npz(
    path: Path, file: BinaryIO, columns: Sequence[str] | None, rows: tuple[int, int] | None, array: str
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    if array == LABEL:
        raise DataError(f"{path}: array {LABEL} is truth and is never read as data")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path}: an NPZ (a ZIP of arrays) expected, something else came")
    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            there = [name for name in arrays.files if name != LABEL]
            if array not in there:
                raise DataError(f"{path}: no array {array}; there are {', '.join(there)}")
            values = arrays[array]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: an NPZ of plain arrays expected, {str(error).splitlines()[0]}") from error
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise DataError(f"{path}: {array}: numbers of shape (N, C) expected, {values.dtype} {values.shape} came")
    header = [str(i) for i in range(values.shape[1])]
    names = tuple(columns) if columns is not None else tuple(header)
    _check_columns(path, names, header)
    start, stop = _row_range(path, rows, len(values))
    with np.errstate(over="ignore"):
        samples = values[start:stop, [int(name) for name in names]].astype(np.float32)
    bad = np.argwhere(~np.isfinite(samples))
    if len(bad):
        n, j = (int(i) for i in bad[0])
        raise DataError(
            f"{path}: {array}: row {start + n}, column {names[j]}: a finite number expected, {samples[n, j]} came"
        )
    return names, samples


def _check_columns(path: Path, names: Sequence[str], header: Sequence[str]) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; there are {', '.join(header)}")
    if not names:
        raise DataError(f"{path}: at least one column of numbers expected, none came")


def _row_range(path: Path, rows: tuple[int, int] | None, count: int) -> tuple[int, int]:
    start, stop = rows if rows is not None else (0, count)
    if not 0 <= start < stop <= count:
        raise DataError(f"{path}: rows within 0:{count} expected, {start}:{stop} came")
    return start, stop
