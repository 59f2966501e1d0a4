"""A vehicle = body + pilot + sensors + faults: whole flights with the truth beside them, or row by row as it flies.

Everything random comes from two seeds: the vehicle's (how it was built: stays over its flights) and the flight's (wind,
charge, how it was handled that day). The same seeds give the same flight, whoever flies beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.world.air import CHANNELS, STEP_S, Air
from firmware_sim.world.instruments import Measured
from firmware_sim.world.pilot import SHUTTLE, Mission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault
    from firmware_sim.world.weather import Wind

    Array = NDArray[np.float64]

__all__ = ["CHANNELS", "STEP_S", "Air", "Flight", "Measured", "Truth", "Vehicle", "fly"]


@dataclass(frozen=True)
class Vehicle:
    """One drone as it was built.

    Attributes:
        seed: decides every deviation from the nominal vehicle.
        name: as in file names; "V07" for seed 7 when empty.
    """

    seed: int
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or one made from the seed."""
        return self.name or f"V{self.seed:02d}"


@dataclass(frozen=True)
class Truth:
    """What really happened, per row.

    Attributes:
        faulty: (N,) bool, a fault is active.
        drifting: (N,) bool, something else than a fault has changed (season, payload, firmware).
        position_m: (N, 3).
        rotor: (N, 4) rad/s.
        charge: (N,) state of charge, 0..1.
        current_a: (N,) battery current.
        faults: the faults and drifts of this flight.
    """

    faulty: NDArray[np.bool_]
    drifting: NDArray[np.bool_]
    position_m: Array
    rotor: Array
    charge: Array
    current_a: Array
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Flight:
    """One flight as the log would hold it.

    Attributes:
        vehicle: its label.
        mission: name of the mission.
        rate_hz: rows a second.
        channels: C names as in a Crazyflie log.
        samples: (N, C) float64; motor and pwm 0..65535, mV, m, m/s, g (world axes, gravity removed), degrees.
        truth: beside the samples, never in them.
    """

    vehicle: str
    mission: str
    rate_hz: float
    channels: tuple[str, ...]
    samples: Array
    truth: Truth


def fly(
    vehicles: Sequence[Vehicle],
    flight_seeds: Sequence[int],
    faults: Sequence[Sequence[Fault]] | None = None,
    mission: Mission = SHUTTLE,
    duration_s: float = 26.0,
    rate_hz: float = 100.0,
    wind: Wind | None = None,
) -> list[Flight]:
    """Fly K vehicles side by side, each in its own air.

    Args:
        vehicles: K vehicles; the same one may fly several times.
        flight_seeds: K seeds, one per flight.
        faults: K lists; none when None.
        mission: flown by all, repeated when the duration is longer.
        duration_s: more than 0.
        rate_hz: of the log, a divisor of 500.
        wind: none but a room's gusts when None.

    Raises:
        UsageError: lengths differ, a fault is not one of quadrotors, or duration or rate cannot be used.
    """
    rows = round(duration_s * rate_hz)
    if not vehicles or rows < 1:
        raise UsageError(f"a vehicle and at least one row expected, {len(vehicles)} vehicles and {rows} rows came")
    air = Air(vehicles, flight_seeds, faults, mission, rate_hz, wind)
    log = np.empty((rows, len(vehicles), len(CHANNELS)))
    truth = np.empty((rows, len(vehicles), 9))
    state = air.state
    for n in range(rows):
        log[n] = air.advance().T
        truth[n, :, :3] = state.position_m.T
        truth[n, :, 3:7] = state.rotor.T
        truth[n, :, 7] = state.charge
        truth[n, :, 8] = state.current_a
    times_s = np.arange(rows) * air.row_s
    return [
        Flight(
            vehicle=vehicle.label,
            mission=mission.name,
            rate_hz=1 / air.row_s,
            channels=CHANNELS,
            samples=log[:, k],
            truth=Truth(
                faulty=_active(of, "fault", times_s),
                drifting=_active(of, "drift", times_s),
                position_m=truth[:, k, :3],
                rotor=truth[:, k, 3:7],
                charge=truth[:, k, 7],
                current_a=truth[:, k, 8],
                faults=tuple(of),
            ),
        )
        for k, (vehicle, of) in enumerate(zip(vehicles, air.faults, strict=True))
    ]


def _active(faults: Sequence[Fault], category: str, times_s: Array) -> NDArray[np.bool_]:
    onset_s = min((f.onset_s for f in faults if f.category == category), default=np.inf)
    return np.asarray(times_s >= onset_s)
