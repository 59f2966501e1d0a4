"""What every long-running role shares: stop event, signals, backoff, logging, files written whole.

A loop is `run(config, stop)`: it waits in bounded steps and ends soon after `stop` is set. A second
Ctrl-C (or SIGTERM) ends the process at once. Callbacks on foreign threads only enqueue.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def install_stop() -> threading.Event:
    """A stop event that SIGINT and SIGTERM set; a second signal exits with 130 at once.

    SIGTERM needs a handler, or nothing is flushed (measured). Main thread only.
    """
    stop = threading.Event()

    def on_signal(_signum: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


PARENT_VARIABLE = "COVEY_PARENT_PID"  # set by a supervisor for its children
# Taken out of the environment at once: children of this process have another parent.
_EXPECTED_PARENT = os.environ.pop(PARENT_VARIABLE, None)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, and leave now if it has already ended.

    Called by children that a supervisor started (option `--die-with-parent`). The kernel watches the thread that
    started the child, so a supervisor starts children from its main thread only. Does nothing outside Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if _EXPECTED_PARENT is not None and os.getppid() != int(_EXPECTED_PARENT):
        raise SystemExit(0)


class Backoff:
    """Full-jitter exponential backoff: each delay is uniform in [base, min(cap, base * 2^n)] seconds."""

    def __init__(self, base_s: float = 0.2, cap_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        self._tries = 0

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        top = min(self._cap_s, self._base_s * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return self._rng.uniform(self._base_s, max(self._base_s, top))

    def reset(self) -> None:
        """Begin again after a success."""
        self._tries = 0


def poll(
    predicate: Callable[[], bool], timeout_s: float, stop: threading.Event | None = None, step_s: float = 0.05
) -> bool:
    """Wait until `predicate()`; False when the time is up or `stop` is set."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        left = deadline - time.monotonic()
        if left <= 0 or (stop is not None and stop.is_set()):
            return False
        if stop is None:
            time.sleep(min(step_s, left))
        else:
            stop.wait(min(step_s, left))
    return True


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a power loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105  # replaces atomically
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# What a line may say beside its words, by `extra=` of the logging call: one trace is found in the logs of every role.
LOG_FIELDS = ("trace_id", "device", "alarm_id", "stage")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "role": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in LOG_FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(role: str, level: str = "info", *, json_lines: bool = False) -> logging.Logger:
    """Log to stderr, one line a record; returns the role's logger."""
    handler = logging.StreamHandler(sys.stderr)
    if json_lines:
        handler.setFormatter(_JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    return logging.getLogger(role)
