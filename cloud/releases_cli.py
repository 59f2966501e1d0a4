"""`covey cloud releases`: sign a bundle for a group and want it of its devices; list what was released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import BundleError

app = typer.Typer(
    help="Numbered, signed bundles.",
    epilog="Example: covey cloud releases list --store covey.db",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PUBLISH_S = 10.0  # how long `add` waits for Kafka; `covey cloud run` publishes what is left


@app.command("add", epilog="Example: covey cloud releases add model.covey --group default --note 'first fit'")
def add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle file.")],
    group: Annotated[str, typer.Option("--group", help="Group of devices that share the model.")] = "default",
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Only this device; may be repeated. They join the group.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="For people; at most 256 characters.")] = "",
    store: Store = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; options win over it.")] = None,
    stack: Annotated[
        Path | None, typer.Option("--stack", help="Folder of `covey up`: tells store, repository and brokers.")
    ] = None,
    repository_dir: Annotated[
        str | None, typer.Option("--repository-dir", help="Folder of the release repository.")
    ] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Bootstrap servers of the Kafka API.")] = None,
    kafka_kind: Annotated[str | None, typer.Option("--kafka-kind", help="kafka or embedded.")] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", help="Of `covey cloud serve`, as devices see it; else what `run` was told."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check, number and sign a bundle, and want it of its group's devices."""
    import msgspec

    from cloud import output
    from cloud.config import DEFAULT_BASE_URL, CloudConfig
    from cloud.learn import desired
    from cloud.learn.releases import Repository
    from cloud.store.schema import open_store
    from cloud.stream.kafka import Writer
    from cloud.stream.publish import Publisher
    from covey.bundle import unpack
    from covey.config import load

    if stack is not None:
        from covey.stack import HOST, read_state

        told = read_state(stack.resolve())
        store = store or told["store"]
        repository_dir = repository_dir or told["repository"]
        kafka, kafka_kind = kafka or f"{HOST}:{told['ports']['kafka']}", kafka_kind or "embedded"
        base_url = base_url or f"http://{HOST}:{told['ports']['serve']}"
    options = {
        "store": store,
        "repository_dir": repository_dir,
        "kafka": kafka,
        "kafka_kind": kafka_kind,
        "base_url": base_url,
        # It reads nothing from the broker, so no offsets need a name.
        "broker_instance": "none",
    }
    settings = load(CloudConfig, "cloud", config, options)
    try:
        content = bundle.read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle}: a bundle expected, cannot be read: {error.strerror}") from error
    unpack(content, str(bundle))
    engine = open_store(settings.store)
    try:
        repository = Repository(Path(settings.repository_dir))
        repository.create()
        desired.record_releases(engine, repository.releases())
        release = repository.add_release(content, group, note)
        url = settings.base_url if settings.base_url != DEFAULT_BASE_URL else desired.known_base_url(engine)
        devices = desired.assign(engine, release, url, to or ())
        published = Publisher(engine, Writer(settings)).drain(PUBLISH_S)
    finally:
        engine.dispose()
    if not published:
        typer.echo(f"kafka {settings.kafka}: not reached; `covey cloud run` will publish what is recorded", err=True)
    result = {**msgspec.structs.asdict(release), "devices": devices, "published": published}
    if as_json:
        output.print_json(result)
    else:
        output.print_pairs({**result, "devices": ", ".join(devices) or "none yet"})


@app.command("list", epilog="Example: covey cloud releases list --group default --json")
def list_(
    group: Annotated[str | None, typer.Option("--group", help="Of one group only.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Releases by group and number, with how many devices want and run each."""
    from cloud import output
    from cloud.show_cli import opened
    from cloud.store import reader

    with opened(store) as engine:
        rows = reader.releases(engine, group)
    if as_json:
        output.print_json(rows)
        return
    columns = ("group", "number", "digest", "bytes", "created", "wanted", "running", "note")
    lines = [
        [
            row["group"],
            row["number"],
            output.short(row["digest"]),
            row["size_bytes"],
            output.clock(row["created_s"]),
            row["wanted"],
            row["running"],
            row["note"],
        ]
        for row in rows
    ]
    output.print_table(columns, lines)
