"""Lines as readings: JSON objects from standard input, and the clock that lines have.

    {"t": 12.34, "motor.m1": 32100, "imu": {"ax": 0.1}}        t: seconds, optional

With `t`, intervals are the sender's; seconds since 1970 are taken for the time itself. Without, every line is one row at the
model's rate, however they arrive, and a pause longer than the hold time is a gap. The first line decides. Nothing waits here: what
is not there yet is read at the next call.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from edge.sources import Vehicle
from edge.sources.live import Reading
from edge.sources.numbers import LineBuffer, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOCK = "t"
_EPOCH_S = 1e9  # a `t` above it counts from 1970
_BACK_S = 1.0
_CHUNK_BYTES = 65_536


class LineClock:
    """Times of lines, on our monotonic time.

    Attributes:
        exact: without stamps, so that lines are rows.
    """

    def __init__(self, rate_hz: float, hold_s: float) -> None:
        """`rate_hz` of lines without a stamp; a pause of more than `hold_s`, or three periods, between them is a gap."""
        self.exact = False
        self._period_s = 1.0 / rate_hz
        self._pause_s = max(hold_s, 3.0 * self._period_s)
        self._stamped: bool | None = None
        self._base_s = self._begin_s = 0.0  # our time and the stamp of the line that began
        self._newest_s = 0.0
        self._lines = 0

    def place(self, stamp_s: float | None, arrived_s: float) -> tuple[float | None, bool]:
        """Time of the next line, None where it cannot be said; and whether the sender's clock was set before it."""
        if self._stamped is None:
            self._stamped = stamp_s is not None
            self.exact = not self._stamped
            self._begin(stamp_s, arrived_s)
        if not self._stamped:
            t_s = self._base_s + self._lines * self._period_s
            if arrived_s - t_s > self._pause_s + self._period_s:
                self._begin(None, arrived_s)
                t_s = arrived_s
            self._lines += 1
            return t_s, False
        if stamp_s is None or not -1e12 < stamp_s < 1e12:  # NaN too: no time of this world
            return None, False
        was_set = stamp_s < self._newest_s - _BACK_S
        if was_set:
            self._begin(stamp_s, arrived_s)
        self._newest_s = max(self._newest_s, stamp_s)
        return self._base_s + (stamp_s - self._begin_s), was_set

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """Device clock at a line's time."""
        if self._stamped and self._begin_s > _EPOCH_S:
            return t_s - self._base_s + self._begin_s
        return t_s + (clock_s - now_s)

    def _begin(self, stamp_s: float | None, arrived_s: float) -> None:
        self._base_s, self._lines = arrived_s, 0
        self._begin_s = self._newest_s = 0.0 if stamp_s is None else stamp_s


class LinesReader:
    """JSON lines of a file descriptor; see `edge.sources.live.Reader`."""

    label = "stdin"

    def __init__(self, descriptor: int, rate_hz: float, hold_s: float) -> None:
        """Reads standard input, a pipe or a file.

        Args:
            descriptor: left open and as it is: a terminal is shared with others.
            rate_hz: see `LineClock`.
            hold_s: see `LineClock`.
        """
        self.vehicle = Vehicle()
        self.problem = ""
        self.done = False
        self._descriptor = descriptor
        self._clock = LineClock(rate_hz, hold_s)
        self._lines = LineBuffer()
        self._readings = self._bad = 0

    @property
    def exact(self) -> bool:
        """Lines without stamps are rows."""
        return self._clock.exact

    @property
    def counts(self) -> dict[str, int]:
        """Lines read, and those that are none."""
        return {"readings": self._readings, "bad": self._bad + self._lines.too_long}

    def want(self, names: frozenset[str] | None) -> None:
        """All that comes is read anyway."""

    def read(self, now_s: float) -> Sequence[Reading]:
        """Lines that are there."""
        if self.done:
            return []
        try:
            ready, _, _ = select.select([self._descriptor], [], [], 0.0)
            data = os.read(self._descriptor, _CHUNK_BYTES) if ready else None
        except (OSError, ValueError) as error:
            self.problem, self.done = f"stdin: {getattr(error, 'strerror', None) or error}", True
            return []
        if data is None:
            return []
        if data:
            lines = self._lines.feed(data)
        else:
            self.done = True
            lines = [self._lines.last()]
        out: list[Reading] = []
        for line in lines:
            self._take(line, now_s, out)
        return out

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """See `LineClock`."""
        return self._clock.clock_of(t_s, now_s, clock_s)

    def close(self) -> None:
        """Standard input is not ours to close."""

    def _take(self, line: bytes, now_s: float, out: list[Reading]) -> None:
        if not line.strip():
            return
        found = numbers(line)
        if found is None or "" in found:
            self._bad += 1
            return
        stamp_s = found.pop(CLOCK, None)
        t_s, was_set = self._clock.place(stamp_s, now_s)
        if t_s is None:
            self._bad += 1
            return
        if was_set:
            out.append(Reading(t_s, now_s, (), ()))
        self._readings += 1
        if found:
            out.append(Reading(t_s, now_s, tuple(found), tuple(found.values())))
