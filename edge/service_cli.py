"""`covey edge install` and `uninstall`: from options to a plan, and what a person is told. The files are edge/service.py's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from covey.errors import UsageError
from edge.options import agent_options

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8)

_Prefix = Annotated[Path, typer.Option("--prefix", help="Root folder of the system: an image's, or `/`.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the files and write none.")]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command(
        "install",
        epilog="Example: covey edge install --device drone-07 --mqtt broker:8883 --source mavlink+udp://0.0.0.0:14550",
    )(install)
    app.command("uninstall", epilog="Example: covey edge uninstall --purge")(uninstall)


@agent_options
def install(
    options: dict[str, Any],
    config: Path | None,
    user: Annotated[str, typer.Option("--user", help="System user of the service; made if missing.")] = "covey",
    prefix: _Prefix = Path("/"),
    memory_mb: Annotated[int, typer.Option("--memory-mb", min=64, help="The service's memory limit.")] = 512,
    cpu_percent: Annotated[int, typer.Option("--cpu-percent", min=5, help="CPU limit, in % of one core.")] = 100,
    command: Annotated[
        str | None, typer.Option("--command", help="Path of `covey` on the device; by default this one.")
    ] = None,
    systemd: Annotated[
        int | None, typer.Option("--systemd", min=240, help="systemd's version there; by default as here.")
    ] = None,
    dry_run: _DryRun = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Enable it for the next boot only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace edge.toml and files that others wrote.")] = False,
) -> None:
    """Make the agent a systemd service that starts at boot: a hardened unit, its user, /etc/covey/edge.toml.

    Without --config and options it takes the /etc/covey/edge.toml that is there; do that after each change of its source or its
    files, so that the service may use them. COVEY_EDGE_* variables of this shell are taken into the file as well.
    """
    from edge import service, service_plan, unit

    root = prefix.absolute()
    if root == Path("/") and not dry_run and os.geteuid() != 0:
        raise UsageError("install: root expected: use sudo, or --dry-run to see what it would write")
    if not _USER.fullmatch(user):
        raise UsageError(f"--user: a system user's name expected, {user!r} given")
    settled, text = service_plan.settle(root, config, options, force=force)
    plan = service_plan.plan(root, settled, user, command, systemd, memory_mb, cpu_percent)
    for told in service_plan.check_files(root, settled):
        _say(f"not in this image yet: {told}")
    if root == Path("/"):
        service_plan.check_code(plan)
    files = service.files_of(plan, text)
    if dry_run:
        for path, content in files.items():
            typer.echo(f"--- {service.below(root, path)}\n{content}")
        return
    for path in service.write(root, plan, files, force=force):
        _say(f"wrote {service.below(root, path)}")
    if plan.systemd < unit.CREDENTIALS_SINCE:
        for key in unit.SECRETS:
            if secret := getattr(settled, key):
                _say(f"systemd {plan.systemd} hands over no secrets: chown root:{user} {secret}; chmod 640 {secret}")
    if service.systemd_runs(root):
        service.start(plan, _say, now=not no_start)
    else:
        _say("starts at the next boot of that system")


def uninstall(
    purge: Annotated[bool, typer.Option("--purge", help="Remove state, changed files and the user, too.")] = False,
    prefix: _Prefix = Path("/"),
    dry_run: _DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was removed and kept as JSON.")] = False,
) -> None:
    """Stop the service and remove exactly what `install` wrote; the state stays unless --purge."""
    from edge import service

    root = prefix.absolute()
    manifest = service.read_manifest(root)
    if manifest is None:
        raise UsageError(f"{service.below(root, service.MANIFEST_PATH)}: no such file: nothing is installed there")
    if dry_run:
        for one in manifest.files:
            typer.echo(str(service.below(root, one.path)))
        if purge:
            typer.echo(str(service.below(root, manifest.state)))
        return
    if root == Path("/") and os.geteuid() != 0:
        raise UsageError("uninstall: root expected: use sudo")
    if service.systemd_runs(root):
        service.stop(_say)
    removed, kept = service.remove(root, purge=purge)
    if service.systemd_runs(root):
        service.forget(manifest, _say, purge=purge)
    if as_json:
        typer.echo(json.dumps({"removed": removed, "kept": kept}))
    for path in removed:
        _say(f"removed {service.below(root, path)}")
    for path in kept:
        why = "it holds no agent's state" if path == manifest.state else "it was changed after the installation"
        _say(f"kept {service.below(root, path)}: {why}")
    if not purge:
        _say(f"kept {service.below(root, manifest.state)}: the agent's state (--purge removes it)")


def _say(text: str) -> None:
    typer.echo(text, err=True)
