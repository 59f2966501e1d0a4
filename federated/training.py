"""A training run from the command line: find the devices, choose the engine, run the ServerApp, hand back its report.

It starts no thread and keeps no state; the engines and the ServerApp do the work.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from covey.errors import DataError, UsageError
from federated.config import Job

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from federated.config import Plan
    from federated.server_app import Report

ENGINES = ("local", "simulation")
_TABLES = {".csv", ".npz"}


def devices_of_files(paths: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Devices from files: one file, or one folder within a folder, is one device.

    Args:
        paths: files, and folders whose files (and whose folders' files) are taken. Hidden files, and other files than
            CSV, NPZ and logs without extension, are passed over in folders.

    Raises:
        UsageError: a path is missing, a folder holds no recording, or two devices have one name.
    """
    devices: dict[str, dict[str, str]] = {}

    def add(name: str, files: list[Path]) -> None:
        if name in devices:
            raise UsageError(f"data: different names of devices expected, {name} came twice")
        devices[name] = {"files": json.dumps([str(path) for path in files])}

    for path in paths:
        if path.is_file():
            add(str(path), [path])
        elif path.is_dir():
            before = len(devices)
            inside = set(_recordings(path))
            for part in sorted(path.iterdir()):
                if part.is_dir() and (files := _recordings(part)):
                    add(str(part), files)
                elif part in inside:
                    add(str(part), [part])
            if len(devices) == before:
                raise UsageError(f"{path}: a folder with recordings expected, none there")
        else:
            raise UsageError(f"{path}: no such file or folder")
    return devices


def _recordings(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and (path.suffix.lower() in _TABLES or not path.suffix)
    )


def devices_of_rings(rings: Sequence[str], stack: Path | None) -> dict[str, dict[str, str]]:
    """Devices from `DEVICE=PATH` words, and from the agents of a stack on this machine.

    Raises:
        UsageError: a word of another form, a missing ring, one device twice, or no agent in the stack.
    """
    found: list[tuple[str, Path]] = []
    for word in rings:
        name, sign, path = word.partition("=")
        if not (name and sign and path):
            raise UsageError(f"--ring: DEVICE=PATH expected, {word!r} came")
        found.append((name, Path(path)))
    if stack is not None:
        agents = sorted(stack.glob("agents/*/ring.bin"))
        if not agents:
            raise UsageError(f"{stack}: a stack with agents/*/ring.bin expected, none there")
        found += [(path.parent.name, path) for path in agents]
    devices: dict[str, dict[str, str]] = {}
    for device, file in found:
        if not file.is_file():
            raise UsageError(f"{device}: a ring expected, {file} is no file")
        if device in devices:
            raise UsageError(f"{device}: one ring a device expected, two came")
        devices[device] = {"ring": str(file)}
    return devices


def run(
    plan: Plan,
    devices: dict[str, dict[str, str]],
    *,
    engine: str,
    out: Path,
    initial: Path | None,
    checkpoint: Path | None,
    resume: bool,
    stop: threading.Event,
) -> Report:
    """Train and write the bundle; without `checkpoint` the rounds are kept only while it runs.

    Raises:
        UsageError: no such engine, or no device.
        CoveyError: whatever ends the run; no bundle is written then.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine: one of {', '.join(ENGINES)} expected, {engine!r} came")
    if not devices:
        raise UsageError("devices: at least one expected; give --data, --ring or --stack")
    if engine == "local":
        strangers = [name for name, node in devices.items() if "ring" not in node]
        if strangers:
            raise UsageError(f"--engine local: rings expected, {strangers[0]} is a file: give --engine simulation")
    if out.is_dir():
        raise UsageError(f"{out}: a file to write expected, it is a folder")
    from federated.engines.home import run_server
    from federated.engines.learners import simulation
    from federated.engines.local import LocalGrid

    with ExitStack() as stack:
        folder = checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="covey-train-")))
        told = (str(out), str(folder), str(initial) if initial is not None else None)
        memory = checkpoint / "devices" if checkpoint is not None else None
        grid = (
            stack.enter_context(LocalGrid(devices, stop))
            if engine == "local"
            else simulation(devices, stop, memory, stack)
        )
        run_server(grid, Job(plan, *told, resume=resume))
        return read_report(folder)


def read_report(folder: Path) -> Report:
    """The report that the ServerApp wrote.

    Raises:
        DataError: there is none.
    """
    from federated.server_app import Report

    path = folder / "report.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: the report of a run expected: {error}") from error
