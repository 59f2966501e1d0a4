"""Features `temporal`: linear filters over the last rows of each channel, of a window padded back to its flight's start.

Pure NumPy. The filters come with the bundle, what is normal of a channel (center, scale) from the device. A filter looks
at one window only, so a score depends on no memory but the window's; where a window begins before its flight does, the
flight's first row stands there: an exponential average then is what it would be had it begun with that row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from covey.bundle import Branch, Calibration, Defaults, Inputs
    from edge.scoring.windows import Windows

HARMONICS = 6  # of a day: courses as sharp as two hours
TERMS = 1 + 2 * HARMONICS
DAY_RIDGE = 1e-3
_BLOCKS = 8
_FEW = 8  # consecutive windows from which on their rows are taken in one piece
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

    def of_some(self, which: NDArray[np.int64]) -> Channels:
        """Of some channels, in that order."""
        wanders = np.flatnonzero(np.isin(which, self.wandering))
        daily = self.daily[:, which] if len(self.daily) else self.daily
        return Channels(self.center[which], self.scale[which], wanders, daily)


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


def temporal(windows: Windows, inputs: Inputs, channels: Channels) -> NDArray[np.float32]:
    """(N, D) features of N windows: filter by filter, all channels each.

    Consecutive windows share all but their newest rows: what is the same for a row wherever it stands is computed once.
    """
    count = sum(len(branch.taps) for branch in inputs.features.branches)
    out = np.empty((len(windows), count, len(inputs.channels)), np.float32)
    end_row = np.round(windows.end_s(inputs) * inputs.rate_hz)  # rows since the clock's zero
    steady = np.setdiff1d(np.arange(len(inputs.channels)), channels.wandering)
    for start, stop in _runs(windows, inputs):
        here = slice(start, stop)
        if stop - start < _FEW:
            out[here] = _filtered(
                normal(windows.samples[here], reach(inputs), inputs, channels), end_row[here], inputs, channels
            )
            continue
        # A wandering channel's rows are taken from the trend at the newest one: they differ from window to window.
        if len(steady):
            rows = _along(windows.samples[here], end_row[here], inputs, channels.of_some(steady), steady)
            out[here][:, :, steady] = rows
        for n in range(start, stop, _BATCH) if len(channels.wandering) else ():
            part = slice(n, min(n + _BATCH, stop))
            some = channels.of_some(channels.wandering)
            u = normal(windows.samples[part][:, :, channels.wandering], reach(inputs), inputs, some)
            out[part][:, :, channels.wandering] = _filtered(u, end_row[part], inputs, some)
    return out.reshape(len(windows), -1)


def reach(inputs: Inputs) -> int:
    """Rows of the longest filter."""
    return max(len(row) for branch in inputs.features.branches for row in branch.taps)


def _runs(windows: Windows, inputs: Inputs) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive windows of one flight."""
    follows = (np.diff(windows.flight) == 0) & (np.diff(windows.end_row) == inputs.hop)
    edges = np.r_[0, np.flatnonzero(~follows) + 1, len(windows)] if len(windows) else np.zeros(1, np.int64)
    yield from pairwise(edges.tolist())


def _along(
    samples: NDArray[np.float32],
    end_row: NDArray[np.float64],
    inputs: Inputs,
    channels: Channels,
    which: NDArray[np.int64],
) -> NDArray[np.float32]:
    """(N, K, C') of consecutive windows, from their rows in one piece: no channel wanders."""
    hop, far = inputs.hop, reach(inputs)
    first = samples[0][-far:][:, which]
    rows = np.concatenate([first, samples[1:, -hop:][:, :, which].reshape(-1, len(which))])  # (far + (N - 1) hop, C')
    u = normal(rows[None], len(rows), inputs, channels)[0]
    at = end_row[0] + np.arange(-far + 1, len(rows) - far + 1)
    out: list[NDArray[np.float32]] = []
    for branch in inputs.features.branches:
        v = _shaped(u, at, branch, inputs, channels)
        for taps in branch.taps:
            y = np.zeros((len(samples), len(which)), np.float32)
            for lag, weight in enumerate(taps):
                if weight:
                    y += np.float32(weight) * v[far - 1 - lag : len(rows) - lag : hop]
            out.append(y)
    return np.stack(out, axis=1)


def _filtered(
    u: NDArray[np.float32], end_row: NDArray[np.float64], inputs: Inputs, channels: Channels
) -> NDArray[np.float32]:
    """(N, T', C) normalised rows -> (N, K, C)."""
    at = end_row[:, None] - np.arange(u.shape[1] - 1, -1, -1)  # (N, T')
    out: list[NDArray[np.float32]] = []
    for branch in inputs.features.branches:
        weights = filters([branch])  # (K, T'')
        length = weights.shape[1]
        v = _shaped(u[:, -length:], at[:, -length:], branch, inputs, channels)
        out.append(np.matmul(weights[:, ::-1], v))  # (K, T'') @ (N, T'', C) -> (N, K, C)
    return np.concatenate(out, axis=1)


def _shaped(
    u: NDArray[np.float32], at: NDArray[np.float64], branch: Branch, inputs: Inputs, channels: Channels
) -> NDArray[np.float32]:
    """(..., C) what a branch filters, from normalised rows and their numbers (...,) since the clock's zero."""
    if branch.daily and len(channels.daily):
        clip = inputs.features.channel_clip
        u = np.clip(u - day_terms(at, inputs.features.day_rows) @ channels.daily, -clip, clip).astype(np.float32)
    return np.sign(u) * np.log1p(np.abs(u)) if branch.soft else u


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
