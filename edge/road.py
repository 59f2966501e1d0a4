"""Outbox and link on a thread of their own: a window never waits for the disk or for the network.

The agent hands events over and goes on scoring; this thread gives them their numbers, commits them, sends them and takes
what the cloud says. The agent looks at `view`, a picture that is replaced whole in every turn. What ends the thread reaches the
agent by `take`. One producer (the agent), one consumer (this thread).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from covey import wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from msgspec import Struct

    from edge.uplink import Uplink

_TURN_S = 0.05  # the loop's bounded wait; an event ends it
_BUSY = 64  # events that wait to be numbered: the disk does not keep up
_REMEMBERED = 256  # ids of commands handed to the agent
_OPEN_S = 60.0


class View(NamedTuple):
    """The way up, a moment ago."""

    outbox: str = ""
    last_seq: int = 0
    depth: int = 0
    size_bytes: int = 0
    dropped_rows: int = 0
    connected: bool = False
    sent_bytes: int = 0
    metered: bool = False
    stretch: Callable[[float], float] = float  # summary interval wanted -> the one that the link's budget allows


class _Put(NamedTuple):
    kind: str
    data: Struct
    traceparent: str
    answers: str


class Road:
    """The way up, and what comes down it."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Uplink]]) -> None:
        """Open on the new thread (SQLite's connection belongs to the thread that made it) and wait for it.

        Args:
            opened: makes what the thread opens first and closes last.

        Raises:
            CoveyError: what opening raises.
        """
        self.view = View()
        self._opened = opened
        self._puts: queue.SimpleQueue[_Put] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[wire.Desired | wire.Command] = queue.SimpleQueue()
        self._handed: deque[str] = deque(maxlen=_REMEMBERED)
        self._wake, self._ready, self._flushed = threading.Event(), threading.Event(), threading.Event()
        self._flush_s: float | None = None
        self._ending = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="road", daemon=True)
        self._thread.start()
        self._ready.wait(_OPEN_S)
        self._raise()

    @property
    def busy(self) -> bool:
        """Whether so much waits for the disk that a summary had better wait, too: its period then goes on."""
        return self._puts.qsize() > _BUSY

    def put(self, kind: str, data: Struct, traceparent: str = "", answers: str = "") -> None:
        """Queue one event; a summary's queue figures are filled in when it is numbered. `answers`: id of a command."""
        self._puts.put(_Put(kind, data, traceparent, answers))
        self._wake.set()

    def take(self) -> list[wire.Desired | wire.Command]:
        """What the cloud wants; commands that were answered already are left out.

        Raises:
            CoveyError: whatever ended the thread.
        """
        self._raise()
        out: list[wire.Desired | wire.Command] = []
        while not self._wanted.empty():
            out.append(self._wanted.get_nowait())
        return out

    def flush(self, timeout_s: float) -> None:
        """Everything on disk, and sent and acknowledged if that comes within the time; at an orderly stop."""
        self._flush_s = timeout_s
        self._wake.set()
        self._flushed.wait(timeout_s + _OPEN_S)

    def close(self) -> None:
        """End the thread in good order."""
        self._ending = True
        self._wake.set()
        self._thread.join(_OPEN_S)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            with self._opened() as up:
                self._look(up)
                self._ready.set()
                while not self._ending:
                    self._turn(up)
                    self._wake.wait(_TURN_S)
                    self._wake.clear()
                self._number(up)
        except BaseException as error:  # noqa: BLE001  # a thread's end must not be silent: `take` raises it
            self._error = error
        finally:
            self._ready.set()
            self._flushed.set()

    def _turn(self, up: Uplink) -> None:
        self._number(up)
        for wanted in up.step(time.monotonic()):
            if isinstance(wanted, wire.Command):
                # QoS 1, and a gateway that was killed, bring a command again
                if wanted.id in self._handed or up.outbox.answered(wanted.id):
                    continue
                self._handed.append(wanted.id)
            self._wanted.put(wanted)
        if self._flush_s is not None:
            self._number(up)
            up.flush(self._flush_s)
            self._flush_s = None
            self._look(up)
            self._flushed.set()
        self._look(up)

    def _number(self, up: Uplink) -> None:
        while not self._puts.empty():
            kind, data, traceparent, answers = self._puts.get_nowait()
            if isinstance(data, wire.Summary):
                dropped = up.outbox.dropped()
                health = msgspec.structs.replace(
                    data.health,
                    outbox_rows=up.outbox.depth,
                    outbox_bytes=up.outbox.size_bytes,
                    uplink_bytes=up.link.sent_bytes,
                    dropped=dropped,
                )
                up.put(kind, msgspec.structs.replace(data, health=health), traceparent, tells=dropped)
            else:
                up.put(kind, data, traceparent, answers=answers)

    def _look(self, up: Uplink) -> None:
        outbox = up.outbox
        self.view = View(
            outbox.id,
            outbox.last_seq,
            outbox.depth,
            outbox.size_bytes,
            outbox.dropped_rows(),
            up.link.connected,
            up.link.sent_bytes,
            up.budget.metered,
            up.budget.interval_s,
        )
