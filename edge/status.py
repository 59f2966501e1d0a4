"""What an agent says of itself: status.json for people and supervisors, health and figures for its messages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import stat
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.errors import DataError, UsageError
from covey.runtime import write_whole

if TYPE_CHECKING:
    from covey.wire import Alarm

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAX_FLIGHTS = 64  # remembered in status.json
_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")  # Linux, thousandths of a degree


@dataclass
class Flight:
    """One stretch that was flown."""

    name: str
    release: int
    windows: int = 0
    alarms: int = 0
    first_window_s: float | None = None
    first_alarm_s: float | None = None
    top_channel: str = ""


@dataclass
class Tally:
    """What was scored since start."""

    windows: int = 0
    alarms: int = 0
    raw_bytes: int = 0
    battery_v: float | None = None
    first_window_s: float | None = None
    flights: deque[Flight] = field(default_factory=lambda: deque(maxlen=_MAX_FLIGHTS))

    def alarm(self, alarm: Alarm) -> None:
        """Count an alarm that began."""
        self.alarms += alarm.state == "begin"
        if self.flights and alarm.state == "begin":
            flight = self.flights[-1]
            flight.alarms += 1
            if flight.first_alarm_s is None:
                flight.first_alarm_s, flight.top_channel = alarm.window.start_s, alarm.top_channel

    def scored(self, windows: int, start_s: float | None) -> None:
        """Count windows, the first of them at `start_s`."""
        self.windows += windows
        if start_s is not None and self.first_window_s is None:
            self.first_window_s = start_s
        if self.flights:
            flight = self.flights[-1]
            flight.windows += windows
            if start_s is not None and flight.first_window_s is None:
                flight.first_window_s = start_s


def memory_bytes() -> int:
    """Resident memory of this process; its peak where the system tells no more."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def temperature_c() -> float | None:
    """Temperature of the board, where it has a sensor."""
    try:
        return int(_THERMAL.read_text(encoding="ascii")) / 1000.0
    except (OSError, ValueError):
        return None


def status_in_memory(path: Path) -> Path:
    """Make status.json a link into memory, and return where to: written every second it would wear a card out.

    Each replacement allocates a block and enters the file system's journal. Where memory offers no place of ours, it stays on
    disk.
    """
    mark = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    folder = Path("/dev/shm") / f"covey-{os.getuid()}-{mark}"  # noqa: S108  # private (0700), ours alone: checked
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            return path
        target = folder / path.name
        if not (path.is_symlink() and path.readlink() == target):
            beside = path.with_name(f".{path.name}.link")
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            beside.replace(path)
    except OSError:
        return path
    return target


def status_on_disk(path: Path, target: Path) -> None:
    """The last status stays with the state when the agent ends."""
    if target == path:
        return
    with contextlib.suppress(OSError):
        content = target.read_bytes()
        write_whole(path, content, 0o600)
        target.unlink()
        target.parent.rmdir()


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Replace status.json whole. Not forced to disk: it is written every second and worth nothing after a power loss.

    On a full disk the old one stays.
    """
    beside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(OSError):
        fd = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(status, file)
        beside.replace(path)


def read_status(state: Path) -> dict[str, Any]:
    """status.json of a state folder, with `alive` and `age_s`; the outbox is counted anew from its file.

    Raises:
        UsageError: no agent ever ran there.
        DataError: the file is damaged.
    """
    path = state / "status.json"
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        status["age_s"] = round(time.time() - path.stat().st_mtime, 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: an agent's state expected, no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except TypeError as error:
        raise DataError(f"{path}: an object expected, another JSON value found") from error
    pid, outbox = status.get("pid", 0), status.get("outbox", {})
    if not isinstance(pid, int) or not isinstance(outbox, dict):
        raise DataError(
            f"{path}: pid as an integer and outbox as an object expected, {pid!r:.40} and {outbox!r:.40} found"
        )
    status["alive"] = _alive(pid)
    with contextlib.suppress(FileNotFoundError):
        from edge.outbox import count

        rows, size = count(state / "outbox.db")
        status["outbox"] = outbox | {"pending": rows, "bytes": size}
    return status


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
