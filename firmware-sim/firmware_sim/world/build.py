"""K vehicles as they were built and as they are that day: every random constant and stream of a flight comes from here.

Two seeds decide: the vehicle's (stays over its flights) and the flight's. Streams are told apart by their first number, so
that what is added later never moves what was there: 1 how it was built, 2 the day (charge, session, air, noise), 4 the
instruments, 5 lost samples, 6 wind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import quadrotor as q

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BUILT, TODAY, INSTRUMENTS, LOST, WIND = 1, 2, 4, 5, 6

# Spread between vehicles (standard deviations), from the two CrazyPAD drones and what two can tell.
MOTOR_SPREAD = 0.02
THRUST_SPREAD = 0.025
MASS_SPREAD_KG = 0.0007
CENTRE_SPREAD_M = 0.0008
TWIST_SPREAD_NM = 4e-4
BIAS_SPREAD_G = 0.011
IMBALANCE_KGM = 2.5e-8  # mean residual imbalance of a healthy propeller
# Spread between the flights of one vehicle (session drift).
SESSION_MOTOR = 0.005
SESSION_TWIST_NM = 5e-5
SESSION_BIAS_G = 0.0025

NOISES = 18  # white numbers per vehicle and row
BLOCK_ROWS = 64  # rows drawn at a time: bounds memory, changes nothing


class White:
    """Standard normal numbers for K vehicles, each from its own stream, a row at a time."""

    def __init__(self, streams: Sequence[np.random.Generator], count: int) -> None:
        self._streams = streams
        self._block = np.empty((BLOCK_ROWS, count, len(streams)), dtype=np.float32)
        self._next = BLOCK_ROWS

    def row(self) -> NDArray[np.float32]:
        """(count, K), valid until the next call."""
        if self._next == BLOCK_ROWS:
            for k, stream in enumerate(self._streams):
                self._block[:, :, k] = stream.standard_normal(self._block.shape[:2], dtype=np.float32)
            self._next = 0
        self._next += 1
        row: NDArray[np.float32] = self._block[self._next - 1]
        return row


class Fleet:
    """The constants of K flights.

    Attributes:
        frame: without faults.
        imbalance: (4, K) kg m of the propellers.
        bias_g: (3, K) of the accelerometer, body axes.
        charge: (K,) at the start, 0..1.
        phase: (4, K) rotor angles at the start.
        noise: NOISES white numbers a row.
    """

    def __init__(self, vehicle_seeds: Sequence[int], flight_seeds: Sequence[int]) -> None:
        count = len(vehicle_seeds)
        self.frame = q.Airframe.nominal(count)
        self.imbalance = np.zeros((4, count))
        self.bias_g = np.zeros((3, count))
        self.charge = np.zeros(count)
        self.phase = np.zeros((4, count))
        streams = []
        for k, (vehicle, flight) in enumerate(zip(vehicle_seeds, flight_seeds, strict=True)):
            built = np.random.default_rng([BUILT, vehicle])
            today = np.random.default_rng([TODAY, vehicle, flight])
            self._build(k, built, today)
            self.charge[k] = today.uniform(0.45, 0.92)
            self.phase[:, k] = today.uniform(0, 2 * np.pi, 4)
            streams.append(today)
        self.noise = White(streams, NOISES)

    def _build(self, k: int, built: np.random.Generator, today: np.random.Generator) -> None:
        frame = self.frame
        frame.mass_kg[k] += MASS_SPREAD_KG * built.standard_normal()
        frame.thrust_gain[:, k] += THRUST_SPREAD * built.standard_normal(4)
        frame.motor_gain[:, k] += MOTOR_SPREAD * built.standard_normal(4) + SESSION_MOTOR * today.standard_normal(4)
        frame.torque_gain[:, k] = frame.thrust_gain[:, k]
        frame.centre_m[:, k] = CENTRE_SPREAD_M * built.standard_normal(2)
        frame.twist_nm[k] = TWIST_SPREAD_NM * built.standard_normal() + SESSION_TWIST_NM * today.standard_normal()
        frame.capacity_c[k] *= 0.88 + 0.05 * built.standard_normal()
        frame.ohm[k] *= 1 + 0.06 * built.standard_normal() + 0.02 * today.standard_normal()
        self.bias_g[:, k] = BIAS_SPREAD_G * built.standard_normal(3) + SESSION_BIAS_G * today.standard_normal(3)
        self.imbalance[:, k] = IMBALANCE_KGM * np.abs(built.standard_normal(4))
