"""`make chaos`: loads x faults against the whole stack, and the verdict of what became of every event.

    python -m chaos.run [--loads agents,smoke] [--faults 'kill-*'] [--seed N] [--kills 100] [--json] [--keep]

Combinations that need the same layout share a stack, each with a load and a ledger of its own; after one that went wrong
the stack is made anew and its folder is kept. Progress on stderr; the table, or one JSON object, on stdout. Exit 0: every
verdict good; 1: one was not, or a fault did not bite; 2: used wrongly. What cannot be had here is skipped by name.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chaos import net
from chaos.faults import Fault, faults
from chaos.loads import Agents, Fleet, warm
from chaos.rig import Rig, clock_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.loads import Load

AGENTS = "agents"
LOADS = (AGENTS, "smoke")
DRAIN_S = 300.0
SMALL_MB = {"store": 96, "kafka": 400, "mqtt": 16, "devices": 64}
COUNTS = ("written", "stored", "lost", "double", "conflicting", "unknown", "given_up")


@dataclass
class Row:
    """One combination."""

    load: str
    fault: str
    good: bool = False
    seconds: float = 0.0
    kills: int = 0
    bites: list[str] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    own_ends: dict[str, int] = field(default_factory=dict)
    error: str = ""
    folder: str = ""


def layout(fault: Fault) -> dict[str, Any]:
    """How the rig has to be laid out for a fault."""
    if fault.needs in ("netns", "proxy"):
        return {"wires": fault.needs}
    if fault.needs == "clock":
        return {"clocks": ("gateway", "store")}
    return {"small_mb": SMALL_MB} if fault.needs == "small" else {}


def missing(fault: Fault) -> str:
    """Why a fault cannot be had here; "" when it can."""
    if fault.needs == "netns":
        return net.missing()
    if fault.needs == "clock":
        return clock_missing()
    if fault.needs == "small" and os.geteuid() != 0:
        return "a small file system needs root"
    return ""


def combine(rig: Rig, load_name: str, fault: Fault, seed: int, name: str, bundles: Path) -> Row:
    """One combination on a running stack: warm up, hurt, drain, judge."""
    row = Row(load_name, fault.name)
    rng = random.Random(f"{seed}/{load_name}/{fault.name}/{name}")
    begun_s, kills, own = time.monotonic(), rig.kills, dict(rig.own_ends)
    load: Load
    load = Agents(rig, name, seed) if load_name == AGENTS else Fleet(rig, name, seed, load_name, bundles)
    try:
        warm(rig, load)
        for _ in range(fault.times):
            row.bites.append(fault.inflict(rig, load, rng))
            rig.pause_for(rng.uniform(0.2, 2.0))
        load.finish(DRAIN_S)
        row.verdict = load.verdict()
        row.good = bool(row.verdict.get("good"))
    except Exception as error:  # noqa: BLE001  # whatever it was, the combination failed and the next one is tried
        row.error = f"{type(error).__name__}: {error}"
    row.seconds = round(time.monotonic() - begun_s, 1)
    row.kills = rig.kills - kills
    row.own_ends = {part: n - own.get(part, 0) for part, n in rig.own_ends.items() if n > own.get(part, 0)}
    return row


def line(row: Row) -> str:
    """One line about a combination."""
    told = ", ".join(f"{name} {row.verdict[name]}" for name in COUNTS if row.verdict.get(name))
    own = "".join(f", {part} ended by itself {n} times" for part, n in row.own_ends.items())
    mark = "good" if row.good else "BAD "
    return f"{mark} {row.load:<14} {row.fault:<20} {row.seconds:>6.1f} s  {row.kills:>3} kills  {told}{own}"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for."""
    base = Path(tempfile.mkdtemp(prefix="covey-chaos-", dir=options.folder))
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    groups: dict[str, list[tuple[str, Fault]]] = {}
    for fault in faults():
        if not any(fnmatch.fnmatch(fault.name, pattern) for pattern in options.faults):
            continue
        why = missing(fault)
        if why:
            skipped[fault.name] = why
            say(f"skip {fault.name}: {why}")
            continue
        for load in loads_of(fault, options):
            groups.setdefault(json.dumps(layout(fault)), []).append((load, fault))
    stacks = 0
    for key, todo in groups.items():
        plan = list(todo)
        while plan:
            stacks += 1
            folder = base / f"stack-{stacks}"
            done = stack(folder, json.loads(key), plan, options, base / "bundles", len(rows))
            rows += done
            plan = plan[len(done) :]
            if all(row.good for row in done) and not options.keep:
                shutil.rmtree(folder, ignore_errors=True)
    kills = sum(row.kills for row in rows)
    more = 0
    kill_any = next(fault for fault in faults() if fault.name == "kill-any")
    while kills < options.kills and all(row.good for row in rows):
        more += 1
        plan = [(options.loads[more % len(options.loads)], kill_any)]
        done = stack(base / f"more-{more}", {}, plan, options, base / "bundles", len(rows))
        rows, kills = rows + done, kills + sum(row.kills for row in done)
    good = bool(rows) and all(row.good for row in rows)
    if good and not options.keep:
        shutil.rmtree(base, ignore_errors=True)
    totals = {name: sum(int(row.verdict.get(name, 0)) for row in rows) for name in COUNTS}
    return {
        "good": good,
        "seed": options.seed,
        "kills": kills,
        "totals": totals,
        "combinations": [asdict(row) for row in rows],
        "skipped": skipped,
        "folder": "" if good and not options.keep else str(base),
    }


