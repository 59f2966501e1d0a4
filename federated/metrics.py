"""A training run's figures for Prometheus, from the lines it has told so far. Pure but for `served`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from covey import wire
from covey.errors import WireError
from covey.exposition import Family, Sample, text
from covey.health import View, serve
from covey.rounds import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# of a round's figures -> (metric, help); sums over whole rounds
SUMS = {
    "bytes_up": ("uplink_bytes", "model traffic from devices, in whole rounds"),
    "bytes_down": ("downlink_bytes", "model traffic to devices, in whole rounds"),
    "refused": ("refused", "updates that the gate refused"),
    "missing": ("missing", "devices that did not answer in time"),
    "seconds": ("round_seconds", "time that whole rounds took"),
}


def families(seen: Progress) -> list[Family]:
    """Every figure of a run; loss only where the family tells one."""
    told = [
        Family("covey_federated_rounds", "counter", "whole rounds", [Sample("_total", (), len(seen.rounds))]),
        Family("covey_federated_rounds_wanted", "gauge", "rounds asked for", [Sample("", (), seen.wanted)]),
        Family("covey_federated_devices_asked", "gauge", "devices of the question under way", [Sample("", (), seen.asked)]),
        Family("covey_federated_devices_heard", "gauge", "of them, those that answered or were refused", [Sample("", (), len(seen.heard))]),
        Family("covey_federated_over", "gauge", "1 when the run has ended", [Sample("", (), int(seen.over))]),
    ]  # fmt: skip
    for name, (metric, about) in SUMS.items():
        total = sum(figures.get(name, 0.0) for figures in seen.rounds.values())
        told.append(Family(f"covey_federated_{metric}", "counter", about, [Sample("_total", (), total)]))
    last = seen.rounds[max(seen.rounds)] if seen.rounds else {}
    for name, about in (
        ("clients", "devices in the last round"),
        ("loss", "of the last round, where the family tells one"),
    ):
        if name in last:
            told.append(Family(f"covey_federated_{name}", "gauge", about, [Sample("", (), last[name])]))
    labels = (("run", seen.run), ("what", seen.head))
    told.append(Family("covey_federated_info", "gauge", "what is trained", [Sample("", labels, 1)]))
    return told


@contextmanager
def served(port: int) -> Iterator[Callable[[bytes], None]]:
    """A health port on loopback for a run's time (0: none); gives what takes the run's lines.

    Raises:
        LinkError: the port is taken.
    """
    seen, began_s = Progress(), time.time()

    def take(line: bytes) -> None:
        try:
            seen.take(wire.decode(wire.RoundEvent, line))
        except WireError:
            return  # the run's folder is the record; a line that is none is told there

    def view() -> View:
        status: dict[str, object] = {"run": seen.run, "rounds": len(seen.rounds), "end": seen.end, "since_s": began_s}
        return View(alive=True, ready=bool(seen.run), status=status, metrics=lambda: text(families(seen)))

    with serve("127.0.0.1", port, view):
        yield take
