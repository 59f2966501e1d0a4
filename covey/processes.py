"""Child processes with a name, a log file and an orderly end: what `covey up` and `covey demo` are made of.

Ends only what it started, by pid. Start children from the main thread (see `runtime.die_with_parent`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from covey.errors import ProcessError
from covey.runtime import PARENT_VARIABLE

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

LOG_TAIL_BYTES = 3000


def covey_command(*words: str) -> list[str]:
    """Command line of one of our own commands, run by this interpreter."""
    return [sys.executable, "-m", "covey", *words]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


@dataclass
class Child:
    """One process that we started."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    starts: int = 1

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def tail(self) -> str:
        """End of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def failed(self, detail: str) -> ProcessError:
        """An error that names this part and ends with the end of its log."""
        return ProcessError(self.name, detail, self.tail())


@dataclass
class Children:
    """The processes of one stack, stopped in reverse order of their start."""

    folder: Path  # of the logs
    environ: Mapping[str, str] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    to_stderr: bool = False  # what they write goes where our own log goes, not to a file each

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process, or a dead one of that name again; its output goes to `<folder>/<name>.log`, or to stderr."""
        before = self.children.get(name)
        if before is not None and before.alive:
            raise ProcessError(name, "runs already")
        log = self._log(name)
        with os.fdopen(os.dup(2), "ab") if self.to_stderr else log.open("ab") as output:
            process = self._spawn(command, output, output)
        child = Child(name, list(command), log, process, 1 if before is None else before.starts + 1)
        self.children[name] = child
        return child

    def run(self, name: str, command: Sequence[str], timeout_s: float, stop: threading.Event) -> str:
        """Run a command to its end and return its stdout.

        Raises:
            ProcessError: it failed, took too long, or `stop` was set.
        """
        log, answer = self._log(name), self.folder / f"{name}.out"
        with log.open("ab") as errors, answer.open("wb") as output:
            process = self._spawn(command, output, errors)
            child = Child(name, list(command), log, process)
            self.children[name] = child
            deadline = time.monotonic() + timeout_s
            while process.poll() is None:
                if stop.is_set():
                    raise ProcessError(name, "interrupted")
                if time.monotonic() > deadline:
                    raise child.failed(f"not done after {timeout_s:.0f} s")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
        del self.children[name]
        if process.returncode != 0:
            raise child.failed(f"ended with exit code {process.returncode}")
        return answer.read_text(encoding="utf-8")

    def _log(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.log"

    def _spawn(self, command: Sequence[str], output: BinaryIO, errors: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **self.environ, PARENT_VARIABLE: str(os.getpid())},
            # A Ctrl-C in the terminal is for the supervisor; it ends its children in order.
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """End a process with SIGKILL: a test of what the others do about it."""
        child = self.children[name]
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()

    def stop(self, names: Sequence[str] | None = None, timeout_s: float = 10.0) -> list[str]:
        """SIGTERM, then SIGKILL after the time-out; newest first. Returns who had to be killed."""
        chosen = [c for c in reversed(self.children.values()) if names is None or c.name in names]
        for child in chosen:
            if child.alive:
                child.process.terminate()
        deadline = time.monotonic() + timeout_s
        killed = []
        for child in chosen:
            try:
                child.process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                killed.append(child.name)
            self.children.pop(child.name, None)
        return killed

    def check(self) -> None:
        """Raise for the first process that ended without being asked.

        Raises:
            ProcessError: with its exit code and the end of its log.
        """
        for child in self.children.values():
            if not child.alive:
                raise child.failed(f"ended with exit code {child.process.returncode}")

    def wait_until(
        self, predicate: Callable[[], bool], timeout_s: float, what: str, stop: threading.Event, step_s: float = 0.1
    ) -> None:
        """Wait for something that the children bring about.

        Raises:
            ProcessError: a child ended, the time is up, or `stop` was set.
        """
        deadline = time.monotonic() + timeout_s
        while not predicate():
            self.check()
            if stop.is_set():
                raise ProcessError(what, "interrupted")
            if time.monotonic() > deadline:
                raise ProcessError(what, f"not there after {timeout_s:.0f} s")
            stop.wait(step_s)
