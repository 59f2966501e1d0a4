"""One integration step of K quadrotors: battery, rotors, rigid body, floor. SI units, no randomness and no controller.

Everything is element by element over the vehicles, without BLAS: a vehicle's numbers do not depend, to the last bit, on how
many fly beside it. That and components first, (3, K), is also what makes it fast (benchmarks/sim_physics.py).

Semi-implicit Euler: velocities first, then positions with the new velocities (symplectic for conservative forces); attitude
by the second-order series of the exponential map. At 2 ms the stiff attitude loop is stable with margin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import quadrotor as q

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

CRASH_MS = 2.0  # sinks faster into the floor: broken; the missions land with 0.9 m/s at most
STICTION = 1.0  # rad/s: below it friction stops a rotor without power
CRASH_UP = 0.5  # cosine of the tilt at the floor, beyond 60 degrees: on its side or back
_COMMAND_A = 0.088 * 60.0 / 65536.0  # firmware_volts, as c (a - b c)
_COMMAND_B = 0.0006239 * (60.0 / 65536.0) ** 2
_LEVER = q.ARM_M / np.sqrt(2)


class Physics:
    """Moves the vehicles of one state.

    Args:
        frame: the vehicles; call `refresh` after changing it.
        state: changed in place by `advance`.
    """

    def __init__(self, frame: q.Airframe, state: q.State) -> None:
        self.state = state
        self._four = np.empty_like(state.rotor)
        self._other = np.empty_like(state.rotor)
        self._turned = np.empty_like(state.axes)
        self._three = np.empty_like(state.axes[0])
        self._open_v = np.empty(0)
        self._frame = frame
        self.refresh()

    def refresh(self, frame: q.Airframe | None = None) -> None:
        """Take over changes of the vehicles."""
        frame = self._frame = self._frame if frame is None else frame
        load = frame.torque_gain * (1 + frame.friction)
        self._emf = q.VOLT_PER_SPEED / frame.motor_gain  # (4, K), as the next five
        self._emf2 = self._emf * self._emf
        self._drop4 = 4 * q.VOLT_PER_SPEED2 * load
        self._amperes = q.VOLT_PER_SPEED2 / q.MOTOR_OHM * load
        self._k_f = q.K_F * frame.thrust_gain
        self._k_m = (
            q.K_M * frame.torque_gain * q.SPIN[:, None]
        )  # friction is inside the motor: it does not turn the body
        self._per_mass = 1 / frame.mass_kg
        self._drag = frame.drag * self._per_mass
        self._per_inertia = 1 / frame.inertia
        i = frame.inertia
        self._gyro = np.stack([i[1] - i[2], i[2] - i[0], i[0] - i[1]]) * self._per_inertia

    def advance(self, command: Array, wind: Array, torque: Array, step_s: float) -> None:
        """One step of all vehicles.

        Args:
            command: (4, K) 0..65535.
            wind: (3, K) world, m/s.
            torque: (3, K) disturbance in body axes, N m.
            step_s: at most 0.002 for the stiff attitude loop.
        """
        state = self.state
        self._drain(command, step_s)
        self._spin(step_s)
        self._move(wind, torque, step_s)
        self._turn(step_s)
        if state.position_m[2].min() <= 0.0:
            self._stand()

    def stand_by(self, step_s: float) -> None:
        """One step when all are parked with motors off: only the battery changes. The same numbers as `advance`, sooner."""
        self._drain(self.state.rotor, step_s)

    def _drain(self, command: Array, step_s: float) -> None:
        """Battery: duty from the last terminal voltage, current from the rotors, then the new terminal voltage."""
        state, duty, work = self.state, self.state.duty, self._four
        np.multiply(command, -_COMMAND_B, out=duty)
        duty += _COMMAND_A
        duty *= command
        duty /= state.battery_v
        np.minimum(duty, 1.0, out=duty)  # a command is not negative
        np.multiply(state.rotor, state.rotor, out=work)
        work *= self._amperes  # current of each motor
        work *= duty  # of it, from the battery
        current = state.current_a
        np.add(work[0], work[1], out=current)
        current += work[2]
        current += work[3]
        current += q.AVIONICS_A
        frame = self._frame
        state.charge -= current * (step_s / frame.capacity_c)
        np.maximum(state.charge, 0.0, out=state.charge)
        state.polar_v += (frame.polar_ohm * current - state.polar_v) * (step_s / q.POLAR_S)
        state.battery_v[:] = q.open_circuit_v(state.charge)
        state.battery_v -= state.polar_v
        state.battery_v -= frame.ohm * current

    def _spin(self, step_s: float) -> None:
        """Rotors follow their steady speed with one lag (see quadrotor.steady_speed)."""
        rotor, volts, root = self.state.rotor, self._four, self._other
        np.multiply(self.state.duty, self.state.battery_v, out=volts)
        np.multiply(self._drop4, volts, out=root)
        root += self._emf2
        np.sqrt(root, out=root)
        root += self._emf
        volts *= 2.0
        volts /= root
        volts -= rotor
        volts *= step_s / q.ROTOR_LAG_S
        rotor += volts

    def _move(self, wind: Array, torque: Array, step_s: float) -> None:
        state, frame, thrust, square = self.state, self._frame, self._four, self._other
        np.multiply(state.rotor, state.rotor, out=square)
        np.multiply(self._k_f, square, out=thrust)
        right, left = thrust[0] + thrust[1], thrust[2] + thrust[3]
        total = right + left
        moment = self._three
        np.subtract(left, right, out=moment[0])
        np.add(thrust[1], thrust[2], out=moment[1])
        moment[1] -= thrust[0]
        moment[1] -= thrust[3]
        moment[:2] *= _LEVER
        moment[0] -= total * frame.centre_m[1]
        moment[1] += total * frame.centre_m[0]
        square *= self._k_m
        np.add(square[0], square[1], out=moment[2])
        moment[2] += square[2]
        moment[2] += square[3]
        moment[2] += frame.twist_nm
        moment += torque
        moment *= self._per_inertia
        x, y, z = state.rates
        moment[0] += self._gyro[0] * y * z
        moment[1] += self._gyro[1] * z * x
        moment[2] += self._gyro[2] * x * y
        moment *= step_s
        state.rates += moment

        force, work = state.force, self._three
        total *= self._per_mass
        np.multiply(state.axes[2], total, out=force)
        np.subtract(state.velocity, wind, out=work)
        work *= self._drag
        force -= work
        np.multiply(force, step_s, out=work)
        state.velocity += work
        state.velocity[2] -= step_s * q.GRAVITY
        np.multiply(state.velocity, step_s, out=work)
        state.position_m += work

    def _turn(self, step_s: float) -> None:
        """R <- R (1 + H + H^2/2) with H the cross-product matrix of the turn in this step."""
        axes, turned = self.state.axes, self._turned
        turn = self.state.rates * step_s
        _cross(axes, turn, turned, self._three)
        axes += turned
        turn *= 0.5
        # H^2/2 from H: the columns of (R H) H/2
        again = np.empty_like(turned)
        _cross(turned, turn, again, self._three)
        axes += again

    def _stand(self) -> None:
        """The floor: a vehicle that would sink into it stands level and still, or lies there broken."""
        state = self.state
        down = (state.position_m[2] <= 0) & (state.velocity[2] <= 0)
        state.crashed |= down & ((state.velocity[2] < -CRASH_MS) | (state.axes[2, 2] < CRASH_UP))
        level = down & ~state.crashed
        down |= state.crashed
        state.position_m[2, down] = 0.0
        state.velocity[:, down] = 0.0
        state.rates[:, down] = 0.0
        state.axes[:, :, level] = np.eye(3)[:, :, None]
        still = down & ((state.rotor < STICTION) & (state.duty <= 0.0)).all(axis=0)
        state.rotor[:, still | state.crashed] = 0.0
        state.force[:, down] = _UP


_UP = np.array([[0.0], [0.0], [q.GRAVITY]])


def _cross(axes: Array, turn: Array, out: Array, work: Array) -> None:
    """R hat(turn) into out, by columns: axis j of the result is made of the two other axes."""
    for j in range(3):
        nxt, after = (j + 1) % 3, (j + 2) % 3
        np.multiply(axes[nxt], turn[after], out=out[j])
        np.multiply(axes[after], turn[nxt], out=work)
        out[j] -= work


def is_parked(state: q.State) -> bool:
    """Whether all vehicles stand on the floor with rotors still."""
    return bool(state.rotor.max() <= 0.0 and state.position_m[2].max() <= 0.0)


def square_up(state: q.State) -> None:
    """Make the attitudes orthonormal again (Gram-Schmidt); the integration lets them drift."""
    x, y, z = state.axes
    x /= np.sqrt(_dot(x, x))
    y -= _dot(x, y) * x
    y /= np.sqrt(_dot(y, y))
    z[0] = x[1] * y[2] - x[2] * y[1]
    z[1] = x[2] * y[0] - x[0] * y[2]
    z[2] = x[0] * y[1] - x[1] * y[0]


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])
