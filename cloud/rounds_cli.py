"""`covey cloud rounds`: start a training run whose lines go to Kafka, and list the runs that Kafka has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.options import AsJson  # noqa: TC001  # typer reads annotations when it runs

if TYPE_CHECKING:
    from cloud.config import CloudConfig

app = typer.Typer(
    help="Training runs: start one and publish its rounds, or list them.", no_args_is_help=True, rich_markup_mode=None
)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; options win over it.")]
Kafka = Annotated[str | None, typer.Option("--kafka", help="Bootstrap servers of the Kafka API.")]
Kind = Annotated[str | None, typer.Option("--kafka-kind", help="kafka or embedded.")]


@app.command(
    epilog="Example: covey cloud rounds run --kafka 127.0.0.1:9092 -- --superlink ./superlink --engine flower "
    "--checkpoint runs/1 --out model.zip"
)
def run(
    words: Annotated[list[str], typer.Argument(metavar="-- OPTIONS", help="Of `covey federated train`.")],
    config: ConfigFile = None,
    kafka: Kafka = None,
    kafka_kind: Kind = None,
    flush_s: Annotated[float, typer.Option("--flush-s", min=0, help="For Kafka to take what is left.")] = 60.0,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the starting process ends.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run `covey federated train` as a process and produce its lines to covey.learning; its exit code is ours."""
    from cloud.learn import learning_run
    from covey import runtime

    settings = _settings(config, kafka, kafka_kind)
    if die_with_parent:
        runtime.die_with_parent()
    runtime.start_logging("cloud", log_level, json_lines=settings.log_json)
    code = learning_run.run(settings, words, runtime.install_stop(), flush_s)
    if code:
        raise typer.Exit(code if code > 0 else 1)


@app.command("list", epilog="Example: covey cloud rounds list --kafka 127.0.0.1:9092 --json")
def list_runs(
    config: ConfigFile = None,
    kafka: Kafka = None,
    kafka_kind: Kind = None,
    show: Annotated[str | None, typer.Option("--run", help="The rounds of one run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs on covey.learning: rounds done, devices of the last one, how it ended."""
    from cloud import output
    from cloud.learn import learning_topic
    from covey.errors import UsageError

    found = learning_topic.read(_settings(config, kafka, kafka_kind))
    if show is not None:
        if show not in found:
            raise UsageError(f"--run: a run on covey.learning expected, {show} came")
        if as_json:
            output.print_json(found[show])
        else:
            for line in found[show].lines(at_work=True):
                typer.echo(line)
        return
    if as_json:
        output.print_json(list(found.values()))
        return
    rows = [
        [
            one.run,
            one.head,
            f"{len(one.rounds)}/{one.wanted or '?'}",
            int(one.rounds[max(one.rounds)].get("clients", 0)) if one.rounds else 0,
            one.end or f"{one.phase}: {len(one.heard)} of {one.asked} answered",
        ]
        for one in found.values()
    ]
    output.print_table(("run", "family", "rounds", "devices", "state"), rows)


def _settings(config: Path | None, kafka: str | None, kind: str | None) -> CloudConfig:
    from cloud.config import CloudConfig
    from covey.config import load

    return load(CloudConfig, "cloud", config, {"kafka": kafka, "kafka_kind": kind, "broker_instance": "none"})
