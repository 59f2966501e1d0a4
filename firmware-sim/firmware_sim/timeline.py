"""A run over time, in equal steps: what was written, received and acknowledged, what waited, and what happened. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_sim.facts import Facts

STEPS = 120
MARKS = 200  # notes of the whole fleet
WHATS = 8  # kinds of notes of single devices, the most frequent ones


class Mark(Struct, frozen=True):
    """One note of the whole fleet."""

    t_s: float
    what: str
    detail: str


class Timeline(Struct, frozen=True):
    """Counts of each step; `t_s` is its end, in seconds after the start of the run."""

    t_s: list[float]
    written: list[int]
    received: list[int]
    acknowledged: list[int]
    backlog: list[int]  # written and not acknowledged, at the end of the step
    marks: list[Mark]
    devices: dict[str, list[int]]  # notes of single devices by what they say


def timeline(facts: Facts, received_s: NDArray[np.float64], start_s: float, end_s: float) -> Timeline:
    """Cut a run, up to the last acknowledgement, into steps.

    Args:
        facts: the ledger.
        received_s: (N,) of each event; NaN: not stored.
        start_s: start of the run, true time.
        end_s: its end.
    """
    acked_s = facts.events.acked_s
    last_s = float(np.nanmax(acked_s)) if (~np.isnan(acked_s)).any() else end_s
    stop_s = max(end_s, last_s, start_s + 1e-3)
    edges = np.linspace(start_s, stop_s, STEPS + 1)

    def count(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        known = times_s[~np.isnan(times_s)]
        return np.histogram(np.clip(known, start_s, stop_s), edges)[0]

    written, acknowledged = count(facts.events.true_s), count(acked_s)
    own = [(note.what, note.true_s) for note in facts.notes if note.device is not None]
    frequent = [what for what, _ in Counter(what for what, _ in own).most_common(WHATS)]
    marks = [note for note in facts.notes if note.device is None][:MARKS]
    return Timeline(
        t_s=(edges[1:] - start_s).tolist(),
        written=written.tolist(),
        received=count(received_s).tolist(),
        acknowledged=acknowledged.tolist(),
        backlog=np.cumsum(written - acknowledged).tolist(),
        marks=[Mark(note.true_s - start_s, note.what, note.detail) for note in marks],
        devices={what: count(np.array([true_s for name, true_s in own if name == what])).tolist() for what in frequent},
    )
