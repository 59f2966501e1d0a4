"""Quantiles and shares as the report tells them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Quantiles(Struct, frozen=True):
    """Order statistics of n values, by nearest rank: each is a value that was there. None without one."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


def quantiles(values: Sequence[float] | NDArray[np.float64]) -> Quantiles:
    """Of finite values in any order."""
    if not len(values):
        return Quantiles(0)
    told = np.quantile(np.asarray(values, np.float64), (0.5, 0.95, 0.99, 1.0), method="inverted_cdf")
    p50, p95, p99, top = (float(value) for value in told)
    return Quantiles(len(values), p50, p95, p99, top)


def share(part: float, whole: float) -> float | None:
    """`part` of `whole`; None where there is no whole."""
    return part / whole if whole > 0 else None
