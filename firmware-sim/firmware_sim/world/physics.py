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
CURVE_STEPS = (
    8  # the charge moves by some 1e-5 in as many steps: its piece of the voltage curve is looked up no oftener
)
_COMMAND_A = 0.088 * 60.0 / 65536.0  # firmware_volts, as c (a - b c)
_COMMAND_B = 0.0006239 * (60.0 / 65536.0) ** 2
_LEVER = q.ARM_M / np.sqrt(2)


class Physics:
    """Moves the vehicles of one state.

    Args:
        frame: the vehicles; call `refresh` after changing it.
        state: changed in place by `advance`; its rates and axes are moved into longer buffers here.

    Attributes:
        crashed: a vehicle lies broken on the floor.
    """

    def __init__(self, frame: q.Airframe, state: q.State) -> None:
        self.state = state
        self.crashed = bool(state.crashed.any())
        self._frame = frame
        count = len(state.charge)
        # Vectors with their first two components once more behind: [1:4] and [2:5] are then the next and the one after
        # of each component, and a cross product is two products and a difference of whole blocks.
        self._rates5, self._turn5 = np.zeros((5, count)), np.zeros((5, 1, count))
        self._axes5, self._half5 = np.zeros((5, 3, count)), np.zeros((5, 3, count))
        self._rates5[:3], self._axes5[:3] = state.rates, state.axes
        state.rates, state.axes = self._rates5[:3], self._axes5[:3]
        self._four, self._other, self._volts = (np.empty((4, count)) for _ in range(3))
        self._three, self._product = np.empty((3, count)), np.empty((3, 3, count))
        self._one, self._two = np.empty(count), np.empty((2, count))
        self._step_s = 0.0
        self._steps = 0
        self.refresh()

    def refresh(self) -> None:
        """Take over changes of the vehicles."""
        frame = self._frame
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
        self._centre = np.stack([-frame.centre_m[1], frame.centre_m[0]])  # moment about x, y of one newton
        self._step_s = 0.0

    def _fold(self, step_s: float) -> None:
        """Constants with the step in them."""
        frame, i = self._frame, self._frame.inertia
        self._turn_per_nm = step_s / i
        self._gyro = np.stack([i[1] - i[2], i[2] - i[0], i[0] - i[1]]) * self._turn_per_nm
        self._used = step_s / frame.capacity_c
        self._kept = 1 - step_s / q.POLAR_S
        self._polar = frame.polar_ohm * (step_s / q.POLAR_S)
        self._step_s = step_s

    def advance(self, command: Array, wind: Array, torque: Array, step_s: float) -> None:
        """One step of all vehicles.

        Args:
            command: (4, K) 0..65535.
            wind: (3, K) world, m/s.
            torque: (3, K) disturbance in body axes, N m.
            step_s: at most 0.002 for the stiff attitude loop.
        """
        if step_s != self._step_s:
            self._fold(step_s)
        self._drain(command)
        self._spin(step_s)
        self._move(wind, torque, step_s)
        self._turn(step_s)
        if self.state.position_m[2].min() <= 0.0:
            self._stand()

    def stand_by(self, step_s: float) -> None:
        """One step when all are parked with motors off: only the battery changes. The same numbers as `advance`, sooner."""
        if step_s != self._step_s:
            self._fold(step_s)
        self._drain(self.state.rotor)

    def _drain(self, command: Array) -> None:
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
        current, volts, one = state.current_a, state.battery_v, self._one
        np.add(work[:2], work[2:], out=self._two)
        np.add(self._two[0], self._two[1], out=current)
        current += q.AVIONICS_A
        np.multiply(current, self._used, out=one)
        state.charge -= one
        np.maximum(state.charge, 0.0, out=state.charge)
        state.polar_v *= self._kept
        np.multiply(current, self._polar, out=one)
        state.polar_v += one
        if self._steps % CURVE_STEPS == 0:
            self._curve = q.open_circuit_line(state.charge)
        self._steps += 1
        np.multiply(state.charge, self._curve[1], out=volts)
        volts += self._curve[0]
        volts -= state.polar_v
        np.multiply(current, self._frame.ohm, out=one)
        volts -= one

    def _spin(self, step_s: float) -> None:
        """Rotors follow their steady speed with one lag (see quadrotor.steady_speed)."""
        rotor, volts, root = self.state.rotor, self._volts, self._other
        np.multiply(self.state.duty, self.state.battery_v, out=volts)
        np.multiply(self._drop4, volts, out=root)
        root += self._emf2
        np.sqrt(root, out=root)
        root += self._emf
        volts /= root
        volts *= 2 * step_s / q.ROTOR_LAG_S
        rotor *= 1 - step_s / q.ROTOR_LAG_S
        rotor += volts

    def _move(self, wind: Array, torque: Array, step_s: float) -> None:
        state, frame, thrust, square = self.state, self._frame, self._four, self._other
        rates5, moment, two, total = self._rates5, self._three, self._two, self._one
        spin = self._product[0]
        rates5[3:] = rates5[:2]  # the floor, or whoever owns the state, may have changed them
        np.multiply(rates5[1:4], rates5[2:5], out=spin)
        spin *= self._gyro
        np.multiply(state.rotor, state.rotor, out=square)
        np.multiply(self._k_f, square, out=thrust)
        np.add(thrust[0:3:2], thrust[1:4:2], out=two)  # right, left
        np.add(two[0], two[1], out=total)
        np.subtract(two[1], two[0], out=moment[0])
        np.subtract(thrust[1::2], thrust[0::2], out=two)  # back - front on the right, front - back on the left
        np.subtract(two[0], two[1], out=moment[1])
        moment[:2] *= _LEVER
        np.multiply(self._centre, total, out=two)
        moment[:2] += two
        square *= self._k_m
        np.add(square[:2], square[2:], out=two)
        np.add(two[0], two[1], out=moment[2])
        moment[2] += frame.twist_nm
        moment += torque
        moment *= self._turn_per_nm
        moment += spin
        state.rates += moment

        force, work = state.force, self._three
        total *= self._per_mass
        np.multiply(state.axes[2], total, out=force)
        np.subtract(state.velocity, wind, out=work)
        work *= self._drag
        force -= work
        np.multiply(force, step_s, out=work)
        work[2] -= step_s * q.GRAVITY
        state.velocity += work
        np.multiply(state.velocity, step_s, out=work)
        state.position_m += work

    def _turn(self, step_s: float) -> None:
        """R <- R (1 + H + H^2/2), H the cross-product matrix of the turn in this step, as R + (R + R H/2) H."""
        rates5, turn5, axes5, half5, work = self._rates5, self._turn5, self._axes5, self._half5, self._product
        rates5[3:] = rates5[:2]
        np.multiply(rates5[:, None], step_s, out=turn5)
        axes5[3:] = axes5[:2]
        half = half5[:3]
        np.multiply(axes5[1:4], turn5[2:5], out=half)
        np.multiply(axes5[2:5], turn5[1:4], out=work)
        half -= work
        half *= 0.5
        half += axes5[:3]
        half5[3:] = half5[:2]
        np.multiply(half5[1:4], turn5[2:5], out=work)
        axes5[:3] += work
        np.multiply(half5[2:5], turn5[1:4], out=work)
        axes5[:3] -= work

    def _stand(self) -> None:
        """The floor: a vehicle that would sink into it stands level and still, or lies there broken."""
        state = self.state
        down = (state.position_m[2] <= 0) & (state.velocity[2] <= 0)
        state.crashed |= down & ((state.velocity[2] < -CRASH_MS) | (state.axes[2, 2] < CRASH_UP))
        self.crashed = bool(state.crashed.any())
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
