"""How wrong the vehicle is about where it is, because of the sensors it trusts: GPS spoofing, failing GPS and barometer.

The position estimate follows motion at once (inertial) and the barometer and the receiver slowly: a complementary filter
without a gate. Its error e follows the error of the reading, e' = (reading - truth - e) / FOLLOW_S. Healthy sensors add
nothing here: their noise is already in the estimate's (sensors.py). The pilot holds the estimate, so the vehicle itself
leaves its place, and the log, which holds the estimate, hardly shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world import atmosphere
from firmware_sim.world.faults import GpsSpoof
from firmware_sim.world.readings import Readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]

FOLLOW_S = 2.0  # an estimate; flight controllers trust position sensors over seconds


class Misled:
    """The error of the position estimate of K vehicles.

    Attributes:
        error_m: (3, K) estimated minus true position; zero without such faults.
        spoof_m: (K,) false minus true position of the receiver, east.
    """

    def __init__(self, faults: Sequence[Sequence[Fault]], seeds: Sequence[Sequence[int]]) -> None:
        self._gps, self._baro = Readings("gps", faults, seeds), Readings("baro", faults, seeds)
        self._spoofs = [(k, fault) for k, of in enumerate(faults) for fault in of if isinstance(fault, GpsSpoof)]
        self.any = bool(self._spoofs or self._gps.vehicles or self._baro.vehicles)
        self.error_m = np.zeros((3, len(faults)))
        self.spoof_m = np.zeros(len(faults))

    def follow(self, position_m: Array, t_s: float, step_s: float) -> None:
        """Advance by a step, given the true positions (3, K)."""
        if not self.any:
            return
        self.spoof_m[:] = 0.0
        for k, fault in self._spoofs:
            self.spoof_m[k] += fault.offset_at(t_s)
        read = position_m.copy()
        read[0] += self.spoof_m
        flat = read[:2].copy()
        self._gps.read(flat, t_s)
        read[:2] = flat
        if self._baro.vehicles:
            pressure = atmosphere.pressure_pa(position_m[2])
            right_m = atmosphere.altitude_m(pressure)
            read[2] += atmosphere.altitude_m(self._baro.read(pressure, t_s)) - right_m
        self.error_m += (read - position_m - self.error_m) * (step_s / FOLLOW_S)
