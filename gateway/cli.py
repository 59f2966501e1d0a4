"""`covey gateway`: run, status, check, replay. Imports paho and confluent_kafka only inside the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gateway import replay_cli, status_cli
from gateway.config import load_config

app = typer.Typer(
    help="MQTT to Kafka API and back: devices in, acknowledgements and desired states out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

replay_cli.register(app)

_Config = Annotated[Path | None, typer.Option("--config", help="TOML file; see docs for every key.")]
_Mqtt = Annotated[str | None, typer.Option("--mqtt", help="MQTT 5 broker, host:port.")]
_Kafka = Annotated[str | None, typer.Option("--kafka", help="Kafka API, host:port[,host:port].")]
_Kind = Annotated[str | None, typer.Option("--kafka-kind", help="kafka, or embedded (Tansu, memory only).")]


@app.command(epilog="Example: covey gateway run --mqtt 127.0.0.1:1883 --kafka 127.0.0.1:9092 --health-port 8081")
def run(
    config: _Config = None,
    mqtt: _Mqtt = None,
    kafka: _Kafka = None,
    kafka_kind: _Kind = None,
    ack_after: Annotated[
        str | None, typer.Option("--ack-after", help="Events are safe when `kafka` has them, or the `store`.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Split the shards among so many processes.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="One running process per name.")] = None,
    health_port: Annotated[int | None, typer.Option("--health-port", help="HTTP port of /healthz; 0: off.")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")] = None,
    log_json: Annotated[bool | None, typer.Option("--log-json", help="One JSON object per log line.")] = None,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the process that started this one ends.")
    ] = False,
    process: Annotated[
        int | None, typer.Option("--process", hidden=True, help="Number of this process among several: names its log.")
    ] = None,
) -> None:
    """Bridge until SIGINT or SIGTERM; outages of either broker are waited out."""
    from covey import runtime

    if die_with_parent:
        runtime.die_with_parent()
    options: dict[str, object] = {"mqtt": mqtt, "kafka": kafka, "kafka_kind": kafka_kind, "ack_after": ack_after}
    options |= {"processes": processes, "name": name, "health_port": health_port, "log_level": log_level}
    options["log_json"] = log_json
    settings = load_config(config, options)
    stop = runtime.install_stop()
    log = runtime.start_logging("gateway", settings.log_level, json_lines=settings.log_json)
    if process is None:  # not once more by each of several
        for told in settings.warnings():
            log.warning("%s", told)
    if settings.processes > 1:
        from gateway.pool import run as pool

        pool(settings, stop)
        return
    if process is not None:
        from gateway.pool import name_log_lines

        name_log_lines(process)
    from gateway.bridge import run as bridge

    bridge(settings, stop)


app.command(epilog="Example: covey gateway status --health-port 8081 --watch")(status_cli.status)


@app.command(epilog="Example: covey gateway move --config gateway.toml")
def move(
    config: _Config = None,
    mqtt: _Mqtt = None,
    kafka: _Kafka = None,
    processes: Annotated[int | None, typer.Option("--processes", help="As `run` will be given.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="As `run` will be given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was moved as JSON.")] = False,
    die_with_parent: Annotated[bool, typer.Option("--die-with-parent", hidden=True, help="As of `run`.")] = False,
) -> None:
    """Hand to Kafka what the MQTT broker holds for an earlier layout of processes; while no gateway of that name runs.

    `run` with processes > 1 does it by itself at its start; do it when going back to one process.
    """
    import logging

    from covey import runtime

    if die_with_parent:
        runtime.die_with_parent()
    options: dict[str, object] = {"mqtt": mqtt, "kafka": kafka, "processes": processes, "name": name}
    settings = load_config(config, options)
    stop = runtime.install_stop()
    runtime.start_logging("gateway", settings.log_level, json_lines=settings.log_json)
    from gateway.move import run as carry

    moved = carry(settings, stop, logging.getLogger("gateway"))
    if as_json:
        typer.echo(json.dumps([{"session": m.client_id, "messages": m.messages} for m in moved]))
    elif not die_with_parent:
        for m in moved:
            typer.echo(f"{m.client_id}: {m.messages} messages")


@app.command(epilog="Example: covey gateway check --config gateway.toml")
def check(
    config: _Config = None,
    mqtt: _Mqtt = None,
    kafka: _Kafka = None,
    kafka_kind: _Kind = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Read the configuration, connect to MQTT and Kafka, and say what was found; consumes and creates nothing.

    Exit 1 when something FAILs, 2 when the configuration is wrong (one message names every mistake).
    """
    settings = load_config(config, {"mqtt": mqtt, "kafka": kafka, "kafka_kind": kafka_kind})
    from gateway.check import check as look

    found = look(settings)
    if as_json:
        lines = [
            {"what": f.what, "ok": f.ok, "state": f.state.lower(), "detail": f.detail, "fix": f.fix} for f in found
        ]
        typer.echo(json.dumps(lines))
    else:
        for f in found:
            typer.echo(f"{f.state:<4} {f.what:<15} {f.detail}")
            if f.fix:
                typer.echo(f"{'':<20} fix: {f.fix}")
    if not all(f.ok for f in found):
        raise typer.Exit(1)
