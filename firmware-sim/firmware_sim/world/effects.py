"""What faults and drifts do to bodies and batteries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world.faults import PropellerCut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]


def active_factors(faults: Sequence[Sequence[Fault]], t_s: float) -> tuple[Array, Array, Array]:
    """Factors on k_f and k_m and the added imbalance in kg m, each (K, 4), at a time."""
    shape = (len(faults), 4)
    thrust, torque, imbalance = np.ones(shape), np.ones(shape), np.zeros(shape)
    for k, of_vehicle in enumerate(faults):
        for fault in of_vehicle:
            if t_s >= fault.onset_s and isinstance(fault, PropellerCut):
                thrust[k, fault.motor - 1] *= fault.thrust_factor
                torque[k, fault.motor - 1] *= fault.torque_factor
                imbalance[k, fault.motor - 1] += fault.imbalance_kgm
    return thrust, torque, imbalance
