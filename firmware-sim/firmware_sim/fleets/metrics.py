"""A simulated fleet's figures for Prometheus, from its progress. Pure but for `served`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from covey.exposition import Family, Sample, text
from covey.health import View, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firmware_sim.fleets.progress import Progress

# field of Progress -> (metric, kind, help)
FIGURES = {
    "duration_s": ("duration_seconds", "gauge", "length of the scenario"),
    "t_s": ("time_seconds", "gauge", "where it is"),
    "connected": ("connected", "gauge", "devices that are connected"),
    "acknowledged": ("acknowledged", "counter", "events that the cloud has acknowledged"),
    "backlog": ("backlog", "gauge", "events written and not acknowledged"),
    "alarms": ("alarms", "counter", "alarms begun"),
    "windows": ("windows", "counter", "windows scored"),
    "resends": ("resends", "counter", "events sent again"),
    "connects": ("connects", "counter", "MQTT connections made"),
    "lost": ("connections_lost", "counter", "MQTT connections that ended without our asking"),
    "commands": ("commands", "counter", "commands obeyed"),
    "sent_bytes": ("sent_bytes", "counter", "payload published, repeats included"),
}


def families(progress: Progress) -> list[Family]:
    """Every figure, and events written by kind."""
    told = []
    for field, (name, kind, about) in FIGURES.items():
        suffix = "_total" if kind == "counter" else ""
        told.append(Family(f"covey_sim_{name}", kind, about, [Sample(suffix, (), float(getattr(progress, field)))]))
    written = [Sample("_total", (("kind", kind),), n) for kind, n in sorted(progress.written.items())]
    told.append(Family("covey_sim_written", "counter", "events written, by kind", written))
    return told


@contextmanager
def served(port: int, show: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """A health port on loopback for a run's time (0: none); gives a `show` that remembers what it was shown.

    Raises:
        LinkError: the port is taken.
    """
    seen: list[Progress] = []

    def shown(progress: Progress) -> None:
        if not seen:
            seen.append(progress)  # one object for the whole run
        show(progress)

    def view() -> View:
        status: dict[str, object] = {"t_s": seen[0].t_s, "backlog": seen[0].backlog} if seen else {}
        return View(True, bool(seen), status, lambda: text(families(seen[0])) if seen else "")

    with serve("127.0.0.1", port, view):
        yield shown
