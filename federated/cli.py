"""`covey federated`: train on the devices of this machine or on files, show a run's rounds."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from covey.errors import UsageError
from federated import evaluate_cli, flower_cli, rounds_cli, unit_cli

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
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="TOML file of a plan: every key of it; options go before it.")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="pca (default), dense-ae or conv-ae.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="simulation (files or rings, here), local (rings, a process each) or flower (a SuperLink's).",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="1; pca needs no more.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="trimmed, fedavg, fedprox, fedadam, krum, multikrum, bulyan, fedbuff; pca: sum."
        ),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Share of the devices asked in a round; 1.")
    ] = None,
    clip: Annotated[str | None, typer.Option("--clip", help="median (default), none, or a norm.")] = None,
    compress: Annotated[
        str | None, typer.Option("--compress", help="none, float16 (default), int8 or topk, both ways.")
    ] = None,
    masked: Annotated[bool | None, typer.Option("--masked/--plain", help="pca: the server sees the sum alone.")] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="Private: stop before it is exceeded.")] = None,
    noise: Annotated[float | None, typer.Option("--noise", help="Private: of the sum, in norms.")] = None,
    norm: Annotated[float | None, typer.Option("--norm", help="Private: norm of one device's update.")] = None,
    initial: Annotated[
        Path | None, typer.Option("--initial", help="Bundle to start from; also the one to be no worse than.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Group of devices; the initial bundle's.")] = None,
    features: Annotated[str | None, typer.Option("--features", help="auto (default), drone, lag or temporal.")] = None,
    window: Annotated[int | None, typer.Option("--window", min=1, help="Samples a window.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Channels, separated by commas.")] = None,
    rows: Annotated[str | None, typer.Option("--rows", help="A:B of every file.")] = None,
    min_clients: Annotated[
        int | None, typer.Option("--min-clients", min=1, help="Devices that must answer; 2.")
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", min=0.1, help="Of every message round; 120.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
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
    health_port: Annotated[
        int, typer.Option("--health-port", help="/healthz, /readyz, /metrics on loopback; 0: none.", min=0, max=65_535)
    ] = 0,
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
    private = {name: value for name, value in (("epsilon", epsilon), ("noise", noise), ("clip", norm)) if value}
    plan = plan_of(
        plan_file,
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
        strategy=strategy,
        fraction=fraction,
        clip=number_or_word(clip),
        compress=compress,
        masked=masked,
        privacy=private or None,
    )
    chosen = engine or ("flower" if superlink or database else "simulation" if data else "local")
    link = start.link_of(chosen, superlink, database, listen, name, signed_app, wait_s, deadline_s)
    devices = start.devices_of(chosen, data, ring, stack)
    there = "those that join" if link is not None else f"{len(devices)} devices"
    typer.echo(f"{plan.family}: {there}, {plan.rounds} rounds, strategy {plan.rule}, engine {chosen}", err=True)
    task = start.Task(plan, devices, chosen, out, initial, checkpoint, resume=resume, link=link)
    report = start.run(
        task, runtime.install_stop(), events, say=lambda line: typer.echo(line, err=True), health_port=health_port
    )
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
        + (f" {'epsilon':>9}" if any(one.epsilon is not None for one in rounds) else "")
    )
    for one in rounds:
        typer.echo(
            f"{one.number:>5} {one.clients:>7} {len(one.refused):>7} {len(one.missing):>7} {one.windows:>8} "
            f"{one.bytes_down:>9} {one.bytes_up:>9} {one.seconds:>7.2f}"
            + (f" {one.epsilon:>9.4f}" if one.epsilon is not None else "")
        )
        for device, why in sorted(one.refused.items()):
            typer.echo(f"      {device}: {why}")


app.command(epilog=evaluate_cli.EPILOG)(evaluate_cli.evaluate)


def plan_of(file: Path | None = None, **options: Any) -> Any:
    """A plan from a file and options, which go before it, key by key also in tables; None is not said.

    Raises:
        UsageError: of options alone: something is unknown, out of range, or does not go together.
        ConfigError: the same of a file.
    """
    from covey.errors import ConfigError
    from federated.plans import make_plan, read_plan

    told = read_plan(file) if file is not None else {}
    for name, value in options.items():
        if isinstance(value, dict) and isinstance(told.get(name), dict):
            told[name] = {**told[name], **value}
        elif value is not None:
            told[name] = value
    told.setdefault("family", "pca")
    try:
        return make_plan(told, str(file) if file is not None else "options")
    except ConfigError as error:
        if file is not None:
            raise
        raise UsageError(str(error)) from error


def number_or_word(text: str | None) -> str | float | None:
    """An option that is a norm or a word."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


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
    if report.epsilon is not None:
        from federated.privacy import LEFT_OUT

        typer.echo(f"epsilon {report.epsilon:.4f}" + (f": {report.ended}" if report.ended else ""))
        typer.echo(LEFT_OUT, err=True)
    for name, value in sorted(report.evidence.items()):
        typer.echo(f"  {name:32} {value:.4g}", err=err)
