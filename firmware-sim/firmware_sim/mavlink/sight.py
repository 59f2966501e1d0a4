"""One simulated vehicle as its flight controller sees it, in MAVLink's frames and time. Pure; knows no message.

The world's axes are east, north, up and become north, east, down; the body's are forward, left, up and become forward,
right, down (MAV_FRAME_LOCAL_NED, MAV_FRAME_BODY_FRD).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world.quadrotor import AVIONICS_A, FULL_COMMAND, GRAVITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_sim.world.instruments import Measured

    Array = NDArray[np.float64]

ROTORS = 4
AIRBORNE_M = 0.05
_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class Sight:
    """One vehicle at one instant, in MAVLink's frames.

    Attributes:
        boot_us, unix_us: time since start and since the epoch, microseconds.
        attitude: roll, pitch, yaw in rad, yaw -pi..pi from north.
        quaternion: w, x, y, z, w >= 0, body to world.
        accel, rates: forward, right, down; m/s^2 with gravity, rad/s.
        position_m, velocity: north, east, down from home.
        home: degrees north, degrees east, m over the sea.
        lat_deg, lon_deg, alt_m, gps_velocity: newest fix; velocity north, east, down.
        fix, satellites, eph_m, epv_m: of the receiver.
        pressure_pa, battery_v, current_a, charge: as measured.
        command: (4,) 0..1 of full thrust. duty: (4,) 0..1. rotor: (4,) rad/s.
        armed, crashed: state.
        used_c: charge drawn since start, A s. used_j: energy.
        vibration: (3,) m/s^2, see `Shaking`.
        esc_rows: readings the speed controllers have given.
    """

    boot_us: int
    unix_us: int
    attitude: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    accel: tuple[float, float, float]
    rates: tuple[float, float, float]
    position_m: tuple[float, float, float]
    velocity: tuple[float, float, float]
    home: tuple[float, float, float]
    lat_deg: float
    lon_deg: float
    alt_m: float
    gps_velocity: tuple[float, float, float]
    fix: int
    satellites: int
    eph_m: float
    epv_m: float
    pressure_pa: float
    battery_v: float
    current_a: float
    charge: float
    command: Array
    duty: Array
    rotor: Array
    armed: bool
    crashed: bool
    used_c: float
    used_j: float
    vibration: tuple[float, float, float]
    esc_rows: int

    @property
    def airborne(self) -> bool:
        """Off the ground by its own estimate."""
        return -self.position_m[2] > AIRBORNE_M

    @property
    def esc_current_a(self) -> Array:
        """Current of each speed controller: the battery's without the avionics, shared as duty x speed^2 draws it."""
        drawn = self.duty * self.rotor**2
        return drawn / max(float(drawn.sum()), 1e-12) * max(self.current_a - AVIONICS_A, 0.0)

    @property
    def esc_rpm(self) -> Array:
        """Rotor speeds, rpm."""
        return self.rotor * (30 / math.pi)


def down(xyz: Array) -> tuple[float, float, float]:
    """East, north, up -> north, east, down."""
    return float(xyz[1]), float(xyz[0]), -float(xyz[2])


def right(xyz: Array) -> tuple[float, float, float]:
    """Forward, left, up -> forward, right, down."""
    return float(xyz[0]), -float(xyz[1]), -float(xyz[2])


def attitude_of(euler: Array) -> tuple[float, float, float]:
    """Roll, pitch, yaw of z-up axes, yaw from east -> of z-down axes, yaw from north, -pi..pi."""
    roll, pitch, yaw = (float(a) for a in euler)
    return roll, -pitch, math.remainder(math.pi / 2 - yaw, 2 * math.pi)


def quaternion_of(q: Array) -> tuple[float, float, float, float]:
    """(forward, left, up in east, north, up) -> (forward, right, down in north, east, down).

    The product t q f: f turns the body half around its x axis, t the world half around the line between x and y.
    """
    w, x, y, z = (float(a) for a in q)
    a, b, c, d = -x, w, z, -y  # q f with f = (0, 1, 0, 0)
    # t (a, b, c, d) with t = (0, h, h, 0)
    turned = (-b - c, a + d, a - d, c - b)
    sign = math.copysign(_HALF, turned[0])
    return (sign * turned[0], sign * turned[1], sign * turned[2], sign * turned[3])


class Shaking:
    """Vibration of K vehicles: root mean square of the acceleration above 5 Hz, over half a second (as ArduPilot defines it)."""

    def __init__(self, count: int, row_s: float) -> None:
        self._slow = np.tile([0.0, 0.0, GRAVITY], (count, 1))
        self._square = np.zeros((count, 3))
        self._part_slow = 1 - math.exp(-2 * math.pi * 5.0 * row_s)
        self._part_square = 1 - math.exp(-2 * math.pi * 2.0 * row_s)

    def feed(self, accel: Array) -> Array:
        """Take one row (K, 3), m/s^2; returns the level (K, 3)."""
        self._slow += self._part_slow * (accel - self._slow)
        self._square += self._part_square * ((accel - self._slow) ** 2 - self._square)
        return np.asarray(np.sqrt(self._square))


def see(
    measured: Measured,
    k: int,
    home: tuple[float, float, float],
    start_s: float,
    used: tuple[float, float],
    vibration: Array,
) -> Sight:
    """Vehicle k of what K vehicles measured.

    Args:
        measured: one row.
        k: which vehicle.
        home: its place; degrees north, degrees east, m over the sea.
        start_s: when t = 0 was, seconds since the epoch.
        used: charge (A s) and energy (J) drawn since the start.
        vibration: (3,) m/s^2, z-up axes (a level has no sign).
    """
    boot_us = round(measured.t_s * 1e6)
    row = measured.samples[k]
    return Sight(
        boot_us=boot_us,
        unix_us=round(start_s * 1e6) + boot_us,
        attitude=attitude_of(measured.euler[k]),
        quaternion=quaternion_of(measured.quaternion[k]),
        accel=right(measured.accel[k]),
        rates=right(measured.gyro[k]),
        position_m=down(measured.position_m[k]),
        velocity=down(measured.velocity[k]),
        home=home,
        lat_deg=float(measured.gps_lat_deg[k]),
        lon_deg=float(measured.gps_lon_deg[k]),
        alt_m=float(measured.gps_alt_m[k]),
        gps_velocity=down(measured.gps_velocity[k]),
        fix=int(measured.gps_fix[k]),
        satellites=int(measured.gps_satellites[k]),
        eph_m=measured.gps_eph_m,
        epv_m=measured.gps_epv_m,
        pressure_pa=float(measured.pressure_pa[k]),
        battery_v=float(measured.battery_v[k]),
        current_a=float(measured.current_a[k]),
        charge=float(measured.charge[k]),
        command=row[_columns(measured.channels, "motor.m{}")] / FULL_COMMAND,
        duty=row[_columns(measured.channels, "pwm.m{}_pwm")] / FULL_COMMAND,
        rotor=np.asarray(measured.rotor[k], dtype=np.float64),
        armed=bool(measured.armed[k]),
        crashed=bool(measured.crashed[k]),
        used_c=used[0],
        used_j=used[1],
        vibration=(float(vibration[0]), float(vibration[1]), float(vibration[2])),
        esc_rows=round(measured.t_s * 100),
    )


@lru_cache
def _columns(channels: tuple[str, ...], name: str) -> list[int]:
    return [channels.index(name.format(i)) for i in range(1, ROTORS + 1)]
