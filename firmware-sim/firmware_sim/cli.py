"""covey sim: simulated flights as files. NumPy and the physics are loaded inside the commands."""

from __future__ import annotations

import enum
import json
import time
from pathlib import Path  # typer reads the annotations at run time
from typing import Annotated

import typer

from covey.errors import UsageError
from firmware_sim import fleet_cli, machine_cli, mavlink_cli, realism_cli, report_cli, scenario_cli

app = typer.Typer(no_args_is_help=True, help="Simulated vehicles with known faults.")


class MissionName(str, enum.Enum):
    """Missions that a vehicle can fly."""

    SHUTTLE = "shuttle"
    SQUARE = "square"
    SURVEY = "survey"
    HOVER = "hover"


Seconds = Annotated[
    float, typer.Option(min=1.0, max=3600.0, help="Length of a flight, s; missions repeat every 26 s, survey 60 s.")
]
MissionOption = Annotated[
    MissionName,
    typer.Option(
        help="shuttle: out, land, back, as in CrazyPAD. square: 1 m sides at one height. survey: four lanes of 10 m. "
        "hover: stays 1 m high."
    ),
]


for part in (fleet_cli, report_cli, scenario_cli, machine_cli, mavlink_cli, realism_cli):
    part.register(app)


@app.callback()
def sim() -> None:
    """Simulated vehicles with known faults."""


@app.command(epilog="Example: covey sim vehicle --out V01_log00 --fault propeller-cut:motor=3,cut_mm=3.0 --onset-s 8")
def vehicle(
    out: Annotated[Path, typer.Option(help="Log file to write (Crazyflie uSD format, no extension needed).")],
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:KEY=VALUE,...]", help="What breaks or changes, as `covey sim faults` lists it; repeatable."
        ),
    ] = None,
    onset_s: Annotated[
        float | None, typer.Option(help="When, s after the start; 0 when left out; onset_s=... in a fault goes before.")
    ] = None,
    vehicle_seed: Annotated[int, typer.Option(min=0, help="Which vehicle: how it was built.")] = 1,
    flight_seed: Annotated[int, typer.Option(min=0, help="Which flight: wind, charge, session.")] = 0,
    seconds: Seconds = 26.0,
    mission: MissionOption = MissionName.SHUTTLE,
    wind_east_ms: Annotated[float, typer.Option(help="Mean wind towards the east (the way it starts), m/s.")] = 0.0,
    wind_north_ms: Annotated[float, typer.Option(help="Mean wind towards the north, m/s.")] = 0.0,
    gust_ms: Annotated[float, typer.Option(help="Standard deviation of the wind's gusts, m/s.")] = 0.0,
) -> None:
    """Fly one vehicle once and write its log; prints the file's path."""
    if onset_s is not None and not fault:
        raise UsageError("--onset-s: a --fault expected beside it, no fault came")
    from firmware_sim.fault_words import parse_fault
    from firmware_sim.usdlog import write_log
    from firmware_sim.world.pilot import MISSIONS
    from firmware_sim.world.vehicle import Vehicle, fly
    from firmware_sim.world.weather import Wind

    faults = [parse_fault(words, onset_s or 0.0) for words in fault or ()]
    for one in faults:
        if one.onset_s >= seconds:
            raise UsageError(
                f"fault {one.kind}: an onset within the {seconds:g} s of the flight expected, {one.onset_s:g} came"
            )
    outdoors = any((wind_east_ms, wind_north_ms, gust_ms))
    wind = Wind(wind_east_ms, wind_north_ms, gust_ms) if outdoors else None
    (flight,) = fly([Vehicle(vehicle_seed)], [flight_seed], [faults], MISSIONS[mission.value], seconds, wind=wind)
    typer.echo(write_log(flight, out))


@app.command(epilog="Example: covey sim faults --json")
def faults(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, {faults: [...]}, instead of text.")] = False,
) -> None:
    """List what can break or change: kinds, parameters, units and bounds."""
    from firmware_sim.fault_words import describe, table

    if as_json:
        typer.echo(json.dumps({"faults": describe()}))
        return
    for line in table():
        typer.echo(line)


@app.command(epilog="Example: covey sim flights --out flights --vehicles 4 --healthy 3 --damaged 2 --seed 7")
def flights(
    out: Annotated[Path, typer.Option(help="New or empty folder for the logs and manifest.csv.")],
    vehicles: Annotated[int, typer.Option(min=1, max=999, help="Vehicles, named V01, V02, ...")] = 3,
    healthy: Annotated[int, typer.Option(min=0, max=99, help="Healthy flights of each vehicle.")] = 3,
    damaged: Annotated[
        int, typer.Option(min=0, help="Vehicles that fly once more, damaged: 2 to 4 mm cut off a blade, or --fault.")
    ] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:KEY=VALUE,...]",
            help="What the damaged ones have instead, from the start of the flight; repeat it to give them one each in turn.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same bytes.")] = 0,
    seconds: Seconds = 26.0,
    mission: MissionOption = MissionName.SHUTTLE,
) -> None:
    """Write a folder of flights laid out like the CrazyPAD data; prints the manifest's path."""
    from firmware_sim.fault_words import parse_fault
    from firmware_sim.flights import plan_flights, write_flights
    from firmware_sim.world.pilot import MISSIONS

    begun = time.monotonic()
    planned = plan_flights(vehicles, healthy, damaged, seed, [parse_fault(words) for words in fault or ()])
    manifest = write_flights(planned, out, MISSIONS[mission.value], seconds)
    typer.echo(f"{len(planned)} flights of {seconds:g} s in {time.monotonic() - begun:.1f} s", err=True)
    typer.echo(manifest)
