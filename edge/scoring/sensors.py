"""Sensors that have died: a channel that repeats itself bit for bit although it never does, or that brings nothing any more.

Pure. What a channel usually does comes from the device's own normal windows (`usual`): a battery that is told in whole
millivolts stands still quite often, an accelerometer never. A channel that stands still more often than MAX_USUAL is not
judged by this. Nothing is ever filled in: a dead sensor is an alarm of its own kind (`sensor`), beside the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.bundle import Inputs

MAX_USUAL = 0.05  # a channel that stands still in more of its normal windows cannot be judged by it
SENSED_ROWS = 10  # newest rows that are judged of windows that reach far back
CHANCE = 1e-6  # of a run of still windows by accident, windows taken as independent


@dataclass(frozen=True)
class Stuck:
    """A channel that stands still.

    Attributes:
        channel: index.
        windows: consecutive windows in which it did.
        limit: how many of them make an alarm.
        usual: share of normal windows in which it does.
        began: whether this says that it began; else it moves again.
        window: index, among the windows pushed, of the one that told.
    """

    channel: int
    windows: int
    limit: int
    usual: float
    began: bool
    window: int


def sensed_rows(inputs: Inputs) -> int:
    """How many of a window's newest rows are judged: all, but not what lies hundreds of rows back."""
    return min(inputs.window, max(SENSED_ROWS, inputs.hop)) if inputs.padded else inputs.window


def still(samples: NDArray[np.float32], flight: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N, C) whether a channel keeps one value through a window; windows of one sample look at the one before.

    Args:
        samples: (N, T, C), in order.
        flight: (N,) windows of one contiguous stretch share it.
    """
    first, last = samples[:, 0], samples[:, -1]
    out: NDArray[np.bool_] = first == last  # most channels are told apart by two samples
    if samples.shape[1] == 1:
        out[:] = False
        if len(samples) > 1:
            out[1:] = (first[1:] == first[:-1]) & (flight[1:] == flight[:-1])[:, None]
        return out
    for n in np.flatnonzero(out.any(axis=1)).tolist():
        maybe = np.flatnonzero(out[n])
        out[n, maybe] = (samples[n][:, maybe] == first[n, maybe]).all(axis=0)
    return out


def usually_still(samples: NDArray[np.float32], flight: NDArray[np.int64]) -> list[float]:
    """Share of normal windows in which each channel stands still, (C,), with Laplace's rule of succession."""
    found = still(samples, flight)
    return ((found.sum(axis=0) + 1.0) / (len(samples) + 2.0)).tolist() if len(samples) else []


class SensorWatch:
    """Judges the channels of one stream."""

    def __init__(self, usual: Sequence[float], window: int, hop: int, end_windows: int) -> None:
        """Begin.

        Args:
            usual: (C,) from `usually_still`; empty: nothing is known, nothing is judged.
            window: samples of a window.
            hop: samples between two windows; overlapping ones tell the same samples again.
            end_windows: moving windows that end it.
        """
        self._usual = np.asarray(usual, np.float64)
        repeats = max(1.0, window / hop)  # windows that share a sample
        self._limit = np.array([_limit(share, repeats) for share in usual], np.int64)
        self._end_windows = end_windows
        self._flight: int | None = None
        self._before: NDArray[np.float32] | None = None  # newest sample, for windows of one sample
        self._run = np.zeros(len(usual), np.int64)
        self._moved = np.zeros(len(usual), np.int64)
        self.open: set[int] = set()

    @property
    def judging(self) -> bool:
        """Whether it knows what is usual."""
        return len(self._usual) > 0

    def push(self, samples: NDArray[np.float32], flight: NDArray[np.int64]) -> list[Stuck]:
        """Judge the next windows, (N, T, C); returns what began and what ended, in order."""
        if not self.judging or not len(samples):
            return []
        if (
            not self.open
            and samples.shape[1] > 1
            and flight[0] == flight[-1] == self._flight
            and not np.count_nonzero(samples[:, 0] == samples[:, -1])
        ):  # what nearly every window comes to
            self._run[:] = 0
            return []
        found = still(samples, flight)
        if samples.shape[1] == 1:
            if self._before is not None and self._flight == int(flight[0]):
                found[0] = samples[0, 0] == self._before
            self._before = samples[-1, 0].copy()
        new_flight = self._flight is None or bool((flight != self._flight).any())
        if not found.any() and not new_flight and not self.open:
            self._run[:] = 0
            return []
        told: list[Stuck] = []
        for n, (row, number) in enumerate(zip(found, flight.tolist(), strict=True)):
            if number != self._flight:
                self._flight = number
                self._run[:] = 0  # what was still before a gap need not be one run with what is still after it
            self._run = np.where(row, self._run + 1, 0)
            self._moved = np.where(row, 0, self._moved + 1)
            for c in np.flatnonzero((self._limit > 0) & (self._run >= self._limit)).tolist():
                if c not in self.open:
                    self.open.add(c)
                    told.append(self._told(c, int(self._run[c]), n, began=True))
            for c in sorted(self.open):
                if self._moved[c] >= self._end_windows:
                    self.open.discard(c)
                    told.append(self._told(c, int(self._limit[c]), n, began=False))
        return told

    def finish(self) -> list[int]:
        """The stretch is over: the channels that were still until now."""
        ended = sorted(self.open)
        self.open.clear()
        self._run[:] = 0
        self._moved[:] = 0
        self._flight = self._before = None
        return ended

    def confidence(self, channel: int, windows: int) -> float:
        """1 - the chance that a sound sensor stands still so long."""
        return 1.0 - float(self._usual[channel]) ** windows

    def limit(self, channel: int) -> int:
        """Windows that make an alarm of a channel; 0: never."""
        return int(self._limit[channel])

    def _told(self, channel: int, windows: int, window: int, *, began: bool) -> Stuck:
        return Stuck(channel, windows, int(self._limit[channel]), float(self._usual[channel]), began, window)


def _limit(usual: float, repeats: float) -> int:
    if not 0 < usual <= MAX_USUAL:
        return 0
    disjoint = math.ceil(math.log(CHANCE) / math.log(usual))
    return math.ceil((disjoint - 1) * repeats) + 1
