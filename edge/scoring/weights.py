"""How much each output of a projecting model counts in a window's score, and which normal windows a device believes.

Pure NumPy. Which outputs of a branch count is the group's to say (a bundle's `defaults.weights`); how large they usually are
together differs from device to device, so each branch is weighed by its own mean on the device's normal windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LEAST = 1e-9  # mean score of a branch that never moved


def balanced(squares: NDArray[np.float64], weights: NDArray[np.float64], branch: Sequence[int]) -> NDArray[np.float64]:
    """(K,) weights of y^2 under which every branch scores the same in the mean, and all together 1.

    Args:
        squares: (N, K) y^2 of normal windows, N >= 1.
        weights: (K,) of the group.
        branch: (K,) that an output belongs to.
    """
    which = np.asarray(branch)
    mean = squares.mean(axis=0) * weights  # (K,)
    numbers = np.unique(which)
    out = weights.copy()
    for number in numbers:
        here = which == number
        out[here] /= max(float(mean[here].sum()), _LEAST) * len(numbers)
    return out


def believed(scores: NDArray[np.float64], trim: float) -> NDArray[np.bool_]:
    """(N,) all but the `trim` share of windows that score highest: of what a device believes normal, some is not."""
    if not trim or len(scores) < 2:
        return np.ones(len(scores), np.bool_)
    out: NDArray[np.bool_] = scores <= np.quantile(scores, 1 - trim)
    return out
