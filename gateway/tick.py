"""How long one turn of the gateway's loop may wait, by what the last turn brought. Pure.

Sparse traffic waits on the delivery report itself (lowest latency); dense traffic sleeps a little, so that one
recv, one produce and one acknowledging write carry many messages (half the CPU at the same rate; measured).
"""

from __future__ import annotations

from typing import NamedTuple

_IDLE_S = 0.02  # bounds the latency of what comes from Kafka
_REPORT_S = 0.004
_DENSE = 32  # messages in one receive


class Waits(NamedTuple):
    """Seconds to wait: for the MQTT socket, then for delivery reports, then for nothing (letting bytes gather)."""

    socket_s: float
    report_s: float
    gather_s: float


def waits(received: int, pending: int, *, linked: bool, busy: bool) -> Waits:
    """Waits of the next turn.

    Args:
        received: messages of the last receive.
        pending: messages that Kafka has not confirmed.
        linked: an MQTT socket is there to wait on.
        busy: something waits to be published.
    """
    if received >= _DENSE:
        return Waits(0.0, 0.0, _REPORT_S)
    if pending:
        return Waits(0.0, _REPORT_S, 0.0)
    if busy:
        return Waits(0.001, 0.0, 0.0)
    return Waits(_IDLE_S, 0.0, 0.0) if linked else Waits(0.0, _IDLE_S, 0.0)
