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

HARMONICS = 6  # of a day: courses as sharp as two hours
TERMS = 1 + 2 * HARMONICS
DAY_RIDGE = 1e-3
_BLOCKS = 8
_BATCH = 256  # windows at a time: bounds memory, since a long recording's windows are views of its rows


@dataclass(frozen=True)
class Channels:
    """What is normal of each channel on this device.

    Attributes:
        center: (C,) float32.
        scale: (C,) float32, > 0.
        wandering: indices of the channels that are taken from their slow average.
        daily: (TERMS, C) float32 of the daily course of normalised channels; none: no row.
    """

    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    wandering: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    daily: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def of(cls, base: Defaults | Calibration) -> Channels:
        """From a bundle's defaults, which know no daily course, or a device's calibration."""
        center = np.asarray(base.channel_center, np.float32)
        course = np.frombuffer(getattr(base, "daily", b""), "<f4").reshape(-1, len(center))
        scale = np.asarray(base.channel_scale, np.float32)
        return cls(center, scale, np.flatnonzero(base.wandering), course.astype(np.float32))


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


def temporal(
    samples: NDArray[np.float32], end_s: NDArray[np.float64], inputs: Inputs, channels: Channels
) -> NDArray[np.float32]:
    """(N, T, C) windows whose newest rows are at `end_s` (N,), device clock -> (N, D): filter by filter, all channels each."""
    steps = range(0, len(samples), _BATCH)
    parts = [_some(samples[n : n + _BATCH], end_s[n : n + _BATCH], inputs, channels) for n in steps]
    if not parts:
        count = sum(len(branch.taps) for branch in inputs.features.branches)
        return np.empty((0, count * samples.shape[2]), np.float32)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _some(
    samples: NDArray[np.float32], end_s: NDArray[np.float64], inputs: Inputs, channels: Channels
) -> NDArray[np.float32]:
    out: list[NDArray[np.float32]] = []
    longest = max(len(row) for branch in inputs.features.branches for row in branch.taps)
    plain = normal(samples, longest, inputs, channels)  # (N, T', C)
    for branch in inputs.features.branches:
        weights = filters([branch])  # (K, T')
        u = plain[:, -weights.shape[1] :]
        if branch.daily:
            u = _without_day(u, end_s, inputs, channels)
        if branch.soft:
            u = np.sign(u) * np.log1p(np.abs(u))
        out.append(np.matmul(weights[:, ::-1], u))  # (K, T') @ (N, T', C) -> (N, K, C)
    return np.concatenate(out, axis=1).reshape(len(samples), -1)


def normal(samples: NDArray[np.float32], rows: int, inputs: Inputs, channels: Channels) -> NDArray[np.float32]:
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


def day_terms(row: NDArray[np.floating[Any]], day_rows: int) -> NDArray[np.float64]:
    """(..., TERMS) a constant, and cosine and sine of the first HARMONICS of a day, at rows counted from the clock's zero."""
    angle = 2 * np.pi * (np.asarray(row, np.float64)[..., None] % day_rows) / day_rows * np.arange(1, HARMONICS + 1)
    return np.concatenate([np.ones((*angle.shape[:-1], 1)), np.cos(angle), np.sin(angle)], axis=-1)


def daily_course(u: NDArray[np.floating[Any]], row: NDArray[np.floating[Any]], day_rows: int) -> NDArray[np.float32]:
    """(TERMS, C) least squares of normalised channels u (R, C) at rows (R,) on a day's terms, with a light ridge."""
    terms = day_terms(row, day_rows)
    ridge = DAY_RIDGE * len(terms) * np.eye(terms.shape[1])
    course: NDArray[np.float64] = np.linalg.solve(terms.T @ terms + ridge, terms.T @ u)
    return course.astype(np.float32)


def _without_day(
    u: NDArray[np.float32], end_s: NDArray[np.float64], inputs: Inputs, channels: Channels
) -> NDArray[np.float32]:
    if not len(channels.daily):
        return u
    back = np.arange(u.shape[1] - 1, -1, -1)
    rows = np.round(end_s * inputs.rate_hz)[:, None] - back  # (N, T')
    clip = inputs.features.channel_clip
    course = day_terms(rows, inputs.features.day_rows) @ channels.daily  # (N, T', C)
    return np.clip(u - course, -clip, clip).astype(np.float32)


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
