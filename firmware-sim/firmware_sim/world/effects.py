"""What faults and drifts do to bodies, rotors, batteries and firmware. Exact in time, no randomness.

* Propeller cut: factors on k_f and k_m and an imbalance (faults.PropellerCut derives them). Imbalance: m r alone.
* Motor loss: k_f and k_m keep the same share; without load the motor turns at volts / back-EMF.
* Bearing wear: the friction torque is taken up inside the motor, between rotor and stator. The motor must make (1 + f) of
  the aerodynamic torque: ohmic drop and current grow by it, the speed at the same voltage falls; the torque on the body
  stays the aerodynamic one. The roughness shakes broadly (BEARING_G).
* Battery sag: both resistances times a factor; the charge that is left is a share of the same state of charge.
* Season: by the ideal gas law density = p M / (R T); at the same pressure it goes with 1/T. k_f, k_m and drag go with
  density (blade-element theory, and drag as a share of dynamic pressure). The cell's resistance follows Arrhenius,
  exp(E/R (1/T - 1/T0)): E = 20 kJ/mol makes it 1.8-fold at 0 against 20 degrees Celsius, as LiPo cells do.
* Payload: a point mass in the rotor plane. The centre goes to m x / (M + m); about the new centre the pair adds
  M m / (M + m) x^2 to the inertia about y and z (parallel axes).
* Firmware: gains of the rate loop, base thrust, accelerometer filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import sensors
from firmware_sim.world.faults import (
    BatterySag,
    BearingWear,
    Firmware,
    MotorLoss,
    Payload,
    PropellerCut,
    PropellerImbalance,
    Season,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault
    from firmware_sim.world.pilot import Pilot
    from firmware_sim.world.quadrotor import Airframe

    Array = NDArray[np.float64]

NOMINAL_K = 293.15  # air around the nominal vehicle, 20 degrees Celsius
ACTIVATION_J_MOL = 20_000.0
GAS_J_MOL_K = 8.314462618  # molar gas constant, SI 2019
BEARING_G = 0.05  # standard deviation of the filtered acceleration at a friction share of 1; an estimate
GROW_STEP_S = 0.05  # how finely a growing fault is followed


def density_factor(temperature_c: float) -> float:
    """Air density over that at 20 degrees Celsius and the same pressure, by the ideal gas law."""
    return NOMINAL_K / (temperature_c + 273.15)


def cold_ohm_factor(temperature_c: float) -> float:
    """Resistance of a cell over that at 20 degrees Celsius (Arrhenius)."""
    return float(np.exp(ACTIVATION_J_MOL / GAS_J_MOL_K * (1 / (temperature_c + 273.15) - 1 / NOMINAL_K)))


class Effects:
    """Keeps the vehicles' constants as their faults want them.

    Args:
        faults: K lists.
        whole: the vehicles without faults; not changed.
        imbalance: (4, K) kg m of the healthy propellers; not changed.

    Attributes:
        frame: the vehicles as they are now.
        imbalance: (4, K) kg m, now.
        bearing_g: (K,) standard deviation of the shaking by worn bearings, now.
        cutoff_hz: (K,) of the accelerometer's filter, now.
    """

    def __init__(self, faults: Sequence[Sequence[Fault]], whole: Airframe, imbalance: Array) -> None:
        self.faults = faults
        self._whole, self._whole_imbalance = whole, imbalance
        self.frame, self.imbalance = whole.copy(), imbalance.copy()
        count = len(faults)
        self.bearing_g = np.zeros(count)
        self.cutoff_hz = np.full(count, sensors.ACCELERATION_CUTOFF_HZ)
        self._due = np.array([min((f.onset_s for f in of), default=np.inf) for of in faults])
        self._next_s = float(self._due.min(initial=np.inf))

    def update(self, t_s: float, pilot: Pilot) -> bool:
        """Bring all that is due by this time up to it; returns whether a vehicle changed."""
        if t_s < self._next_s:
            return False
        for k in np.flatnonzero(self._due <= t_s).tolist():
            self._restore(k, pilot)
            for fault in self.faults[k]:
                if t_s >= fault.onset_s:
                    self._put(k, fault, t_s, pilot)
            later = [f.onset_s for f in self.faults[k] if f.onset_s > t_s]
            growing = any(
                isinstance(f, BearingWear) and f.onset_s <= t_s < f.onset_s + f.grow_s for f in self.faults[k]
            )
            self._due[k] = min([*later, t_s + GROW_STEP_S] if growing else later, default=np.inf)
        self._next_s = float(self._due.min())
        return True

    def _restore(self, k: int, pilot: Pilot) -> None:
        for name, healthy in vars(self._whole).items():
            getattr(self.frame, name)[..., k] = healthy[..., k]
        self.imbalance[:, k] = self._whole_imbalance[:, k]
        self.bearing_g[k] = 0.0
        self.cutoff_hz[k] = sensors.ACCELERATION_CUTOFF_HZ
        pilot.gain_share[k] = pilot.base_share[k] = 1.0

    def _put(self, k: int, fault: Fault, t_s: float, pilot: Pilot) -> None:
        frame = self.frame
        if isinstance(fault, (PropellerCut, PropellerImbalance, MotorLoss, BearingWear)):
            self._put_rotor(k, fault, t_s)
        elif isinstance(fault, BatterySag):
            frame.ohm[k] *= fault.ohm_factor
            frame.polar_ohm[k] *= fault.ohm_factor
            frame.capacity_c[k] *= fault.capacity_share
        elif isinstance(fault, Season):
            for constant in (frame.thrust_gain, frame.torque_gain, frame.drag):
                constant[:, k] *= density_factor(fault.temperature_c)
            for resistance in (frame.ohm, frame.polar_ohm):
                resistance[k] *= cold_ohm_factor(fault.temperature_c)
        elif isinstance(fault, Payload):
            mass_kg, x_m = fault.mass_g * 1e-3, fault.x_mm * 1e-3
            alone = frame.mass_kg[k]
            both = alone + mass_kg
            arm_m = x_m - frame.centre_m[0, k]
            frame.centre_m[0, k] += arm_m * mass_kg / both
            frame.centre_m[1, k] *= alone / both
            frame.inertia[1:, k] += alone * mass_kg / both * arm_m**2
            frame.mass_kg[k] = both
        elif isinstance(fault, Firmware):
            pilot.gain_share[k] *= fault.gain_share
            pilot.base_share[k] *= fault.base_thrust_share
            self.cutoff_hz[k] = fault.cutoff_hz

    def _put_rotor(
        self, k: int, fault: PropellerCut | PropellerImbalance | MotorLoss | BearingWear, t_s: float
    ) -> None:
        rotor = (fault.motor - 1, k)
        if isinstance(fault, PropellerCut):
            self.frame.thrust_gain[rotor] *= fault.thrust_factor
            self.frame.torque_gain[rotor] *= fault.torque_factor
            self.imbalance[rotor] += fault.imbalance_kgm
        elif isinstance(fault, PropellerImbalance):
            self.imbalance[rotor] += fault.imbalance_gmm * 1e-6
        elif isinstance(fault, MotorLoss):
            self.frame.thrust_gain[rotor] *= fault.left_share
            self.frame.torque_gain[rotor] *= fault.left_share
        else:
            share = fault.share_at(t_s)
            self.frame.friction[rotor] += share
            self.bearing_g[k] = float(np.hypot(self.bearing_g[k], BEARING_G * share))
