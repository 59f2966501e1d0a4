"""Where a model's channel comes from: a channel of the source, times a factor, plus an offset. No arithmetic of any other kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class ChannelFrom(Struct, frozen=True, forbid_unknown_fields=True):
    """One channel of the model as `value * scale + offset` of a channel of the source.

    A servo pulse of 1000 to 2000 us as a Crazyflie motor command of 0 to 65,535 is
    `ChannelFrom("SERVO_OUTPUT_RAW.servo1_raw", 65.535, -65535.0)`.
    """

    source: str  # name of the channel in the source
    scale: float = 1.0
    offset: float = 0.0  # in the model's unit

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source: the name of a channel expected, nothing given")
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise ValueError(f"{self.source}: a finite scale other than 0 and a finite offset expected")


def origins(channels: Iterable[str], channel_map: Mapping[str, ChannelFrom]) -> list[ChannelFrom]:
    """Where each of these channels comes from; one that the map lacks, from the channel of the same name."""
    return [channel_map.get(name) or ChannelFrom(name) for name in channels]
