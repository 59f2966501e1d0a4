"""Scores that follow a device's normal level as it moves, within a bound: what drifts is the level of the errors, so that is moved.

A window's error vector e (K,) is scaled so that its score is |e|^2. An `offset` o (K,) is the level of e that counts as normal; the
window scores |e - o|^2. The threshold stays where calibration put it, so what a model has learned to see stays as visible as it was.

* Calm windows move the offset a `rate`-th of the way, which follows slow drift.
* A window above the threshold freezes it until a memory of windows in a row has been calm, and fills a leaky count. Only when the
  count has reached the hold, and the errors keep still about a new level, does the offset move there, in one step; the count then
  begins anew. A fresh alarm is never learned away, and a fault that keeps changing, or comes and goes, never is.
* A level moved to is the mean of a memory of windows and no more certain than that. Calm windows make it the mean of them too: they
  move it 1/n of the way, n windows known of it, until that is less than `rate`.
* |o|^2 never exceeds `bound` thresholds. By Minkowski's inequality a smoothed score without offset above (1 + sqrt(bound))^2
  thresholds is above the threshold with any offset, however slowly somebody went about it.

What it cannot do: a fault that stays at one level for longer than the hold, within the bound, becomes normal. Nothing in the
scores tells it from a drift (docs/decisions/0020). It knows no clock, no disk and no model; memory is 2 K + 6 numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from covey.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Adapt

LEAK = 0.05  # a window: fewer false alarms than this never fill the count, however long they go on
LEVEL_WINDOWS = 128  # memory of the level that the errors have now, and at most a quarter of the hold
STEADY = 4.0  # times the usual score: how much errors that keep still may vary about their level


class LevelState(Struct, frozen=True, forbid_unknown_fields=True):
    """What a `Level` remembers between two flights."""

    offset: list[float]  # K
    mean: list[float]  # K
    variation: float
    count: float
    calm: float = 0.0  # windows in a row that were not above the threshold, at most a memory
    known: float = 0.0  # windows that the offset rests on since it moved in one step; 0: it never has


class Level:
    """The normal level of one stream's errors, and the smoothed scores about it."""

    def __init__(
        self,
        adapt: Adapt,
        outputs: int,
        *,
        threshold: float,
        usual: float,
        smoothing: float,
        known_windows: int,
        log: bool = False,
    ) -> None:
        """Begin at the level that calibration saw.

        Args:
            adapt: of the bundle.
            outputs: K.
            threshold: what smoothed scores are compared with.
            usual: median of normal scores.
            smoothing: weight of the newest window in the scores' EWMA.
            known_windows: normal windows that the calibration rests on.
            log: scores, `threshold` and `usual` are log(1 + |e|^2).
        """
        self.hold_windows = max(adapt.hold_windows, round(adapt.hold_share * known_windows))
        # After a hold of four memories the mean has gone 98 % of the way to a new level.
        self._memory = max(1.0, min(float(LEVEL_WINDOWS), self.hold_windows / 4))
        self._rate = adapt.rate
        self._threshold, self._smoothing = threshold, smoothing
        self._log = log
        size, usual = (math.expm1(threshold), math.expm1(usual)) if log else (threshold, usual)
        self._most = math.sqrt(adapt.bound * size)  # |offset|
        self._steady = STEADY * usual
        self.offset: NDArray[np.float64] = np.zeros(outputs)
        self._mean: NDArray[np.float64] = np.zeros(outputs)
        self._variation = usual
        self._count = 0.0
        self._calm = self._memory  # nothing was above before
        self._known = 0.0
        self._flight: int | None = None
        self._score = 0.0

    def push(self, errors: NDArray[np.floating[Any]], flight: NDArray[np.int64]) -> NDArray[np.float64]:
        """Smoothed scores of windows that follow those of the call before; any batching gives the same.

        Args:
            errors: (N, K) scaled, so that their squares' sum is the score.
            flight: (N,) a new one restarts the smoothing; the level belongs to the device and stays.
        """
        out = np.empty(len(errors))
        rows = np.asarray(errors, np.float64)
        for i, number in enumerate(flight.tolist()):
            error = rows[i]
            about = error - self.offset
            raw = float(about @ about)
            raw = math.log1p(raw) if self._log else raw
            self._score = raw if number != self._flight else self._score + self._smoothing * (raw - self._score)
            self._flight = number
            out[i] = self._score
            if math.isfinite(raw):  # what a broken model says teaches nothing
                self._learn(error, about, raw)
        return out

    def _learn(self, error: NDArray[np.float64], about: NDArray[np.float64], raw: float) -> None:
        away = error - self._mean
        self._variation += (float(away @ away) - self._variation) / self._memory
        self._mean += away / self._memory
        above = not self._score <= self._threshold
        self._count = min(max(self._count + above - LEAK, 0.0), float(self.hold_windows))
        self._calm = 0.0 if above else min(self._calm + 1.0, self._memory)
        if above:
            if self._count >= self.hold_windows and self._variation <= self._steady:
                self._move_to(self._mean)
                self._count = 0.0
                self._calm = self._known = self._memory
        elif (
            self._calm >= self._memory and raw <= self._threshold
        ):  # one window moves it sqrt(threshold) times the gain at most
            self._move_to(self.offset + self._gain() * about)

    def _gain(self) -> float:
        """Share of the way that a calm window moves the level: of a running mean while that is young, else the rate."""
        if not 0 < self._known < 1 / self._rate:
            return self._rate
        self._known += 1.0
        return max(self._rate, 1 / self._known)

    def _move_to(self, level: NDArray[np.float64]) -> None:
        size = math.sqrt(float(level @ level))
        self.offset = level * min(1.0, self._most / size) if size else level.copy()

    def state(self) -> LevelState:
        """What to keep; the smoothing is not kept, since after a restart a new flight begins."""
        return LevelState(
            self.offset.tolist(), self._mean.tolist(), self._variation, self._count, self._calm, self._known
        )

    def restore(self, state: LevelState) -> None:
        """Go on where another left off, within this one's bound.

        Raises:
            DataError: it is of another number of outputs, or holds numbers that are not finite.
        """
        k = len(self.offset)
        if len(state.offset) != k or len(state.mean) != k:
            raise DataError(f"level: {k} outputs expected, {len(state.offset)} and {len(state.mean)} found")
        if not np.isfinite([*state.offset, *state.mean, state.variation, state.count, state.calm, state.known]).all():
            raise DataError("level: finite numbers expected, others found")
        self._move_to(np.array(state.offset))
        self._mean = np.array(state.mean)
        self._variation = max(0.0, state.variation)
        self._count = min(max(state.count, 0.0), float(self.hold_windows))
        self._calm = min(max(state.calm, 0.0), self._memory)
        self._known = max(state.known, 0.0)
        self._flight = None
