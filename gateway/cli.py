"""`covey gateway`: run, status, check. Imports paho and confluent_kafka only inside the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from covey.config import load
from gateway import status_cli
from gateway.config import GatewayConfig

app = typer.Typer(
    help="MQTT to Kafka API and back: devices in, acknowledgements and desired states out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

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
    settings = load(GatewayConfig, "gateway", config, options)
    stop = runtime.install_stop()
    runtime.start_logging("gateway", settings.log_level, json_lines=settings.log_json)
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


@app.command(epilog="Example: covey gateway check --config gateway.toml")
def check(
    config: _Config = None,
    mqtt: _Mqtt = None,
    kafka: _Kafka = None,
    kafka_kind: _Kind = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Read the configuration, connect to MQTT and Kafka, and say what was found; consumes and creates nothing."""
    options = {"mqtt": mqtt, "kafka": kafka, "kafka_kind": kafka_kind}
    settings = load(GatewayConfig, "gateway", config, options)
    from gateway.check import check as look

    found = look(settings)
    if as_json:
        typer.echo(json.dumps([{"what": f.what, "ok": f.ok, "detail": f.detail} for f in found]))
    else:
        for f in found:
            typer.echo(f"{'ok  ' if f.ok else 'FAIL'} {f.what:<10} {f.detail}")
    if not all(f.ok for f in found):
        raise typer.Exit(1)
