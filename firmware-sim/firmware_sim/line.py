"""What is kept of one device between two steps of all (sessions.py), and what a step tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from firmware_sim.links import LinkState, mix
from firmware_sim.session import Client, Session

if TYPE_CHECKING:
    from firmware_sim.connection import Connection

STEADY_S = 10.0  # a connection that lasted so long was a good one: the next wait is short again
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.2, 30.0
NEVER: Final = -1.0
TIMERS = 6  # kinds of timers of a line
_BACKOFF = 0x6261636B  # a stream of its own beside the link's

What = Literal["ready", "lost", "message", "puback"]


class Happened(NamedTuple):
    """What `step` tells.

    detail: ready: the connection's session (16 hex digits, as in its will); lost: why; message: (topic, payload);
    puback: packet id.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    what: What
    detail: object


class Line:
    """What is kept of one device."""

    __slots__ = (
        "begun_s",
        "connection",
        "dirty",
        "draws",
        "due",
        "half_open",
        "link",
        "on",
        "queued",
        "ready_s",
        "session",
        "tries",
        "trying",
    )

    def __init__(self, client: Client) -> None:
        self.session = Session(client)
        self.link = None if client.link.adds_nothing else LinkState(client.link, client.seed)
        self.connection: Connection | None = None
        self.due = [NEVER] * TIMERS  # when each kind of timer is due; entries of the heap that differ are of the past
        self.on = True  # has power
        self.trying = False  # from the first SYN to the end of the connection
        self.queued = False  # waits for its turn to open TCP
        self.half_open = False  # counts as such
        self.dirty = False  # waits for `_flush`
        self.tries = self.draws = 0
        self.begun_s = self.ready_s = 0.0

    def backoff_s(self) -> float:
        """How long to wait before the next try: uniform in [base, min(cap, base * 2^n)] (as covey/runtime.py Backoff)."""
        top_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self.tries, 30))
        self.tries += 1
        self.draws += 1
        return BACKOFF_BASE_S + (top_s - BACKOFF_BASE_S) * mix(self.session.client.seed ^ _BACKOFF, self.draws)
