"""How long one turn of the gateway's loop may wait, by how much comes. Pure: the time is an argument.

Sparse traffic waits on the delivery report itself (lowest latency). Dense traffic sleeps, longer the denser it is, so that
one recv, one produce request and one acknowledging write carry many messages: what a message costs is mostly wake-ups,
the gateway's and the Kafka library's. At 1,000 messages a second the sleep is 4 ms, from 25,000 on it is 40 ms.
"""

from __future__ import annotations

from typing import NamedTuple

_IDLE_S = 0.02  # bounds the latency of what comes from Kafka
_REPORT_S = 0.004
_DENSE_PER_S = 500.0  # above: sleep
_SLEEP_S = 0.0025
_SLEEP_PER_RATE_S = 1.5e-6  # more sleep for each message a second
_MOST_S = 0.04
_MEMORY_S = 0.2  # the rate is a mean over about so long


class Waits(NamedTuple):
    """Seconds to wait: for the MQTT socket, then for delivery reports, then for nothing (letting bytes gather)."""

    socket_s: float
    report_s: float
    gather_s: float


class Tick:
    """Follows the rate of messages.

    Attributes:
        rate_s: messages a second, smoothed.
    """

    def __init__(self, now_s: float) -> None:
        self.rate_s = 0.0
        self._then_s = now_s

    def saw(self, received: int, now_s: float) -> None:
        """What the turn that ends now received; `now_s` is monotonic."""
        passed_s = max(1e-6, now_s - self._then_s)
        self._then_s = now_s
        self.rate_s += (received / passed_s - self.rate_s) * min(1.0, passed_s / _MEMORY_S)

    def waits(self, pending: int, *, linked: bool, busy: bool) -> Waits:
        """Waits of the next turn.

        Args:
            pending: messages that Kafka has not confirmed.
            linked: an MQTT socket is there to wait on.
            busy: something waits to be published.
        """
        if linked and self.rate_s >= _DENSE_PER_S:
            return Waits(0.0, 0.0, min(_MOST_S, _SLEEP_S + self.rate_s * _SLEEP_PER_RATE_S))
        if pending:
            return Waits(0.0, _REPORT_S, 0.0)
        if busy:
            return Waits(0.001, 0.0, 0.0)
        return Waits(_IDLE_S, 0.0, 0.0) if linked else Waits(0.0, _IDLE_S, 0.0)
