"""When rows are sent, and when they are sent again: a bounded window of rows that the cloud has not acknowledged.

Pure: time is an argument (monotonic seconds), rows are their sequence numbers. The cloud's `ack` moves the window, never a
PUBACK: a broker may forget what it confirmed. The time-out watches the OLDEST unacknowledged row, since newer
acknowledgements hide holes; it makes everything unacknowledged due again, with backoff. Where no gateway is known to
listen, rows are held back, but never for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covey.runtime import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable


class SendWindow:
    """What may be sent now.

    Args:
        limit: rows in flight at most.
        timeout_s: an acknowledgement is expected within it.
        hold_s: how long rows wait for a gateway to show itself; then some are sent all the same.
        probe: rows in flight at most while no gateway is known.
        backoff: what a time-out adds to the next one.
    """

    def __init__(
        self,
        limit: int = 256,
        timeout_s: float = 10.0,
        hold_s: float = 20.0,
        probe: int = 8,
        backoff: Backoff | None = None,
    ) -> None:
        self._limit, self._timeout_s, self._hold_s, self._probe = limit, timeout_s, hold_s, probe
        self._backoff = backoff or Backoff(1.0, 60.0)
        self._in_flight: dict[int, float] = {}  # seq -> when it was sent, ascending
        self._wait_s = timeout_s
        self._hold_until_s = 0.0
        self.gateway_known = False
        self.after = 0  # rows up to here were sent, or are not ours to send
        self.resends = 0  # time-outs so far

    @property
    def in_flight(self) -> int:
        """Rows sent and not acknowledged."""
        return len(self._in_flight)

    def connected(self, now_s: float) -> None:
        """A new connection: whatever was in flight died with the old one."""
        self._begin_again()
        self.gateway_known = False
        self._hold_until_s = now_s + self._hold_s

    def gateway(self, now_s: float, *, online: bool) -> None:
        """The gateway's own presence, which the broker retains."""
        if online and not self.gateway_known:
            self._begin_again()  # what was sent while nobody was known to listen may have reached nobody
            self._backoff.reset()
            self._wait_s = self._timeout_s
        elif not online and self.gateway_known:
            self._hold_until_s = now_s + self._hold_s
        self.gateway_known = online

    def room(self, now_s: float) -> int:
        """How many more rows may be sent now, from `after` on."""
        if not self.gateway_known and now_s < self._hold_until_s:
            return 0
        return max(0, (self._limit if self.gateway_known else self._probe) - len(self._in_flight))

    def sent(self, seq: int, now_s: float) -> None:
        """A row was given to the connection."""
        self._in_flight[seq] = now_s
        self.after = seq

    def acknowledged(self, ranges: Iterable[tuple[int, int]]) -> None:
        """The cloud has these rows."""
        oldest = next(iter(self._in_flight), None)
        for first, last in ranges:
            for seq in [seq for seq in self._in_flight if first <= seq <= last]:
                del self._in_flight[seq]
        if next(iter(self._in_flight), None) != oldest:  # progress is when the oldest one moves
            self._backoff.reset()
            self._wait_s = self._timeout_s

    def late(self, now_s: float) -> bool:
        """Whether the oldest row's time is up; then every unacknowledged row is due again."""
        sent_s = next(iter(self._in_flight.values()), None)
        if sent_s is None or now_s - sent_s < self._wait_s:
            return False
        self._wait_s = self._timeout_s + self._backoff.next_s()
        self._begin_again()
        self.resends += 1
        return True

    def _begin_again(self) -> None:
        self._in_flight.clear()
        self.after = 0
