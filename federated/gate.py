"""What a device's update must be before it is aggregated; pure NumPy.

The order is fixed: finite and shape, then norm, then clip, then distance and direction, then the rule (federated/rules.py). One hostile update must not
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
    from collections.abc import Iterator, Mapping, Sequence

Arrays: TypeAlias = dict[str, NDArray[Any]]

MAX_NORM_RATIO = 20.0  # of the median norm: honest devices of our sets stay within 4
FAR_FROM = 8  # updates: of fewer, honest ones lie farther apart than lies do
FAR_STEP = 3.0  # of the median distance, for shortened changes of weights: honest devices of our sets stay within 2.8
AGREED = 0.5  # median cosine with the median change from which on one that points the other way is refused
FAR_SUM = 4.0  # for pca's scatters: within 2.3
COLUMNS_BYTES = 32 << 20  # of updates that are compared at a time
MAX_WEIGHT_RATIO = 4.0  # of the median number of windows
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


def far_faults(updates: Sequence[Arrays], ratio: float) -> list[str | None]:
    """Per update: why its distance from the coordinate-wise median of all is refused, or None. From FAR_FROM updates on.

    Args:
        updates: same names and shapes.
        ratio: bound, in median distances.
    """
    if len(updates) < FAR_FROM:
        return [None] * len(updates)
    squares = np.zeros(len(updates))
    for rows in _columns(updates):
        rows -= np.median(rows, axis=0)  # noqa: PLW2901  # in place on purpose: it may be large
        squares += np.square(rows, out=rows).sum(axis=1)
    distances = np.sqrt(squares)
    bound = ratio * float(np.median(distances))
    return [
        None
        if distance <= bound
        else f"distance of at most {bound:.4g} from the others' median expected, {distance:.4g} came"
        for distance in distances.tolist()
    ]


def away_faults(steps: Sequence[Arrays]) -> list[str | None]:
    """Per change of weights: why its direction is refused, or None. From FAR_FROM on, and only while most agree.

    Late in training changes are mostly noise, agree with nothing, and no direction is wrong.
    """
    if len(steps) < FAR_FROM:
        return [None] * len(steps)
    dots, squares, middle_square = np.zeros(len(steps)), np.zeros(len(steps)), 0.0
    for rows in _columns(steps):
        middle = np.median(rows, axis=0)
        dots += rows @ middle
        squares += np.square(rows, out=rows).sum(axis=1)
        middle_square += float(middle @ middle)
    cosines = dots / np.maximum(np.sqrt(squares * middle_square), 1e-300)
    agreed = float(np.median(cosines))
    return [
        None
        if cosine >= 0 or agreed < AGREED
        else f"direction of most (cosine {agreed:.2g} with the median) expected, the opposite ({cosine:.2g}) came"
        for cosine in cosines.tolist()
    ]


def _columns(updates: Sequence[Arrays]) -> Iterator[NDArray[np.float64]]:
    """All values of all updates, (K, some) at a time: whole, 10,000 updates of 6,000 weights are half a GB."""
    step = max(1, COLUMNS_BYTES // (8 * len(updates)))
    for name in sorted(updates[0]):
        flat = [update[name].ravel() for update in updates]
        for start in range(0, flat[0].size, step):
            yield np.array([values[start : start + step] for values in flat], np.float64)


def require_finite(state: Mapping[str, NDArray[Any]]) -> None:
    """The last look at what was merged, before it is kept.

    Raises:
        AggregationError: a number that is not finite.
    """
    for name, values in state.items():
        if not np.isfinite(values).all():
            raise AggregationError(f"merged {name}: finite numbers expected, others came")


def length(step: Arrays) -> float:
    """Euclidean norm of all values of an update."""
    return float(np.sqrt(sum(float(np.square(values, dtype=np.float64).sum()) for values in step.values())))


def shortened(step: Arrays, norm: float, bound: float) -> Arrays:
    """An update of that norm, cut to the bound."""
    if norm <= bound:
        return step
    return {name: values * (bound / norm) for name, values in step.items()}


def bounded_weights(windows: Sequence[int], ratio: float = MAX_WEIGHT_RATIO) -> list[float]:
    """Weights of updates by the windows behind them, at most `ratio` times the median: a number of windows can be a lie."""
    bound = ratio * max(float(np.median(windows)), 1.0)
    return [min(max(float(count), 1.0), bound) for count in windows]
