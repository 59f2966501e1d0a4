"""A schedule of disturbances of a connection: when it is slow, thin, lossy, silent or cut. Seeded and pure.

The same arguments give the same schedule, and what holds at a moment is a function of the schedule and the time, so a run
can be repeated and a report can say what was wrong when. Nothing here opens a socket: firmware_sim.net.proxy applies it.
Times are seconds since the start of the run; nothing is said about what a disturbance does to the software behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = ("delay", "rate", "loss", "stall", "refuse", "drop")


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection suffers at one moment; the defaults are nothing at all."""

    delay_s: float = 0.0  # of each byte, in each direction
    jitter_s: float = 0.0  # uniform, on top of it; bytes stay in order
    rate_bytes_s: float = 0.0  # in each direction; 0: no limit
    loss: float = 0.0  # share of segments that are sent again, [0, 1)
    stalled: bool = False  # nothing passes, nothing is closed
    refusing: bool = False  # new connections are reset

    def __post_init__(self) -> None:
        bad = [name for name in ("delay_s", "jitter_s", "rate_bytes_s") if getattr(self, name) < 0]
        if bad or not 0 <= self.loss < 1:
            raise UsageError(f"conditions: {', '.join(bad) or 'loss'}: not negative, and loss below 1, expected")


CALM = Conditions()


class Disturbance(msgspec.Struct, frozen=True):
    """One thing that goes wrong for a while.

    Attributes:
        kind: one of KINDS.
        at_s: when it begins.
        for_s: how long it lasts; a drop happens once, at `at_s`.
        size: seconds of a delay, bytes per second of a rate, share of a loss; 0 for the others.
    """

    kind: str
    at_s: float
    for_s: float = 0.0
    size: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"disturbance: one of {', '.join(KINDS)} expected, {self.kind!r} given")
        if self.at_s < 0 or self.for_s < 0 or self.size < 0:
            raise UsageError(f"disturbance {self.kind}: at_s, for_s and size of at least 0 expected")
        if self.kind in ("delay", "rate", "loss") and not self.size:
            raise UsageError(f"disturbance {self.kind}: a size above 0 expected")
        if self.kind == "loss" and self.size >= 1:
            raise UsageError(f"disturbance loss: a share below 1 expected, {self.size:g} given")

    @property
    def until_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s


# Ranges that sizes are drawn from, logarithmically: what LTE at its worst and satellites do, not what breaks anything.
SIZES: Mapping[str, tuple[float, float]] = {"delay": (0.05, 2.0), "rate": (2_000.0, 50_000.0), "loss": (0.01, 0.2)}


def schedule(
    seed: int,
    duration_s: float,
    kinds: Sequence[str] = KINDS,
    every_s: float = 20.0,
    for_s: tuple[float, float] = (1.0, 10.0),
    sizes: Mapping[str, tuple[float, float]] = SIZES,
) -> tuple[Disturbance, ...]:
    """Disturbances at random moments, the same ones for the same arguments.

    Args:
        seed: of the draw.
        duration_s: all begin before it.
        kinds: drawn from, equally.
        every_s: mean time between two beginnings (a Poisson process, so they may overlap).
        for_s: range of the lengths, uniform.
        sizes: kind -> range of the size, logarithmic.

    Raises:
        UsageError: a kind is unknown, or a range is no range.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(f"kinds: of {', '.join(KINDS)} expected, {', '.join(unknown) or 'none'} given")
    if every_s <= 0 or not 0 <= for_s[0] <= for_s[1]:
        raise UsageError("schedule: every_s above 0 and for_s as (least, most) expected")
    rng = np.random.default_rng(seed)
    out: list[Disturbance] = []
    at_s = float(rng.exponential(every_s))
    while at_s < duration_s:
        kind = kinds[int(rng.integers(len(kinds)))]
        length_s = 0.0 if kind == "drop" else float(rng.uniform(*for_s))
        low, high = sizes.get(kind, (0.0, 0.0))
        if kind in SIZES and not 0 < low <= high:
            raise UsageError(f"sizes: {kind}: (least, most) above 0 expected, ({low:g}, {high:g}) given")
        size = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if kind in SIZES else 0.0
        out.append(Disturbance(kind, round(at_s, 3), round(length_s, 3), size))
        at_s += float(rng.exponential(every_s))
    return tuple(out)


def conditions_at(disturbances: Sequence[Disturbance], t_s: float) -> Conditions:
    """What holds at `t_s`: delays add up, the smallest rate counts, losses are independent."""
    delay_s, rate, passes, stalled, refusing = 0.0, 0.0, 1.0, False, False
    for one in disturbances:
        if not one.at_s <= t_s < one.until_s:
            continue
        if one.kind == "delay":
            delay_s += one.size
        elif one.kind == "rate":
            rate = min(rate or one.size, one.size)
        elif one.kind == "loss":
            passes *= 1.0 - one.size
        stalled = stalled or one.kind == "stall"
        refusing = refusing or one.kind == "refuse"
    return Conditions(delay_s=delay_s, rate_bytes_s=rate, loss=1.0 - passes, stalled=stalled, refusing=refusing)


def drops_between(disturbances: Sequence[Disturbance], after_s: float, until_s: float) -> int:
    """How many drops fall into (after_s, until_s]."""
    return sum(one.kind == "drop" and after_s < one.at_s <= until_s for one in disturbances)


def next_change_s(disturbances: Sequence[Disturbance], t_s: float) -> float | None:
    """The first moment after `t_s` at which something begins or ends; None when nothing will."""
    moments = [m for one in disturbances for m in (one.at_s, one.until_s) if m > t_s]
    return min(moments, default=None)
