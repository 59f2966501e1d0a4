"""Which flights the demo fits, teaches and tests: pure rules over a folder's manifest.csv.

Per drone, its healthy flights in the order of the manifest: the first one fits the first model, the second one is a
healthy test, the third one is the round's. Of a drone with four the last one is from another session: reported, not
judged; with five or more all from the third on are the round's. Every damaged flight is a test; cuts of JUDGED_CUT_MM or more must alarm. Fit, round and test flights are disjoint.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey import topics
from covey.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.csv"
COLUMNS = ("file", "drone", "condition", "label", "motors", "total_cut_mm")
JUDGED_CUT_MM = 2.0
MANY_FLIGHTS = 5
FIT_DRONES = 3  # the first model knows few vehicles


@dataclass(frozen=True)
class Flight:
    """One row of the manifest."""

    file: str  # relative to the folder
    drone: str
    condition: str
    healthy: bool
    motors: str  # damaged motors ("M3"), or ""
    cut_mm: float


@dataclass(frozen=True)
class Device:
    """One agent of the demo and what it flies."""

    id: str
    drone: str
    test: Flight
    judged: bool  # whether the report holds the demo to it
    commission_fitted: tuple[str, ...]  # flown before, and the first model was fitted on them
    commission: tuple[str, ...]  # flown before; the round learns from them

    @property
    def must_alarm(self) -> bool:
        """Whether silence would be a failure."""
        return self.judged and not self.test.healthy

    @property
    def fault(self) -> str:
        """What is wrong with it, in words; "" for a healthy one."""
        return "" if self.test.healthy else self.test.condition


@dataclass(frozen=True)
class Plan:
    """Everything the demo flies."""

    folder: Path
    fit: tuple[str, ...]
    devices: tuple[Device, ...]


def read_manifest(folder: Path) -> list[Flight]:
    """Rows of `<folder>/manifest.csv`.

    Raises:
        UsageError: no such folder or manifest.
        DataError: a column is missing, a number is none, or a file is not there; names row and column.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: a manifest of flights expected: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: UTF-8 text expected: {error}") from error
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
    if missing:
        raise DataError(f"{path}: columns {', '.join(COLUMNS)} expected, {', '.join(missing)} missing")
    flights = []
    for number, row in enumerate(reader, start=2):
        try:
            cut_mm = float(row["total_cut_mm"] or 0)
        except ValueError as error:
            raise DataError(
                f"{path}: line {number}: total_cut_mm: a number expected, {row['total_cut_mm']!r} found"
            ) from error
        if not (folder / row["file"]).is_file():
            raise DataError(f"{path}: line {number}: {row['file']}: no such file in {folder}")
        healthy = row["label"].strip() == "0"
        flights.append(Flight(row["file"], row["drone"], row["condition"], healthy, row["motors"] or "", cut_mm))
    return flights


def make_plan(folder: Path, flights: list[Flight], devices: int | None) -> Plan:
    """Deal out the flights; `devices` bounds the agents (None: one agent per test flight).

    Raises:
        UsageError: no drone has the three healthy flights that a fit, a round and a test need.
    """
    by_drone: dict[str, list[Flight]] = {}
    for flight in flights:
        by_drone.setdefault(flight.drone, []).append(flight)
    healthy = {drone: [f for f in own if f.healthy] for drone, own in by_drone.items()}
    usable = sorted(drone for drone, own in healthy.items() if len(own) >= 3)
    if not usable:
        raise UsageError(f"{folder}: a drone with three healthy flights expected (fit, test, round), none found")
    fitted = usable[:FIT_DRONES]
    tests: list[tuple[Flight, bool]] = []
    for drone in usable:
        tests += [(f, f.cut_mm >= JUDGED_CUT_MM) for f in by_drone[drone] if not f.healthy]
        tests.append((healthy[drone][1], True))
        tests += [(f, False) for f in healthy[drone][3:] if len(healthy[drone]) < MANY_FLIGHTS]
    chosen = tests if devices is None else _choose(tests, devices)
    return Plan(
        folder,
        tuple(healthy[drone][0].file for drone in fitted),
        tuple(
            Device(
                id=device_id(flight),
                drone=flight.drone,
                test=flight,
                judged=judged,
                commission_fitted=(healthy[flight.drone][0].file,) if flight.drone in fitted else (),
                commission=(
                    *(() if flight.drone in fitted else (healthy[flight.drone][0].file,)),
                    *(f.file for f in _rounds(healthy[flight.drone])),
                ),
            )
            for flight, judged in chosen
        ),
    )


def device_id(flight: Flight) -> str:
    """A device name made of drone, fault and log: `e8-cut-2.5mm-log00`."""
    log = flight.file.rsplit("_", 1)[-1] if "_" in flight.file else flight.file
    if flight.healthy:
        fault = "ok"
    elif flight.cut_mm > 0:
        fault = f"cut-{flight.cut_mm:g}mm"
    else:
        fault = flight.condition.split("_")[0]
    name = re.sub(r"[^a-z0-9._-]", "-", f"{flight.drone}-{fault}-{log}".lower())[:64]
    if not topics.is_device(name):
        raise DataError(
            f"{flight.file}: a drone name that begins with a letter or digit expected, {flight.drone!r} found"
        )
    return name


def teachers(devices: tuple[Device, ...], alarmed: set[str], most: int) -> list[Device]:
    """Who takes part in the round: devices without an alarm, one per drone, at most `most`."""
    chosen: dict[str, Device] = {}
    for device in sorted(devices, key=lambda d: not d.judged):
        if device.id not in alarmed:
            chosen.setdefault(device.drone, device)
    return list(chosen.values())[:most]


def _rounds(healthy: list[Flight]) -> list[Flight]:
    return healthy[2:] if len(healthy) >= MANY_FLIGHTS else healthy[2:3]


def _choose(tests: list[tuple[Flight, bool]], devices: int) -> list[tuple[Flight, bool]]:
    """Up to `devices` tests: two damaged ones in five, of as many drones as there are, judged ones first."""
    ordered = sorted(tests, key=lambda t: not t[1])
    quota = {False: max(1, devices * 2 // 5), True: devices - max(1, devices * 2 // 5)}
    chosen: list[tuple[Flight, bool]] = []
    for fresh in (True, False):  # drones that fly nothing yet come first
        for test in ordered:
            drones = {f.drone for f, _ in chosen}
            side = test[0].healthy
            taken = sum(f.healthy == side for f, _ in chosen)
            if test not in chosen and taken < quota[side] and (not fresh or test[0].drone not in drones):
                chosen.append(test)
    rest = [t for t in ordered if t not in chosen]
    return (chosen + rest)[:devices]
