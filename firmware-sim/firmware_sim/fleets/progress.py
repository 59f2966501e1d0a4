"""How a fleet runs, and how far it is: what the loop, its display and its closing line share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class FleetOptions(NamedTuple):
    """How a fleet runs, beside its plan.

    Attributes:
        drain_s: after the scenario's end, how long the rest may take to be acknowledged.
        ack_timeout_s: a row not acknowledged within it is sent again.
        hold_s: how long rows wait for a gateway to show itself.
        window_rows: rows of one device in flight at most.
    """

    drain_s: float = 60.0
    ack_timeout_s: float = 10.0
    hold_s: float = 20.0
    window_rows: int = 256


@dataclass
class Progress:
    """Where a fleet is; what the progress display and the closing line are made of."""

    duration_s: float = 0.0
    t_s: float = 0.0
    connected: int = 0
    written: Counter[str] = field(default_factory=Counter)  # by kind
    acknowledged: int = 0
    alarms: int = 0  # begun
    windows: int = 0
    resends: int = 0
    connects: int = 0
    lost: int = 0  # connections
    commands: int = 0
    sent_bytes: int = 0
    draining: bool = False
    trouble: str = ""  # why the last commit failed, until one works

    @property
    def backlog(self) -> int:
        """Events written and not acknowledged."""
        return self.written.total() - self.acknowledged
