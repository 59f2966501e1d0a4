"""The recordings of the public sets in a folder, told by what is in the files, wherever they lie below it.

SKAB is a CSV with a column `anomaly`; a server (ASD, SMD) an NPZ with `train`, `test` and `label`; flights are what a
`manifest.csv` with their columns names. Truth is read here and nowhere else: no reader of covey ever opens a label.
"""

from __future__ import annotations

import csv
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError, UsageError
from edge.sources.files import read_recording
from edge.sources.table import CLOCK_NAMES
from federated.evaluation.flights import Flight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.sources import Recording

TRUTH = frozenset({"anomaly", "changepoint"})  # columns of SKAB that are no sensor
SKAB_FIT_ROWS = 400  # leaderboard protocol: core/utils.py of waico/SKAB
FLIGHT_COLUMNS = frozenset({"file", "drone", "condition", "label", "family", "motors", "total_cut_mm"})
SET_OF_WIDTH = {19: "asd", 38: "smd"}  # channels -> whose they are: the goals are the sets'
# TSB-AD-M's list of files (Liu and Paparrizos, NeurIPS 2024): the smaller of a quarter and all but the last 100 rows before
# the first anomaly, at least 500 (which then holds anomalies: file 078) and at most 50,000.
PREFIX_SHARE, PREFIX_BEFORE, PREFIX_LEAST, PREFIX_MOST = 4, 100, 500, 50_000


@dataclass(frozen=True)
class Part:
    """Rows of one recording: a file, the array of an NPZ, and (start, stop) where not all are meant."""

    path: Path
    array: str | None = None
    rows: tuple[int, int] | None = None

    def read(self, columns: list[str] | None) -> Recording:
        """The recording."""
        return read_recording(self.path, columns, self.rows, self.array)

    def node(self) -> dict[str, str]:
        """The node configuration of a device that holds this and nothing else."""
        node = {"files": json.dumps([str(self.path)])}
        if self.array is not None:
            node["array"] = self.array
        if self.rows is not None:
            node["rows"] = json.dumps(list(self.rows))
        return node


@dataclass(frozen=True)
class Device:
    """One device with truth.

    Attributes:
        name: its file below the folder.
        normal: rows that it learns from and calibrates with.
        test: rows that are scored, from the first on.
        label: (N,) truth of the rows of `test`.
        judged_from: the first of them that counts.
        channels: columns, in the order of the file.
    """

    name: str
    normal: Part
    test: Part
    label: NDArray[np.bool_]
    judged_from: int
    channels: list[str]


def skab_files(folder: Path) -> tuple[list[Device], list[str]]:
    """Labelled SKAB files in natural order, and a line for each that cannot be judged.

    Raises:
        UsageError: none there.
        DataError: a file that is one of them cannot be read.
    """
    found: list[Device] = []
    notes: list[str] = []
    for path in _files(folder, ".csv"):
        header = _header(path)
        if "anomaly" not in header:
            continue
        sensors = [name for name in header if name.lower() not in CLOCK_NAMES | TRUTH]
        label = read_recording(path, ["anomaly"]).samples[:, 0] > 0.5
        if len(label) <= SKAB_FIT_ROWS or not sensors:
            notes.append(f"{path}: more than {SKAB_FIT_ROWS} rows of sensors expected, {len(label)} came: left out")
            continue
        fit = Part(path, rows=(0, SKAB_FIT_ROWS))
        found.append(Device(_name(path, folder), fit, Part(path), label, SKAB_FIT_ROWS, sensors))
    if not found:
        raise UsageError(f"{folder}: CSV files with a column anomaly (SKAB) expected, none there")
    return found, notes


