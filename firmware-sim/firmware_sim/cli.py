"""covey sim: simulated flights as files. NumPy and the physics are loaded inside the commands."""

from __future__ import annotations

import enum
import time
from pathlib import Path  # typer reads the annotations at run time
from typing import Annotated

import typer

from covey.errors import UsageError
from firmware_sim import fleet_cli, machine_cli, report_cli, scenario_cli

app = typer.Typer(no_args_is_help=True, help="Simulated vehicles with known faults.")


class FaultName(str, enum.Enum):
    """Faults that a vehicle can be given."""

    PROPELLER_CUT = "propeller-cut"


class MissionName(str, enum.Enum):
    """Missions that a vehicle can fly."""

    SHUTTLE = "shuttle"
    SQUARE = "square"


Seconds = Annotated[float, typer.Option(min=1.0, max=3600.0, help="Length of a flight, s; missions repeat every 26 s.")]
MissionOption = Annotated[
    MissionName, typer.Option(help="shuttle: out, land, back, as in CrazyPAD. square: 1 m sides at one height.")
]


for part in (fleet_cli, report_cli, scenario_cli, machine_cli):
    part.register(app)


@app.callback()
def sim() -> None:
    """Simulated vehicles with known faults."""


@app.command(
    epilog="Example: covey sim vehicle --out V01_log00 --fault propeller-cut --motor 3 --cut-mm 3.0 --onset-s 8"
)
def vehicle(
    out: Annotated[Path, typer.Option(help="Log file to write (Crazyflie uSD format, no extension needed).")],
    fault: Annotated[FaultName | None, typer.Option(help="What breaks; nothing when left out.")] = None,
    motor: Annotated[int | None, typer.Option(help="Damaged motor, 1 to 4; 3 when left out.")] = None,
    cut_mm: Annotated[float | None, typer.Option(help="Cut off one blade, 0 to 8 mm; 3.0 when left out.")] = None,
    onset_s: Annotated[float | None, typer.Option(help="When it breaks, s after the start; 0 when left out.")] = None,
    vehicle_seed: Annotated[int, typer.Option(min=0, help="Which vehicle: how it was built.")] = 1,
    flight_seed: Annotated[int, typer.Option(min=0, help="Which flight: wind, charge, session.")] = 0,
    seconds: Seconds = 26.0,
    mission: MissionOption = MissionName.SHUTTLE,
) -> None:
    """Fly one vehicle once and write its log; prints the file's path."""
    given = {"--motor": motor, "--cut-mm": cut_mm, "--onset-s": onset_s}
    if fault is None and any(value is not None for value in given.values()):
        names = ", ".join(name for name, value in given.items() if value is not None)
        raise UsageError(f"{names}: --fault propeller-cut expected beside it, no fault came")
    from firmware_sim.usdlog import write_log
    from firmware_sim.world.faults import PropellerCut
    from firmware_sim.world.pilot import MISSIONS
    from firmware_sim.world.vehicle import Vehicle, fly

    faults = []
    if fault is not None:
        faults.append(
            PropellerCut(
                3 if motor is None else motor,
                3.0 if cut_mm is None else cut_mm,
                onset_s=0.0 if onset_s is None else onset_s,
            )
        )
        if faults[0].onset_s >= seconds:
            raise UsageError(f"--onset-s: a time within the {seconds:g} s of the flight expected, {onset_s:g} came")
    (flight,) = fly([Vehicle(vehicle_seed)], [flight_seed], [faults], MISSIONS[mission.value], seconds)
    typer.echo(write_log(flight, out))


@app.command(epilog="Example: covey sim flights --out flights --vehicles 4 --healthy 3 --damaged 2 --seed 7")
def flights(
    out: Annotated[Path, typer.Option(help="New or empty folder for the logs and manifest.csv.")],
    vehicles: Annotated[int, typer.Option(min=1, max=999, help="Vehicles, named V01, V02, ...")] = 3,
    healthy: Annotated[int, typer.Option(min=0, max=99, help="Healthy flights of each vehicle.")] = 3,
    damaged: Annotated[
        int, typer.Option(min=0, help="Vehicles that fly once more with 2 to 4 mm cut off a blade.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same bytes.")] = 0,
    seconds: Seconds = 26.0,
    mission: MissionOption = MissionName.SHUTTLE,
) -> None:
    """Write a folder of flights laid out like the CrazyPAD data; prints the manifest's path."""
    from firmware_sim.flights import plan_flights, write_flights
    from firmware_sim.world.pilot import MISSIONS

    begun = time.monotonic()
    planned = plan_flights(vehicles, healthy, damaged, seed)
    manifest = write_flights(planned, out, MISSIONS[mission.value], seconds)
    typer.echo(f"{len(planned)} flights of {seconds:g} s in {time.monotonic() - begun:.1f} s", err=True)
    typer.echo(manifest)
