"""A CSV that grows: follows it through rotation and truncation, and leaves half a line at its end until it is whole.

The first line of a file is its header; after a truncation a first line of numbers is a row under the old header. A leading column named
like a clock (timestamp, time, datetime, date, t: seconds, or ISO 8601) is the rows' time; without one every row is one sample
at the model's rate. An empty cell is no reading; a line with more or fewer cells is counted, not guessed at.
"""

from __future__ import annotations

import csv
import os
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from covey.runtime import Backoff
from edge.sources import Vehicle
from edge.sources.lines import LineClock
from edge.sources.live import Reading
from edge.sources.numbers import LineBuffer
from edge.sources.table import CLOCK_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK_BYTES = 65_536
_LOOK_S = 0.25  # between two looks at whether the file is still the one
_CLOCKS = CLOCK_NAMES | {"t"}


class TailReader:
    """See `edge.sources.live.Reader`."""

    done = False

    def __init__(self, path: str, rate_hz: float, hold_s: float, *, from_start: bool = False) -> None:
        """Opened at the first `read`.

        Args:
            path: of the file; it may come later.
            rate_hz: see `LineClock`.
            hold_s: see `LineClock`.
            from_start: read what is in it already; else only what is appended from now on.
        """
        self.label = Path(path).name
        self.vehicle = Vehicle()
        self.problem = ""
        self._path = path
        self._from_start = from_start
        self._file = -1
        self._at = 0
        self._clock = LineClock(rate_hz, hold_s)
        self._lines = LineBuffer()
        self._too_long = 0
        self._header: tuple[str, ...] | None = None
        self._first = True  # the next line is a file's first
        self._skip = False  # history: only the header counts
        self._delimiter = ","
        self._stamped = False
        self._next_look_s = self._next_try_s = 0.0
        self._backoff = Backoff(0.2, 2.0)
        self._readings = self._bad = self._rotations = 0

    @property
    def exact(self) -> bool:
        """Rows without a clock."""
        return self._clock.exact

    @property
    def counts(self) -> dict[str, int]:
        """Lines read, those that are none, and how often the file was another or shorter."""
        bad = self._bad + self._too_long + self._lines.too_long
        return {"readings": self._readings, "bad": bad, "rotations": self._rotations}

    def want(self, names: frozenset[str] | None) -> None:
        """All that comes is read anyway."""

    def read(self, now_s: float) -> Sequence[Reading]:
        """Rows that were appended."""
        if self._file < 0 and not self._open(now_s):
            return []
        out: list[Reading] = []
        try:
            data = os.read(self._file, _CHUNK_BYTES)
            if not data and now_s >= self._next_look_s:
                self._next_look_s = now_s + _LOOK_S
                self._look()
        except OSError as error:
            self._fail(error, now_s)
            return out
        self._at += len(data)
        for line in self._lines.feed(data) if data else ():
            self._take(line.removesuffix(b"\r"), now_s, out)
        return out

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """See `LineClock`."""
        return self._clock.clock_of(t_s, now_s, clock_s)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # -- the file -------------------------------------------------------------------------------------------------

    def _open(self, now_s: float) -> bool:
        if now_s < self._next_try_s:
            return False
        try:
            # A named pipe would wait for its writer.
            self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(0, "a regular file expected")
            self._begin_file()
            if not self._from_start:
                self._from_start = True  # what replaces it is read from its start
                self._to_end()
        except OSError as error:
            self._fail(error, now_s)
            return False
        self.problem = ""
        self._backoff.reset()
        return True

    def _begin_file(self) -> None:
        self._at = 0
        self._first = True
        self._too_long += self._lines.too_long
        self._lines = LineBuffer()

    def _to_end(self) -> None:
        """Read the header, then skip what is there already, whole lines only."""
        data = os.pread(self._file, _CHUNK_BYTES, 0)
        end = data.find(b"\n")
        if end < 0:
            return
        self._take(data[:end].removesuffix(b"\r"), 0.0, [])
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _CHUNK_BYTES, max(end + 1, size - _CHUNK_BYTES))
        self._at = max(end + 1, size - _CHUNK_BYTES) + tail.rfind(b"\n") + 1
        os.lseek(self._file, self._at, os.SEEK_SET)

    def _look(self) -> None:
        """At its end: is there another file of this name, or was this one cut short?"""
        if os.fstat(self._file).st_size < self._at:
            os.lseek(self._file, 0, os.SEEK_SET)
            self._rotations += 1
            self._begin_file()
            return
        there, mine = Path(self._path).stat(), os.fstat(self._file)
        self.problem = ""
        if (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev):
            self.close()
            self._rotations += 1
            self._header = None

    def _fail(self, error: OSError, now_s: float) -> None:
        """A file that is gone may be between two of its rotations; one that is not there yet will be read from its start."""
        if isinstance(error, FileNotFoundError):
            self._from_start = True
            if self._file >= 0:
                self.problem = f"{self._path}: {error.strerror}"
                return  # the old one is open: its writer may not be done
        self.close()
        self.problem = f"{self._path}: {error.strerror or error}"
        self._next_try_s = now_s + self._backoff.next_s()

    # -- its lines ------------------------------------------------------------------------------------------------

    def _take(self, line: bytes, now_s: float, out: list[Reading]) -> None:
        text = line.decode("utf-8", errors="replace")
        if self._first:
            self._first = False
            if self._read_header(text.lstrip("\ufeff")):
                return
        if not text.strip():
            return
        header = self._header
        cells = self._cells(text)
        if header is None or len(cells) != len(header):
            self._bad += 1
            return
        stamp_s = _seconds(cells[0]) if self._stamped else None
        t_s, was_set = (None, False) if self._stamped and stamp_s is None else self._clock.place(stamp_s, now_s)
        if t_s is None:
            self._bad += 1
            return
        if was_set:
            out.append(Reading(t_s, now_s, (), ()))
        self._readings += 1
        out.append(Reading(t_s, now_s, header, [_number(cell) for cell in cells]))

    def _read_header(self, text: str) -> bool:
        """Whether a file's first line is a header; it is then the one."""
        delimiter = ";" if text.count(";") > text.count(",") else ","
        before, self._delimiter = self._delimiter, delimiter
        cells = [cell.strip() for cell in self._cells(text)]
        numeric = any(_number(cell) == _number(cell) for cell in cells)  # false for NaN
        if numeric and self._header is not None and len(cells) == len(self._header):
            self._delimiter = before
            return False
        self._stamped = cells[0].lower() in _CLOCKS
        self._header = ("", *cells[1:]) if self._stamped else tuple(cells)
        return True

    def _cells(self, text: str) -> list[str]:
        if '"' not in text:
            return text.split(self._delimiter)
        try:
            return next(csv.reader([text], delimiter=self._delimiter), [])
        except csv.Error:
            return []


def _number(cell: str) -> float:
    try:
        return float("nan") if "_" in cell else float(cell)  # Python would read 1_0 as 10
    except ValueError:
        return float("nan")


def _seconds(cell: str) -> float | None:
    """A clock cell: seconds, or ISO 8601 (UTC where it names no zone)."""
    value = _number(cell)
    if value == value:  # noqa: PLR0124  # false for NaN
        return value
    text = cell.strip()
    try:
        when = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in {"Z", "z"} else text)
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
