"""`covey cloud store`: the store itself: its version, and bringing it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs

app = typer.Typer(
    help="The store itself: its version and size, and bringing it up to date.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: covey cloud store upgrade --store postgresql+psycopg://covey@db/covey")
def upgrade(store: Store = None, as_json: AsJson = False) -> None:
    """Take the steps that an older covey's store lacks, in one transaction; `covey cloud run` does so at its start."""
    from cloud import output, show_cli
    from cloud.store import schema

    url = show_cli.store_url(store)
    before = schema.version(url)
    schema.open_store(url).dispose()
    row = {"before": before, "version": schema.VERSION}
    if as_json:
        output.print_json(row)
    else:
        output.print_pairs(row)


@app.command(epilog="Example: covey cloud store retention --dry-run --store covey.db")
def retention(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with [retention].")] = None,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what is older than it may be; `covey cloud run` does so every hour."""
    import time

    from cloud import output, show_cli
    from cloud.config import CloudConfig
    from cloud.store import retention as rules
    from covey.config import load

    settings = load(CloudConfig, "cloud", config, {"broker_instance": "none"})
    with show_cli.opened(store) as engine:
        found = rules.forget(settings.retention, engine, time.time(), dry_run=dry_run)
    if as_json:
        output.print_json(found)
    else:
        output.print_table(
            ("table", "would be deleted" if dry_run else "deleted"), [list(one) for one in found.items()]
        )
