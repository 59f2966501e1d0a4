"""A folder of simulated flights with its manifest, laid out as the CrazyPAD data set is.

`<condition>/<vehicle>_logNN` and manifest.csv with the same columns, so that whatever reads real flights reads these.
What is flown is planned first (pure, from the seed), then flown in blocks and written; the manifest comes last, so a folder
without one is an unfinished folder.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.usdlog import write_log
from firmware_sim.world.faults import QUADROTOR, PropellerCut, check_body, size_of
from firmware_sim.world.pilot import SHUTTLE, Mission
from firmware_sim.world.vehicle import Vehicle, fly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from firmware_sim.world.faults import Fault

CUTS_MM = (2.0, 2.5, 3.0, 3.5, 4.0)
COLUMNS = ("file", "drone", "condition", "label", "family", "motors", "total_cut_mm")
BLOCK_S = 2000.0  # flight seconds simulated side by side: bounds memory at about 100 MB


@dataclass(frozen=True)
class PlannedFlight:
    """One flight to be flown.

    Attributes:
        vehicle: who flies.
        flight_seed: its air, charge and session.
        number: NN in its file name, growing over the flights of a vehicle.
        fault: None for a healthy flight.
    """

    vehicle: Vehicle
    flight_seed: int
    number: int
    fault: Fault | None

    @property
    def condition(self) -> str:
        """Folder name, as CrazyPAD names it: which motor, how much was cut; other faults by kind and motor or sensor."""
        fault = self.fault
        if fault is None:
            return "normal_flight"
        if isinstance(fault, PropellerCut):
            return f"cut_propeller_M{fault.motor}_{fault.cut_mm:g}mm"
        sensor = str(size_of(fault).get("sensor", ""))
        return "_".join(part for part in (fault.kind, self.motors, sensor) if part).replace("-", "_")

    @property
    def motors(self) -> str:
        """The damaged motor as the manifest names it, or an empty text."""
        motor = None if self.fault is None else size_of(self.fault).get("motor")
        return "" if motor is None else f"M{motor}"

    @property
    def file(self) -> str:
        """Path below the folder."""
        return f"{self.condition}/{self.vehicle.label}_log{self.number:02d}"

    @property
    def manifest_row(self) -> tuple[str, ...]:
        """One row under COLUMNS."""
        drone, condition, fault = self.vehicle.label, self.condition, self.fault
        if fault is None:
            return (self.file, drone, condition, "0", "normal", "", "0")
        label = "1" if fault.category == "fault" else "0"  # a drift is nothing broken
        if isinstance(fault, PropellerCut):
            return (self.file, drone, condition, label, "cut", self.motors, f"{fault.cut_mm + fault.other_cut_mm:g}")
        return (self.file, drone, condition, label, fault.kind, self.motors, "0")


def plan_flights(
    vehicles: int, healthy: int, damaged: int, seed: int, faults: Sequence[Fault] = ()
) -> list[PlannedFlight]:
    """Plan `healthy` flights of every vehicle and one flight with a fault of `damaged` of them.

    Args:
        vehicles: at least 1; named V01, V02, ...
        healthy: flights per vehicle, at least 0.
        damaged: vehicles that fly once more with 2 to 4 mm cut off one blade, or with one of `faults`.
        seed: not negative; decides vehicles, flights, and who breaks what.
        faults: given to the damaged vehicles in turn; whole flights, so their onset is 0.

    Raises:
        UsageError: numbers out of range, or a fault that begins later (the manifest has no place for an onset) or that
            quadrotors do not have.
    """
    if vehicles < 1 or healthy < 0 or seed < 0 or not 0 <= damaged <= vehicles or healthy + damaged < 1:
        raise UsageError(
            "flights: at least 1 vehicle, 0 <= damaged <= vehicles, some flight and a seed of 0 or more expected, "
            f"{vehicles} vehicles, {healthy} healthy, {damaged} damaged, seed {seed} came"
        )
    for fault in faults:
        check_body(fault, QUADROTOR)
        if fault.onset_s > 0:
            raise UsageError(f"fault {fault.kind}: an onset of 0 expected in whole flights, {fault.onset_s:g} came")
    rng = np.random.default_rng([3, seed])
    broken = {int(i) for i in rng.permutation(vehicles)[:damaged]}
    planned: list[PlannedFlight] = []
    given = 0
    for i in range(vehicles):
        vehicle = Vehicle(int(rng.integers(2**31)), f"V{i + 1:02d}")
        cut = PropellerCut(int(rng.integers(1, 5)), float(rng.choice(CUTS_MM)))  # drawn for all: nobody shifts another
        planned += [PlannedFlight(vehicle, n, n, None) for n in range(healthy)]
        if i in broken:
            fault = faults[given % len(faults)] if faults else cut
            given += 1
            planned.append(PlannedFlight(vehicle, healthy, healthy, fault))
    return planned


def write_flights(
    planned: list[PlannedFlight], folder: Path, mission: Mission = SHUTTLE, duration_s: float = 26.0
) -> Path:
    """Fly the plan into an empty or new folder.

    Returns:
        The manifest's path.

    Raises:
        UsageError: the folder holds something already or cannot be written.
    """
    manifest = folder / "manifest.csv"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: a new or empty folder expected, it holds files already")
        for block in _blocks(planned, max(1, int(BLOCK_S / max(duration_s, 1.0)))):
            flown = fly(
                [p.vehicle for p in block],
                [p.flight_seed for p in block],
                [[] if p.fault is None else [p.fault] for p in block],
                mission,
                duration_s,
            )
            for plan, flight in zip(block, flown, strict=True):
                write_log(flight, folder / plan.file)
        with manifest.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(sorted(p.manifest_row for p in planned))
    except OSError as error:
        raise UsageError(f"{folder}: a writable folder expected, {error.strerror or error} came") from error
    return manifest


def _blocks(planned: list[PlannedFlight], size: int) -> Iterator[list[PlannedFlight]]:
    rest = iter(planned)
    while block := list(islice(rest, size)):
        yield block
