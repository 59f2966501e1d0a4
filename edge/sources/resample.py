"""Readings that come when they like -> rows at a fixed rate, with gaps explicit. Pure: no clock, no source, no file.

The rule. A row at time T holds, for each channel, its newest reading at or before T (zero-order hold, causal). Rows stand in
the middle between the readings that began them, so that jitter below half a period neither repeats nor skips one.

A channel is fresh until a reading is later than its expected interval. A row that needs an older reading waits: when the next
reading comes within the hold time the hole was short and is bridged; else the row is never made, what follows is a gap, and no
row comes while any wanted channel is silent. So nothing is filled in that nobody measured. Readings are not averaged down:
vibration would vanish from them, and a model's training data was sampled, not averaged.

Time is the readings' own. What runs back by more than `BACK_S` begins anew after a gap; a reading not newer than its channel's last
is counted and left out.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BACK_S = 1.0  # of readings out of order; more is a clock that was set back
SLOWEST_S = 5.0  # a channel with less than one reading in so long is silent, not slow
_HOLD_INTERVALS = 3.0
_REACH_INTERVALS = 0.75  # a row so far behind the place of its reading's own row needs the next reading
_KNOWN = 2  # readings; the first interval is taken as it is
_LEARN = 0.125  # of the newest interval in the running mean
_MOST_WAITING = 65_536  # readings; beyond it time stands still while readings come
_HAIR = 0.01
_LARGEST = float(np.finfo(np.float32).max)
# Between readings of different channels; a row is certain with the next reading.
_DISORDER_PERIODS, _DISORDER_S = 0.4, 0.05

Reading = tuple[float, list[tuple[int, float]]]  # time, (slot, value)


class Portion(NamedTuple):
    """Rows that follow each other."""

    rows: NDArray[np.float32]  # (n, C)
    t_s: float  # of the first
    gap: bool  # rows are missing before it


class Resampler:
    """One stream of rows.

    Attributes:
        late: readings left out, not newer than their channel's last, or too many at one time.
        no_number: readings left out, NaN, infinite, or too large for float32.
        jumps: times that time ran back, or that the source said its clock was set.
        newest_s: time of the newest reading; None before the first.
    """

    def __init__(self, wanted: int, rate_hz: float, hold_s: float, *, extras: int = 0, exact: bool = False) -> None:
        """Nothing was read yet.

        Args:
            wanted: channels (slots 0 to this) without which there is no row.
            rate_hz: of the rows.
            hold_s: silence of a channel that ends the rows; at least three of its own intervals.
            extras: further slots behind them; NaN in a row before their first reading, held for ever after it.
            exact: readings come with exactly this rate, all channels at once: rows stand on them, without delay.
        """
        self._period_s = 1.0 / rate_hz
        self._hold_s = hold_s
        self._wanted = wanted
        count = wanted + extras
        self.set_exact(exact=exact)
        self._interval_s = [self._period_s] * count  # expected, until two readings tell
        self._readings = [0] * count
        self._seen_s = [-np.inf] * count
        self._values = [float("nan")] * count
        self._waiting: deque[Reading] = deque()
        self._anchor_s: float | None = None  # of row 0; None: no rows now
        self._row = 0
        self._gap = False
        self._made: list[list[float]] = []
        self._first_s = 0.0
        self._done: list[Portion] = []
        self.newest_s: float | None = None
        self._start_s = 0.0  # first reading since time began anew
        self.late = 0
        self.no_number = 0
        self.jumps = 0

    def set_exact(self, *, exact: bool) -> None:
        """See the constructor; before the first reading."""
        # A hair behind the reading, so that rounding of its time takes no part.
        self._phase_s = _HAIR * self._period_s if exact else 0.5 * self._period_s
        self._slack_s = -2 * self._phase_s if exact else min(_DISORDER_PERIODS * self._period_s, _DISORDER_S)

    def add(self, t_s: float, pairs: Sequence[tuple[int, float]]) -> None:
        """Take the readings of one instant, (slot, value) each."""
        newest_s = self.newest_s
        if newest_s is None or t_s < newest_s - BACK_S:
            if newest_s is not None:
                self.cut()
            self.newest_s = newest_s = self._start_s = t_s
        fresh, silent = self._fresh(t_s, pairs)
        if not fresh:
            return
        if silent and self._anchor_s is not None:
            self._build(t_s)
            self._stop()
        seen, interval, readings = self._seen_s, self._interval_s, self._readings
        for slot, _ in fresh:
            since_s = t_s - seen[slot]
            seen[slot] = t_s
            readings[slot] += 1
            if since_s <= SLOWEST_S:
                interval[slot] += (since_s - interval[slot]) * (_LEARN if readings[slot] > _KNOWN else 1.0)
        if t_s > newest_s:
            self.newest_s = t_s
        if self._anchor_s is None:
            for slot, value in fresh:
                self._values[slot] = value
            self._begin()
        elif len(self._waiting) >= _MOST_WAITING:
            self.late += len(fresh)
        elif not self._waiting or t_s >= self._waiting[-1][0]:
            self._waiting.append((t_s, fresh))
        else:
            ordered = list(self._waiting)
            insort(ordered, (t_s, fresh), key=_time)
            self._waiting = deque(ordered)

    def take(self) -> list[Portion]:
        """Rows that are certain by now."""
        self._build()
        self._close()
        done, self._done = self._done, []
        return done

    def cut(self) -> None:
        """Time has no meaning across this point: a gap."""
        self._build_last()
        self._stop()
        self.jumps += 1
        self.newest_s = None
        self._seen_s = [-np.inf] * len(self._seen_s)

    def finish(self) -> list[Portion]:
        """Nothing comes any more: the rows that waited for it."""
        self._build_last()
        return self.take()

    def hold_of(self, slot: int) -> float:
        """Silence of a channel that counts as missing, s."""
        return max(self._hold_s, _HOLD_INTERVALS * self._interval_s[slot])

    def readings_of(self, slot: int) -> int:
        """How many readings a channel has had."""
        return self._readings[slot]

    def silent_s(self, slot: int) -> float:
        """Time since a channel's last reading, or since time began (anew), by the newest reading of all."""
        return 0.0 if self.newest_s is None else self.newest_s - max(self._seen_s[slot], self._start_s)

    @property
    def quiet_s(self) -> float:
        """The longest of `silent_s` of the wanted channels."""
        if self.newest_s is None:
            return 0.0
        return self.newest_s - max(min(self._seen_s[: self._wanted], default=self.newest_s), self._start_s)

    def last_s(self, slot: int) -> float | None:
        """Time of a channel's last reading; None before the first since time began (anew)."""
        seen_s = self._seen_s[slot]
        return None if seen_s == -np.inf else seen_s

    def _fresh(self, t_s: float, pairs: Sequence[tuple[int, float]]) -> tuple[list[tuple[int, float]], bool]:
        """Readings newer than their channels' last, and whether one was silent before."""
        seen, fresh, silent = self._seen_s, [], False
        for pair in pairs:
            slot, value = pair
            if not -_LARGEST <= value <= _LARGEST:  # NaN too
                self.no_number += 1
                continue
            since_s = t_s - seen[slot]
            if since_s <= 0:
                self.late += 1
                continue
            fresh.append(pair)
            if since_s > self._hold_s and slot < self._wanted and since_s > self.hold_of(slot):
                silent = True
        return fresh, silent

    def _begin(self) -> None:
        newest_s = self.newest_s
        if newest_s is None or any(newest_s - self._seen_s[c] > self.hold_of(c) for c in range(self._wanted)):
            return
        self._anchor_s, self._row = newest_s + self._phase_s, 0

    def _build(self, seen_until_s: float | None = None) -> None:
        """Make the rows that are certain; `seen_until_s`: nothing more will come before that time."""
        anchor_s, newest_s = self._anchor_s, self.newest_s
        if anchor_s is None or newest_s is None:
            return
        seen, interval, wanted = self._seen_s, self._interval_s, range(self._wanted)
        reach_s = self._phase_s + min(seen[c] + _REACH_INTERVALS * max(interval[c], self._period_s) for c in wanted)
        upto_s = min(reach_s, newest_s - self._slack_s if seen_until_s is None else seen_until_s)
        waiting, values, made = self._waiting, self._values, self._made
        t_s = anchor_s + self._row * self._period_s
        while t_s <= upto_s:
            while waiting and waiting[0][0] <= t_s:
                for slot, value in waiting.popleft()[1]:
                    values[slot] = value
            if not made:
                self._first_s = t_s
            made.append(values[:])
            self._row += 1
            t_s = anchor_s + self._row * self._period_s
        if any(newest_s - seen[c] > self._hold_s and newest_s - seen[c] > self.hold_of(c) for c in wanted):
            self._stop()

    def _build_last(self) -> None:
        """The row after the last reading, not one more."""
        if self.newest_s is not None:
            self._build(self.newest_s + 0.99 * self._period_s)

    def _stop(self) -> None:
        """No more rows until every wanted channel is there again."""
        self._close()
        for _, pairs in self._waiting:
            for slot, value in pairs:
                self._values[slot] = value
        self._waiting.clear()
        self._anchor_s = None
        self._gap = True

    def _close(self) -> None:
        if self._made:
            rows = np.array(self._made, dtype=np.float32)
            self._done.append(Portion(rows, self._first_s, self._gap))
            self._made = []
            self._gap = False


def _time(reading: Reading) -> float:
    return reading[0]
