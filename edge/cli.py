"""`covey edge`: run, install, uninstall, status, config, sources, doctor. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from covey.config import explain
from edge import doctor_cli, service_cli
from edge.config import AgentConfig
from edge.options import FLAGS, AsJson, agent_options

app = typer.Typer(
    help="The agent on the device: scores its own sensor windows, sends summaries and alarms, takes updates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: covey edge run --device d1 --state ./d1 --bundle m.covey --source flight.log --speed 10")
@agent_options
def run(
    options: dict[str, Any],
    config: Path | None,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the process that started this one ends.")
    ] = False,
) -> None:
    """Fly until SIGINT or SIGTERM; an outage of the broker is waited out on disk."""
    from covey import runtime as covey_runtime

    if die_with_parent:
        covey_runtime.die_with_parent()
    settings = explain(AgentConfig, "edge", config, options, flags=FLAGS)[0]
    from edge.process import become

    become(settings)


service_cli.register(app)


@app.command(epilog="Example: covey edge status --state ./d1 --json")
def status(
    state: Annotated[Path, typer.Option("--state", help="State folder of an agent.")],
    as_json: AsJson = False,
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
@agent_options
def show_config(
    options: dict[str, Any],
    config: Path | None,
    check: Annotated[bool, typer.Option("--check", help="Say only whether it is right.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the configuration that `run` would use and where each value comes from; exit 2 names every bad key.

    Secrets stand in files: what is shown is their paths.
    """
    from edge.config_text import plain, toml_value

    settings = explain(AgentConfig, "edge", config, options, also=_missing_files, flags=FLAGS)[1]
    if check:
        typer.echo("configuration is right", err=True)
    elif as_json:
        told = {one.key: {"value": plain(one.value), "source": one.source} for one in settings}
        typer.echo(json.dumps(told, indent=2))
    else:
        rows = [(one.key, toml_value(plain(one.value)), one.source) for one in settings]
        key, value = (max(len(row[i]) for row in rows) for i in (0, 1))
        for row in rows:
            typer.echo(f"{row[0]:<{key}}  {row[1]:<{min(value, 40)}}  {row[2]}")


def _missing_files(values: Any) -> list[str]:
    keys = ("bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file")
    return [
        f"{key}: no such file: {name}"
        for key in keys
        if (name := str(values[key] or "")) and not (key == "mqtt_ca" and name == "system") and not Path(name).is_file()
    ]


@app.command(epilog="Example: covey edge sources --source mavlink+udp://0.0.0.0:14550 --seconds 5 --json")
def sources(
    source: Annotated[list[str], typer.Option("--source", help="As for `run`.")],
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="Listen so long.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show what a source offers: every channel, its readings a second and its last value; exit 1 when nothing comes."""
    from edge.sources.open import describe

    found = describe(source, seconds)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        width = max((len(str(one["channel"])) for one in found), default=0)
        for one in found:
            typer.echo(f"{one['channel']:<{width}}  {one['rate_hz']:>8.4g} /s  {one['last']}")
    if not found:
        typer.echo(f"covey: {', '.join(source)}: readings expected, none came in {seconds:g} s", err=True)
        raise typer.Exit(1)


doctor_cli.register(app)
