"""The controller and the missions it flies: position to attitude to rates to four motor commands.

A cascade like the firmware's own PID controller; the gains are ours, tuned for the nominal vehicle. It sees estimates with
noise, never the truth, and knows nothing of faults: integrators absorb what is uneven between the rotors, which is exactly
how a damaged propeller shows in the motor commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import quadrotor as q

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

POSITION_P = np.array([2.6, 2.6, 7.0])  # 1/s^2
POSITION_D = np.array([3.2, 3.2, 5.0])  # 1/s
POSITION_I = np.array([0.6, 0.6, 2.0])  # 1/s^3
ATTITUDE_P = 9.0  # 1/s
YAW_P = 4.0
RATE_P = np.array([28.0, 28.0, 12.0])  # 1/s, times inertia
RATE_I = np.array([170.0, 170.0, 50.0])  # 1/s^2, times inertia
BASE_THRUST = 1.08  # command over nominal weight in hover; set by hand, as the firmware's own base thrust
LIFT = (0.55 * q.GRAVITY, 1.25 * q.GRAVITY)  # range of the vertical thrust per mass; the CrazyPAD logs stay inside
MAX_TILT = 0.35  # rad, as tangent
MAX_TRIM = 8.0  # rad
MAX_MOMENT = np.array([4e-3, 4e-3, 3e-3])  # N m

# Thrusts of the rotors for unit total thrust and moments about x, y, z: the inverse of quadrotor.advance's geometry.
_MIX = np.linalg.inv(np.stack([np.ones(4), q.ROTOR_Y, -q.ROTOR_X, q.SPIN * (q.K_M / q.K_F)]))


@dataclass(frozen=True)
class Mission:
    """Waypoints in time, flown again and again.

    Attributes:
        name: for messages and manifests.
        points: (t_s, x_m, y_m, z_m), growing in time, first at 0; between two points the set point moves with smooth start
            and stop. A height of 0 at both ends of a leg means motors off.
        period_s: when the mission starts again.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    period_s: float

    def setpoint(self, t_s: float) -> tuple[Array, bool]:
        """Set point (x, y, z) in m at a time, and whether the motors are on."""
        t_s %= self.period_s
        later = next((i for i, p in enumerate(self.points) if p[0] > t_s), len(self.points))
        start = self.points[later - 1]
        end = self.points[later] if later < len(self.points) else (self.period_s, *start[1:])
        part = (t_s - start[0]) / (end[0] - start[0])
        smooth = part * part * part * (10 + part * (6 * part - 15))  # minimum jerk
        a, b = np.array(start[1:]), np.array(end[1:])
        return a + (b - a) * smooth, bool(start[3] > 0 or end[3] > 0)


# What the CrazyPAD logs hold: out 2 m, land, wait, take off, back, land; 0.52 m high.
SHUTTLE = Mission(
    "shuttle",
    (
        (0.0, 0, 0, 0),
        (2.9, 0, 0, 0),
        (4.9, 0, 0, 0.52),
        (5.4, 0, 0, 0.52),
        (10.5, 2, 0, 0.52),
        (10.9, 2, 0, 0.52),
        (12.0, 2, 0, 0),
        (16.6, 2, 0, 0),
        (18.6, 2, 0, 0.52),
        (19.4, 2, 0, 0.52),
        (24.6, 0, 0, 0.52),
        (24.9, 0, 0, 0.52),
        (25.95, 0, 0, 0),
    ),
    26.0,
)
SQUARE = Mission(
    "square",
    (
        (0.0, 0, 0, 0),
        (2.9, 0, 0, 0),
        (4.9, 0, 0, 0.52),
        (5.4, 0, 0, 0.52),
        (9.5, 1, 0, 0.52),
        (13.8, 1, 1, 0.52),
        (18.1, 0, 1, 0.52),
        (22.4, 0, 0, 0.52),
        (23.2, 0, 0, 0.52),
        (25.2, 0, 0, 0),
    ),
    26.0,
)
MISSIONS = {m.name: m for m in (SHUTTLE, SQUARE)}


class Pilot:
    """Flies K vehicles along one mission; holds only its integrators and the last wish of the outer loop."""

    def __init__(self, count: int) -> None:
        self._drift = np.zeros((count, 3))  # integral of the position error
        self._trim = np.zeros((count, 3))  # integral of the rate error
        self._thrust = np.zeros(count)
        self._setpoint: Array | None = None
        self._up = np.tile([0.0, 0.0, 1.0], (count, 1))
        self._on = False

    def steer(self, setpoint: Array, on: bool, position_m: Array, velocity: Array, step_s: float) -> None:
        """Outer loop: the wanted direction and size of thrust.

        Args:
            setpoint: (3,) m.
            on: motors on; off resets the integrators.
            position_m: (K, 3) estimate.
            velocity: (K, 3) estimate, m/s.
            step_s: time since the last call.
        """
        self._on = on
        if not on:
            self._drift[:] = 0.0
            self._trim[:] = 0.0
            self._setpoint = None
            return
        speed = np.zeros(3) if self._setpoint is None else (setpoint - self._setpoint) / step_s
        self._setpoint = setpoint
        error = setpoint - position_m
        self._drift = np.clip(self._drift + error * step_s, -1.5, 1.5)
        want = POSITION_P * error + POSITION_I * self._drift + POSITION_D * (speed - velocity)
        want[:, 2] += q.GRAVITY
        want[:, 2] = np.clip(want[:, 2], *LIFT)
        limit = MAX_TILT * want[:, 2:]
        want[:, :2] = np.clip(want[:, :2], -limit, limit)
        size = np.linalg.norm(want, axis=1)
        self._thrust = BASE_THRUST * q.MASS_KG * size
        self._up = want / size[:, None]

    def command(self, attitude: Array, rates: Array, step_s: float) -> Array:
        """Inner loop: (K, 4) commands 0..65535 from attitude (K, 3, 3) and measured rates (K, 3) rad/s."""
        if not self._on:
            return np.zeros((len(rates), 4))
        up = (self._up[:, None, :] @ attitude)[:, 0]  # the wanted thrust direction in body axes
        wish = np.empty_like(rates)
        wish[:, 0] = -ATTITUDE_P * up[:, 1]
        wish[:, 1] = ATTITUDE_P * up[:, 0]
        wish[:, 2] = -YAW_P * np.arctan2(attitude[:, 1, 0], attitude[:, 0, 0])
        error = wish - rates
        self._trim = np.minimum(np.maximum(self._trim + error * step_s, -MAX_TRIM), MAX_TRIM)
        moment = q.INERTIA * (RATE_P * error + RATE_I * self._trim)
        moment = np.minimum(np.maximum(moment, -MAX_MOMENT), MAX_MOMENT)
        wanted = np.concatenate([self._thrust[:, None], moment], axis=1) @ _MIX.T  # (K, 4)
        # Attitude before height, as in the firmware: a rotor at its limit lowers all four instead of losing moment.
        wanted -= np.maximum(wanted.max(axis=1, keepdims=True) - q.FULL_THRUST_N, 0.0)
        return q.command_for_thrust(wanted)
