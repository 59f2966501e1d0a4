"""`covey edge install` and `uninstall`: puts the service's files where they belong, and takes away exactly those again.

A manifest of what was written, with digests, is written first, so that an installation cut short by a power loss can still be
removed. A file that is not ours is never replaced, and one that was changed since is kept. It works below any root folder
(images, tests); there it starts nothing and makes no user: the image's first boot does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from covey.errors import CoveyError, UsageError
from covey.runtime import write_whole
from edge.unit import UNIT, Plan, modules_text, sysusers_text, tmpfiles_text, unit_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNIT_PATH = f"/etc/systemd/system/{UNIT}"
WANTS_PATH = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
CONFIG_PATH = "/etc/covey/edge.toml"
MANIFEST_PATH = "/etc/covey/installed.json"
SYSUSERS_PATH = "/etc/sysusers.d/covey-edge.conf"
TMPFILES_PATH = "/etc/tmpfiles.d/covey-edge.conf"
MODULES_PATH = "/etc/modules-load.d/covey-edge.conf"

_TIMEOUT_S = 150.0  # a stop waits for flush_s and more
_LINK = "link to ../"


class Written(Struct, frozen=True):
    """One file of ours."""

    path: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # of its content; of "link to ..." where it is a link


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """installed.json."""

    files: list[Written]
    folders: list[str]  # made for them
    state: str
    user: str = ""  # made for the service; "": it was there before


class ServiceError(CoveyError):
    """The service's files cannot be written, or systemd refuses."""


def files_of(plan: Plan, config_text: str | None) -> dict[str, str]:
    """Path -> content of every file that belongs to the service; a link's content says where to.

    Args:
        plan: what the service is to be.
        config_text: edge.toml; None where the one that is there stays.
    """
    files = {
        UNIT_PATH: unit_text(plan),
        SYSUSERS_PATH: sysusers_text(plan),
        TMPFILES_PATH: tmpfiles_text(plan),
        MODULES_PATH: modules_text(plan),
        WANTS_PATH: f"{_LINK}{UNIT}",
    }
    if config_text is not None:
        files = {CONFIG_PATH: config_text} | files
    return {path: content for path, content in files.items() if content}


def read_manifest(root: Path) -> Manifest | None:
    """What was installed below `root`; None where nothing was.

    Raises:
        ServiceError: the manifest is damaged.
    """
    path = below(root, MANIFEST_PATH)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ServiceError(f"{path}: what `covey edge install` wrote expected: {error}") from error


