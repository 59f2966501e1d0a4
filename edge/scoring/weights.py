"""How much each output of a projecting model counts in a window's score: the device's own share of personalisation.

Pure NumPy. The network turns a window into outputs along the group's principal directions; how much of its variation a device
has along each of them is its own, and so is what is left over. Within a branch, the directions that together hold `keep` of
the device's variance are normal variation and count little (`within`, standardised: T^2); what lies beyond them counts by its
size (Q). Branches count alike: each by its own mean on normal windows.

Sources: Q and T^2 statistics, Jackson and Mudholkar, Technometrics 21(3), 1979.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Outputs

_LEAST = 1e-9  # variance of an output that never moved


def output_weights(squares: NDArray[np.float64], rule: Outputs) -> NDArray[np.float64]:
    """(K,) weights of y^2 under which the mean score of these normal windows is 1.

    Args:
        squares: (N, K) y^2 of normal windows, N >= 1.
        rule: of the bundle.
    """
    branch, size = np.asarray(rule.branch), np.asarray(rule.variance, np.float64)
    mean = squares.mean(axis=0)  # (K,)
    weights = np.zeros(len(mean))
    numbers = np.unique(branch)
    for number in numbers:
        here = np.flatnonzero(branch == number)
        own = one_branch(mean[here], size[here], rule)
        weights[here] = own / max(float(own @ mean[here]) * len(numbers), _LEAST)
    return weights


def one_branch(mean: NDArray[np.float64], size: NDArray[np.float64], rule: Outputs) -> NDArray[np.float64]:
    """(K',) weights within one branch.

    Args:
        mean: (K',) of y^2.
        size: (K',) variance of the features that one unit of y^2 stands for.
        rule: of the bundle.
    """
    variance = mean * size
    order = np.argsort(-variance, kind="stable")
    share = np.cumsum(variance[order]) / max(float(variance.sum()), _LEAST)
    kept = min(int(np.searchsorted(share, rule.keep)) + 1, len(order) - 1)
    weights = np.zeros(len(order))
    inner, outer = order[:kept], order[kept:]
    weights[outer] = size[outer] / max(len(outer), 1)
    weights[inner] = rule.within / max(kept, 1) / np.maximum(mean[inner], _LEAST)
    return weights


def personal_weights(squares: NDArray[np.float64], rule: Outputs) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(K,) as `output_weights`, and (N,) which windows they rest on: not the `trim` share that scores highest at first.

    What a device believes normal holds the odd window that is not; it must not widen what counts as normal.
    """
    weights = output_weights(squares, rule)
    believed = np.ones(len(squares), np.bool_)
    if rule.trim and len(squares) > 1:
        scores = squares @ weights
        believed = scores <= np.quantile(scores, 1 - rule.trim)
        weights = output_weights(squares[believed], rule)
    return weights, believed
