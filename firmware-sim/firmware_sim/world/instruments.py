"""IMU, barometer and GPS receiver of a flight controller, as its firmware reads them; after sensor faults.

Frames: world east, north, up; body forward, left, up. The vehicle starts with its nose east.

* IMU: noise densities of the Bosch BMI088 data sheet (BST-BMI088-DS001, table of specifications): accelerometer 160 (x, y)
  and 190 (z) ug/sqrt(Hz), gyroscope 0.014 deg/s/sqrt(Hz). The bias walks; the data sheet has no figure for that, the
  densities below are estimates of what a warm sensor does in minutes. The accelerometer reads what the log's
  accelerations are made from (filter, vibration, bias), plus these.
* Barometer: Bosch BMP388 data sheet (BST-BMP388-DS001): absolute accuracy 50 Pa, relative 8 Pa; taken as a constant offset
  per flight and a slow drift with these as twice the standard deviation. The noise of 1.2 Pa (10 cm) is an estimate that
  includes the propellers' wash.
* GPS: 5 Hz. A single-frequency receiver without corrections: 1.8 m horizontal per axis (2.5 m CEP / 1.177 is 2.1; open
  sky), 3 m vertical, mostly slow (ionosphere, orbits: correlated over a minute), velocity 0.05 m/s per axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import atmosphere
from firmware_sim.world.build import INSTRUMENTS, LOST, White
from firmware_sim.world.quadrotor import GRAVITY
from firmware_sim.world.readings import Readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault
    from firmware_sim.world.quadrotor import State

    Array = NDArray[np.float64]

ACCEL_DENSITY = np.array([[160e-6], [160e-6], [190e-6]]) * GRAVITY  # m/s^2/sqrt(Hz)
ACCEL_BAND_HZ = 30.0  # about the noise bandwidth of the log's two-pole filter
ACCEL_WALK = 2e-4  # m/s^2/sqrt(s)
GYRO_DENSITY = np.radians(0.014)  # rad/s/sqrt(Hz)
GYRO_BAND_HZ = 64.0  # the firmware's gyro filter
GYRO_WALK = 2e-5  # rad/s/sqrt(s)
GYRO_OFFSET = np.radians(0.1)  # rad/s, after the calibration at start
BARO_OFFSET_PA = 25.0
BARO_DRIFT_PA = 4.0
BARO_DRIFT_S = 600.0
BARO_NOISE_PA = 1.2
GPS_HZ = 5.0
GPS_SLOW_M = np.array([[1.8], [1.8], [3.0]])
GPS_SLOW_S = 60.0
GPS_FAST_M = np.array([[0.15], [0.15], [0.3]])
GPS_VELOCITY = 0.05  # m/s
GPS_EPH_M = 2.5
GPS_EPV_M = 3.0
FIX_3D = 3
HOME = (47.3977, 8.5456, 408.0)  # degrees north, degrees east, m over the sea; a field in Zurich
_WHITES = 23


@dataclass(frozen=True)
class Measured:
    """What K flight controllers know at one instant; arrays of their own.

    Attributes:
        t_s: since the start.
        channels: C names, those of the log.
        samples: (K, C) the log's row.
        accel: (K, 3) body, m/s^2, with gravity (at rest 0, 0, +9.81).
        gyro: (K, 3) body, rad/s.
        pressure_pa: (K,).
        gps_lat_deg, gps_lon_deg: (K,) of the newest fix.
        gps_alt_m: (K,) over the sea.
        gps_velocity: (K, 3) east, north, up, m/s.
        gps_fix: (K,) 3 with a position in space.
        gps_satellites: (K,) in the fix.
        gps_eph_m, gps_epv_m: the receiver's own idea of its error.
        gps_new: a fix came with this row (all receivers run in step).
        quaternion: (K, 4) w, x, y, z, body to world, of the attitude estimate.
        euler: (K, 3) roll, pitch, yaw in rad, of the same: x-y-z angles, z up.
        position_m, velocity: (K, 3) estimate from home, m and m/s.
        rotor: (K, 4) rad/s.
        battery_v: (K,) as read.
        current_a: (K,).
        charge: (K,) state of charge, 0..1.
        armed: (K,) motors are on.
        crashed: (K,) lies broken on the floor.
    """

    t_s: float
    channels: tuple[str, ...]
    samples: Array
    accel: Array
    gyro: Array
    pressure_pa: Array
    gps_lat_deg: Array
    gps_lon_deg: Array
    gps_alt_m: Array
    gps_velocity: Array
    gps_fix: NDArray[np.int64]
    gps_satellites: NDArray[np.int64]
    gps_eph_m: float
    gps_epv_m: float
    gps_new: bool
    quaternion: Array
    euler: Array
    position_m: Array
    velocity: Array
    rotor: Array
    battery_v: Array
    current_a: Array
    charge: Array
    armed: NDArray[np.bool_]
    crashed: NDArray[np.bool_]


class Instruments:
    """The sensors of K vehicles beyond the log; advanced row by row.

    Args:
        seeds: K pairs of vehicle and flight seed.
        faults: K lists.
        row_s: time between two rows.
        homes: (K, 3) degrees north, degrees east, m over the sea.
    """

    def __init__(
        self, seeds: Sequence[tuple[int, int]], faults: Sequence[Sequence[Fault]], row_s: float, homes: Array
    ) -> None:
        count = len(seeds)
        streams = [np.random.default_rng([INSTRUMENTS, *seed]) for seed in seeds]
        start = np.array([s.standard_normal(10) for s in streams]).T  # (10, K)
        self.satellites = np.array([int(s.integers(9, 15)) for s in streams])
        self._white = White(streams, _WHITES)
        self._row_s, self._homes = row_s, homes.T
        self._accel_bias = np.zeros((3, count))
        self._gyro_bias = GYRO_OFFSET * start[0:3]
        self._baro_offset = BARO_OFFSET_PA * start[3]
        self._baro_drift = BARO_DRIFT_PA * start[4]
        self._gps_error = GPS_SLOW_M * start[5:8]
        self._since_fix_s = np.inf
        self._fix = np.zeros((6, count))  # east, north, up in m; velocity
        lost = [(LOST, *seed) for seed in seeds]
        self._gyro = Readings("gyro", faults, lost)
        self._baro = Readings("baro", faults, lost)
        self._gps = Readings("gps", faults, lost)
        self._white_row: NDArray[np.float32] = np.zeros((_WHITES, count), dtype=np.float32)
        self.gps_new = False

    def imu(self, body_accel: Array, rates: Array, t_s: float) -> tuple[Array, Array]:
        """Accelerometer (m/s^2) and gyroscope (rad/s), (3, K) each; draws this row's random numbers.

        Args:
            body_accel: (3, K) what the log's accelerations are made from, with gravity, after sensor faults.
            rates: (3, K) true, rad/s.
            t_s: time of the row.
        """
        white = self._white_row = self._white.row()
        root = np.sqrt(self._row_s)
        self._accel_bias += ACCEL_WALK * root * white[0:3]
        self._gyro_bias += GYRO_WALK * root * white[3:6]
        accel = body_accel + self._accel_bias + ACCEL_DENSITY * np.sqrt(ACCEL_BAND_HZ) * white[6:9]
        gyro = rates + self._gyro_bias + GYRO_DENSITY * np.sqrt(GYRO_BAND_HZ) * white[9:12]
        return accel, self._gyro.read(gyro, t_s)

    def pressure(self, height_m: Array, t_s: float) -> Array:
        """Barometer, Pa, (K,)."""
        white = self._white_row
        part = self._row_s / BARO_DRIFT_S
        self._baro_drift += -part * self._baro_drift + BARO_DRIFT_PA * np.sqrt(2 * part) * white[12]
        right = atmosphere.pressure_pa(self._homes[2] + height_m)
        return self._baro.read(right + self._baro_offset + self._baro_drift + BARO_NOISE_PA * white[13], t_s)

    def fix(self, state: State, spoof_m: Array, t_s: float) -> tuple[Array, Array, Array, Array]:
        """Newest fix: latitude, longitude in degrees, altitude in m (K,), velocity (3, K); a new one 5 times a second."""
        white = self._white_row
        part = self._row_s / GPS_SLOW_S
        self._gps_error += -part * self._gps_error + GPS_SLOW_M * np.sqrt(2 * part) * white[14:17]
        self._since_fix_s += self._row_s
        self.gps_new = self._since_fix_s >= 1 / GPS_HZ - 1e-9
        if self.gps_new:
            self._since_fix_s = 0.0
            fix = np.concatenate(
                [
                    state.position_m + self._gps_error + GPS_FAST_M * white[17:20],
                    state.velocity + GPS_VELOCITY * white[20:23],
                ]
            )
            fix[0] += spoof_m
            self._fix = self._gps.read(fix, t_s)  # position and velocity together
        east, north, up = self._fix[:3]
        per_north, per_east = atmosphere.degrees_per_metre(self._homes[0])
        latitude = self._homes[0] + north * per_north
        longitude = self._homes[1] + east * per_east
        return latitude, longitude, self._homes[2] + up, self._fix[3:].copy()


def quaternion_of(axes: Array) -> Array:
    """Quaternion (K, 4), w x y z, w >= 0, of body axes (3, 3, K) in the world.

    Source: Shepperd, J. Guidance and Control 1(3), 1978: divide by the largest of the four.
    """
    m = axes.transpose(2, 1, 0)  # (K, row, column)
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    quarters = np.stack([1 + trace, *(1 + 2 * m[:, i, i] - trace for i in range(3))], axis=1)  # 4 w^2, 4 x^2, ...
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    w2, x2, y2, z2 = quarters.T
    rows = np.stack(
        [
            np.stack([w2, wx, wy, wz], axis=1),
            np.stack([wx, x2, xy, xz], axis=1),
            np.stack([wy, xy, y2, yz], axis=1),
            np.stack([wz, xz, yz, z2], axis=1),
        ],
        axis=1,
    )  # (K, 4, 4): every row is 4 q_i q
    largest = quarters.argmax(axis=1)
    q = rows[np.arange(len(m)), largest]
    q /= np.sqrt((q * q).sum(axis=1, keepdims=True))
    q[q[:, 0] < 0] *= -1
    return np.asarray(q)


def euler_of(axes: Array) -> Array:
    """Roll, pitch, yaw (K, 3) in rad: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    roll = np.arctan2(axes[1, 2], axes[2, 2])
    pitch = -np.arcsin(np.clip(axes[0, 2], -1.0, 1.0))
    yaw = np.arctan2(axes[0, 1], axes[0, 0])
    return np.stack([roll, pitch, yaw], axis=1)