def write(root: Path, plan: Plan, files: dict[str, str], *, force: bool = False) -> list[str]:
    """Write the files and the manifest; returns the paths that were written.

    Raises:
        UsageError: a file that `install` did not write is in the way.
        ServiceError: one cannot be written; those that were new are taken away again.
    """
    before = read_manifest(root)
    known = {one.path: one for one in before.files} if before else {}
    foreign = [path for path, content in files.items() if _foreign(below(root, path), known.get(path), content)]
    if foreign and not force:
        told = ", ".join(str(below(root, path)) for path in foreign)
        raise UsageError(f"{told}: not as `covey edge install` wrote it; --force replaces it")
    kept = [one for path, one in known.items() if path not in files and path == CONFIG_PATH]
    gone = [path for path in known if path not in files and path != CONFIG_PATH]
    folders = list(before.folders) if before else []
    folders += [one for one in _missing_folders(root, [*files, MANIFEST_PATH]) if one not in folders]
    made = [Written(path, _digest(content)) for path, content in files.items()]
    user = plan.user if plan.own_user else ""
    manifest = Manifest(kept + made, folders, plan.config.state, user)
    fresh = [path for path in (MANIFEST_PATH, *files) if not os.path.lexists(below(root, path))]
    try:
        write_whole(below(root, MANIFEST_PATH), msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        for folder in folders:
            below(root, folder).mkdir(parents=True, exist_ok=True)
            below(root, folder).chmod(0o755)  # whatever the umask
        for path, content in files.items():
            _put(below(root, path), content)
        for path in gone:
            below(root, path).unlink(missing_ok=True)
    except OSError as error:
        for path in fresh:
            with contextlib.suppress(OSError):
                below(root, path).unlink()
        _remove_folders(root, folders)
        raise ServiceError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return list(files)


def remove(root: Path, *, purge: bool = False) -> tuple[list[str], list[str]]:
    """Take away what was written; returns (paths removed, paths kept because they were changed since).

    Args:
        root: as for `write`.
        purge: take changed files and the state folder, too.

    Raises:
        UsageError: nothing is installed there.
        ServiceError: something cannot be removed.
    """
    manifest = read_manifest(root)
    if manifest is None:
        raise UsageError(f"{below(root, MANIFEST_PATH)}: no such file: `covey edge install` wrote nothing here")
    removed: list[str] = []
    kept: list[str] = []
    try:
        for one in manifest.files:
            path = below(root, one.path)
            if not os.path.lexists(path):
                continue
            if purge or _digest(_content(path)) == one.sha256:
                path.unlink()
                removed.append(one.path)
            else:
                kept.append(one.path)
        state = below(root, manifest.state)
        if purge and state.is_dir():
            if is_state(state):
                shutil.rmtree(state)
                removed.append(manifest.state)
            else:
                kept.append(manifest.state)
        below(root, MANIFEST_PATH).unlink()
    except OSError as error:
        raise ServiceError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    _remove_folders(root, manifest.folders)
    return removed, kept


def is_state(folder: Path) -> bool:
    """Whether a folder is an agent's state, or will only be: nobody's photographs are purged."""
    return (folder / "lock").is_file() or not any(folder.iterdir())


def below(root: Path, path: str) -> Path:
    """A path of the installed system as seen from here."""
    return root / path.lstrip("/")


def systemd_runs(root: Path) -> bool:
    """Whether this is the running system, and systemd is its init (sd_booted(3))."""
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def start(plan: Plan, say: Callable[[str], None], *, now: bool) -> None:
    """Make user and folders, tell systemd, and start the service (anew) if `now`.

    Raises:
        ServiceError: one of the commands fails, or the service does not become ready.
    """
    if plan.own_user:
        run("systemd-sysusers", SYSUSERS_PATH)
    if tmpfiles_text(plan):
        run("systemd-tmpfiles", "--create", TMPFILES_PATH)
    if modules_text(plan):
        with contextlib.suppress(ServiceError):  # built into many kernels
            run("modprobe", "-a", *modules_text(plan).split())
    run("systemctl", "daemon-reload")
    if now:
        run("systemctl", "restart", "--no-block", UNIT)
        say(f"started; systemctl status {UNIT} and journalctl -u {UNIT} tell how it does")


def stop(say: Callable[[str], None]) -> None:
    """Stop the service, if it is there."""
    if Path(UNIT_PATH).is_file():
        run("systemctl", "stop", UNIT)
        say("stopped")


def forget(manifest: Manifest, say: Callable[[str], None], *, purge: bool) -> None:
    """Tell systemd that the unit is gone, and remove the user that was made for it if `purge`."""
    run("systemctl", "daemon-reload")
    with contextlib.suppress(ServiceError):  # it says so when there is nothing to reset
        run("systemctl", "reset-failed", UNIT)
    if purge and manifest.user:
        run("userdel", manifest.user)
        say(f"user {manifest.user} removed")


def run(*command: str) -> str:
    """A system command's output.

    Raises:
        ServiceError: it is missing, fails, or does not end.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise ServiceError(f"{command[0]} is missing: systemd expected") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{' '.join(command)}: an end within {_TIMEOUT_S:g} s expected") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        raise ServiceError(f"{' '.join(command)}: ended with {done.returncode}: {said[-1][:300]}")
    return done.stdout


def _put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content.startswith(_LINK):
        path.unlink(missing_ok=True)
        path.symlink_to(f"../{content.removeprefix(_LINK)}")
    else:
        write_whole(path, content.encode(), 0o644)


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return path.read_text(encoding="utf-8", errors="replace")


def _foreign(path: Path, ours: Written | None, wanted: str) -> bool:
    """Whether somebody else's word stands there."""
    if not os.path.lexists(path):
        return False
    digest = _digest(_content(path))
    return digest != _digest(wanted) and (ours is None or digest != ours.sha256)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _missing_folders(root: Path, paths: Sequence[str]) -> list[str]:
    """Folders that writing these files makes, outermost first."""
    found: list[str] = []
    for path in paths:
        for folder in reversed(Path(path).parents):
            if not below(root, str(folder)).exists() and str(folder) not in found:
                found.append(str(folder))
    return found


def _remove_folders(root: Path, folders: Sequence[str]) -> None:
    """Remove folders that we made and that are empty now."""
    for folder in sorted(folders, key=len, reverse=True):
        with contextlib.suppress(OSError):
            below(root, folder).rmdir()