def servers(folder: Path, *, prefix: bool = False) -> dict[str, list[Device]]:
    """Fleets by set: devices of one width belong together.

    Args:
        folder: where to look.
        prefix: learn from the first rows of `test` as TSB-AD does, instead of from `train`.

    Raises:
        UsageError: none there.
        DataError: an NPZ of the right names with arrays that do not fit.
    """
    fleets: dict[str, list[Device]] = {}
    for path in _files(folder, ".npz"):
        label = _label(path)
        if label is None:
            continue
        test = read_recording(path, None, None, "test")
        if label.shape != test.samples.shape[:1]:
            raise DataError(f"{path}: a label of {len(test.samples)} rows expected, {label.shape} came")
        width = test.samples.shape[1]
        learnt = prefix_rows(label) if prefix else 0
        normal = Part(path, "test", (0, learnt)) if prefix else Part(path, "train")
        one = Device(_name(path, folder), normal, Part(path, "test"), label, learnt, list(test.channels))
        if learnt < len(label):
            fleets.setdefault(SET_OF_WIDTH.get(width, f"fleet of {width} channels"), []).append(one)
    if not fleets:
        raise UsageError(f"{folder}: NPZ files with train, test and label expected, none there")
    return fleets


def prefix_rows(label: NDArray[np.bool_]) -> int:
    """Rows at the start of a series that TSB-AD learns from."""
    first = int(label.argmax()) if label.any() else len(label)
    wanted = min(len(label) // PREFIX_SHARE, first - PREFIX_BEFORE)
    return max(PREFIX_LEAST, min(wanted, PREFIX_MOST))


def flights(folder: Path) -> tuple[list[Flight], list[str]]:
    """Flights that the manifests below a folder name, and a line for each that is not there.

    Raises:
        UsageError: no manifest with their columns, or none of its files.
        DataError: a manifest that cannot be read.
    """
    found: list[Flight] = []
    notes: list[str] = []
    manifests = [path for path in _files(folder, ".csv") if set(_header(path)) >= FLIGHT_COLUMNS]
    for manifest in manifests:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                one = _flight(manifest, number, row)
                if Path(one.file).is_file():
                    found.append(one)
                else:
                    notes.append(f"{manifest}: line {number}: no file {row['file']} beside it: left out")
    if not found:
        came = f"{len(notes)} flights without their files" if notes else "no such manifest"
        wanted = ", ".join(sorted(FLIGHT_COLUMNS))
        raise UsageError(f"{folder}: a manifest.csv with {wanted} and its flights expected, {came}")
    return found, notes


def _flight(manifest: Path, number: int, row: dict[str, str]) -> Flight:
    try:
        rotors = [int(name) - 1 for name in re.findall(r"M([1-4])", row["motors"])]
        return Flight(
            str(manifest.parent / row["file"]),
            row["drone"],
            healthy=int(row["label"]) == 0,
            cut_mm=float(row["total_cut_mm"] or 0),
            rotor=rotors[0] if len(rotors) == 1 else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{manifest}: line {number}: a flight expected, {error}") from error


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files below a folder (links followed, each folder once), hidden ones left out, in natural order."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: a folder expected, none there")
    found: list[Path] = []
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        real = str(Path(base).resolve())
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            found += [Path(base) / name for name in names if name.lower().endswith(suffix) and not name.startswith(".")]
        seen.add(real)
    return sorted(found, key=lambda path: _natural(path.relative_to(folder)))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names in their order: 2.csv before 10.csv."""
    words: list[tuple[int, int, str]] = []
    for part in path.with_suffix("").parts:
        text, digits = "", ""
        for letter in [*part, ""]:
            if letter.isdigit() and letter.isascii():
                digits += letter
                continue
            if digits:
                words += [(1, 0, text), (0, int(digits), "")]
                text = digits = ""
            text += letter
        words.append((1, 0, text))
    return words


def _header(path: Path) -> list[str]:
    """Names in a table's first line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(65_536)
    except OSError as error:
        raise DataError(f"{path}: a readable table expected, {error.strerror or error} came") from error
    return [name.strip().strip('"') for name in line.split(";" if line.count(";") > line.count(",") else ",")]


def _label(path: Path) -> NDArray[np.bool_] | None:
    """The truth in an NPZ of a server; None: it is something else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not {"train", "test", "label"} <= set(arrays.files):
                return None
            label = np.asarray(arrays["label"])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: an NPZ of plain arrays expected, {str(error).splitlines()[0]}") from error
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim != 1 or label.dtype.kind not in "fiub":
        raise DataError(f"{path}: label: numbers of shape (N,) expected, {label.dtype} {label.shape} came")
    return label > 0.5 if label.dtype.kind == "f" else label != 0


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
