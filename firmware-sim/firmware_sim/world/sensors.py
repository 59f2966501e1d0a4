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
ACCELERATION_NOISE_G = np.array(
    [0.006, 0.006, 0.009]
)  # white, after the filter, with what the floor and walls blow back
RATE_NOISE = 0.14  # rad/s, white, with the gyro's share of vibration
POSITION_NOISE_M = 0.0015
VELOCITY_NOISE = 0.022  # m/s
VIBRATION_Z_SHARE = 0.35  # of the in-plane imbalance that the frame turns into vertical motion
VOLTAGE_STEP_MV = 5.3  # resolution of the logged battery voltage


class AccelerationFilter:
    """Two one-pole low-pass filters in a row, run at the integration rate on (K, 3)."""

    def __init__(self, count: int, step_s: float) -> None:
        self._gain = 1 - np.exp(-2 * np.pi * ACCELERATION_CUTOFF_HZ * step_s)
        self._first = np.zeros((count, 3))
        self.value = np.zeros((count, 3))

    def feed(self, acceleration: Array) -> None:
        """Take one sample, m/s^2, gravity removed; `value` holds the filtered one."""
        self._first += self._gain * (acceleration - self._first)
        self.value += self._gain * (self._first - self.value)


def vibration_g(imbalance_kgm: Array, rotor: Array, phase: Array, mass_kg: Array) -> Array:
    """Filtered vibration (K, 3) in g from unbalanced rotors.

    Args:
        imbalance_kgm: (K, 4) missing mass times radius.
        rotor: (K, 4) rad/s.
        phase: (K, 4) rotor angle, rad.
        mass_kg: (K,).
    """
    corner = 2 * np.pi * ACCELERATION_CUTOFF_HZ
    size = imbalance_kgm * rotor**2 / (mass_kg[:, None] * GRAVITY)  # g, before the filter
    size = size / (1 + (rotor / corner) ** 2)  # two poles: 1/(1 + (w/wc)^2)
    x = (size * np.cos(phase)).sum(axis=1)
    y = (size * np.sin(phase)).sum(axis=1)
    z = VIBRATION_Z_SHARE * (size * np.sin(phase + 0.8)).sum(axis=1)
    return np.stack([x, y, z], axis=1)


def battery_mv(volts: Array) -> Array:
    """Battery reading in whole mV at the resolution of the power chip."""
    return np.asarray(np.rint(np.rint(volts * (1000 / VOLTAGE_STEP_MV)) * VOLTAGE_STEP_MV))
