"""The group's center and scale from its devices': what a device uses until it has calibrated itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.gate import Arrays


def pool_affine(updates: Sequence[Arrays]) -> Arrays:
    """`center` and `scale` (D,): median of the centers, and the scale of a device chosen at random.

    scale^2 = median of the devices' scale^2 + variance of their centers: without its own center a device must expect to
    lie as far off as devices do. Medians, so that one odd device decides nothing.
    """
    centers = np.array([update["center"] for update in updates], np.float64)  # (K, D)
    scales = np.array([update["scale"] for update in updates], np.float64)
    return {
        "center": np.median(centers, axis=0),
        "scale": np.sqrt(np.median(np.square(scales), axis=0) + centers.var(axis=0)),
    }
