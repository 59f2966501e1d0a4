"""`covey cloud console`: the operators' pages and their API. Libraries load inside the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud.options import Store  # noqa: TC001  # typer reads annotations when it runs


def register(app: typer.Typer) -> None:
    """Add the command to `covey cloud`."""
    app.command(epilog="Example: covey cloud console --store covey.db --port 8300")(console)


def console(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; options win over it.")] = None,
    store: Store = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; public ones need accounts.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0: any free one, printed on stdout.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", help="PEM chain; needs --tls-key.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="PEM key; needs --tls-cert.")] = None,
    public_url: Annotated[str | None, typer.Option("--public-url", help="As browsers see it, behind a proxy.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration and exit.")] = False,
    die_with_parent: Annotated[
        bool, typer.Option("--die-with-parent", help="End when the starting process ends.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve the console: fleet, inbox, devices, rollouts, learning, live; its API is docs/api.md.

    Without accounts (`covey cloud accounts add`) it is for this machine only, and everyone on it is an admin.
    """
    from cloud.config import CloudConfig, file_problems
    from covey import runtime
    from covey.config import load

    given = {"host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key, "public_url": public_url}
    options = {"store": store, "broker_instance": "none"} | {f"console_{key}": value for key, value in given.items()}
    settings = load(CloudConfig, "cloud", config, options, also=file_problems)
    if check:
        return
    from cloud.console import server

    if die_with_parent:
        runtime.die_with_parent()
    runtime.start_logging("cloud", log_level, json_lines=settings.log_json)
    server.run(settings, runtime.install_stop(), lambda told: typer.echo(f"console on {told}"), config)
