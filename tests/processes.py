"""Child processes, ports and deadlines for the tests; `servers` gives all of it on to them.

A child is known by its pid, writes to its own log file, and dies with the process that started it. Nothing here searches
for processes by name, and nothing sleeps instead of asking.
"""

from __future__ import annotations

import ctypes
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from covey.errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from typing_extensions import Self

POLL_S = 0.02
PR_SET_PDEATHSIG = 1  # linux/prctl.h

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_given_ports: set[int] = set()


def wait_for(predicate: Callable[[], T], timeout_s: float, what: str) -> T:
    """Poll until `predicate` returns something true, and return that.

    Raises:
        AssertionError: it did not within `timeout_s`; says `what` was awaited and what came last.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s, last answer {value!r}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A loopback TCP port that nobody listens on and that this process has not given out before.

    Below the range from which the kernel takes ports for outgoing connections: otherwise a client that tries again and
    again while its broker is down can be given the broker's own port, connect to itself, and keep it.
    """
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise ProcessError("free_port", "no free loopback port among 1000 tried from 20000 to 31999")


def unique(prefix: str) -> str:
    """A name for a topic or client that no other test uses: brokers live as long as the session."""
    return f"{prefix}-{secrets.token_hex(4)}"


def accepts(port: int) -> bool:
    """Whether something on loopback accepts TCP connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def absent(server: str, why: str) -> NoReturn:
    """Skip the running test for want of `server`; fail it when COVEY_REQUIRE_SERVERS=1."""
    message = f"{server}: {why}"
    if os.environ.get("COVEY_REQUIRE_SERVERS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _die_with_parent() -> None:
    # Runs between fork and exec. It binds the child to the thread that started it: start servers on the main thread.
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Process:
    """One child process with its log file; it dies with the process that started it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = env  # None: ours
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id, also after it ended."""
        if self._child is None:
            raise ProcessError(self.name, "has not been started")
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child is not None and self._child.poll() is None

    def start(self, ready: Callable[[], bool] = lambda: True, timeout_s: float = 20.0) -> Self:
        """Start the child and poll `ready` until it holds.

        Raises:
            ProcessError: it ended before it was ready, or was not ready in time (then it is killed); with its log's end.
        """
        if self.alive:
            raise ProcessError(self.name, f"runs already as pid {self.pid}")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # one system call, no lock taken, library loaded before
            )
        deadline = time.monotonic() + timeout_s
        while True:
            code = self._child.poll()
            if code is not None:
                raise ProcessError(self.name, f"ended with {code} before it was ready", self.tail())
            if ready():
                return self
            if time.monotonic() > deadline:
                self.kill9()
                raise ProcessError(self.name, f"was not ready within {timeout_s:g} s", self.tail())
            time.sleep(POLL_S)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def wait(self, timeout_s: float) -> int:
        """Exit code (negative: the signal), once the child has ended by itself.

        Raises:
            ProcessError: it still runs after `timeout_s`.
        """
        if self._child is None:
            raise ProcessError(self.name, "has not been started")
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessError(self.name, f"still runs after {timeout_s:g} s", self.tail()) from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this child only; nothing when it has ended."""
        if self._child is not None:
            self._child.send_signal(number)

    def kill9(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask it to end (SIGTERM); after `timeout_s` kill it."""
        if not self.alive:
            return
        self.send(signal.SIGCONT)  # a paused process would not hear SIGTERM
        self.send(signal.SIGTERM)
        try:
            self.wait(timeout_s)
        except ProcessError:
            self.kill9()
