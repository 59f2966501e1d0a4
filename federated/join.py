"""`covey federated join`: this device's part in one run, as a process of its own; and the request by which an agent has it started.

The agent never imports Flower: it leaves `learn.json` in its state folder (docs/protocol.md), and whatever watches that file
(covey-learn.path) starts this. The request is taken, not read: one request, one run, whatever happens to this process.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from covey.errors import UsageError
from federated.permission import ask

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST = "learn.json"
_LARGEST_BYTES = 4096
_MARK = ".covey-learn"


class Request(Struct, frozen=True):
    """What the agent writes when the cloud asks it to learn."""

    superlink: Annotated[str, Meta(max_length=256)]  # host:port
    deadline_s: float  # seconds since the epoch: leave by then
    command: Annotated[str, Meta(max_length=256)] = ""  # id of the command


class NodePlan(Struct, frozen=True, forbid_unknown_fields=True):
    """How a device takes part."""

    superlink: str  # host:port of its fleet API
    ring: str
    key: str
    ca: str
    home: str  # folder for Flower's files; may be emptied
    signers: list[str] = []  # public keys; []: every app of this SuperLink is run
    wait_s: float = 300.0  # for the first question
    idle_s: float = 120.0  # after the last answer, where the SuperLink does not say that the run is over
    deadline_s: float = 3600.0  # of it all


def take_request(path: Path) -> Request:
    """The request in a file, which is gone then.

    Raises:
        UsageError: there is none, it is none, or its time is over.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        path.unlink()
        request = msgspec.json.decode(content, type=Request)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: a request of the agent expected, none there") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be taken: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: a request of the agent expected: {error}") from error
    left_s = request.deadline_s - time.time()
    if left_s <= 0:
        raise UsageError(f"{path}: its time was over {-left_s:.0f} s ago")
    return request


def join(plan: NodePlan, *, nice: int, memory_bytes: int | None, say: Callable[[str], None]) -> int:
    """Take part in one run; returns how many questions were answered.

    Args:
        plan: where, with which key, for how long.
        nice: added to this process's niceness and all that it starts: scoring goes first.
        memory_bytes: data of each process that it starts (RLIMIT_DATA); None: the unit's limit is enough.
        say: one line at a time.

    Raises:
        UsageError: the ring is no file, or `home` holds other files.
        DataError: the agent says that this device may not learn now.
        LinkError, ProcessError: as `flower_node.take_part` has it.
    """
    ring = Path(plan.ring)
    if not ring.is_file():
        raise UsageError(f"{ring}: this device's ring expected, no such file")
    ask(ring)
    os.nice(nice)
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    home = _own(Path(plan.home))
    from federated.engines.flower_node import take_part  # from here on it takes seconds

    try:
        return take_part(plan, say)
    finally:
        shutil.rmtree(home, ignore_errors=True)  # copies of the app; nothing is kept between two runs


def _own(home: Path) -> Path:
    """The folder for Flower's files: an empty one, or one that an earlier run was killed in.

    Raises:
        UsageError: it holds somebody else's files, which would be removed with it; or it cannot be made.
    """
    mark = home / _MARK
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not mark.exists() and any(home.iterdir()):
            raise UsageError(f"--home: {home}: an empty folder expected, it holds other files")
        mark.touch()
    except OSError as error:
        raise UsageError(f"--home: {home}: cannot be used: {error.strerror}") from error
    return home
