"""A device's own directions of normal variation, beside the group's network: what lies beyond them counts as well.

The network is the group's and signed; it cannot be another one on every device. Devices that are unlike their group still
vary in ways of their own, and a device finds these by itself, from the windows in its ring: the leading principal components of
each branch's features. A window's distance from them (Q statistic) is added to what the network says of it, in float32: a
few thousand products a window, no model writer on the device. Pure NumPy.

Source of Q: Jackson and Mudholkar, Technometrics 21(3), 1979.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from edge.scoring.temporal import branch_of_feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.bundle import Calibration, Defaults, Manifest

_LEAST = 1e-9  # mean distance of windows that never leave their directions


@dataclass(frozen=True)
class Own:
    """Directions and weights of each branch.

    Attributes:
        parts: features of each branch.
        directions: (k, D') float32 each, orthonormal rows.
        weights: of the distances.
    """

    parts: Sequence[slice]
    directions: Sequence[NDArray[np.float32]]
    weights: Sequence[float]

    @classmethod
    def of(cls, manifest: Manifest, base: Defaults | Calibration) -> Own | None:
        """A calibration's; None where it has none, as in a bundle's defaults."""
        content = getattr(base, "directions", [])
        if not content:
            return None
        parts = branch_parts(manifest)
        directions = [
            np.frombuffer(rows, "<f4").reshape(-1, part.stop - part.start)
            for rows, part in zip(content, parts, strict=True)
        ]
        return cls(parts, directions, base.own_weights if hasattr(base, "own_weights") else [])

    def distances(self, e: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, D) features about the center -> (N, branches) squared distance from each branch's directions."""
        out = np.empty((len(e), len(self.parts)))
        for number, (part, rows) in enumerate(zip(self.parts, self.directions, strict=True)):
            mine = e[:, part]
            inside = np.square(mine @ rows.T, dtype=np.float64).sum(axis=1)
            out[:, number] = np.maximum(np.square(mine, dtype=np.float64).sum(axis=1) - inside, 0.0)
        return out

    def residuals(self, e: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, D) what lies beyond the directions, scaled so that the squares' sum is `score`."""
        out = np.empty(e.shape)
        for part, rows, weight in zip(self.parts, self.directions, self.weights, strict=True):
            mine = e[:, part]
            out[:, part] = (mine - (mine @ rows.T) @ rows) * np.sqrt(weight)
        return out

    def score(self, e: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) weighted distances."""
        out: NDArray[np.float64] = self.distances(e) @ np.asarray(self.weights, np.float64)
        return out


def branch_parts(manifest: Manifest) -> list[slice]:
    """Features of each branch."""
    branch = branch_of_feature(manifest.inputs)
    edges = np.searchsorted(branch, np.arange(int(branch[-1]) + 2))
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def find_own(e: NDArray[np.float32], parts: Sequence[slice], keep: float, share: float) -> Own:
    """The directions that together hold `keep` of each branch's variance over these windows.

    Args:
        e: (N, D) of normal windows, about their center.
        parts: features of each branch.
        keep: share of the variance, in (0, 1).
        share: what all distances together come to, in the mean over these windows.
    """
    directions = []
    for part in parts:
        mine = e[:, part].astype(np.float64)
        values, vectors = np.linalg.eigh(mine.T @ mine / max(len(mine), 1))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        held = np.cumsum(values) / max(float(values.sum()), _LEAST)
        kept = min(int(np.searchsorted(held, keep)) + 1, len(values) - 1)
        directions.append(np.ascontiguousarray(vectors[:, :kept].T, np.float32))
    draft = Own(parts, directions, [])
    mean = draft.distances(e).mean(axis=0)
    return Own(parts, directions, [share / len(parts) / max(float(one), _LEAST) for one in mean])
