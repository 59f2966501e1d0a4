"""The air around the vehicles: small gusts and turbulence always, a wind when it is asked for.

Everything is a first-order process in time (Gauss-Markov): e' = -e/T + white noise, with a given standard deviation. For
the wind's gusts that is the Dryden form's longitudinal component (MIL-F-8785C) at one fixed time constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.world.build import WIND, White

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# What a room does: gusts and the torques that turbulence puts on the frame.
GUST = np.array([[0.25], [0.25], [0.10]])  # m/s
GUST_S = 1.2
TURBULENCE_NM = np.array([[1.1e-4], [1.1e-4], [1.0e-4]])
TURBULENCE_S = 0.4
LARGEST_WIND = 12.0  # m/s; drag then takes a third of the vehicle's weight, as much tilt as the pilot allows
VERTICAL_SHARE = 0.5  # of the horizontal gusts, near the ground


@dataclass(frozen=True)
class Wind:
    """Wind outdoors, the same mean for all vehicles, gusts of each one's own.

    Attributes:
        east_ms, north_ms: mean, m/s.
        gust_ms: standard deviation of the gusts about it, per horizontal axis.
        gust_s: their time constant.

    Raises:
        UsageError: no numbers, or more than a small vehicle stands.
    """

    east_ms: float = 0.0
    north_ms: float = 0.0
    gust_ms: float = 0.0
    gust_s: float = 3.0

    def __post_init__(self) -> None:
        speed = math.hypot(self.east_ms, self.north_ms)
        if not speed <= LARGEST_WIND:
            raise UsageError(f"wind: at most {LARGEST_WIND:g} m/s expected, {speed:g} came")
        if not 0 <= self.gust_ms <= LARGEST_WIND / 2:
            raise UsageError(f"wind: gusts of 0 to {LARGEST_WIND / 2:g} m/s expected, {self.gust_ms:g} came")
        if not 0.1 <= self.gust_s <= 100:
            raise UsageError(f"wind: gusts over 0.1 to 100 s expected, {self.gust_s:g} came")


class Weather:
    """Gusts, turbulence and wind of K vehicles, advanced row by row.

    Attributes:
        wind: (3, K) world, m/s.
        torque: (3, K) body, N m.
    """

    def __init__(self, seeds: Sequence[tuple[int, int]], row_s: float, wind: Wind | None) -> None:
        count = len(seeds)
        self._row_s, self._outdoors = row_s, wind
        self._gust = np.zeros((3, count))
        self._own = np.zeros((3, count))  # the wind's gusts
        self.torque = np.zeros((3, count))
        self.wind = self._gust
        if wind is not None:
            self._white = White([np.random.default_rng([WIND, *seed]) for seed in seeds], 3)
            self._mean = np.array([[wind.east_ms], [wind.north_ms], [0.0]])
            self._size = wind.gust_ms * np.array([[1.0], [1.0], [VERTICAL_SHARE]])

    def blow(self, noise: NDArray[np.float32]) -> None:
        """Advance by one row with (6, K) white numbers."""
        part = self._row_s / GUST_S
        self._gust += -part * self._gust + GUST * np.sqrt(2 * part) * noise[0:3]
        part = self._row_s / TURBULENCE_S
        self.torque += -part * self.torque + TURBULENCE_NM * np.sqrt(2 * part) * noise[3:6]
        if self._outdoors is not None:
            part = min(self._row_s / self._outdoors.gust_s, 1.0)
            self._own += -part * self._own + self._size * np.sqrt(2 * part) * self._white.row()
            self.wind = self._gust + self._own + self._mean
