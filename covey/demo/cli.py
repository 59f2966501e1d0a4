"""`covey demo`: options, a temporary folder, an orderly end."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from covey.errors import CoveyError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command(epilog="Example: covey demo --devices 5 --json")(demo)


def demo(
    story: Annotated[str, typer.Option(help="Which story to tell: loop.")] = "loop",
    flights: Annotated[
        Path | None, typer.Option(help="Folder of Crazyflie logs with a manifest.csv; simulated flights when left out.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=3, max=200, help="Agents; 5, or one per test flight with --flights.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, max=600.0, help="How long each 26 s flight takes here.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated flights.")] = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with logs, store and bundles.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """The whole loop on this machine: fly, find the broken propeller, learn together, release the better model."""
    from covey import runtime
    from covey.demo.story import Options, Progress, Story
    from covey.demo.view import print_report, showing
    from covey.stack import Stack

    if story != "loop":
        raise UsageError(f"--story: loop expected, {story!r} received")
    if flights is not None and not flights.is_dir():
        raise UsageError(f"--flights: a folder expected, {flights} is none")
    stop = runtime.install_stop()
    folder = Path(tempfile.mkdtemp(prefix="covey-demo-"))
    stack = Stack(folder)
    progress = Progress()
    try:
        with showing(progress):
            report = Story(stack, Options(devices, seconds, seed), progress, stop).tell(flights)
    except CoveyError as error:
        if stop.is_set():
            typer.echo("covey: demo: interrupted, everything it started has ended", err=True)
            raise typer.Exit(130) from error
        raise
    finally:
        stack.children.stop()
        if keep:
            typer.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_report(report)
    if not report["ok"]:
        raise typer.Exit(1)
