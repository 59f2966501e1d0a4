"""Tells systemd how the agent does: ready, alive, stopping, and one line of status (sd_notify, without libsystemd).

Without NOTIFY_SOCKET in the environment every call does nothing, so the agent calls it wherever it runs. What cannot be
told is dropped: a service manager that does not listen is no reason to stop scoring.

Source: sd_notify(3) and sd_watchdog_enabled(3), systemd 252.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_ONCE_TIMEOUT_S = 1.0  # ready and stopping are said once, so they wait for room in the socket
_PER_WATCHDOG = 3.0  # signs of life in one watchdog time; systemd's advice is two


class Notifier:
    """One process's word to its service manager.

    Attributes:
        watchdog_s: a sign of life is expected within so many seconds; 0: none is.
    """

    def __init__(
        self, environ: MutableMapping[str, str] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the address out of the environment, so that children do not speak for this process."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._monotonic, self._socket = monotonic, _open(address)
        ours = self._socket is not None and pid in ("", str(os.getpid()))
        self.watchdog_s = int(watchdog_us) / 1e6 if ours and watchdog_us.isdecimal() else 0.0
        self._next_alive_s = 0.0
        self._told = ""

    def ready(self, text: str = "") -> None:
        """Start-up is over; from here on the watchdog waits for `alive`."""
        self._told = text or self._told
        self._send(f"READY=1\nSTATUS={_line(text)}" if text else "READY=1", _ONCE_TIMEOUT_S)

    def alive(self) -> None:
        """A sign of life. Call it at every turn of the loop: it sends three in a watchdog's time and else costs nothing."""
        if self.watchdog_s and (now_s := self._monotonic()) >= self._next_alive_s and self._send("WATCHDOG=1"):
            self._next_alive_s = now_s + self.watchdog_s / _PER_WATCHDOG

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it is another one."""
        if text != self._told and self._send(f"STATUS={_line(text)}"):
            self._told = text

    def extend(self, seconds: float) -> None:
        """Start-up (or the stop) goes on: give it so many seconds from now instead of the unit's time-out."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", _ONCE_TIMEOUT_S)

    def stopping(self, text: str = "") -> None:
        """The end has begun."""
        self._send(f"STOPPING=1\nSTATUS={_line(text)}" if text else "STOPPING=1", _ONCE_TIMEOUT_S)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str, timeout_s: float = 0.0) -> bool:
        """Whether it was taken; with timeout 0 it never waits."""
        if self._socket is None:
            return False
        with contextlib.suppress(OSError):
            self._socket.settimeout(timeout_s)
            self._socket.send(message.encode())
            return True
        return False


def _open(address: str) -> socket.socket | None:
    """A datagram socket to a path or, with '@' first, to an abstract name; None for anything else."""
    if address[:1] not in ("/", "@"):
        return None
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        opened.connect("\0" + address[1:] if address[0] == "@" else address)
    except (OSError, ValueError):
        opened.close()
        return None
    return opened


def _line(text: str) -> str:
    return " ".join(text.split())
