"""`covey edge install` and `uninstall`: from options to a plan, and what a person is told. The files are edge/service.py's."""

from __future__ import annotations

import grp
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from covey.config import explain
from covey.errors import ConfigError, UsageError
from edge import service, unit
from edge.config import AgentConfig
from edge.config_text import to_toml
from edge.options import FLAGS, agent_options

_NEWEST = 257  # where there is no systemd to ask: an image for a recent system
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8)

_EMPTIED = ("/tmp", "/var/tmp")  # noqa: S108  # names that are refused, nothing is written there

_Prefix = Annotated[Path, typer.Option("--prefix", help="Root folder of the system: an image's, or `/`.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the files and write none.")]


class _Installed(AgentConfig, frozen=True, kw_only=True):
    """The agent's configuration; as a service it has a place for its state."""

    state: str = unit.STATE


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
    root = prefix.absolute()
    if root == Path("/") and not dry_run and os.geteuid() != 0:
        raise UsageError("install: root expected: use sudo, or --dry-run to see what it would write")
    if not _USER.fullmatch(user):
        raise UsageError(f"--user: a system user's name expected, {user!r} given")
    settled, text = _settle(root, config, options, force=force)
    plan = _plan(root, settled, user, command, systemd, memory_mb, cpu_percent)
    _check_files(root, settled)
    if root == Path("/"):
        _check_code(plan)
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


def _settle(root: Path, config: Path | None, options: dict[str, Any], *, force: bool) -> tuple[AgentConfig, str | None]:
    """The configuration, and the text of edge.toml; None where the one that is there stays."""
    there = service.below(root, service.CONFIG_PATH)
    changes = config is not None or any(value is not None for value in options.values())
    base = config if config is not None else there if there.is_file() else None
    made, settings = explain(_Installed, "edge", base, options, flags=FLAGS)
    settled = unit.absolute(made)
    settings = [one._replace(value=getattr(settled, one.key)) for one in settings]
    if there.is_file() and not force:
        if changes and unit.absolute(explain(_Installed, "edge", there)[0]) != settled:
            raise UsageError(
                f"{there}: says something else; edit it and install without options, or --force to replace it"
            )
        return settled, None
    return settled, to_toml(settings, service.CONFIG_PATH)


def _plan(
    root: Path, config: AgentConfig, user: str, command: str | None, systemd: int | None, memory_mb: int, percent: int
) -> unit.Plan:
    if config.exit_when_done or "stdin:" in config.sources:
        raise ConfigError("exit_when_done and the source stdin: are not for a service, which has no end and no input")
    before = service.read_manifest(root)
    import covey as package

    folders = (sys.prefix, sys.base_prefix, str(Path(package.__file__).parents[1]))
    code = {*folders, *(str(Path(one).resolve()) for one in folders)}
    words: tuple[str, ...] = (command,) if command else (_on_device(root, str(Path(sys.prefix) / "bin" / "covey")),)
    if command is None and not (Path(sys.prefix) / "bin" / "covey").is_file():
        words = (_on_device(root, sys.executable), "-m", "covey")
    state = service.below(root, config.state)
    if state.is_dir() and not service.is_state(state):
        raise ConfigError(f"state: {state}: an agent's folder, or an empty one, expected; it holds other files")
    return unit.Plan(
        config=config,
        config_path=service.CONFIG_PATH,
        command=words,
        user=user,
        own_user=(before is not None and before.user == user) or not _has(root, "passwd", user),
        systemd=systemd or _systemd_version(),
        code=tuple(sorted(_on_device(root, one) for one in code)),
        serial_group=_serial_group(root, config),
        memory_bytes=memory_mb * 1024 * 1024,
        cpu_percent=percent,
    )


def _check_files(root: Path, config: AgentConfig) -> None:
    """Say what is missing: refused here, only told of for an image, which may get it later.

    Raises:
        ConfigError: a file is missing, or lies where no service finds it.
    """
    volatile = [one for one in _named(config) if any(Path(one).is_relative_to(tmp) for tmp in _EMPTIED)]
    if volatile:
        raise ConfigError(f"{', '.join(volatile)}: not below /tmp expected: it is emptied, and the service has its own")
    missing = [
        f"{key}: no such file: {path}"
        for key in ("bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file")
        if (path := str(getattr(config, key))) and path != "system" and not service.below(root, path).is_file()
    ]
    if missing and root == Path("/"):
        raise ConfigError("; ".join(missing))
    for told in missing:
        _say(f"not in this image yet: {told}")


def _check_code(plan: unit.Plan) -> None:
    """Refuse to install what the service's user could not run.

    Raises:
        UsageError: covey lies in a folder that only others may enter.
    """
    for path in (Path(one) for one in (*plan.code, plan.command[0])):
        if unit.hidden(str(path)):
            continue  # it is bound where the service sees it, whatever is above
        closed = next((one for one in path.parents if one.exists() and not one.stat().st_mode & 0o001), None)
        if closed is not None:
            raise UsageError(
                f"{path}: user {plan.user} may not enter {closed}: chmod o+x {closed}, or install covey elsewhere"
            )


def _named(config: AgentConfig) -> list[str]:
    """Every file that the service is to find."""
    keys = ("bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file", "state")
    several = (*config.sources, *config.commission, *config.commission_fitted)
    paths = [str(getattr(config, key)) for key in keys]
    return [
        one for one in (*paths, *(urlsplit(s).path if s.startswith("tail:") else s for s in several)) if one[:1] == "/"
    ]


def _serial_group(root: Path, config: AgentConfig) -> str:
    """The group that serial ports belong to: dialout (Debian, Ubuntu), uucp elsewhere."""
    port = unit.Plan(config, "", (), "", own_user=False, systemd=0, code=()).serial
    if port and root == Path("/") and Path(port).exists():
        try:
            name = grp.getgrgid(Path(port).stat().st_gid).gr_name
        except KeyError:
            name = "root"
        if name != "root":
            return name
    return "uucp" if _has(root, "group", "uucp") and not _has(root, "group", "dialout") else "dialout"


def _has(root: Path, file: str, name: str) -> bool:
    """Whether the system below `root` has that user (passwd) or group (group)."""
    try:
        lines = service.below(root, f"/etc/{file}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{name}:") for line in lines)


def _on_device(root: Path, path: str) -> str:
    """A path here as the system below `root` will see it."""
    return f"/{Path(path).relative_to(root)}" if root != Path("/") and Path(path).is_relative_to(root) else path


def _systemd_version() -> int:
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _NEWEST
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else _NEWEST


def _say(text: str) -> None:
    typer.echo(text, err=True)
