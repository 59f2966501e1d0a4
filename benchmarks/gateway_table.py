"""Figures, goals and the printed table of the gateway benchmark, from its runs. Pure."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OURS = "ours"
# messages per CPU-second of ours over that of another, saturated
GOAL_RATIOS = {
    "raw": {"mq-bridge": 8.0, "mq-bridge-unkeyed": 8.0, "stock-paho": 20.0},
    "covey": {"mq-bridge": 4.0, "mq-bridge-unkeyed": 4.0, "stock-paho": 10.0},
}
MQ_BRIDGES = ("mq-bridge", "mq-bridge-unkeyed")
GOAL_PER_CPU_S = 150_000  # raw
GOAL_P99_MS = 10.0  # at 1,000/s
SLOW = "latency-1000"

UNITS = {
    "cpu_s": "CPU-s/100k messages",
    "per_cpu_s": "messages/CPU-s",
    "wall_per_s": "messages/s, wall",
    "mosquitto_cpu_s": "CPU-s/100k of mosquitto",
    "kafka_cpu_s": "CPU-s/100k of Kafka",
    "memory_mb": "MB resident at most",
    "p50_ms": "ms, publish to Kafka consumer",
    "p99_ms": "ms, publish to Kafka consumer",
    "max_ms": "ms, publish to Kafka consumer",
    "load_late_p99_ms": "ms, the generator's own lateness",
    "kills": "kills -9",
    "messages": "messages",
    "lost": "messages",
    "duplicates": "messages",
    "order": "out of order per device",
    "not_keyed": "records not keyed by device",
    "still_held": "messages the broker still holds",
}
_COUNTS = {"kills", "messages", "lost", "duplicates", "order", "not_keyed", "still_held"}  # summed over runs


def figure(value: float, unit: str, goal: float | None = None, *, at_most: bool = False) -> dict[str, Any]:
    """One figure as every benchmark prints it."""
    met = None if goal is None else (value <= goal if at_most else value >= goal)
    return {"value": round(value, 4), "unit": unit, "goal": goal, "met": met}


def middle(runs: list[dict[str, float]], name: str) -> float:
    """Median over the rounds, or the sum of what is counted."""
    values = [run[name] for run in runs]
    return sum(values) if name in _COUNTS else statistics.median(values)


def figures(results: Mapping[tuple[str, str], list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Every figure by `<part>_<candidate>_<name>`, and the ratios that have goals."""
    out: dict[str, dict[str, Any]] = {}
    for (part, who), runs in results.items():
        for name in runs[0]:
            goal = _goal(part, who, name)
            row = figure(middle(runs, name), UNITS[name], goal, at_most=name != "per_cpu_s")
            if len(runs) > 1 and name not in _COUNTS:
                values = [run[name] for run in runs]
                row |= {"low": round(min(values), 4), "high": round(max(values), 4)}
            out[f"{part}_{who}_{name}"] = row
    for part, goals in GOAL_RATIOS.items():
        for who, goal in goals.items():
            if results.get((part, who)) and results.get((part, OURS)):
                ratio = middle(results[part, OURS], "per_cpu_s") / middle(results[part, who], "per_cpu_s")
                out[f"{part}_times_{who}"] = figure(ratio, "times its messages per CPU-second", goal)
    for who in MQ_BRIDGES:
        if results.get((SLOW, OURS)) and results.get((SLOW, who)):
            share = middle(results[SLOW, OURS], "cpu_s") / middle(results[SLOW, who], "cpu_s")
            out[f"{SLOW}_share_of_{who}"] = figure(share, "of its CPU at 1,000/s", 1.0, at_most=True)
    return out


def _goal(part: str, who: str, name: str) -> float | None:
    """The goal of one figure of ours."""
    if who != OURS:
        return None
    if (part, name) == ("raw", "per_cpu_s"):
        return GOAL_PER_CPU_S
    if (part, name) == (SLOW, "p99_ms"):
        return GOAL_P99_MS
    # after a kill -9 what was in Kafka but not yet acknowledged comes again; sinks drop it by its identity
    none = name in ("lost", "order", "still_held") or (name == "duplicates" and part != "kill")
    return 0.0 if none else None


def table(results: Mapping[tuple[str, str], list[dict[str, float]]]) -> str:
    """One block a part, one row a candidate: medians, and the range in brackets."""
    rows: list[str] = []
    for part in dict.fromkeys(part for part, _ in results):
        found = {who: runs for (one, who), runs in results.items() if one == part and runs}
        names = list(next(iter(found.values()))[0]) if found else []
        cells = [["", *names], *([who, *(_cell(runs, name) for name in names)] for who, runs in found.items())]
        rows += ["", f"{part} ({max((len(runs) for runs in found.values()), default=0)} runs each)", *_align(cells)]
    return "\n".join([*rows, ""])


def _cell(runs: list[dict[str, float]], name: str) -> str:
    values = [run[name] for run in runs]
    text = _short(middle(runs, name))
    return text if len(values) == 1 or name in _COUNTS else f"{text} [{_short(min(values))}-{_short(max(values))}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _align(cells: list[list[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
