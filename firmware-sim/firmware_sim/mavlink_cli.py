"""`covey sim mavlink`: simulated flight controllers that a ground station or an agent can listen to."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(
        epilog="Example: covey sim mavlink --vehicles 3 --to 127.0.0.1:14550 --fault propeller-cut:motor=3,cut_mm=3 --onset-s 20"
    )(mavlink)


def mavlink(
    vehicles: Annotated[int, typer.Option(min=1, max=250, help="How many; system ids 1 to this.")] = 1,
    to: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Who listens; ground stations do at 14550.")
    ] = "127.0.0.1:14550",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:KEY=VALUE,...]", help="Of every vehicle, as `covey sim faults` lists it; repeatable."
        ),
    ] = None,
    onset_s: Annotated[float, typer.Option(min=0.0, help="When the faults begin, s of the simulation.")] = 0.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Time simulated; until Ctrl-C when left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same vehicles and flights.")] = 0,
    speed: Annotated[float, typer.Option(min=0.01, max=100.0, help="Simulated over real time.")] = 1.0,
) -> None:
    """Fly vehicles that speak MAVLink 2 over UDP; prints what was sent when it ends."""
    from covey.errors import MissingExtra, UsageError
    from covey.runtime import install_stop
    from firmware_sim.fault_words import parse_fault

    host, colon, port = to.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise UsageError(f"--to: HOST:PORT expected, {to!r} came")
    faults = tuple(parse_fault(words, onset_s) for words in fault or ())
    try:
        from firmware_sim.mavlink.radio import MavlinkConfig, run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pymavlink":
            raise
        raise MissingExtra("sim", "pymavlink") from error
    host = host.strip("[]")
    config = MavlinkConfig(vehicles, host, int(port), faults, seed, seconds, speed)
    stop = install_stop()
    typer.echo(f"{vehicles} vehicles, MAVLink 2 to udp {host}:{port}, {speed:g} x real time; Ctrl-C ends it", err=True)
    counts = run(config, stop)
    typer.echo(", ".join(f"{value} {name}" for name, value in counts.items()))
