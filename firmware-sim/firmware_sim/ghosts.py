"""Sockets of connections that a device gave up while the broker must not notice yet, and the limit of open files.

A device that loses its power or its radio sends no FIN: the broker believes in the connection until its keepalive runs out.
A closed socket would tell it at once, hence it is kept open, unread, for as long as silence lasts.
"""

from __future__ import annotations

import heapq
import resource
from typing import TYPE_CHECKING

from covey.errors import UsageError
from firmware_sim.connection import reset

if TYPE_CHECKING:
    import socket


class Ghosts:
    """Sockets that are closed later, with a reset.

    Args:
        most: how many are kept; beyond, the oldest are closed early.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[int, tuple[float, socket.socket]] = {}  # by file descriptor, oldest first
        self._due: list[tuple[float, int]] = []  # heap

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def next_s(self) -> float:
        """When `close_due` has something to do."""
        return self._due[0][0] if self._due else float("inf")

    def keep(self, sock: socket.socket, until_s: float) -> None:
        """Hold a socket open until then."""
        if self._most <= 0:
            reset(sock)
            return
        if len(self._kept) >= self._most:
            reset(self._kept.pop(next(iter(self._kept)))[1])
        self._kept[sock.fileno()] = (until_s, sock)
        heapq.heappush(self._due, (until_s, sock.fileno()))

    def close_due(self, now_s: float) -> None:
        """Close those whose time has come."""
        while self._due and self._due[0][0] <= now_s:
            due_s, fd = heapq.heappop(self._due)
            kept = self._kept.get(fd)
            if kept is not None and kept[0] == due_s:
                del self._kept[fd]
                reset(kept[1])

    def clear(self) -> None:
        """Close all."""
        for _, sock in self._kept.values():
            reset(sock)
        self._kept.clear()
        self._due.clear()


def allow_open_files(need: int) -> int:
    """Raise this process' limit of open files to twice `need` if that is allowed; the limit it has then.

    Raises:
        UsageError: the hard limit is below `need`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * need if hard == resource.RLIM_INFINITY else min(hard, 2 * need)
    if most < need:
        raise UsageError(f"{need} open files needed, {hard} allowed: raise the hard limit (ulimit -Hn, LimitNOFILE=)")
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
