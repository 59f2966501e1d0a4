"""Frequency bands of a window's accelerations: what a bundle's `features.bands` say; stdlib and msgspec only.

A band adds three features to the `drone` ones. They are computed by edge/scoring/spectral.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

BAND_FEATURES = 3  # of one band: one an axis, or one a pair of axes


class Band(Struct, frozen=True, forbid_unknown_fields=True):
    """Frequencies from `low_hz` to `high_hz`, both included, and what is measured there.

    `energy`: log of each axis's root mean square in the band. `correlation`: how the axes move together in it (xy, yz,
    zx), -1 to 1, whatever their size: which way a drone shakes, not how much.
    """

    low_hz: Annotated[float, Meta(gt=0)]
    high_hz: Annotated[float, Meta(gt=0)]
    measure: Literal["energy", "correlation"]


def wrong_bands(bands: Sequence[Band], rate_hz: float, window: int) -> list[str]:
    """What is wrong with the bands of windows of `window` samples at `rate_hz`; the resolution is rate_hz / window."""
    step_hz = rate_hz / window
    return [
        f"inputs.features.bands: from {step_hz:g} to {rate_hz / 2:g} Hz and {step_hz:g} Hz wide expected, "
        f"{band.low_hz:g} to {band.high_hz:g} found"
        for band in bands
        if not (band.low_hz >= step_hz and band.high_hz <= rate_hz / 2 and band.high_hz - band.low_hz >= step_hz)
    ]
