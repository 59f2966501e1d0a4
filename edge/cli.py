"""`covey edge`: run, status, config, doctor. Imports numpy, paho and the runtimes only inside the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from covey.config import load
from covey.errors import UsageError
from edge.config import AgentConfig

app = typer.Typer(
    help="The agent on the device: scores its own sensor windows, sends summaries and alarms, takes updates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Config = Annotated[Path | None, typer.Option("--config", help="TOML file; `covey edge config` shows every key.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: covey edge run --device d1 --state ./d1 --bundle m.covey --source flight.log --speed 10")
def run(
    config: _Config = None,
    device: Annotated[str | None, typer.Option("--device", help="Name in topics and identities.")] = None,
    mqtt: Annotated[str | None, typer.Option("--mqtt", help="MQTT 5 broker, host:port.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Private folder: outbox, ring, models.")] = None,
    bundle: Annotated[str | None, typer.Option("--bundle", help="Model to install at the first start.")] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="Recording to play; repeat.")] = None,
    commission: Annotated[
        list[str] | None, typer.Option("--commission", help="Flight flown before, for the ring; repeat.")
    ] = None,
    commission_fitted: Annotated[
        list[str] | None,
        typer.Option("--commission-fitted", help="The same, but the bundle was fitted on it; repeat."),
    ] = None,
    learn: Annotated[
        bool | None, typer.Option("--learn/--no-learn", help="Put the sources' normal windows into the ring.")
    ] = None,
    speed: Annotated[float | None, typer.Option("--speed", help="Times real time; 0: as fast as possible.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="auto, litert, onnx or tflite.")] = None,
    summary_interval_s: Annotated[
        float | None, typer.Option("--summary-interval-s", help="Between two summaries, wall clock.")
    ] = None,
    trusted_root: Annotated[
        str | None, typer.Option("--trusted-root", help="TUF root.json; without it no update is taken.")
    ] = None,
    repeat: Annotated[bool | None, typer.Option("--repeat", help="Play the sources again and again.")] = None,
    exit_when_done: Annotated[
        bool | None, typer.Option("--exit-when-done", help="End when every source was played.")
    ] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")] = None,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the process that started this one ends.")
    ] = False,
) -> None:
    """Fly until SIGINT or SIGTERM; an outage of the broker is waited out on disk."""
    from covey import runtime as covey_runtime

    if die_with_parent:
        covey_runtime.die_with_parent()
    options: dict[str, object] = {"device": device, "mqtt": mqtt, "state": state, "bundle": bundle}
    options |= {"sources": source, "commission": commission, "commission_fitted": commission_fitted, "learn": learn}
    options |= {"speed": speed, "runtime": runtime, "summary_interval_s": summary_interval_s}
    options |= {
        "trusted_root": trusted_root,
        "exit_when_done": exit_when_done,
        "repeat": repeat,
        "log_level": log_level,
    }
    settings = load(AgentConfig, "edge", config, options)
    from edge.process import become

    become(settings)


@app.command(epilog="Example: covey edge status --state ./d1 --json")
def status(
    state: Annotated[Path, typer.Option("--state", help="State folder of an agent.")],
    as_json: _Json = False,
) -> None:
    """Tell what an agent said last, and what its outbox holds now; exit 1 when it does not run."""
    from edge.status import read_status

    seen = read_status(state)
    if as_json:
        typer.echo(json.dumps(seen, indent=2))
    else:
        words = "runs" if seen["alive"] else "does not run"
        typer.echo(f"{seen['device']}: {words}, {seen['state']}, said {seen['age_s']:g} s ago")
        typer.echo(f"release   {seen['release']} on {seen['runtime']} {seen['provider']}".rstrip())
        typer.echo(f"windows   {seen['windows']}, ring {seen['ring_windows']}")
        typer.echo(f"outbox    {seen['outbox']['pending']} of {seen['outbox']['last_seq']} events not acknowledged")
        for flight in seen["flights"]:
            typer.echo(f"flight    {flight['name']}: {flight['windows']} windows, {flight['alarms']} alarms")
    if not seen["alive"]:
        raise typer.Exit(1)


@app.command("config", epilog="Example: covey edge config --config agent.toml --check")
def show_config(
    config: _Config = None,
    check: Annotated[bool, typer.Option("--check", help="Say only whether it is right.")] = False,
) -> None:
    """Show the configuration that `run` would use (JSON on stdout), or check it; exit 2 names every bad key."""
    import msgspec

    settings = load(AgentConfig, "edge", config)
    missing = [
        f"{key}: no such file: {name}"
        for key in ("bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file")
        if (name := getattr(settings, key)) and not Path(name).is_file()
    ]
    if missing:
        raise UsageError("; ".join(missing))
    if check:
        typer.echo("configuration is right", err=True)
    else:
        typer.echo(msgspec.json.format(msgspec.json.encode(settings)).decode())


@app.command(epilog="Example: covey edge doctor --json")
def doctor(as_json: _Json = False) -> None:
    """Tell what really runs on this device, and one fix for each thing that does not; exit 1 when nothing can score."""
    from edge.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"python    {found['python']}, numpy {found['numpy'] or 'missing'}")
        for one in found["runtimes"]:
            told = f"{one['version']}, {one['provider']}" if one["ok"] else f"{one['problem']}; fix: {one['fix']}"
            typer.echo(f"{one['runtime']:<9} {'ok' if one['ok'] else 'no'}  {told}")
        for check in found["checks"]:
            if not check["ok"]:
                typer.echo(f"{check['name']}: {check['fix']}")
    if not any(one["ok"] for one in found["runtimes"]):
        raise typer.Exit(1)
