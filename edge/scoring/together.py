"""Scores windows of many devices that share a bundle in one go: one call of the network, one pass of NumPy for all.

The arithmetic is `Scorer`'s, row by row: a device's scores do not depend on who is scored beside it. Each device has its own
calibration and its own smoothing. For whoever runs many agents in one process: a simulated fleet, a replay.

It judges nothing: thresholds, levels that adapt, alarms and summaries are each device's own (edge/core.py, `judge`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from edge.scoring.scorer import Network, Scored, normalise, raw_scores, scaled_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.bundle import Calibration, Manifest


class Together:
    """The scoring side of K devices; keeps their smoothing.

    Args:
        manifest: of the bundle that all of them run.
        network: what runs it.
        calibrations: one per device; None: the group's defaults.

    Raises:
        DataError: `temporal` features, which are each device's own.
    """

    def __init__(self, manifest: Manifest, network: Network, calibrations: Sequence[Calibration | None]) -> None:
        if manifest.inputs.padded:
            raise DataError(
                "devices scored together: features lag or drone expected, temporal ones are each device's own"
            )
        self._kind = manifest.model.kind
        self._alpha = manifest.scoring.smoothing
        self._adapts = manifest.scoring.adapt is not None
        self._network = network
        self._clip = manifest.defaults.clip
        # Devices of one calibration share its rows.
        kinds = list({id(one): one for one in calibrations}.values())
        number = {id(one): n for n, one in enumerate(kinds)}
        bases = [manifest.defaults if one is None else one for one in kinds]
        self._affine = np.array([number[id(one)] for one in calibrations], np.int64)  # (K,)
        self._center = np.array([base.center for base in bases], np.float32)
        self._scale = np.array([base.scale for base in bases], np.float32)
        count, width = len(calibrations), manifest.model.inputs
        self._flight = np.full(count, -1, np.int64)
        self._score = np.zeros(count)
        self._error = np.zeros((count, width), np.float32)

    def score(self, device: NDArray[np.int64], phi: NDArray[np.float32], flight: NDArray[np.int64]) -> Scored:
        """Scores of N windows.

        Args:
            device: (N,) 0..K-1; the windows of one device in order, those of several in any mixture.
            phi: (N, D) feature vectors, not yet normalised.
            flight: (N,) not negative; smoothing begins anew where a device's flight changes.
        """
        affine = self._affine[device]
        z = normalise(phi, self._center[affine], self._scale[affine], self._clip)
        y = self._network.run(z)
        raw = raw_scores(self._kind, z, y)
        error = z if self._kind == "project" else z - y
        score, smooth = np.empty_like(raw), np.empty_like(error)
        for turn in _turns(device):
            who = device[turn]
            begins = self._flight[who] != flight[turn]
            self._flight[who] = flight[turn]
            # A flight begins with its first window: raw + alpha x 0.
            before = np.where(begins, raw[turn], self._score[who])
            score[turn] = self._score[who] = before + self._alpha * (raw[turn] - before)
            old = np.where(begins[:, None], error[turn], self._error[who])
            smooth[turn] = self._error[who] = old + np.float32(self._alpha) * (error[turn] - old)
        return Scored(raw, score, z, smooth, scaled_errors(self._kind, z, y) if self._adapts else None)


def _turns(device: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers in turns: each holds at most one row of a device, and a device's rows keep their order."""
    order = np.argsort(device, kind="stable")
    grouped = device[order]
    first = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(device) else np.empty(0, np.int64)
    rank = np.arange(len(device)) - np.repeat(first, np.diff(np.r_[first, len(device)]))
    return [order[rank == turn] for turn in range(int(rank.max()) + 1)] if len(device) else []
