"""From a configuration to the plan of a service: what this machine (or an image) has, and what is refused before a file is written."""

from __future__ import annotations

import grp
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import covey as package
from covey.config import explain
from covey.errors import ConfigError, UsageError
from edge import service, unit
from edge.config import AgentConfig
from edge.config_text import to_toml
from edge.options import FLAGS

_NEWEST = 257  # where there is no systemd to ask: an image for a recent system
_EMPTIED = ("/tmp", "/var/tmp")  # noqa: S108  # names that are refused, nothing is written there


class _Installed(AgentConfig, frozen=True, kw_only=True):
    """The agent's configuration; as a service it has a place for its state."""

    state: str = unit.STATE


def settle(root: Path, config: Path | None, options: dict[str, Any], *, force: bool) -> tuple[AgentConfig, str | None]:
    """The configuration, and the text of edge.toml; None where the one that is there stays."""
    there = service.below(root, service.CONFIG_PATH)
    changes = config is not None or any(value is not None for value in options.values())
    base = config if config is not None else there if there.is_file() else None
    if there.is_file() and not force:  # what the service will read, without this shell's variables
        kept = unit.absolute(explain(_Installed, "edge", there, environ={})[0])
        if changes and unit.absolute(explain(_Installed, "edge", base, options, flags=FLAGS)[0]) != kept:
            raise UsageError(
                f"{there}: says something else; edit it and install without options, or --force to replace it"
            )
        return kept, None
    made, settings = explain(_Installed, "edge", base, options, flags=FLAGS)
    settled = unit.absolute(made)
    settings = [one._replace(value=getattr(settled, one.key)) for one in settings]
    return settled, to_toml(settings, service.CONFIG_PATH)


def plan(
    root: Path, config: AgentConfig, user: str, command: str | None, systemd: int | None, memory_mb: int, percent: int
) -> unit.Plan:
    """The service for a configuration on the system below `root`.

    Args:
        root: of the system, `/` for this one.
        config: as `settle` gave it.
        user: the service's.
        command: path of `covey` there; None: this one.
        systemd: version there; None: as here.
        memory_mb: limit, 2**20 bytes.
        percent: CPU limit, of one core.

    Raises:
        ConfigError: it cannot be a service, or its state folder holds something else.
    """
    if config.exit_when_done or "stdin:" in config.sources:
        raise ConfigError("exit_when_done and the source stdin: are not for a service, which has no end and no input")
    before = service.read_manifest(root)
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


def check_files(root: Path, config: AgentConfig) -> list[str]:
    """What is missing: refused here, only told of for an image, which may get it later.

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
    return missing


def check_code(plan: unit.Plan) -> None:
    """Refuse to install what the service's user could not run.

    Raises:
        UsageError: covey lies in a folder that only others may enter.
    """
    for path in (Path(one) for one in (*plan.code, plan.command[0])):
        if unit.hidden(str(path)):
            continue  # it is bound where the service sees it, whatever is above
        closed = next((one for one in (path, *path.parents) if one.exists() and not one.stat().st_mode & 0o001), None)
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
