"""`covey cloud`: run the store's side, serve releases, and ask the store. Light to import: libraries load in commands."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud import (
    command_cli,
    console_cli,
    desk_cli,
    devices_cli,
    lineage_cli,
    releases_cli,
    rounds_cli,
    rules_cli,
    show_cli,
    store_cli,
)
from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from cloud.config import CloudConfig

app = typer.Typer(
    help="Store the fleet's events, publish releases, and show both.",
    epilog="Example: covey cloud status --store covey.db",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(releases_cli.app, name="releases")
app.add_typer(rounds_cli.app, name="rounds")
app.add_typer(devices_cli.app, name="devices")
app.add_typer(rules_cli.app, name="rules")
app.add_typer(store_cli.app, name="store")
show_cli.register(app)
command_cli.register(app)
desk_cli.register(app)
lineage_cli.register(app)
console_cli.register(app)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; options win over it.")]
Repository = Annotated[str | None, typer.Option("--repository-dir", help="Folder of the release repository.")]
DieWithParent = Annotated[bool, typer.Option("--die-with-parent", help="End when the starting process ends.")]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]
Check = Annotated[bool, typer.Option("--check", help="Check the configuration and exit.")]


@app.command(epilog="Example: covey cloud run --kafka 127.0.0.1:9092 --store covey.db --base-url http://10.0.0.5:8200")
def run(
    config: ConfigFile = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Bootstrap servers of the Kafka API.")] = None,
    kafka_kind: Annotated[str | None, typer.Option("--kafka-kind", help="kafka or embedded.")] = None,
    broker_instance: Annotated[
        str | None,
        typer.Option("--broker-instance", help="New word at each start of a broker that forgets; else leave it out."),
    ] = None,
    store: Annotated[str | None, typer.Option("--store", help="SQLite file or SQLAlchemy URL.")] = None,
    repository_dir: Repository = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Of `covey cloud serve`, as devices see it.")
    ] = None,
    ack_after: Annotated[
        str | None, typer.Option("--ack-after", help="store: say on covey.acks what is committed; or kafka.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option("--stages", help="Of store,enrich,route,deliver: the parts this process runs.")
    ] = None,
    rules: Annotated[
        str | None, typer.Option("--rules", help="TOML file of routing rules, webhooks, mailboxes.")
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Name of this process, no other's, the same at each start.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option("--health-port", help="/healthz, /readyz, /metrics; 0: none.")
    ] = None,
    check: Check = False,
    die_with_parent: DieWithParent = False,
    log_level: LogLevel = "info",
) -> None:
    """Store the stream exactly once, give alarms their context, route them, and tell devices what is wanted."""
    settings = _config(
        config,
        kafka=kafka,
        kafka_kind=kafka_kind,
        broker_instance=broker_instance,
        store=store,
        repository_dir=repository_dir,
        base_url=base_url,
        ack_after=ack_after,
        stages=stages,
        rules=rules,
        instance=instance,
        health_port=health_port,
    )
    from cloud.stream import rules_file

    rules_file.load(settings.rules)
    if check:
        from cloud.stream.model import Model

        for model in settings.enrich.values():
            Model(model)
        return
    from cloud import service
    from covey import runtime

    if die_with_parent:
        runtime.die_with_parent()
    runtime.start_logging("cloud", log_level, json_lines=settings.log_json)
    service.run(settings, runtime.install_stop())


@app.command(epilog="Example: covey cloud serve --repository-dir covey-repository --host 0.0.0.0 --port 8200")
def serve(
    config: ConfigFile = None,
    repository_dir: Repository = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0: any free one, printed on stdout.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", help="PEM chain; needs --tls-key.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="PEM key; needs --tls-cert.")] = None,
    check: Check = False,
    die_with_parent: DieWithParent = False,
    log_level: LogLevel = "info",
) -> None:
    """Serve the signed releases to devices over HTTP or HTTPS, with byte ranges."""
    settings = _config(
        config,
        repository_dir=repository_dir,
        serve_host=host,
        serve_port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    if check:
        return
    from cloud.learn import serve as server
    from covey import runtime

    if die_with_parent:
        runtime.die_with_parent()
    runtime.start_logging("cloud", log_level, json_lines=settings.log_json)

    def ready(bound: int) -> None:
        print(bound, flush=True)

    server.run(settings, runtime.install_stop(), ready if settings.serve_port == 0 else None)


@app.command(epilog="Example: covey cloud alarms --store covey.db --device drone-3 --open")
def alarms(
    store: Store = None,
    device: Annotated[str | None, typer.Option("--device", help="Of one device only.")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest first.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """Alarms, newest first: when, which channel, how far above the threshold."""
    from cloud import output
    from cloud.store import reader

    with opened(store) as engine:
        rows = reader.alarms(engine, device=device, open_only=open_only, limit=limit)
    if as_json:
        output.print_json(rows)
        return
    columns = ("alarm", "device", "begun", "state", "channel", "peak", "threshold", "windows", "release", "flight")
    output.print_table(columns, [show_cli.alarm_cells(row) for row in rows])


@app.command(epilog="Example: covey cloud status --store covey.db --json")
def status(store: Store = None, as_json: AsJson = False) -> None:
    """Totals: devices, events, alarms, repeats refused, numbers missing."""
    from cloud import output
    from cloud.store import reader

    with opened(store) as engine:
        row = reader.counts(engine)
    if as_json:
        output.print_json(row)
    else:
        output.print_pairs(row)


@app.command(epilog="Example: covey cloud export alarms --from 2026-12-01 --format parquet --out alarms.parquet")
def export(
    out: Annotated[Path, typer.Option("--out", help="File to write; - for stdout, without a table.")],
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="Whole rows of a table; without one, a line per event.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Date or time (UTC) of the first row.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Date or time (UTC) before which the last lies.")] = None,
    form: Annotated[str, typer.Option("--format", help="jsonl or parquet.")] = "jsonl",
    store: Store = None,
) -> None:
    """Write a table's rows (events, summaries, hours, alarms, ...) of a time range, whole or not at all.

    Without a table: one JSON line per stored event with device, outbox, seq, kind, time, sha256, received_s.
    """
    from cloud.store import export as exporting
    from cloud.store import reader
    from covey.errors import UsageError

    if form not in ("jsonl", "parquet"):
        raise UsageError(f"--format: jsonl or parquet expected, {form[:40]!r} received")
    if table is None:
        if form != "jsonl" or from_ is not None or to is not None:
            raise UsageError(f"export: a table expected with --format, --from or --to: {', '.join(exporting.TIMES)}")
        with opened(store) as engine, _target(out) as file:
            for line in reader.export(engine):
                file.write(line)
        return
    from_s, to_s = lineage_cli.time_of("--from", from_), lineage_cli.time_of("--to", to)
    with opened(store) as engine:
        count = exporting.export(engine, table, out, "parquet" if form == "parquet" else "jsonl", from_s, to_s)
    typer.echo(f"{count} rows of {table}", err=True)


@contextmanager
def _target(out: Path) -> Iterator[BinaryIO]:
    if str(out) == "-":
        yield sys.stdout.buffer
        return
    try:
        with out.open("wb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error


def _config(path: Path | None, **options: object) -> CloudConfig:
    from cloud.config import CloudConfig, file_problems
    from covey.config import load

    return load(CloudConfig, "cloud", path, options, also=file_problems)


opened = show_cli.opened
