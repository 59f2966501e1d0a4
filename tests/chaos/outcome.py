"""What came of one combination or trial, and how it reads as lines. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTS = ("written", "stored", "lost", "double", "conflicting", "unknown", "disordered", "given_up")


@dataclass
class Outcome:
    """One row of the table.

    Attributes:
        load: what drove the stack.
        fault: what was done to it.
        bites: what was seen of each fault.
        verdict: of the load's truth: COUNTS, `good`, `bad`.
        figures: what was measured beside it, by name with its unit.
        missed: figures that are not as promised, in words; a row with any is not good.
        own_ends: parts that ended by themselves.
    """

    load: str
    fault: str
    good: bool = False
    seconds: float = 0.0
    kills: int = 0
    bites: list[str] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    own_ends: dict[str, int] = field(default_factory=dict)
    error: str = ""
    folder: str = ""

    def bound(self, name: str, value: float, *, most: float | None = None, least: float | None = None) -> None:
        """Note a figure, and that it is missed when it lies outside."""
        self.figures[name] = round(value, 3)
        if most is not None and value > most:
            self.missed.append(f"{name}: at most {most:g} expected, {value:.3g} measured")
        if least is not None and value < least:
            self.missed.append(f"{name}: at least {least:g} expected, {value:.3g} measured")

    def judge(self) -> None:
        """Good: the verdict is, nothing was missed, nothing went wrong."""
        self.good = bool(self.verdict.get("good")) and not self.missed and not self.error


def line(row: Outcome) -> str:
    """One line about a combination."""
    told = ", ".join(f"{name} {row.verdict[name]}" for name in COUNTS if row.verdict.get(name))
    own = "".join(f", {part} ended by itself {n} times" for part, n in row.own_ends.items())
    figures = "".join(f", {name} {value}" for name, value in row.figures.items())
    mark = "good" if row.good else "BAD "
    return f"{mark} {row.load:<14} {row.fault:<20} {row.seconds:>6.1f} s  {row.kills:>3} kills  {told}{own}{figures}"


def troubles(row: Outcome) -> list[str]:
    """Why a row is bad."""
    return [text for text in (row.error, *row.missed, *row.verdict.get("bad", [])) if text]


def table(result: dict[str, Any]) -> Iterator[str]:
    """The result of a run (docs/chaos.md) as lines."""
    names = ("load", "fault", "kills", *COUNTS, "s", "verdict")
    rows: list[tuple[str, ...]] = [names]
    for row in result["combinations"]:
        counts = [str(row["verdict"].get(name, "-")) for name in COUNTS]
        verdict = "good" if row["good"] else "BAD"
        rows.append((row["load"], row["fault"], str(row["kills"]), *counts, f"{row['seconds']:.0f}", verdict))
    totals = [str(result["totals"][name]) for name in COUNTS]
    verdict = "good" if result["good"] else "BAD"
    seconds = sum(row["seconds"] for row in result["combinations"])
    rows.append(("all", f"{len(rows) - 1} combinations", str(result["kills"]), *totals, f"{seconds:.0f}", verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join(left + right)
    for row in result["combinations"]:
        if row["figures"]:
            yield f"{row['load']} {row['fault']}: " + ", ".join(f"{k} {v}" for k, v in row["figures"].items())
        yield from (f"{row['load']} {row['fault']}: {text}" for text in row["missed"])
    for name, why in result["skipped"].items():
        yield f"skipped {name}: {why}"
    if result["folder"]:
        yield f"kept in {result['folder']}"
