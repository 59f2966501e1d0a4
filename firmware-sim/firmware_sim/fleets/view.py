"""What a person sees of a fleet while it runs: a live bar with rates on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firmware_sim.fleets.progress import Progress

    Shown = tuple[Callable[[str, int, int], None], Callable[[Progress], None]]


class Rates:
    """How fast counters grow, over the last few seconds."""

    def __init__(self, span_s: float = 3.0) -> None:
        self._span_s = span_s
        self._seen: list[tuple[float, int, int, int]] = []

    def of(self, progress: Progress, now_s: float) -> tuple[float, float, float]:
        """Events written, events acknowledged and windows scored, a second."""
        self._seen.append((now_s, progress.written.total(), progress.acknowledged, progress.windows))
        while len(self._seen) > 2 and self._seen[0][0] < now_s - self._span_s:
            self._seen.pop(0)
        first, last = self._seen[0], self._seen[-1]
        passed_s = last[0] - first[0]
        if passed_s <= 0:
            return 0.0, 0.0, 0.0
        return tuple((b - a) / passed_s for a, b in zip(first[1:], last[1:], strict=True))  # type: ignore[return-value]  # three counters


def told_line(progress: Progress, rates: tuple[float, float, float]) -> str:
    """One line about a fleet."""
    written, acknowledged, windows = rates
    return (
        f"{progress.t_s:6.0f} s{' (draining)' if progress.draining else ''}  {progress.connected} connected  "
        f"{written:.0f} written/s  {acknowledged:.0f} acknowledged/s  {progress.backlog} waiting  "
        f"{windows:.0f} windows/s  {progress.alarms} alarms{'  ' + progress.trouble if progress.trouble else ''}"
    )


@contextmanager
def silent() -> Iterator[Shown]:
    """Nothing is shown."""
    yield (lambda _what, _done, _total: None), (lambda _progress: None)


@contextmanager
def lines(every_s: float) -> Iterator[Shown]:
    """A line on stderr now and then."""
    rates, said_s, said = Rates(), -every_s, ""

    def told(what: str, _done: int, _total: int) -> None:
        nonlocal said
        if what != said:
            said = what
            sys.stderr.write(f"{what}\n")

    def show(progress: Progress) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        if now_s - said_s >= every_s:
            said_s = now_s
            sys.stderr.write(told_line(progress, rates.of(progress, now_s)) + "\n")

    yield told, show


@contextmanager
def live(every_s: float) -> Iterator[Shown]:
    """A bar with live rates on the terminal."""
    console, rates, shown_s = Console(stderr=True), Rates(), 0.0
    with Live(console=console, auto_refresh=False, transient=True) as display:

        def told(what: str, done: int, total: int) -> None:
            display.update(_bar(f"{what}  {done}/{total}", done / max(1, total)), refresh=True)

        def show(progress: Progress) -> None:
            nonlocal shown_s
            now_s = time.monotonic()
            if now_s - shown_s < every_s:
                return
            shown_s = now_s
            display.update(_table(progress, rates.of(progress, now_s)), refresh=True)

        yield told, show


def _bar(title: str, share: float) -> Table:
    # In a grid, since a bar by itself ends no line.
    grid = Table.grid()
    grid.add_row(Text(title))
    grid.add_row(ProgressBar(1.0, share, width=60))
    return grid


def _table(progress: Progress, rates: tuple[float, float, float]) -> Group:
    written, acknowledged, windows = rates
    table = Table(box=None, pad_edge=False, show_header=False)
    for cells in (
        ("devices connected", f"{progress.connected}", f"{progress.connects} connects, {progress.lost} lost"),
        ("events written", f"{progress.written.total()}", f"{written:.0f}/s"),
        ("acknowledged", f"{progress.acknowledged}", f"{acknowledged:.0f}/s"),
        ("waiting", f"{progress.backlog}", f"{progress.resends} resends"),
        ("windows scored", f"{progress.windows}", f"{windows:.0f}/s"),
        ("alarms", f"{progress.alarms}", progress.trouble),
    ):
        table.add_row(*cells)
    share = progress.duration_s and min(1.0, progress.t_s / progress.duration_s)
    title = (
        "waiting for the last acknowledgements"
        if progress.draining
        else f"{progress.t_s:.0f} of {progress.duration_s:.0f} s"
    )
    return Group(_bar(title, share), table)
