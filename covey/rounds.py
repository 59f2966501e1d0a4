"""A run as its lines tell it: rounds, who is still to answer, how it ended; as a table for people. Pure but for `screen`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from covey import wire
from covey.errors import DataError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_BAR = 20  # characters
_WIDTH = 100


@dataclass
class Progress:
    """What is known of a run so far.

    Attributes:
        run: its id.
        head: family and engine.
        wanted: rounds; 0: not told yet.
        rounds: figures of each whole round.
        phase: what was asked last.
        asked: how many devices.
        heard: device -> answered, or why not, of the last question.
        end: how it ended; "" while it goes.
    """

    run: str = ""
    head: str = ""
    wanted: int = 0
    rounds: dict[int, dict[str, float]] = field(default_factory=dict)
    left_out: dict[int, dict[str, str]] = field(default_factory=dict)
    phase: str = ""
    asked: int = 0
    heard: dict[str, str] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    end: str = ""

    @property
    def over(self) -> bool:
        """Whether its last line has come."""
        return bool(self.end)

    def take(self, event: wire.RoundEvent) -> None:
        """One more line."""
        self.run, self.end = event.run, ""
        if event.kind in ("started", "resumed"):
            self.head, self.wanted = event.detail, int(event.figures.get("rounds", 0))
        elif event.kind == "asked":
            self.phase, self.asked, self.heard = event.phase, int(event.figures.get("devices", 0)), {}
        elif event.kind in ("answered", "refused", "missing"):
            self.heard[event.device] = event.kind if event.kind == "answered" else event.detail
            if event.kind != "answered":
                self.left_out.setdefault(event.round, {})[event.device] = event.detail
        elif event.kind == "round":
            self.rounds[event.round] = event.figures
        elif event.kind == "gates":
            self.gates = event.figures
        elif event.kind in ("released", "failed"):
            self.end = f"{event.kind}: {event.detail}"

    def lines(self, *, at_work: bool) -> list[str]:
        """The table."""
        done = len(self.rounds)
        share = min(1.0, done / self.wanted) if self.wanted else 0.0
        bar = "#" * round(share * _BAR)
        out = [f"run {self.run}  {self.head}  [{bar:.<{_BAR}}] {done} of {self.wanted or '?'} rounds"]
        out.append(f"{'round':>5} {'devices':>7} {'left out':>8} {'windows':>8} {'loss':>10} {'s':>8}")
        for number, figures in sorted(self.rounds.items()):
            left = int(figures.get("refused", 0) + figures.get("missing", 0))
            loss = f"{figures['loss']:.5g}" if "loss" in figures else "-"
            out.append(
                f"{number:>5} {figures.get('clients', 0):>7.0f} {left:>8} {figures.get('windows', 0):>8.0f} "
                f"{loss:>10} {figures.get('seconds', 0):>8.2f}"
            )
            out += [f"      {device}: {why}" for device, why in sorted(self.left_out.get(number, {}).items())]
        if self.gates:
            out.append(
                "gates " + "  ".join(f"{name} {value:.3g}" for name, value in sorted(self.gates.items()))[:_WIDTH]
            )
        if self.end:
            out.append(self.end)
        elif not at_work:
            out.append("ended without a word: killed? --resume goes on from the last whole round")
        else:
            out.append(f"{self.phase}: {len(self.heard)} of {self.asked} devices have answered")
        return out


def table(events: Sequence[wire.RoundEvent], *, at_work: bool) -> list[str]:
    """The table of all lines together."""
    seen = Progress()
    for event in events:
        seen.take(event)
    return seen.lines(at_work=at_work)


def plain(events: Sequence[wire.RoundEvent]) -> list[str]:
    """The lines as they are written."""
    return [wire.encode(event).decode() for event in events]


def event_of(line: bytes, path: Path) -> wire.RoundEvent:
    """One line.

    Raises:
        DataError: it is none.
    """
    try:
        return wire.decode(wire.RoundEvent, line)
    except WireError as error:
        raise DataError(f"{path}: a line of a training run expected: {error.detail}") from error


@contextmanager
def screen(*, quiet: bool) -> Iterator[Callable[..., None]]:
    """A table in one place on a terminal; elsewhere the newest line of it, each time it is another one."""
    if quiet:
        yield lambda _seen, *, at_work: None  # noqa: ARG005  # the lines themselves are printed
        return
    if not sys.stdout.isatty():
        last = [""]

        def say(seen: Progress, *, at_work: bool) -> None:
            lines = seen.lines(at_work=at_work)
            if lines[-1] != last[0]:
                last[0] = lines[-1]
                print(f"{len(seen.rounds)}/{seen.wanted or '?'}  {lines[-1]}", flush=True)

        yield say
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda seen, *, at_work: live.update("\n".join(seen.lines(at_work=at_work)), refresh=True)
