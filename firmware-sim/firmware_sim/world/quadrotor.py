"""A quadrotor as physics: rigid body, four rotors, battery. K vehicles at once, SI units, no randomness and no controller.

Frames: world x forward at start, y left, z up; body x forward, y left, z up. Rotors as on a Crazyflie 2.x: M1 front right,
M2 back right, M3 back left, M4 front left; M1 and M3 turn one way, M2 and M4 the other.

The rotor command is the firmware's 16-bit thrust (0..65535 for 0..60 g of all four); the firmware turns it into a voltage
with a fitted curve and divides by the battery voltage, so a falling battery does not move the command in hover.

Sources: arm, inertia, order of drag and rotor lag: Forster, "System Identification of the Crazyflie 2.0 Nano
Quadrocopter", ETH Zurich 2015; mass: 27 g bare plus decks, chosen so that the hover command meets CrazyPAD's; k_f and k_m:
Panerati et al., gym-pybullet-drones, IROS 2021 (cf2x: 3.16e-10 N/rpm^2, 7.94e-12 N m/rpm^2); voltage curve: Bitcraze
crazyflie-firmware, motors.c; battery: 250 mAh single cell LiPo, resistances from the sag of the CrazyPAD flights (Masalimov
et al., Data 2024, 9, 79).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

GRAVITY = 9.81  # m/s^2
FULL_COMMAND = 65535.0
FULL_THRUST_N = 0.060 * GRAVITY / 4  # one rotor at full command, by the firmware's curve
MASS_KG = 0.0362
ARM_M = 0.046  # centre to rotor axis
INERTIA = np.array([16.6e-6, 16.7e-6, 29.3e-6])  # kg m^2
K_F = 3.16e-10 * (60 / (2 * np.pi)) ** 2  # N s^2/rad^2
K_M = 7.94e-12 * (60 / (2 * np.pi)) ** 2  # N m s^2/rad^2
ROTOR_LAG_S = 0.035
DRAG = np.array([0.010, 0.010, 0.015])  # N s/m
REFERENCE_THRUST_N = 0.037 * GRAVITY / 4  # the rotor model meets the firmware's curve here
OHMIC_SHARE = 0.23  # part of the motor voltage at the reference thrust that drives current, not speed
MOTOR_OHM = 0.9

CAPACITY_C = 0.250 * 3600  # A s
OHMIC_OHM = 0.165
POLAR_OHM = 0.06  # slow part of the sag ...
POLAR_S = 6.0  # ... and its time constant
AVIONICS_A = 0.12
_CHARGE = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
_OPEN_V = np.array([3.20, 3.45, 3.58, 3.68, 3.76, 3.84, 3.97, 4.06, 4.18])

_D = ARM_M / np.sqrt(2)
ROTOR_X = np.array([_D, -_D, -_D, _D])
ROTOR_Y = np.array([-_D, -_D, _D, _D])
SPIN = np.array([-1.0, 1.0, -1.0, 1.0])  # sign of the reaction torque about z
_SUM = np.ones((4, 1))
_LEVER = np.stack([ROTOR_Y, -ROTOR_X, np.zeros(4)], axis=1)  # thrusts (4) -> moments (3)
_OFFSET = np.array([[0.0, 1.0], [-1.0, 0.0]])  # centre of mass (x, y) -> moment (x, y) of one newton
_NEXT, _AFTER = np.array([1, 2, 0]), np.array([2, 0, 1])
# hat(w) = w @ _HAT: the cross-product matrix as a linear map, (3) -> (3, 3)
_HAT = np.zeros((3, 9))
_HAT[0, [5, 7]] = -1, 1
_HAT[1, [2, 6]] = 1, -1
_HAT[2, [1, 3]] = -1, 1
_GYRO = np.array([INERTIA[1] - INERTIA[2], INERTIA[2] - INERTIA[0], INERTIA[0] - INERTIA[1]]) / INERTIA


@dataclass
class Airframe:
    """What makes one vehicle differ from the next; arrays over K vehicles.

    Attributes:
        mass_kg: (K,).
        thrust_gain: (K, 4) factor on k_f; 1 is the nominal rotor.
        torque_gain: (K, 4) factor on k_m.
        motor_gain: (K, 4) speed per volt against the nominal motor.
        centre_m: (K, 2) centre of mass in the body's x, y.
        twist_nm: (K,) constant torque about z (bent arms, tilted motors).
        capacity_c: (K,) battery charge when full, A s.
        ohm: (K,) ohmic resistance of battery and leads.
    """

    mass_kg: Array
    thrust_gain: Array
    torque_gain: Array
    motor_gain: Array
    centre_m: Array
    twist_nm: Array
    capacity_c: Array
    ohm: Array

    @classmethod
    def nominal(cls, count: int) -> Airframe:
        """K equal vehicles without any deviation."""
        four = (count, 4)
        return cls(
            mass_kg=np.full(count, MASS_KG),
            thrust_gain=np.ones(four),
            torque_gain=np.ones(four),
            motor_gain=np.ones(four),
            centre_m=np.zeros((count, 2)),
            twist_nm=np.zeros(count),
            capacity_c=np.full(count, CAPACITY_C),
            ohm=np.full(count, OHMIC_OHM),
        )


@dataclass
class State:
    """Where K vehicles are; changed in place by `advance`.

    Attributes:
        position_m, velocity: (K, 3) world, m and m/s.
        attitude: (K, 3, 3) rotation, body to world.
        rates: (K, 3) body, rad/s.
        rotor: (K, 4) rotor speed, rad/s.
        charge: (K,) state of charge, 0..1.
        polar_v: (K,) slow part of the battery sag, V.
        battery_v, current_a: (K,) at the terminals, of the last step.
        force: (K, 3) specific force (all but gravity, per mass) of the last step in world axes, m/s^2.
        duty: (K, 4) part of the battery voltage given to each motor in the last step, 0..1.
    """

    position_m: Array
    velocity: Array
    attitude: Array
    rates: Array
    rotor: Array
    charge: Array
    polar_v: Array
    battery_v: Array
    current_a: Array
    force: Array
    duty: Array

    @classmethod
    def at_rest(cls, charge: Array) -> State:
        """On the ground at the origin, rotors still.

        Args:
            charge: (K,) state of charge, 0..1.
        """
        count = len(charge)
        return cls(
            position_m=np.zeros((count, 3)),
            velocity=np.zeros((count, 3)),
            attitude=np.tile(np.eye(3), (count, 1, 1)),
            rates=np.zeros((count, 3)),
            rotor=np.zeros((count, 4)),
            charge=charge.astype(np.float64).copy(),
            polar_v=np.zeros(count),
            battery_v=open_circuit_v(charge),
            current_a=np.zeros(count),
            force=np.tile([0.0, 0.0, GRAVITY], (count, 1)),
            duty=np.zeros((count, 4)),
        )


def open_circuit_v(charge: Array) -> Array:
    """Battery voltage without load at a state of charge 0..1."""
    return np.asarray(np.interp(charge, _CHARGE, _OPEN_V))


def firmware_volts(command: Array) -> Array:
    """Motor voltage that the firmware wants for a command 0..65535 (motors.c, fitted on the nominal propeller)."""
    grams = command * (60.0 / 65536.0)
    return np.asarray(grams * (0.088 - 0.0006239 * grams))


def command_for_thrust(thrust_n: Array) -> Array:
    """Command 0..65535 that stands for a thrust of one rotor, N; clipped."""
    return np.asarray(np.minimum(np.maximum(thrust_n * (FULL_COMMAND / FULL_THRUST_N), 0.0), FULL_COMMAND))


_REFERENCE_SPEED = float(np.sqrt(REFERENCE_THRUST_N / K_F))
_REFERENCE_V = float(firmware_volts(command_for_thrust(np.array(REFERENCE_THRUST_N))))
VOLT_PER_SPEED = (1 - OHMIC_SHARE) * _REFERENCE_V / _REFERENCE_SPEED  # back-EMF, V s/rad
VOLT_PER_SPEED2 = OHMIC_SHARE * _REFERENCE_V / _REFERENCE_SPEED**2  # R i of the aerodynamic torque, V s^2/rad^2


def steady_speed(volts: Array, torque_gain: Array, motor_gain: Array) -> Array:
    """Rotor speed in rad/s at which back-EMF and the ohmic drop of the aerodynamic torque add up to `volts`.

    volts = e w + o w^2 with e = VOLT_PER_SPEED / motor_gain and o = VOLT_PER_SPEED2 x torque_gain.
    """
    emf = VOLT_PER_SPEED / motor_gain
    drop = VOLT_PER_SPEED2 * torque_gain
    return np.asarray((np.sqrt(emf * emf + 4 * drop * volts) - emf) / (2 * drop))


def advance(frame: Airframe, state: State, command: Array, wind: Array, torque: Array, step_s: float) -> None:
    """One integration step (semi-implicit Euler) of all vehicles.

    Args:
        frame: the vehicles.
        state: changed in place.
        command: (K, 4) 0..65535.
        wind: (K, 3) world, m/s.
        torque: (K, 3) disturbance in body axes, N m.
        step_s: at most 0.002 for the stiff attitude loop.
    """
    _drain(frame, state, command, step_s)
    applied = state.duty * state.battery_v[:, None]
    target = steady_speed(applied, frame.torque_gain, frame.motor_gain)
    state.rotor += (target - state.rotor) * (step_s / ROTOR_LAG_S)

    square = state.rotor * state.rotor  # (K, 4)
    thrust = (K_F * frame.thrust_gain) * square
    total = thrust @ _SUM  # (K, 1)
    moment = thrust @ _LEVER + torque  # about the geometric centre; then about the centre of mass, then the reactions
    moment[:, :2] += total * (frame.centre_m @ _OFFSET)
    moment[:, 2] += (K_M * frame.torque_gain * square) @ SPIN + frame.twist_nm
    rates = state.rates
    rates += step_s * (moment / INERTIA + _GYRO * rates.take(_NEXT, axis=1) * rates.take(_AFTER, axis=1))

    state.force = (state.attitude[:, :, 2] * total - DRAG * (state.velocity - wind)) / frame.mass_kg[:, None]
    state.velocity += step_s * state.force
    state.velocity[:, 2] -= step_s * GRAVITY
    state.position_m += step_s * state.velocity
    hat = ((rates * step_s) @ _HAT).reshape(-1, 3, 3)
    turned = state.attitude @ hat
    state.attitude += turned + 0.5 * (turned @ hat)
    if state.position_m[:, 2].min() <= 0:
        _stand(state)


def is_parked(state: State) -> bool:
    """Whether all vehicles stand on the floor with rotors as good as still."""
    return bool(state.rotor.max() < 1.0 and state.position_m[:, 2].max() <= 0.0)


def stand_by(frame: Airframe, state: State, step_s: float) -> None:
    """One step of parked vehicles with motors off: only the battery changes, so the step may be long (0.05 s)."""
    state.rotor[:] = 0.0
    _drain(frame, state, state.rotor, step_s)
    _stand(state)


def _drain(frame: Airframe, state: State, command: Array, step_s: float) -> None:
    """Battery: duty from the last terminal voltage, current from the rotors, then the new terminal voltage."""
    state.duty = np.minimum(firmware_volts(command) / state.battery_v[:, None], 1.0)  # a command is not negative
    amperes = VOLT_PER_SPEED2 / MOTOR_OHM * frame.torque_gain * state.rotor**2  # (K, 4), of each motor
    state.current_a = (state.duty * amperes).sum(axis=1) + AVIONICS_A
    state.charge -= state.current_a * (step_s / frame.capacity_c)
    np.maximum(state.charge, 0.0, out=state.charge)
    state.polar_v += (POLAR_OHM * state.current_a - state.polar_v) * (step_s / POLAR_S)
    state.battery_v = open_circuit_v(state.charge) - state.polar_v - frame.ohm * state.current_a


def _stand(state: State) -> None:
    """The floor: a vehicle that would sink into it stands level and still."""
    down = (state.position_m[:, 2] <= 0) & (state.velocity[:, 2] <= 0)
    state.position_m[down, 2] = 0.0
    state.velocity[down] = 0.0
    state.rates[down] = 0.0
    state.attitude[down] = np.eye(3)
    state.force[down] = (0.0, 0.0, GRAVITY)


def square_up(state: State) -> None:
    """Make the attitudes orthonormal again (Gram-Schmidt); the integration lets them drift."""
    x = state.attitude[:, :, 0]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = state.attitude[:, :, 1]
    y = y - (x * y).sum(axis=1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    state.attitude = np.stack([x, y, np.cross(x, y)], axis=2)
