"""A quadrotor in numbers: body, four rotors, battery, and the state of K of them. How they move is physics.py's.

Arrays hold components first, (3, K) or (4, K): every operation then runs over contiguous vehicles.

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

from dataclasses import dataclass, fields
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


@dataclass
class Airframe:
    """What makes one vehicle differ from the next, and what faults and drifts change; arrays over K vehicles.

    Attributes:
        mass_kg: (K,).
        inertia: (3, K) kg m^2.
        thrust_gain: (4, K) factor on k_f; 1 is the nominal rotor.
        torque_gain: (4, K) factor on k_m.
        friction: (4, K) bearing friction as a share of the aerodynamic torque.
        motor_gain: (4, K) speed per volt against the nominal motor.
        centre_m: (2, K) centre of mass in the body's x, y.
        twist_nm: (K,) constant torque about z (bent arms, tilted motors).
        drag: (3, K) N s/m.
        capacity_c: (K,) battery charge when full, A s.
        ohm: (K,) ohmic resistance of battery and leads.
        polar_ohm: (K,) slow part of the resistance.
    """

    mass_kg: Array
    inertia: Array
    thrust_gain: Array
    torque_gain: Array
    friction: Array
    motor_gain: Array
    centre_m: Array
    twist_nm: Array
    drag: Array
    capacity_c: Array
    ohm: Array
    polar_ohm: Array

    @classmethod
    def nominal(cls, count: int) -> Airframe:
        """K equal vehicles without any deviation."""
        four = (4, count)
        return cls(
            mass_kg=np.full(count, MASS_KG),
            inertia=np.repeat(INERTIA[:, None], count, axis=1),
            thrust_gain=np.ones(four),
            torque_gain=np.ones(four),
            friction=np.zeros(four),
            motor_gain=np.ones(four),
            centre_m=np.zeros((2, count)),
            twist_nm=np.zeros(count),
            drag=np.repeat(DRAG[:, None], count, axis=1),
            capacity_c=np.full(count, CAPACITY_C),
            ohm=np.full(count, OHMIC_OHM),
            polar_ohm=np.full(count, POLAR_OHM),
        )

    def copy(self) -> Airframe:
        """The same vehicles in arrays of their own."""
        return Airframe(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


@dataclass
class State:
    """Where K vehicles are; changed in place by `physics.Physics`.

    Attributes:
        position_m, velocity: (3, K) world, m and m/s.
        axes: (3, 3, K) the body's axes in the world: axes[j] is body axis j, (3, K); the columns of the rotation matrix.
        rates: (3, K) body, rad/s.
        rotor: (4, K) rotor speed, rad/s.
        charge: (K,) state of charge, 0..1.
        polar_v: (K,) slow part of the battery sag, V.
        battery_v, current_a: (K,) at the terminals, of the last step.
        force: (3, K) specific force (all but gravity, per mass) of the last step in world axes, m/s^2.
        duty: (4, K) part of the battery voltage given to each motor in the last step, 0..1.
        crashed: (K,) bool; hit the floor too hard or on its side, and lies there.
    """

    position_m: Array
    velocity: Array
    axes: Array
    rates: Array
    rotor: Array
    charge: Array
    polar_v: Array
    battery_v: Array
    current_a: Array
    force: Array
    duty: Array
    crashed: NDArray[np.bool_]

    @classmethod
    def at_rest(cls, charge: Array) -> State:
        """On the ground at the origin, rotors still.

        Args:
            charge: (K,) state of charge, 0..1.
        """
        count = len(charge)
        return cls(
            position_m=np.zeros((3, count)),
            velocity=np.zeros((3, count)),
            axes=np.repeat(np.eye(3)[:, :, None], count, axis=2),
            rates=np.zeros((3, count)),
            rotor=np.zeros((4, count)),
            charge=charge.astype(np.float64).copy(),
            polar_v=np.zeros(count),
            battery_v=open_circuit_v(charge),
            current_a=np.zeros(count),
            force=np.repeat(np.array([[0.0], [0.0], [GRAVITY]]), count, axis=1),
            duty=np.zeros((4, count)),
            crashed=np.zeros(count, dtype=np.bool_),
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


def steady_speed(volts: Array, load_gain: Array, motor_gain: Array) -> Array:
    """Rotor speed in rad/s at which back-EMF and the ohmic drop of the load's torque add up to `volts`.

    volts = e w + o w^2 with e = VOLT_PER_SPEED / motor_gain and o = VOLT_PER_SPEED2 x load_gain; the load is the
    aerodynamic torque (gain on k_m) times (1 + friction). Written so that a rotor without load turns with volts / e.
    """
    emf = VOLT_PER_SPEED / motor_gain
    return np.asarray(2 * volts / (emf + np.sqrt(emf * emf + 4 * VOLT_PER_SPEED2 * load_gain * volts)))
