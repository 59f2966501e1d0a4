"""Spectral features of a window's accelerations: how much they shake in a band, and which way.

How much a healthy drone shakes differs from session to session (battery, frame, mounting) more than light damage adds.
Which way it shakes is a matter of which rotor is out of balance: correlations between the axes leave the size out.

Frequencies are counted at the bundle's `rate_hz`. One real transform of the window under Hann's taper, as in Welch, IEEE
Trans. Audio Electroacoustics 15(2), 1967; sums over the band's bins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.bands import BAND_FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.bands import Band

# Channel (index into a bundle's `inputs.channels`) that each of a band's features counts for: of a pair its first axis,
# so that every axis is named once.
CHANNEL_OF_BAND_FEATURE = (4, 5, 6)
_PAIRS = ((0, 1), (1, 2), (2, 0))  # xy, yz, zx
_RMS_FLOOR = 1e-4  # in the accelerations' unit: a channel that stands still has no logarithm
_SQUARE_FLOOR = 1e-18  # of a product of energies: what stands still correlates with nothing


def band_features(
    acceleration: NDArray[np.floating[Any]], rate_hz: float, bands: Sequence[Band]
) -> NDArray[np.float64]:
    """Features of N windows, three a band, in the bands' order.

    Args:
        acceleration: (N, T, 3).
        rate_hz: samples a second.
        bands: at least one bin of rate_hz / T lies in each (`wrong_bands`).

    Returns:
        (N, 3 * bands); NaN where a window has one.
    """
    count, length, _ = acceleration.shape
    taper = _taper(length)
    # Samples last and side by side: each window is summed in the same order, whatever lies beside it.
    rows = np.ascontiguousarray(np.moveaxis(acceleration, 2, 1), np.float64)  # (N, 3, T)
    spectrum = np.fft.rfft((rows - rows.mean(axis=2, keepdims=True)) * taper)  # (N, 3, T // 2 + 1)
    # Parseval: both halves of the spectrum, over the taper's power, give a sine of amplitude a the variance a^2 / 2.
    spectrum *= np.sqrt(2.0 / (length * np.square(taper).sum()))
    at_hz = np.fft.rfftfreq(length, 1.0 / rate_hz)
    out = np.empty((count, BAND_FEATURES * len(bands)))
    for number, band in enumerate(bands):
        # A band may end exactly on a bin: rounding must not decide.
        first, last = np.searchsorted(at_hz, (band.low_hz - 1e-9, band.high_hz + 1e-9))
        inside = np.ascontiguousarray(spectrum[:, :, first:last])  # (N, 3, bins)
        energy = np.square(np.abs(inside)).sum(axis=2)  # (N, 3)
        here = BAND_FEATURES * number
        if band.measure == "energy":
            out[:, here : here + BAND_FEATURES] = 0.5 * np.log(energy + _RMS_FLOOR**2)
            continue
        for n, (i, j) in enumerate(_PAIRS):
            together = (inside[:, i] * inside[:, j].conj()).real.sum(axis=1)
            out[:, here + n] = together / np.sqrt(energy[:, i] * energy[:, j] + _SQUARE_FLOOR)
    return out


@lru_cache(maxsize=8)
def _taper(length: int) -> NDArray[np.float64]:
    return np.hanning(length)
