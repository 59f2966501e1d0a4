"""`covey sim machine`: one run of a simulated computer as a CSV that `covey model` reads."""

from __future__ import annotations

from pathlib import Path  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.world.faults import Fault


def register(app: typer.Typer) -> None:
    """Add the command to `covey sim`."""
    app.command(
        epilog="Example: covey sim machine --out run.csv --fault overheating:airflow_share=0.2 --onset-s 300 --seconds 900"
    )(machine)


def machine(
    out: Annotated[Path, typer.Option(help="CSV to write: a header, one row a reading.")],
    fault: Annotated[
        list[str] | None, typer.Option(help="kind, or kind:key=value,key=value. Repeat for more than one.")
    ] = None,
    onset_s: Annotated[float, typer.Option(min=0.0, help="When the faults begin, s after the start.")] = 0.0,
    seconds: Annotated[float, typer.Option(min=1.0, max=604_800.0, help="Length of the run, s.")] = 600.0,
    rate_hz: Annotated[float, typer.Option(min=0.01, max=10.0, help="Rows a second.")] = 1.0,
    machine_seed: Annotated[int, typer.Option(min=0, help="Which machine: how it was built.")] = 1,
    run_seed: Annotated[int, typer.Option(min=0, help="Which run: time of day, jobs, noise.")] = 0,
) -> None:
    """Run one Jetson-class computer once and write its readings; prints the file's path."""
    from covey.errors import UsageError
    from firmware_sim.world.machine import Machine, run_machines

    faults = parse_faults(fault or [], onset_s)
    if faults and onset_s >= seconds:
        raise UsageError(f"--onset-s: a time within the {seconds:g} s of the run expected, {onset_s:g} came")
    (run,) = run_machines([Machine(machine_seed)], [run_seed], [faults], seconds, rate_hz)
    lines = [",".join(run.channels)]
    lines += [",".join(f"{value:.10g}" for value in row) for row in run.samples]
    from covey.runtime import write_whole

    try:
        write_whole(out, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise UsageError(f"{out}: a writable place expected, {error.strerror or error} came") from error
    typer.echo(out)


def parse_faults(texts: Sequence[str], onset_s: float) -> list[Fault]:
    """Faults from `kind` or `kind:key=value,...` as the command line gives them.

    Raises:
        UsageError: no such kind, key or value.
    """
    from covey.errors import UsageError
    from firmware_sim.world.faults import make_fault

    faults = []
    for text in texts:
        kind, _, rest = text.partition(":")
        params: dict[str, object] = {}
        for pair in rest.split(",") if rest else []:
            key, equals, value = pair.partition("=")
            if not (key and equals and value):
                raise UsageError(f"--fault {text}: kind:key=value,key=value expected, {pair!r} came")
            if key in params:
                raise UsageError(f"--fault {text}: {key} once expected, it came twice")
            params[key.strip()] = _value(value.strip())
        faults.append(make_fault(kind.strip(), onset_s, params))
    return faults


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
