"""How long does the whole loop take, what does an agent cost, and what does it save on the uplink?

Runs `covey demo --json` as a user would, several times, and takes medians. With `--fresh`, also set-up plus demo in a
clone of HEAD with empty caches (pip, uv, XDG). What it does not show: other hardware, a network that costs anything,
flights longer than 26 s (summaries weigh less there, so the saving grows with the time between them).

    .venv/bin/python benchmarks/bench_loop.py --runs 3 --fresh --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOAL_DEMO_S = 90.0
GOAL_FRESH_S = 360.0


def demo(words: list[str]) -> tuple[float, dict[str, Any]]:
    """(wall seconds, report) of one demo."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "covey", "demo", "--json", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"covey demo {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-2000:]}"
        )
    return time.monotonic() - begun, json.loads(done.stdout)


def fresh() -> float:
    """Wall seconds of `make demo` in a clone of HEAD with empty caches of ours."""
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "covey"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=120)
        kept = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
        caches = {n: f"{place}/{n}" for n in ("XDG_CACHE_HOME", "PIP_CACHE_DIR", "UV_CACHE_DIR")}
        begun = time.monotonic()
        subprocess.run(
            ["make", "demo"],
            cwd=clone,
            env={**kept, **caches},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=True,
            timeout=1200,
        )
        return time.monotonic() - begun


def figure(value: float, unit: str, goal: float | None = None, *, at_most: bool = True) -> dict[str, Any]:
    """One figure as every benchmark prints it."""
    met = None if goal is None else (value <= goal if at_most else value >= goal)
    return {"value": round(value, 2), "unit": unit, "goal": goal, "met": met}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flights", type=Path, help="folder of real logs, beside the simulated ones")
    parser.add_argument("--fresh", action="store_true", help="also set-up + demo in a clone with empty caches")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    runs = [demo([]) for _ in range(options.runs)]
    last = runs[-1][1]
    figures = {
        "demo_warm": figure(statistics.median(s for s, _ in runs), "s", GOAL_DEMO_S),
        "uplink_saving": figure(last["bytes"]["raw"] / last["bytes"]["uplink"], "raw bytes per byte sent"),
        "model_traffic": figure(last["bytes"]["downlink_model"] + last["bytes"]["uplink_model"], "bytes"),
    }
    runtime = {d["id"]: d["runtime"] for d in last["devices"]}
    for name in sorted(set(runtime.values())):
        own = [b for device, b in last["memory_bytes"].items() if runtime[device] == name]
        figures[f"agent_memory_{name}"] = figure(statistics.median(own) / 1e6, "MB resident")
    for phase in last["seconds"]:
        figures[f"phase_{phase.replace(' ', '_')}"] = figure(
            statistics.median(report["seconds"][phase] for _, report in runs), "s"
        )
    if options.flights:
        seconds, report = demo(["--flights", str(options.flights)])
        figures["demo_real_logs"] = figure(seconds, "s", GOAL_DEMO_S)
        figures["demo_real_logs_agents"] = figure(len(report["devices"]), "agents")
    if options.fresh:
        figures["set_up_and_demo_fresh"] = figure(fresh(), "s", GOAL_FRESH_S)

    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, covey {version('covey')}")
    for name, row in figures.items():
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}"
        print(f"{name:<28} {row['value']:>12,.2f} {row['unit']:<24} {goal:<10} {verdict}")


if __name__ == "__main__":
    main()
