"""From windows to what a summary says of a period: distribution of scores, alarmed windows, drift.

Pure: it knows no clock and no device. What else a summary holds (health, reported state) is handed in when it is built.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from covey.sketch import MAX_VALUE, MIN_VALUE, Sketch
from covey.wire import Drift, Health, Position, Reported, Scores, Summary
from edge.scoring.drift import DriftWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_AT_ONCE = 32  # windows whose features are summed together
_MAX_OPEN = 16  # as wire.Summary has it


class SummaryBuilder:
    """Accumulates windows between two summaries."""

    def __init__(self, reference: Sketch, channel_of_feature: Sequence[str] = ()) -> None:
        """Begin the first period.

        Args:
            reference: scores of normal windows, which drift is measured against.
            channel_of_feature: (D,) names; "" where a feature has no channel of its own.
        """
        self._reference, self._names = reference, channel_of_feature
        self._reference_p50 = reference.quantile(0.5)
        self._drift: DriftWatch | None = None
        self._waiting: list[tuple[float, NDArray[np.float32]]] = []
        self._end_s = 0.0
        self._begin()

    def _begin(self) -> None:
        self._sketch, self._inputs = Sketch(), Sketch()
        self._max = 0.0
        self._alarmed = 0
        self._z_sum: NDArray[np.float64] | None = None
        self._start_s: float | None = None

    @property
    def windows(self) -> int:
        """Windows of the period so far."""
        return self._sketch.count

    def add(self, score: float, z: NDArray[np.float32], start_s: float, end_s: float, *, alarmed: bool) -> None:
        """One window.

        Args:
            score: smoothed; one that is no number counts as the greatest there is.
            z: (D,) normalised features, which nobody changes afterwards.
            start_s: device clock of its oldest sample.
            end_s: device clock just after its newest one.
            alarmed: an alarm is open.
        """
        score = wire_score(score)
        self._sketch.add(score)
        self._max = max(self._max, score)
        self._alarmed += alarmed
        self._waiting.append((score, z))
        if len(self._waiting) >= _AT_ONCE:
            self._fold()
        self._start_s = start_s if self._start_s is None else self._start_s
        self._end_s = end_s

    def build(
        self,
        now_s: float,
        threshold: float,
        reported: Reported,
        health: Health,
        open_alarms: Sequence[str] = (),
        flight: str = "",
        position: Position | None = None,
    ) -> Summary:
        """The summary of the period; the next one begins. Without a window it is a moment at `now_s`."""
        self._fold()
        scores, drift, n = Scores(0.0, 0.0, 0.0, 0.0, Sketch().to_wire()), Drift(0.0, 0.0), self._sketch.count
        start_s, end_s = now_s, now_s
        if n and self._z_sum is not None and self._start_s is not None:
            p50, p95, p99 = (min(self._sketch.quantile(q), self._max) for q in (0.5, 0.95, 0.99))
            scores = Scores(short(p50), short(p95), short(p99), short(self._max), self._sketch.to_wire())
            drift = self._drifted(float(np.abs(self._z_sum / n).mean()), p50 / max(self._reference_p50, MIN_VALUE))
            start_s, end_s = round(self._start_s, 3), round(self._end_s, 3)
        summary = Summary(
            start_s=start_s,
            end_s=end_s,
            windows=n,
            alarmed_windows=self._alarmed,
            threshold=short(threshold),
            score=scores,
            drift=drift,
            reported=reported,
            health=health,
            open_alarms=list(open_alarms)[:_MAX_OPEN],
            flight=flight,
            position=position,
        )
        self._begin()
        return summary

    def _fold(self) -> None:
        """Take the features that wait, all at once: a window alone would cost more in calls than in sums."""
        if not self._waiting:
            return
        z = np.stack([row for _, row in self._waiting])  # (n, D)
        if self._drift is None:
            self._drift = DriftWatch(self._reference, z.shape[1])
        self._drift.add([score for score, _ in self._waiting], z)
        self._inputs.extend(np.abs(z).mean(axis=1).tolist())
        total = z.sum(axis=0, dtype=np.float64)
        self._z_sum = total if self._z_sum is None else self._z_sum + total
        self._waiting.clear()

    def _drifted(self, moved: float, ratio: float) -> Drift:
        psi, shift, feature = (0.0, 0.0, -1) if self._drift is None else self._drift.now()
        name = self._names[feature] if 0 <= feature < len(self._names) else ""
        return Drift(short(moved), short(ratio), short(psi), short(shift), name, coarser(self._inputs).to_wire())


def wire_score(score: float) -> float:
    """A score as messages hold it: JSON knows neither NaN nor infinity, and a broken model's score is a high one."""
    return MAX_VALUE if math.isnan(score) else min(max(score, 0.0), MAX_VALUE)


def short(value: float) -> float:
    """Six significant digits: more are noise, and a third of a message."""
    return float(f"{value:.6g}")


def coarser(sketch: Sketch) -> Sketch:
    """The same counts in every fifth bin: within 5 % instead of 1 %, and a fifth of the bytes."""
    out = Sketch(sketch.zero)
    for index, n in sketch.bins.items():
        middle = 5 * ((index + 2) // 5)
        out.bins[middle] = out.bins.get(middle, 0) + n
    return out
