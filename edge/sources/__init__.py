"""Where samples come from: files now, live links later.

A `Recording` is what every file reader returns: samples at a fixed rate with its gaps explicit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Recording:
    """Samples of one device over one stretch of time, at a fixed rate.

    Attributes:
        name: where it came from, for messages (a path or a topic).
        channels: C names, as in the source ("motor.m1").
        rate_hz: samples a second; 1.0 where the source has no clock (rows of a table).
        samples: (N, C) float32, finite.
        segments: contiguous runs as (start, stop) row ranges; a gap in time or a NaN row lies between two of them.
            No window spans two segments.
        start_s: seconds since the epoch of the first row; 0.0 where the source does not know.
    """

    name: str
    channels: tuple[str, ...]
    rate_hz: float
    samples: NDArray[np.float32]
    segments: tuple[tuple[int, int], ...] = field(default=())
    start_s: float = 0.0
