"""`covey federated install | uninstall`: the learner's unit on a device. Writes three files, and takes away exactly those."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from covey.errors import UsageError

Root = Annotated[Path, typer.Option("--root", help="Of the system to install into; an image's folder.")]

_UNITS = "etc/systemd/system"
_MARK = "# Written by `covey federated install`"
_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add both commands to `covey federated`."""
    app.command(epilog="Example: covey federated install --ca /etc/covey/superlink-ca.pem --key /etc/covey/node.key")(
        install
    )
    app.command(epilog="Example: covey federated uninstall")(uninstall)


def install(
    root: Root = Path("/"),
    state: Annotated[Path, typer.Option("--state", help="The agent's state folder, with its ring.")] = Path(
        "/var/lib/covey"
    ),
    user: Annotated[str, typer.Option("--user", help="The agent's user.")] = "covey",
    key: Annotated[Path, typer.Option("--key", help="This device's node key.")] = Path("/etc/covey/node.key"),
    ca: Annotated[Path, typer.Option("--ca", help="CA of the SuperLink's certificate.")] = Path(
        "/etc/covey/superlink-ca.pem"
    ),
    trusted: Annotated[list[Path] | None, typer.Option("--trusted", help="Public key of a signer. Repeat.")] = None,
    command: Annotated[str | None, typer.Option("--command", help="Path of `covey` there; this one's.")] = None,
    memory_mb: Annotated[int, typer.Option("--memory-mb", min=256, help="Limit of the unit.")] = 768,
    cpu_percent: Annotated[int, typer.Option("--cpu-percent", min=5, max=400, help="Limit, of one core.")] = 100,
    dry_run: Annotated[bool, typer.Option("--print", help="Print the units and write nothing.")] = False,
) -> None:
    """Install covey-learn.service: started by the agent's request, for one run, and gone after it."""
    from covey.runtime import write_whole
    from federated.join_unit import PATH, SERVICE, UnitPlan, path_text, service_text

    named = {"state": state, "key": key, "ca": ca, **{f"trusted {one}": one for one in trusted or []}}
    relative = [name for name, path in named.items() if not path.is_absolute()]
    if relative:
        raise UsageError(f"{', '.join(relative)}: absolute paths expected")
    live = root.resolve() == Path("/")
    missing = [str(path) for path in (key, ca, *(trusted or [])) if live and not dry_run and not path.is_file()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such file")
    plan = UnitPlan(
        command=(command or str(Path(sys.prefix) / "bin" / "covey"),),
        user=user,
        state=str(state),
        key=str(key),
        ca=str(ca),
        trusted=tuple(str(one) for one in trusted or []),
        memory_bytes=memory_mb * 1024 * 1024,
        cpu_percent=cpu_percent,
        code=tuple(sorted({sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[1])})),
    )
    texts = {SERVICE: service_text(plan), PATH: path_text(plan)}
    if dry_run:
        for name, text in texts.items():
            typer.echo(f"### {name}\n{text}")
        return
    folder = root / _UNITS
    foreign = [name for name in texts if (folder / name).exists() and not _ours(folder / name)]
    if foreign:
        raise UsageError(f"{folder}: {', '.join(foreign)} not written by `covey federated install`: move it away first")
    wants = folder / "multi-user.target.wants" / PATH
    try:
        for name, text in texts.items():
            write_whole(folder / name, text.encode())
        wants.parent.mkdir(parents=True, exist_ok=True)
        wants.unlink(missing_ok=True)
        wants.symlink_to(f"../{PATH}")
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from error
    for one in (folder / SERVICE, folder / PATH, wants):
        typer.echo(str(one))
    if live and Path("/run/systemd/system").is_dir():
        _systemctl("daemon-reload")
        _systemctl("restart", PATH)


def uninstall(root: Root = Path("/")) -> None:
    """Take the unit away; keys, certificates and the ring stay."""
    from federated.join_unit import PATH, SERVICE

    folder = root / _UNITS
    there = [folder / name for name in (PATH, SERVICE) if (folder / name).exists()]
    if not there:
        raise UsageError(f"{folder / SERVICE}: no such file: `covey federated install` wrote nothing here")
    foreign = [str(one) for one in there if not _ours(one)]
    if foreign:
        raise UsageError(f"{', '.join(foreign)}: not written by `covey federated install`, kept")
    live = root.resolve() == Path("/") and Path("/run/systemd/system").is_dir()
    if live:
        _systemctl("stop", PATH, SERVICE)
    for one in (folder / "multi-user.target.wants" / PATH, *there):
        if one.is_symlink() or one.exists():
            one.unlink()
            typer.echo(str(one))
    if live:
        _systemctl("daemon-reload")


def _ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(_MARK)


def _systemctl(*words: str) -> None:
    try:
        subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        raise UsageError(f"systemctl {' '.join(words)}: {str(told).strip().splitlines()[-1][:200]}") from error