def loads_of(fault: Fault, options: argparse.Namespace) -> list[str]:
    """Kills and pauses meet every load; what is done to a wire, a disk or a clock meets one, in turn."""
    if options.every or not fault.needs:
        return list(options.loads)
    return [options.loads[sum(fault.name.encode()) % len(options.loads)]]


def stack(
    folder: Path, how: dict[str, Any], plan: list[tuple[str, Fault]], options: argparse.Namespace, bundles: Path, n: int
) -> list[Row]:
    """Combinations on one stack, up to the first that went wrong."""
    rows: list[Row] = []
    try:
        with Rig(folder, **how) as rig:
            for number, (load, fault) in enumerate(plan, start=n):
                rows.append(combine(rig, load, fault, options.seed, f"c{number}", bundles))
                say(line(rows[-1]))
                if not rows[-1].good:
                    rows[-1].folder = str(folder)
                    say(f"     kept: {folder}")
                    for told in [rows[-1].error, *rows[-1].verdict.get("bad", [])]:
                        say(f"     {told}")
                    break
    except Exception as error:  # noqa: BLE001  # a stack that cannot be started, or not ended, is a bad verdict
        load, fault = plan[min(len(rows), len(plan) - 1)]
        rows.append(Row(load, fault.name, error=f"{type(error).__name__}: {error}", folder=str(folder)))
        say(line(rows[-1]) + f"\n     {rows[-1].error}")
    return rows


def table(result: dict[str, Any]) -> Iterator[str]:
    """The result as lines."""
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
    for name, why in result["skipped"].items():
        yield f"skipped {name}: {why}"
    if result["folder"]:
        yield f"kept in {result['folder']}"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--loads", default=",".join(LOADS), help=f"{AGENTS}, or scenarios of `covey sim scenarios`")
    parser.add_argument("--faults", default="*", help="patterns, after commas: 'kill-*,cut-*'")
    parser.add_argument("--every", action="store_true", help="every fault with every load; hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="go on with kill-any until there were so many kills")
    parser.add_argument("--folder", default=None, help="where the stacks' folders are made")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good combinations too")
    parser.add_argument("--list", action="store_true", help="print the faults and exit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.loads = options.loads.split(",")
    options.faults = options.faults.split(",")
    if options.list:
        for fault in faults():
            print(f"{fault.name:<22} {missing(fault) or 'ok'}")
        return 0
    if not any(fnmatch.fnmatch(fault.name, pattern) for pattern in options.faults for fault in faults()):
        parser.error("--faults: no such fault (--list names them)")
    _own_mounts()
    try:
        result = run(options)
    except pytest.skip.Exception as absent:  # what tests/servers.py does for a server that is not installed
        print(f"chaos: {absent}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(table(result)))
    return 0 if result["good"] else 1


def _own_mounts() -> None:
    """Go on in a mount namespace of our own, where small file systems end with us and nobody else sees them."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or os.environ.get("COVEY_CHAOS_MOUNTS"):
        return
    with contextlib.suppress(OSError):
        words = ["unshare", "--mount", sys.executable, "-m", "chaos.run", *sys.argv[1:]]
        os.execvpe("unshare", words, {**os.environ, "COVEY_CHAOS_MOUNTS": "1"})  # noqa: S606  # our own words


if __name__ == "__main__":
    sys.exit(main())
