"""Can a source be reached from here? For `covey edge doctor`: opens nothing that an agent would miss, sends nothing."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from edge.doctor import SourceFact

_TIMEOUT_S = 3.0
_HELP = "see `covey edge run --help`"

if TYPE_CHECKING:
    from collections.abc import Callable


def look_at(spec: str, *, running: bool) -> SourceFact:
    """One source.

    Args:
        spec: as in AgentConfig.sources.
        running: an agent of this configuration runs, so that its ports are taken by it.
    """
    kind, colon, _ = spec.partition(":")
    if not colon or "/" in kind:
        return _file(spec, Path(spec))
    try:
        parts = urlsplit(spec)
        port = parts.port
    except ValueError as error:
        return SourceFact(spec, f"not an address: {error}", _HELP)
    looks: dict[str, Callable[[], SourceFact]] = {
        "stdin": lambda: SourceFact(spec),
        "system": lambda: SourceFact(spec),
        "tail": lambda: _file(spec, Path(parts.path)),
        "mavlink+serial": lambda: _serial(spec, Path(parts.path)),
        "mavlink+udp": lambda: _port(spec, parts.hostname or "", port, running=running),
        "mavlink+udp-out": lambda: _name(spec, parts),
        "mqtt": lambda: _broker(spec, parts),
    }
    return looks.get(kind, lambda: SourceFact(spec, f"no such kind of source: {kind}", _HELP))()


def _file(spec: str, path: Path) -> SourceFact:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        return SourceFact(spec, "no such file", "is the path right, and is what writes it running?")
    except OSError as error:
        return SourceFact(spec, f"cannot be read: {error.strerror}", f"chmod o+r {path}, or run the agent as its owner")
    return SourceFact(spec, detail="can be read")


def _serial(spec: str, path: Path) -> SourceFact:
    try:
        about = path.stat()
    except OSError:
        return SourceFact(
            spec, f"{path}: no such device", "is it plugged in? ls /dev/serial/by-id /dev/ttyACM* /dev/ttyTHS*"
        )
    if not stat.S_ISCHR(about.st_mode):
        return SourceFact(spec, f"{path}: a device expected, something else found", "ls -l /dev/serial/by-id")
    if not os.access(path, os.R_OK | os.W_OK):
        try:
            group = grp.getgrgid(about.st_gid).gr_name
        except KeyError:
            group = str(about.st_gid)
        fix = f"sudo usermod -a -G {group} $USER and log in again (`covey edge install` does it for the service)"
        return SourceFact(spec, f"{path}: permission denied, it belongs to group {group}", fix)
    return SourceFact(spec, detail=f"{path} may be read and written")


def _port(spec: str, host: str, port: int | None, *, running: bool) -> SourceFact:
    if port is None:
        return SourceFact(spec, "a port expected, none given", "mavlink+udp://0.0.0.0:14550")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, port))
    except OSError as error:
        if running:
            return SourceFact(spec, detail="the running agent listens")
        fix = f"ss -lunp 'sport = :{port}' shows who has it; let mavlink-router or MAVProxy send to another port"
        return SourceFact(spec, f"{host}:{port}: {(error.strerror or str(error)).lower()}", fix)
    return SourceFact(spec, detail=f"{host}:{port} is free")


def _name(spec: str, parts: SplitResult) -> SourceFact:
    try:
        socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        return SourceFact(spec, f"{parts.hostname}: {error.strerror}", "is the name right? try its address")
    return SourceFact(spec, detail=f"{parts.hostname} has an address")


def _broker(spec: str, parts: SplitResult) -> SourceFact:
    try:
        socket.create_connection((parts.hostname or "", parts.port or 1883), timeout=_TIMEOUT_S).close()
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        return SourceFact(spec, f"{parts.hostname}:{parts.port or 1883}: {told}", "is the local broker up?")
    return SourceFact(spec, detail="the local broker answers")
