"""The group's center and scale from its devices': what a device uses until it has calibrated itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.gate import Arrays


FAR = 6.0  # median distances from the median: four deviations of normally distributed centers


def pool_affine(updates: Sequence[Arrays]) -> Arrays:
    """`center` and `scale` (D,): median of the centers, and the scale of a device chosen at random.

    scale^2 = median of the devices' scale^2 + variance of their centers: without its own center a device must expect to
    lie as far off as devices do. Medians, and no centers that are far off, so that one odd device decides nothing.
    """
    centers = np.array([update["center"] for update in updates], np.float64)  # (K, D)
    scales = np.array([update["scale"] for update in updates], np.float64)
    center = np.median(centers, axis=0)
    apart = centers - center
    near = np.abs(apart) <= FAR * np.median(np.abs(apart), axis=0)  # (K, D)
    return {
        "center": center,
        "scale": np.sqrt(np.median(np.square(scales), axis=0) + apart.var(axis=0, where=near)),
    }
