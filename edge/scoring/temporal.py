"""Features `temporal`: linear filters over the last rows of each channel, of a window padded back to its flight's start.

Pure NumPy. The filters come with the bundle, what is normal of a channel (center, scale) from the device. A filter looks
at one window only, so a score depends on no memory but the window's; where a window begins before its flight does, the
flight's first row stands there: an exponential average then is what it would be had it begun with that row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Branch, Calibration, Defaults, Inputs

_BLOCKS = 8
_BATCH = 256  # windows at a time: bounds memory, since a long recording's windows are views of its rows


@dataclass(frozen=True)
class Channels:
    """What is normal of each channel on this device.

    Attributes:
        center: (C,) float32.
        scale: (C,) float32, > 0.
        wandering: indices of the channels that are taken from their slow average.
    """

    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    wandering: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, base: Defaults | Calibration) -> Channels:
        """From a bundle's defaults or a device's calibration."""
        return cls(
            np.asarray(base.channel_center, np.float32),
            np.asarray(base.channel_scale, np.float32),
            np.flatnonzero(base.wandering),
        )


def ewma_taps(alpha: float, length: int) -> NDArray[np.float64]:
    """(length,) weights, newest first, of an exponential average that began with the oldest row: they sum to 1."""
    weights: NDArray[np.float64] = alpha * (1 - alpha) ** np.arange(length)
    weights[-1] = (1 - alpha) ** (length - 1)
    return weights


def filters(branches: list[Branch]) -> NDArray[np.float32]:
    """(K, T') all branches' filters, newest first, filled up with zeros to the longest."""
    rows = [row for branch in branches for row in branch.taps]
    longest = max(len(row) for row in rows)
    out = np.zeros((len(rows), longest), np.float32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def channel_of_feature(inputs: Inputs) -> list[int]:
    """Channel of each of the D features: filter by filter, all channels each."""
    count = sum(len(branch.taps) for branch in inputs.features.branches)
    return list(range(len(inputs.channels))) * count


def branch_of_feature(inputs: Inputs) -> NDArray[np.int64]:
    """(D,) number of the branch of each feature."""
    sizes = [len(branch.taps) * len(inputs.channels) for branch in inputs.features.branches]
    return np.repeat(np.arange(len(sizes)), sizes)


def temporal(samples: NDArray[np.float32], inputs: Inputs, channels: Channels) -> NDArray[np.float32]:
    """(N, T, C) windows -> (N, D): filter by filter, all channels each."""
    parts = [_some(samples[n : n + _BATCH], inputs, channels) for n in range(0, len(samples), _BATCH)]
    if not parts:
        count = sum(len(branch.taps) for branch in inputs.features.branches)
        return np.empty((0, count * samples.shape[2]), np.float32)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _some(samples: NDArray[np.float32], inputs: Inputs, channels: Channels) -> NDArray[np.float32]:
    branches = inputs.features.branches
    n, _, c = samples.shape
    out: list[NDArray[np.float32]] = []
    for soft in (False, True):
        mine = [branch for branch in branches if branch.soft is soft]
        if not mine:
            out.append(np.empty((n, 0, c), np.float32))
            continue
        weights = filters(mine)  # (K, T')
        u = _normal(samples, weights.shape[1], inputs, channels)  # (N, T', C)
        if soft:
            u = np.sign(u) * np.log1p(np.abs(u))
        out.append(np.matmul(weights[:, ::-1], u))  # (K, T') @ (N, T', C) -> (N, K, C)
    if not any(branch.soft for branch in branches):
        return out[0].reshape(n, -1)
    hard, soft_part = (iter(np.split(part, _ends(branches, kind), axis=1)) for kind, part in enumerate(out))
    ordered = [next(soft_part if branch.soft else hard) for branch in branches]
    return np.concatenate(ordered, axis=1).reshape(n, -1)


def _ends(branches: list[Branch], kind: int) -> list[int]:
    sizes = [len(branch.taps) for branch in branches if branch.soft is bool(kind)]
    return np.cumsum(sizes)[:-1].tolist() if sizes else []


def _normal(samples: NDArray[np.float32], rows: int, inputs: Inputs, channels: Channels) -> NDArray[np.float32]:
    """(N, T, C) -> (N, rows, C): the newest rows, normalised, wandering channels taken from their trend, clipped."""
    clip = inputs.features.channel_clip
    u = samples[:, -rows:] - channels.center
    u /= channels.scale
    which = channels.wandering
    if len(which) and inputs.features.trend_rows:
        trend = _trend(samples[:, :, which], inputs)  # (N, W)
        u[:, :, which] -= ((trend - channels.center[which]) / channels.scale[which])[:, None, :]
    np.clip(u, -clip, clip, out=u)
    u[np.isnan(u)] = clip  # what is no number counts as far off, as everywhere
    return u.astype(np.float32, copy=False)


def _trend(samples: NDArray[np.float32], inputs: Inputs) -> NDArray[np.float32]:
    """(N, T, W) -> (N, W): the slow average at the newest row."""
    weights = ewma_taps(1 / inputs.features.trend_rows, inputs.window)[::-1].astype(np.float32)
    out: NDArray[np.float32] = np.einsum("ntw,t->nw", samples, weights)
    return out


def wandering(rows: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(C,) whether a channel wanders: the means of eighths of its normal rows vary more than it does within them.

    Args:
        rows: (R, C), in order of time.
    """
    if len(rows) < 2 * _BLOCKS:
        return np.zeros(rows.shape[1], np.bool_)
    length = len(rows) // _BLOCKS
    blocks = rows[: length * _BLOCKS].reshape(_BLOCKS, length, -1)
    out: NDArray[np.bool_] = blocks.mean(axis=1).var(axis=0) > blocks.var(axis=1).mean(axis=0)
    return out
