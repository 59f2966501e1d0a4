"""From options to a run: which engine, whose devices, which SuperLink; its lines are handed on while it goes.

The engines do the work; this file opens the folder of the run and the file of its lines, and closes both.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from covey.errors import CoveyError, UsageError
from federated import events as lines
from federated import metrics
from federated.config import Job
from federated.training import devices_of_files, devices_of_rings
from federated.training import run as run_at_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from federated.config import Plan
    from federated.engines.flower import Link
    from federated.server_app import Report


class Task(NamedTuple):
    """What is to be run."""

    plan: Plan
    devices: dict[str, dict[str, str]]  # none with engine flower: those that join
    engine: str
    out: Path
    initial: Path | None
    checkpoint: Path | None  # None: rounds are kept only while it runs
    resume: bool = False
    link: Link | None = None


def devices_of(
    engine: str, data: Sequence[Path] | None, rings: Sequence[str] | None, stack: Path | None
) -> dict[str, dict[str, str]]:
    """The devices that are named; none with engine flower, where they join by themselves.

    Raises:
        UsageError: files and rings together, or any with engine flower; what is named cannot be used.
    """
    if engine == "flower":
        if data or rings or stack:
            raise UsageError("--engine flower: devices join by themselves; --data, --ring or --stack came")
        return {}
    if data and (rings or stack):
        raise UsageError("devices: files or rings expected, both came")
    return devices_of_files(data) if data else devices_of_rings(rings or [], stack)


def link_of(
    engine: str,
    superlink: Path | None,
    database: Path | None,
    listen: str,
    names: Sequence[str] | None,
    signed_app: Path | None,
    wait_s: float,
    deadline_s: float | None,
) -> Link | None:
    """Which SuperLink; None with another engine.

    Raises:
        UsageError: neither or both of a running one and a database, or an address that is none.
    """
    if engine != "flower":
        if superlink or database:
            raise UsageError(f"--superlink, --database: --engine flower expected, {engine} came")
        return None
    from federated.engines.flower import Link

    if (superlink is None) == (database is None):
        raise UsageError("--engine flower: --superlink (one that runs) or --database (one to start) expected")
    if superlink is not None:
        return Link(str(superlink), own=False, wait_s=wait_s, deadline_s=deadline_s)
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise UsageError(f"--listen: HOST:PORT expected, {listen!r} came")
    path = Path(str(database)).absolute()
    app = str(signed_app) if signed_app is not None else None
    return Link(
        str(path.parent),
        database=path.name,
        host=host.strip("[]"),
        port=int(port),
        names=list(names or []),
        app=app,
        wait_s=wait_s,
        deadline_s=deadline_s,
    )


def run(
    task: Task, stop: threading.Event, events: str | None, say: Callable[[str], None], health_port: int = 0
) -> Report:
    """Run it, with its lines going to `events` (a file, or - for stdout) as well as to the checkpoint folder.

    `health_port`: of loopback, where Prometheus finds its figures; 0: none.

    Raises:
        CoveyError: whatever ends the run; its last line says so, too.
    """
    with ExitStack() as stack:
        folder = task.checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="covey-train-")))
        if events is not None:
            sink = _sink(events, stack)

            def write(line: bytes) -> None:
                sink.write(line)
                sink.flush()

            # A run that goes on tells all of its lines again: who took some of them before may have lost the last.
            begin = 0 if task.resume else lines.end_of(folder / lines.NAME)
            stack.callback(lines.copier(folder / lines.NAME, begin, write, threading.Event()))
        if health_port:
            take = stack.enter_context(metrics.served(health_port))
            stack.callback(lines.copier(folder / lines.NAME, 0, take, threading.Event()))
        try:
            return _run(task, folder, stop, say)
        except CoveyError as error:
            lines.tell_failure(folder, str(error).splitlines()[0])
            raise


def _run(task: Task, folder: Path, stop: threading.Event, say: Callable[[str], None]) -> Report:
    if task.link is not None:
        from federated.engines import flower

        initial = str(task.initial) if task.initial is not None else None
        return flower.run(Job(task.plan, str(task.out), str(folder), initial, task.resume), task.link, stop, say)
    return run_at_home(
        task.plan,
        task.devices,
        engine=task.engine,
        out=task.out,
        initial=task.initial,
        checkpoint=folder,
        resume=task.resume,
        stop=stop,
    )


def _sink(events: str, stack: ExitStack) -> BinaryIO:
    if events == "-":
        return sys.stdout.buffer
    try:
        return stack.enter_context(Path(events).open("ab"))
    except OSError as error:
        raise UsageError(f"--events: {events}: cannot be written: {error.strerror}") from error
