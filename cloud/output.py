"""How the cloud's commands print: aligned tables or JSON on stdout. Knows no store."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def print_json(value: object) -> None:
    """One JSON document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as what is in them; plain text, so that it can be cut and searched."""
    texts = [[text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]
    for line in [list(columns), *texts]:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def print_pairs(pairs: Mapping[str, Any], indent: str = "") -> None:
    """A name and its value per line; mappings are indented below their name."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if isinstance(value, dict):
            sys.stdout.write(f"{indent}{name}\n")
            print_pairs(value, indent + "  ")
        else:
            sys.stdout.write(f"{indent}{name.ljust(width)}  {text(value)}".rstrip() + "\n")


def text(value: object) -> str:
    """A cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3f}"
    return str(value)


def ago(time_s: float | None) -> str:
    """How long ago, in one unit."""
    if time_s is None:
        return "never"
    seconds = max(0.0, time.time() - time_s)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def clock(time_s: float | None) -> str:
    """UTC to the second."""
    return "-" if time_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_s))


def short(digest: str) -> str:
    """A digest as people compare it."""
    return digest[:12]
