"""Failing sensors: what a reader gets in place of what the sensor would say.

A lost sample repeats the last one that came: a flight controller reads the newest value there is, and its log holds no
holes. A stuck sensor stays at the last value before the onset (the first ever when it was stuck from the start). Which
samples are lost comes from a random stream of its own, so that a fault never disturbs other random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firmware_sim.world.faults import SensorBias, SensorDropout, SensorStuck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]

_ROWS = {"": slice(None), "-x": slice(0, 1), "-y": slice(1, 2), "-z": slice(2, 3)}


def _rows(sensor: str, fault: SensorBias | SensorDropout | SensorStuck) -> slice:
    if sensor == "gps" and isinstance(fault, SensorBias):
        return slice(0, 1)  # east
    return _ROWS[fault.sensor.removeprefix(sensor)]


@dataclass
class _Failing:
    vehicle: int
    rows: slice
    fault: SensorBias | SensorDropout | SensorStuck
    draw: np.random.Generator
    held: Array | None = None

    def read(self, values: Array, t_s: float) -> None:
        now = values[self.rows, self.vehicle]
        fault = self.fault
        if t_s < fault.onset_s:
            if not isinstance(fault, SensorBias):
                self.held = now.copy()
            return
        if isinstance(fault, SensorBias):
            now += fault.size
            return
        lost = isinstance(fault, SensorStuck) or self.draw.random() < fault.share
        if self.held is None or not lost:
            self.held = now.copy()
        now[:] = self.held


class Readings:
    """One reader's view of one sensor of K vehicles.

    Args:
        sensor: "accel", "gyro", "baro", "gps" or "battery"; faults of single axes of it count too.
        faults: K lists.
        seeds: K, of the lost samples.
    """

    def __init__(self, sensor: str, faults: Sequence[Sequence[Fault]], seeds: Sequence[Sequence[int]]) -> None:
        self._failing = [
            _Failing(k, _rows(sensor, fault), fault, np.random.default_rng([*seeds[k], n]))
            for k, of in enumerate(faults)
            for n, fault in enumerate(of)
            if isinstance(fault, (SensorBias, SensorDropout, SensorStuck)) and fault.sensor.startswith(sensor)
        ]
        self.vehicles = sorted({f.vehicle for f in self._failing})

    def read(self, values: Array, t_s: float) -> Array:
        """What the reader gets for what the sensor says, (n, K) or (K,), at a time; changed in place and returned."""
        rows = values if values.ndim == 2 else values[None]
        for failing in self._failing:
            failing.read(rows, t_s)
        return values
