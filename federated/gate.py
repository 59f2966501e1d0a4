"""What a device's update must be before it is aggregated, and robust means of many; pure NumPy.

The order is fixed: finite and shape, then norm, then clip to the median norm, then the mean. One hostile update must not
be able to move a model far, and one that is not finite must not be able to move it at all. This file knows no family and
no transport; what a family asks beyond it (a covariance that is one) is checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Arrays: TypeAlias = dict[str, NDArray[Any]]

MAX_NORM_RATIO = 20.0  # of the median norm: honest devices of our sets stay within 4
MAX_WINDOWS = 1_000_000  # more than any ring holds: a larger count is a lie that would outweigh a fleet


@dataclass(frozen=True)
class Shape:
    """What one named array of an update must be: its shape (-1: 1 to `most` rows) and its kind of numbers."""

    shape: tuple[int, ...]
    kinds: str = "f"  # NumPy dtype kinds
    most: int = 1


def fault(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, Shape]) -> str | None:
    """Why an update is refused, or None: exactly the expected names, shapes, kinds of numbers, all finite."""
    if arrays.keys() != expected.keys():
        return f"arrays {', '.join(sorted(expected))} expected, {', '.join(sorted(arrays)) or 'none'} came"
    for name, shape in expected.items():
        values = arrays[name]
        if not _fits(values.shape, shape):
            return f"{name}: shape {shape.shape} expected, {values.shape} came"
        if values.dtype.kind not in shape.kinds:
            return f"{name}: numbers of kind {shape.kinds} expected, {values.dtype} came"
        if not np.isfinite(values).all():
            return f"{name}: finite numbers expected, {int((~np.isfinite(values)).sum())} others came"
    return None


def _fits(found: tuple[int, ...], shape: Shape) -> bool:
    if len(found) != len(shape.shape):
        return False
    return all(
        (1 <= have <= shape.most) if want == -1 else have == want for have, want in zip(found, shape.shape, strict=True)
    )


def windows_fault(count: int) -> str | None:
    """Why a number of windows is not believed, or None."""
    if not 0 <= count <= MAX_WINDOWS:
        return f"windows: 0 to {MAX_WINDOWS} expected, {count} came"
    return None


def norm_faults(norms: Sequence[float], ratio: float = MAX_NORM_RATIO) -> list[str | None]:
    """Per update: why its norm is refused, or None. From three updates on; two cannot tell which one lies."""
    if len(norms) < 3:
        return [None] * len(norms)
    bound = ratio * float(np.median(norms))
    return [None if norm <= bound else f"norm of at most {bound:.4g} expected, {norm:.4g} came" for norm in norms]


def clip_to_median(updates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shorten every update (K, P) that is longer than the median one to that length."""
    norms = np.linalg.norm(updates, axis=1)  # (K,)
    bound = float(np.median(norms))
    factors = np.where(norms > bound, bound / np.maximum(norms, 1e-300), 1.0)
    shortened: NDArray[np.float64] = updates * factors[:, None]
    return shortened


def trimmed_mean(updates: NDArray[np.float64], weights: NDArray[np.float64], trim: float) -> NDArray[np.float64]:
    """Weighted mean of each coordinate after cutting its extremes.

    Args:
        updates: (K, P), one row per client.
        weights: (K,) windows each client trained on; all > 0.
        trim: fraction cut from each end, in [0, 0.5); at least one client when it is not 0.

    Raises:
        AggregationError: fewer than three clients, or none remains after trimming.

    Source: Yin et al., ICML 2018, coordinate-wise trimmed mean.
    """
    count = len(updates)
    if count < 3:
        raise AggregationError(f"trimmed mean: at least 3 clients expected, {count} came")
    cut = max(1, int(trim * count)) if trim else 0
    if 2 * cut >= count:
        raise AggregationError(f"trimmed mean: {2 * cut} of {count} clients would be cut")
    order = np.argsort(updates, axis=0, kind="stable")[cut : count - cut]  # (K - 2 cut, P)
    kept = np.take_along_axis(updates, order, axis=0)
    shares = weights[order]
    mean: NDArray[np.float64] = (kept * shares).sum(axis=0) / shares.sum(axis=0)
    return mean


def robust_mean(updates: NDArray[np.float64], weights: NDArray[np.float64], trim: float) -> NDArray[np.float64]:
    """Clip to the median norm, then the trimmed mean; with one or two clients the plain weighted mean.

    Raises:
        AggregationError: no client.
    """
    if not len(updates):
        raise AggregationError("mean: at least one client expected, none came")
    if len(updates) < 3:
        plain: NDArray[np.float64] = (updates * weights[:, None]).sum(axis=0) / weights.sum()
        return plain
    return trimmed_mean(clip_to_median(updates), weights, trim)
