"""Drift on the device: how far what comes in now lies from what the model was made for. NumPy only; pure.

Scores are compared with the reference's deciles (population stability index), inputs with zero: normalised features have
mean 0 where nothing moved. Both forget with a half-life, so that a slow drift shows and a gust does not. The index is
corrected for how few windows it rests on: without it, ten windows of a sound device would always look like drift.

Source of the index and of the usual limits .1 (look) and .25 (act): Siddiqi, Credit Risk Scorecards, 2006; its bias of
(bins - 1)/n: Yurdakul, Statistical Properties of Population Stability Index, 2018.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.sketch import Sketch

HALF_LIFE_WINDOWS = 256
_BINS = 10
_LEAST = 1e-4  # share of an empty bin, so that its logarithm is finite


class Drifted(NamedTuple):
    """Where the stream stands.

    Attributes:
        psi: of the scores against the reference; 0: none, above .25: another distribution.
        shift: |mean z| of the feature that moved most, in its own usual spreads.
        feature: its index; -1 before the first window.
    """

    psi: float
    shift: float
    feature: int


class DriftWatch:
    """The memory of one stream."""

    def __init__(self, reference: Sketch, features: int) -> None:
        """Begin.

        Args:
            reference: scores of normal windows.
            features: D.
        """
        edges = sorted({reference.quantile(i / _BINS) for i in range(1, _BINS)})
        self._edges = edges
        self._expected = _shares(_counts(reference, edges))
        self._decay = 0.5 ** (1.0 / HALF_LIFE_WINDOWS)
        self._found = [0.0] * (len(edges) + 1)
        self._weight = self._squares = 0.0  # sums of the windows' weights and of their squares
        self._z: NDArray[np.float64] = np.zeros(features)

    def now(self) -> Drifted:
        """What the windows of about the last half-lives say."""
        if not self._weight:
            return Drifted(0.0, 0.0, -1)
        n = self._weight * self._weight / self._squares  # Kish's effective sample size
        found = _shares(self._found)
        psi = float(((found - self._expected) * np.log(found / self._expected)).sum())
        mean = np.abs(self._z) / self._weight
        feature = int(np.argmax(mean))
        return Drifted(max(0.0, psi - len(self._edges) / n), float(mean[feature]), feature)

    def add(self, scores: Sequence[float], z: NDArray[np.float32]) -> None:
        """Windows in order, many at a time: alone, one would cost more in calls than in sums.

        Args:
            scores: n smoothed scores.
            z: (n, D) their normalised features.
        """
        n = len(scores)
        weights = self._decay ** np.arange(n - 1, -1, -1)  # (n,) the newest weighs 1
        faded = self._decay**n
        self._found = [one * faded for one in self._found]
        for score, weight in zip(scores, weights.tolist(), strict=True):
            self._found[bisect_right(self._edges, score)] += weight
        self._weight = self._weight * faded + float(weights.sum())
        self._squares = self._squares * faded * faded + float(np.square(weights).sum())
        self._z *= faded
        self._z += weights @ z  # (n,) (n, D) -> (D,)


def _counts(sketch: Sketch, edges: Sequence[float]) -> list[float]:
    counts = [0.0] * (len(edges) + 1)
    (zero, _), *bins = sketch.to_wire()
    counts[bisect_right(edges, 0.0)] += zero
    for index, n in bins:
        counts[bisect_right(edges, type(sketch).value_of(index))] += n
    return counts


def _shares(counts: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(counts, np.float64)
    return np.maximum(found / max(float(found.sum()), _LEAST), _LEAST)
