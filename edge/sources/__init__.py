"""Where samples come from: files now, live links later.

A `Recording` is what every file reader returns: samples at a fixed rate with its gaps explicit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Begin(NamedTuple):
    """A recording begins."""

    name: str
    channels: tuple[str, ...]
    rate_hz: float


class Samples(NamedTuple):
    """The next samples of it."""

    rows: NDArray[np.float32]  # (n, C)
    start_s: float  # device clock of the first, seconds since the epoch
    gap: bool  # samples are missing before them


class End(NamedTuple):
    """The recording is over."""

    name: str


class Missing(NamedTuple):
    """A channel brings nothing any more, or something again; no samples come while one is missing."""

    channel: str
    since_s: float  # device clock of its last reading
    back: bool


@dataclass
class Vehicle:
    """What a source knows of the vehicle beside its samples; None: nothing.

    Attributes:
        armed: its motors may turn.
        battery_v: volts.
        battery_share: of a full one, 0 to 1.
        position: degrees north, degrees east, metres above the sea (WGS 84).
    """

    armed: bool | None = None
    battery_v: float | None = None
    battery_share: float | None = None
    position: tuple[float, float, float] | None = None


class Source(Protocol):
    """Samples at a fixed rate, asked for and never waited for.

    Attributes:
        columns: channels wanted, in this order; set before the first `take`.
        extras: further ones, behind them where they are there.
        vehicle: what it knows of the vehicle.
        counts: what it has seen, for people: readings, bad, late, lost.
        problem: one line while it does not work; empty else.
    """

    columns: Sequence[str] | None
    extras: Sequence[str]

    @property
    def vehicle(self) -> Vehicle:
        """What it knows of the vehicle."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """See above."""
        ...

    @property
    def problem(self) -> str:
        """See above."""
        ...

    @property
    def done(self) -> bool:
        """Nothing will ever come again."""
        ...

    @property
    def playing(self) -> bool:
        """A stretch has begun and not ended, and the vehicle is not known to be disarmed."""
        ...

    def take(self, now_s: float, clock_s: float) -> list[Begin | Samples | End | Missing]:
        """What is due; never blocks. `now_s` is monotonic, `clock_s` the device clock."""
        ...

    def close(self) -> None:
        """Give everything free."""
        ...


def joined(
    items: list[Begin | Samples | End | Missing], more: list[Begin | Samples | End | Missing]
) -> list[Begin | Samples | End | Missing]:
    """Both in order, with samples that follow each other as one portion."""
    import numpy as np  # configuration and help import this file, and are light

    out = list(items)
    for item in more:
        before = out[-1] if out else None
        if isinstance(item, Samples) and isinstance(before, Samples) and not item.gap:
            out[-1] = Samples(np.concatenate([before.rows, item.rows]), before.start_s, before.gap)
        else:
            out.append(item)
    return out
