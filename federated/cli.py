"""`covey federated`: train on the devices of this machine or on files, show a run's rounds."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from covey.errors import UsageError
from federated import flower_cli, rounds_cli, unit_cli

app = typer.Typer(
    help="Federated training: many devices, one model, no data leaves a device.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _federated() -> None:
    """Federated training: many devices, one model, no data leaves a device."""


rounds_cli.register(app)
flower_cli.register(app)
unit_cli.register(app)


@app.command(
    epilog="Example: covey federated train --data flights/ --family pca --engine simulation --rounds 1 --out model.zip"
)
def train(
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="File, or folder of files: one file (or folder in it) is one device. Repeat."),
    ] = None,
    ring: Annotated[list[str] | None, typer.Option("--ring", help="DEVICE=PATH of an agent's ring. Repeat.")] = None,
    stack: Annotated[Path | None, typer.Option("--stack", help="Folder of a stack: agents/*/ring.bin.")] = None,
    family: Annotated[str, typer.Option("--family", help="pca or dense-ae.")] = "pca",
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="simulation (files or rings, this process), local (rings, a process each) or flower (a SuperLink's).",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="pca needs one.")] = 1,
    initial: Annotated[
        Path | None, typer.Option("--initial", help="Bundle to start from; also the one to be no worse than.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Group of devices; the initial bundle's.")] = None,
    features: Annotated[str, typer.Option("--features", help="auto, drone or lag.")] = "auto",
    window: Annotated[int | None, typer.Option("--window", min=1, help="Samples a window.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Channels, separated by commas.")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="A:B of every file.")] = None,
    min_clients: Annotated[int, typer.Option("--min-clients", min=1, help="Devices that must answer.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Of every message round.")] = 120.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Folder for the rounds.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --checkpoint.")] = False,
    superlink: Annotated[
        Path | None, typer.Option("--superlink", help="Folder of a running SuperLink; with --engine flower.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--database", help="SQLite file of a SuperLink to start for this run; with --engine flower."),
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT of that SuperLink, for devices.")] = "0.0.0.0:9092",
    name: Annotated[list[str] | None, typer.Option("--name", help="Host that devices call it by. Repeat.")] = None,
    signed_app: Annotated[Path | None, typer.Option("--app", help="Signed app, for that SuperLink.")] = None,
    wait_s: Annotated[float, typer.Option("--wait-s", min=1, help="For devices to join; engine flower.")] = 300.0,
    deadline_s: Annotated[float | None, typer.Option("--deadline-s", min=1, help="Of the run; engine flower.")] = None,
    events: Annotated[
        str | None, typer.Option("--events", help="File for the run's lines (JSON), written as they come; - is stdout.")
    ] = None,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the starting process ends.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a model over devices, evaluate it on them, and write it as a bundle if it passes the gates."""
    from covey import runtime
    from federated import start

    if resume and checkpoint is None:
        raise UsageError("--resume: the run's folder expected: give --checkpoint DIR")
    if die_with_parent:
        runtime.die_with_parent()
    plan = plan_of(
        family=family,
        group=group or (group_of(initial) if initial is not None else None),
        features=features,
        window=window,
        columns=words(columns),
        rows=span(rows),
        rounds=rounds,
        min_clients=min_clients,
        timeout_s=timeout_s,
        seed=seed,
    )
    chosen = engine or ("flower" if superlink or database else "simulation" if data else "local")
    link = start.link_of(chosen, superlink, database, listen, name, signed_app, wait_s, deadline_s)
    devices = start.devices_of(chosen, data, ring, stack)
    there = "those that join" if link is not None else f"{len(devices)} devices"
    typer.echo(f"{family}: {there}, {rounds} rounds, engine {chosen}", err=True)
    task = start.Task(plan, devices, chosen, out, initial, checkpoint, resume=resume, link=link)
    report = start.run(task, runtime.install_stop(), events, say=lambda line: typer.echo(line, err=True))
    say(report, as_json=as_json, err=events == "-")


@app.command(epilog="Example: covey federated show runs/2026-11-23")
def show(
    folder: Annotated[Path, typer.Argument(help="The --checkpoint folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """The rounds of a run: who answered, who did not and why, bytes and seconds."""
    import msgspec

    from federated.checkpoint import Checkpoints

    rounds = Checkpoints(folder).rounds()
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(rounds)))
        return
    typer.echo(
        f"{'round':>5} {'clients':>7} {'refused':>7} {'missing':>7} {'windows':>8} {'down B':>9} {'up B':>9} {'s':>7}"
    )
    for one in rounds:
        typer.echo(
            f"{one.number:>5} {one.clients:>7} {len(one.refused):>7} {len(one.missing):>7} {one.windows:>8} "
            f"{one.bytes_down:>9} {one.bytes_up:>9} {one.seconds:>7.2f}"
        )
        for device, why in sorted(one.refused.items()):
            typer.echo(f"      {device}: {why}")


def plan_of(**options: Any) -> Any:
    """A plan from options; None is the plan's own default.

    Raises:
        UsageError: a value is out of range.
    """
    import msgspec

    from federated.config import Plan

    try:
        return msgspec.convert({name: value for name, value in options.items() if value is not None}, Plan)
    except msgspec.ValidationError as error:
        text = str(error)
        raise UsageError(f"{text[:1].lower()}{text[1:]}") from error


def group_of(initial: Path) -> str:
    """The group of the bundle that training starts from."""
    from covey.bundle import read_bundle

    return read_bundle(initial).manifest.group


def words(text: str | None) -> list[str] | None:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()] if text is not None else None


def span(text: str | None) -> tuple[int, int] | None:
    """A:B as numbers.

    Raises:
        UsageError: another form.
    """
    if text is None:
        return None
    first, _, last = text.partition(":")
    try:
        start, stop = int(first or 0), int(last)
    except ValueError:
        raise UsageError(f"--rows: A:B expected, {text!r} came") from None
    if not 0 <= start < stop:
        raise UsageError(f"--rows: 0 <= A < B expected, {text!r} came")
    return start, stop


def say(report: Any, *, as_json: bool, err: bool = False) -> None:
    """Print a run's report: figures on stdout (`err`: stderr, for stdout has lines), failures on stderr."""
    import msgspec

    for device, why in sorted(report.failed.items()):
        typer.echo(f"left out: {device}: {why}", err=True)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report)), err=err)
        return
    typer.echo(f"{report.out}  {report.digest}", err=err)
    typer.echo(
        f"{report.family}, {report.rounds} rounds, {report.clients} devices, {report.seconds:.1f} s, "
        f"{report.bytes_down_per_device} B down and {report.bytes_up_per_device} B up a device",
        err=err,
    )
    for name, value in sorted(report.evidence.items()):
        typer.echo(f"  {name:32} {value:.4g}", err=err)
