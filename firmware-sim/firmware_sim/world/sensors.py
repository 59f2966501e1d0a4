"""What the vehicle measures: inertial noise and bias, vibration, estimates, battery reading. Pure given its random numbers.

Accelerations are written as the Crazyflie's estimator does: world axes, gravity removed, in g. The accelerometer is low-pass
filtered at 30 Hz (two poles; firmware, sensors_bmi088) before it is logged, so rotor vibration at 200-350 Hz arrives weak
and folded into the log's band; both happen here by construction, not by a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world.quadrotor import GRAVITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ACCELERATION_CUTOFF_HZ = 30.0
# White, after the filter, with what the floor and walls blow back; (3, 1).
ACCELERATION_NOISE_G = np.array([[0.006], [0.006], [0.009]])
RATE_NOISE = 0.14  # rad/s, white, with the gyro's share of vibration
POSITION_NOISE_M = 0.0015
VELOCITY_NOISE = 0.022  # m/s
VIBRATION_Z_SHARE = 0.35  # of the in-plane imbalance that the frame turns into vertical motion
VOLTAGE_STEP_MV = 5.3  # resolution of the logged battery voltage


class AccelerationFilter:
    """Two one-pole low-pass filters in a row, run at the integration rate on (3, K).

    Attributes:
        value: (3, K) the filtered acceleration, m/s^2.
    """

    def __init__(self, count: int, step_s: float) -> None:
        self._step_s = step_s
        self._first = np.zeros((3, count))
        self._work = np.zeros((3, count))
        self.value = np.zeros((3, count))
        self.tune(np.full(count, ACCELERATION_CUTOFF_HZ))

    def tune(self, cutoff_hz: Array) -> None:
        """Set the cut-off of each pole, (K,) Hz."""
        self._gain = 1 - np.exp(-2 * np.pi * cutoff_hz * self._step_s)

    def feed(self, force: Array) -> None:
        """Take one sample of the specific force in world axes, m/s^2; `value` holds it filtered and without gravity."""
        work = self._work
        np.subtract(force, self._first, out=work)
        work[2] -= GRAVITY
        work *= self._gain
        self._first += work
        np.subtract(self._first, self.value, out=work)
        work *= self._gain
        self.value += work


def vibration_g(imbalance_kgm: Array, rotor: Array, phase: Array, mass_kg: Array, cutoff_hz: Array) -> Array:
    """Filtered vibration (3, K) in g, in body axes, from unbalanced rotors.

    Args:
        imbalance_kgm: (4, K) missing mass times radius.
        rotor: (4, K) rad/s.
        phase: (4, K) rotor angle, rad.
        mass_kg: (K,).
        cutoff_hz: (K,) of the accelerometer's filter.
    """
    corner = 2 * np.pi * cutoff_hz
    size = imbalance_kgm * rotor**2 / (mass_kg * GRAVITY)  # g, before the filter
    size = size / (1 + (rotor / corner) ** 2)  # two poles: 1/(1 + (w/wc)^2)
    x = (size * np.cos(phase)).sum(axis=0)
    y = (size * np.sin(phase)).sum(axis=0)
    z = VIBRATION_Z_SHARE * (size * np.sin(phase + 0.8)).sum(axis=0)
    return np.stack([x, y, z])


def battery_mv(volts: Array) -> Array:
    """Battery reading in whole mV at the resolution of the power chip."""
    return np.asarray(np.rint(np.rint(volts * (1000 / VOLTAGE_STEP_MV)) * VOLTAGE_STEP_MV))
