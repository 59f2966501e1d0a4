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

# By axis, (3, 1).
POSITION_P = np.array([[2.6], [2.6], [7.0]])  # 1/s^2
POSITION_D = np.array([[3.2], [3.2], [5.0]])  # 1/s
POSITION_I = np.array([[0.6], [0.6], [2.0]])  # 1/s^3
ATTITUDE_P = 9.0  # 1/s
YAW_P = 4.0
RATE_P = np.array([[28.0], [28.0], [12.0]])  # 1/s, times inertia
RATE_I = np.array([[170.0], [170.0], [50.0]])  # 1/s^2, times inertia
BASE_THRUST = 1.08  # command over nominal weight in hover; set by hand, as the firmware's own base thrust
LIFT = (0.55 * q.GRAVITY, 1.25 * q.GRAVITY)  # range of the vertical thrust per mass; the CrazyPAD logs stay inside
MAX_TILT = 0.35  # rad, as tangent
MAX_TRIM = 8.0  # rad
MAX_MOMENT = np.array([[4e-3], [4e-3], [3e-3]])  # N m

# Thrusts of the rotors for unit total thrust and moments: the inverse of physics.py's geometry, whose rows are orthogonal.
_INERTIA = q.INERTIA[:, None]
_LEVER_SHARE = 1 / (4 * q.ARM_M / np.sqrt(2))
_YAW_SHARE = q.K_F / (4 * q.K_M)


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
# Lawn mower: four lanes of 10 m, 3 m apart, 2 m high.
SURVEY = Mission(
    "survey",
    (
        (0.0, 0, 0, 0),
        (2.9, 0, 0, 0),
        (6.4, 0, 0, 2),
        (7.0, 0, 0, 2),
        (14.0, 10, 0, 2),
        (16.5, 10, 3, 2),
        (23.5, 0, 3, 2),
        (26.0, 0, 6, 2),
        (33.0, 10, 6, 2),
        (35.5, 10, 9, 2),
        (42.5, 0, 9, 2),
        (51.0, 0, 0, 2),
        (51.8, 0, 0, 2),
        (55.8, 0, 0, 0),
    ),
    60.0,
)
HOVER = Mission(
    "hover",
    (
        (0.0, 0, 0, 0),
        (2.9, 0, 0, 0),
        (4.9, 0, 0, 1),
        (23.0, 0, 0, 1),
        (25.3, 0, 0, 0),
    ),
    26.0,
)
MISSIONS = {m.name: m for m in (SHUTTLE, SQUARE, SURVEY, HOVER)}


class Pilot:
    """Flies K vehicles along one mission; holds only its integrators and the last wish of the outer loop.

    Attributes:
        gain_share: (K,) factor on the gains of the rate loop; another firmware changes it.
        base_share: (K,) factor on the base thrust.
    """

    def __init__(self, count: int) -> None:
        self.gain_share = np.ones(count)
        self.base_share = np.ones(count)
        self._drift = np.zeros((3, count))  # integral of the position error
        self._trim = np.zeros((3, count))  # integral of the rate error
        self._thrust = np.zeros(count)
        self._setpoint: Array | None = None
        self._up = np.repeat([[0.0], [0.0], [1.0]], count, axis=1)
        self._on = False
        self._wish = np.zeros((3, count))
        self._moment = np.zeros((3, count))
        self._command = np.zeros((4, count))

    def steer(self, setpoint: Array, on: bool, position_m: Array, velocity: Array, step_s: float) -> None:
        """Outer loop: the wanted direction and size of thrust.

        Args:
            setpoint: (3,) m.
            on: motors on; off resets the integrators.
            position_m: (3, K) estimate.
            velocity: (3, K) estimate, m/s.
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
        error = setpoint[:, None] - position_m
        drift = self._drift
        drift += error * step_s
        np.clip(drift, -1.5, 1.5, out=drift)
        want = POSITION_P * error + POSITION_I * drift + POSITION_D * (speed[:, None] - velocity)
        want[2] += q.GRAVITY
        np.clip(want[2], *LIFT, out=want[2])
        limit = MAX_TILT * want[2]
        np.clip(want[:2], -limit, limit, out=want[:2])
        size = np.sqrt(want[0] * want[0] + want[1] * want[1] + want[2] * want[2])
        self._thrust = BASE_THRUST * q.MASS_KG * size * self.base_share
        np.divide(want, size, out=self._up)

    def command(self, axes: Array, rates: Array, step_s: float) -> Array:
        """Inner loop: (4, K) commands 0..65535, valid until the next call.

        Args:
            axes: (3, 3, K) the body's axes in the world, as State holds them.
            rates: (3, K) measured, rad/s.
            step_s: time since the last call.
        """
        command = self._command
        if not self._on:
            command[:] = 0.0
            return command
        error, moment, trim, up = self._wish, self._moment, self._trim, self._up
        # The wanted thrust direction in body axes turns about the other axis: -y about x, x about y.
        np.multiply(axes[1], up, out=moment)
        np.add(moment[0], moment[1], out=error[0])
        error[0] += moment[2]
        np.multiply(axes[0], up, out=moment)
        np.add(moment[0], moment[1], out=error[1])
        error[1] += moment[2]
        error[0] *= -ATTITUDE_P
        error[1] *= ATTITUDE_P
        np.arctan2(axes[0, 1], axes[0, 0], out=error[2])
        error[2] *= -YAW_P
        error -= rates
        np.multiply(error, step_s, out=moment)
        trim += moment
        np.maximum(trim, -MAX_TRIM, out=trim)
        np.minimum(trim, MAX_TRIM, out=trim)
        np.multiply(trim, RATE_I, out=moment)
        error *= RATE_P
        moment += error
        moment *= _INERTIA
        moment *= self.gain_share
        np.maximum(moment, -MAX_MOMENT, out=moment)
        np.minimum(moment, MAX_MOMENT, out=moment)
        self._mix(moment, command)
        # Attitude before height, as in the firmware: a rotor at its limit lowers all four instead of losing moment.
        over = command.max(axis=0)
        over -= q.FULL_THRUST_N
        np.maximum(over, 0.0, out=over)
        command -= over
        command *= q.FULL_COMMAND / q.FULL_THRUST_N
        np.maximum(command, 0.0, out=command)
        np.minimum(command, q.FULL_COMMAND, out=command)
        return command

    def _mix(self, moment: Array, thrust: Array) -> None:
        """Thrusts of the rotors that make the wanted total and moments."""
        moment[:2] *= _LEVER_SHARE
        moment[2] *= _YAW_SHARE
        roll, pitch, yaw = moment
        front, back = thrust[0], thrust[1]
        np.multiply(self._thrust, 0.25, out=front)
        np.add(front, pitch, out=back)
        front -= pitch
        thrust[3] = front
        thrust[2] = back
        front -= roll
        back -= roll
        thrust[2] += roll
        thrust[3] += roll
        thrust[0] -= yaw
        thrust[1] += yaw
        thrust[2] -= yaw
        thrust[3] += yaw
