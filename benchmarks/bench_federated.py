"""What does learning together bring and cost: quality, drift, hostile clients, traffic, and the engines' speed.

quality     detection on the public sets, and int8 beside fp32 (federated_quality.py)
drift       thresholds on shifted copies of the sets (federated_drift.py)
hostile     held-out loss with 4 of 20 clients hostile (federated_hostile.py)
traffic     bytes of a whole training against the raw data's (federated_traffic.py)
simulation  1,000 clients against Flower's own simulation, 10,000 in memory (federated_simulation.py)
flower      a SuperLink with three SuperNodes through failures (federated_flower.py)

Each part is a module beside this one whose `figures` takes what it needs of data and seeds; one that is not here, or cannot run here, is said in a line.

    .venv/bin/python benchmarks/bench_federated.py --only quality --json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from covey.errors import CoveyError  # noqa: E402  # needs the path above

PARTS = ("quality", "drift", "hostile", "traffic", "simulation", "flower")


def figures_of(part: str, data: Path, seeds: int) -> dict[str, dict[str, Any]]:
    """A part's figures; none, and a line on stderr, when it is not here or needs what is not here."""
    module = f"federated_{part}"
    if importlib.util.find_spec(module) is None:
        print(f"{part}: benchmarks/{module}.py is not here: left out", file=sys.stderr)
        return {}
    try:
        figures = importlib.import_module(module).figures
        asked = inspect.signature(figures).parameters
        told = {name: value for name, value in {"data": data, "seeds": seeds}.items() if name in asked}
        found: dict[str, dict[str, Any]] = figures(**told)
    except CoveyError as error:
        print(f"{part}: {error}", file=sys.stderr)
        return {}
    return found


def _shown(value: object) -> str:
    """A figure, or words where there is none to count."""
    return f"{value:,.4f}" if isinstance(value, (int, float)) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public sets")
    parser.add_argument("--seeds", type=int, default=5, help="of the hostile part: the worst is judged")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for part in options.only or PARTS:
        figures |= figures_of(part, options.data, options.seeds)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, covey {version('covey')}")
    for name, row in figures.items():
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        goal = "" if row["goal"] is None else f"goal {_shown(row['goal'])}"
        value = "none" if row["value"] is None else _shown(row["value"])
        print(f"{name:<64} {value:>12} {row['unit']:<24} {goal:<10} {verdict}")


if __name__ == "__main__":
    main()
