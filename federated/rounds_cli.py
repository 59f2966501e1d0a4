"""`covey federated rounds | export`: watch a run while it goes, and make a bundle of one that ended or was killed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from covey.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands to `covey federated`."""
    app.command(epilog="Example: covey federated rounds --checkpoint runs/2026-11-30 --follow")(rounds)
    app.command(epilog="Example: covey federated export runs/2026-11-30 --out model.zip")(export)


def rounds(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder of a run.")] = Path(),
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run ends; Ctrl-C ends it, not the run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines themselves.")] = False,
) -> None:
    """The rounds of a run, live: who was asked, who has answered, what each round brought, how it ended."""
    from covey import rounds as progress
    from covey.runtime import install_stop
    from federated import events

    path = checkpoint / events.NAME
    if not follow:
        found = events.read(path)
        working = events.at_work(checkpoint)
        for text in progress.plain(found) if as_json else progress.table(found, at_work=working):
            typer.echo(text)
        return
    stop, seen = install_stop(), progress.Progress()

    def over() -> bool:
        return bool(seen.run) and not events.at_work(checkpoint)  # released, failed, or killed

    with progress.screen(quiet=as_json) as show:
        for line in events.follow(path, 0, stop, over):
            event = progress.event_of(line, path)
            seen.take(event)
            if as_json:
                typer.echo(line.decode())
            else:
                show(seen, at_work=events.at_work(checkpoint))
        if not as_json and seen.run:
            show(seen, at_work=events.at_work(checkpoint))


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.")],
    number: Annotated[int | None, typer.Option("--round", min=1, help="Of which round; the last whole one.")] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="Devices: as for train.")] = None,
    ring: Annotated[list[str] | None, typer.Option("--ring", help="Devices: as for train.")] = None,
    stack: Annotated[Path | None, typer.Option("--stack", help="Devices: as for train.")] = None,
    superlink: Annotated[Path | None, typer.Option("--superlink", help="Devices: as for train.")] = None,
    database: Annotated[Path | None, typer.Option("--database", help="Devices: as for train.")] = None,
    listen: Annotated[str, typer.Option("--listen", help="As for train.")] = "0.0.0.0:9092",
    initial: Annotated[Path | None, typer.Option("--initial", help="The bundle that the run began with.")] = None,
    min_clients: Annotated[int, typer.Option("--min-clients", min=1, help="Devices that must answer.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Of every message round.")] = 120.0,
    wait_s: Annotated[float, typer.Option("--wait-s", min=1, help="For devices to join; engine flower.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a bundle of a run's round.

    A run that passed its gates has its bundle in the folder: it is written out, no device is asked. Any other round goes
    through the same gates first, and those need devices: int8 ranges and judgement come from their windows only.
    """
    from covey.runtime import install_stop
    from federated import start
    from federated.again import begun, kept, plan_of_run

    whole = begun(checkpoint, number)
    done = kept(checkpoint, whole, out) if number is None or number == whole.rounds else None
    if done is not None:
        typer.echo(
            json.dumps({"out": str(out), "digest": done, "round": whole.rounds}) if as_json else f"{out}  {done}"
        )
        return
    if not (data or ring or stack or superlink or database):
        raise UsageError(
            f"{checkpoint}: round {whole.rounds} has not passed the gates yet, and they need devices: "
            "give --data, --ring, --stack, --superlink or --database"
        )
    from federated.cli import say

    chosen = "flower" if superlink or database else "simulation" if data else "local"
    link = start.link_of(chosen, superlink, database, listen, None, None, wait_s, None)
    devices = start.devices_of(chosen, data, ring, stack)
    with whole.copied() as folder:
        plan = plan_of_run(checkpoint, whole.rounds, min_clients, timeout_s)
        task = start.Task(plan, devices, chosen, out, initial, folder, resume=True, link=link)
        report = start.run(task, install_stop(), None, say=lambda line: typer.echo(line, err=True))
    say(report, as_json=as_json)
