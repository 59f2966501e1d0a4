"""Named faults with their onset: what breaks, when, and what that does to the physics. Truth for the ledger, no randomness.

A cut propeller by blade-element reasoning. On a blade of constant chord and lift coefficient the lift of an element grows
with r^2 and its drag torque with r^3, so a blade of radius R shortened by c keeps

    thrust  ((R - c) / R)^3        torque  ((R - c) / R)^4

A propeller has two blades: its k_f and k_m are the mean of both. To carry the same weight the rotor turns faster by
1/sqrt(thrust factor). The cut mass is missing on one side only: m_c = (blade mass / R) c at r = R - c/2 from the axis pulls
with m_c r w^2 at rotor frequency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RADIUS_MM = 23.5  # CrazyPAD names 44.5 mm for a propeller that lost 1.5 + 1 mm: 47 mm in all
BLADE_KG = 0.10e-3  # an estimate: with it a 3 mm cut shakes the accelerations as the CrazyPAD flights of E9 do
MAX_CUT_MM = 8.0


@dataclass(frozen=True)
class PropellerCut:
    """One or both blades of one rotor shortened.

    Attributes:
        motor: 1..4.
        cut_mm: taken from the first blade, 0..8 mm.
        onset_s: seconds after the start of the log.
        other_cut_mm: taken from the second blade; equal cuts leave the propeller balanced.
    """

    motor: int
    cut_mm: float
    onset_s: float = 0.0
    other_cut_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.motor not in {1, 2, 3, 4}:
            raise UsageError(f"propeller cut: motor 1 to 4 expected, {self.motor} came")
        for cut in (self.cut_mm, self.other_cut_mm):
            if not 0 <= cut <= MAX_CUT_MM:
                raise UsageError(f"propeller cut: 0 to {MAX_CUT_MM} mm expected, {cut} came")
        if not self.onset_s >= 0:
            raise UsageError(f"propeller cut: an onset of 0 s or later expected, {self.onset_s} came")

    @property
    def thrust_factor(self) -> float:
        """What is left of k_f."""
        return (_left(self.cut_mm) ** 3 + _left(self.other_cut_mm) ** 3) / 2

    @property
    def torque_factor(self) -> float:
        """What is left of k_m."""
        return (_left(self.cut_mm) ** 4 + _left(self.other_cut_mm) ** 4) / 2

    @property
    def imbalance_kgm(self) -> float:
        """Missing mass times its radius, kg m; multiplied by w^2 it is the rotating force."""
        return abs(_moment(self.cut_mm) - _moment(self.other_cut_mm))


def _left(cut_mm: float) -> float:
    return (RADIUS_MM - cut_mm) / RADIUS_MM


def _moment(cut_mm: float) -> float:
    return BLADE_KG * (cut_mm / RADIUS_MM) * (RADIUS_MM - cut_mm / 2) * 1e-3


def active_factors(faults: Sequence[Sequence[PropellerCut]], t_s: float) -> tuple[Array, Array, Array]:
    """Factors on k_f and k_m and the added imbalance in kg m, each (K, 4), at a time."""
    shape = (len(faults), 4)
    thrust, torque, imbalance = np.ones(shape), np.ones(shape), np.zeros(shape)
    for k, of_vehicle in enumerate(faults):
        for fault in of_vehicle:
            if t_s >= fault.onset_s:
                thrust[k, fault.motor - 1] *= fault.thrust_factor
                torque[k, fault.motor - 1] *= fault.torque_factor
                imbalance[k, fault.motor - 1] += fault.imbalance_kgm
    return thrust, torque, imbalance
