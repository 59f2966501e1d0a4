"""`make chaos`: loads x faults, and trials of their own, against the whole stack; the verdict of what became of every event.

    python -m chaos.run [--loads agents,smoke] [--faults 'kill-*'] [--million] [--seed N] [--kills 100] [--json] [--keep]

Combinations that need the same layout share a stack, each with a load and a ledger of its own; after one that went wrong
the stack is made anew and its folder is kept. A trial (chaos.trials) has a stack to itself. Progress on stderr; the table,
or one JSON object, on stdout. Exit 0: every verdict good; 1: one was not, or a fault did not bite; 2: used wrongly. What
cannot be had here is skipped by name.
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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chaos import net
from chaos.faults import Fault, faults
from chaos.loads import Agents, Fleet, warm
from chaos.outcome import COUNTS, Outcome, line, table, troubles
from chaos.rig import Rig, clock_missing
from chaos.trials import Trial, trials

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.loads import Load

AGENTS = "agents"
LOADS = (AGENTS, "smoke")
DRAIN_S = 300.0
SMALL_MB = {"store": 96, "kafka": 400, "mqtt": 16, "devices": 64}


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


def tried(rig: Rig, row: Outcome, act: Callable[[], None]) -> Outcome:
    """Do it, and note in `row` how long it took, what was killed, what ended by itself, and what went wrong."""
    begun_s, kills, own = time.monotonic(), rig.kills, dict(rig.own_ends)
    try:
        act()
    except Exception as error:  # noqa: BLE001  # whatever it was, the combination failed and the next one is tried
        row.error = f"{type(error).__name__}: {error}"
    row.seconds = round(time.monotonic() - begun_s, 1)
    row.kills = rig.kills - kills
    row.own_ends = {part: n - own.get(part, 0) for part, n in rig.own_ends.items() if n > own.get(part, 0)}
    row.judge()
    return row


def combine(rig: Rig, load_name: str, fault: Fault, seed: int, name: str, bundles: Path) -> Outcome:
    """One combination on a running stack: warm up, hurt, drain, judge."""
    row = Outcome(load_name, fault.name)
    rng = random.Random(f"{seed}/{load_name}/{fault.name}/{name}")
    load: Load
    load = Agents(rig, name, seed) if load_name == AGENTS else Fleet(rig, name, seed, load_name, bundles)

    def act() -> None:
        warm(rig, load)
        for _ in range(fault.times):
            row.bites.append(fault.inflict(rig, load, rng))
            rig.pause_for(rng.uniform(0.2, 2.0))
        load.finish(DRAIN_S)
        row.verdict = load.verdict()

    return tried(rig, row, act)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for."""
    base = Path(tempfile.mkdtemp(prefix="covey-chaos-", dir=options.folder))
    rows: list[Outcome] = []
    skipped: dict[str, str] = {}
    groups: dict[str, list[tuple[str, Fault]]] = {}
    for fault in faults():
        if not wanted(fault.name, options):
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
            tidy(folder, done, options)
    for trial in trials(options):
        if trial.long or wanted(trial.name, options):
            folder = base / trial.name
            rows.append(one_trial(folder, trial, options))
            tidy(folder, rows[-1:], options)
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


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Whether a fault or a trial was asked for by name."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in options.faults)


def tidy(folder: Path, rows: list[Outcome], options: argparse.Namespace) -> None:
    """Remove a stack's folder unless something went wrong on it."""
    if all(row.good for row in rows) and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)


def loads_of(fault: Fault, options: argparse.Namespace) -> list[str]:
    """Kills and pauses meet every load; what is done to a wire, a disk or a clock meets one, in turn."""
    if options.every or not fault.needs:
        return list(options.loads)
    return [options.loads[sum(fault.name.encode()) % len(options.loads)]]


def stack(
    folder: Path, how: dict[str, Any], plan: list[tuple[str, Fault]], options: argparse.Namespace, bundles: Path, n: int
) -> list[Outcome]:
    """Combinations on one stack, up to the first that went wrong."""
    rows: list[Outcome] = []
    try:
        with Rig(folder, **how) as rig:
            for number, (load, fault) in enumerate(plan, start=n):
                rows.append(combine(rig, load, fault, options.seed, f"c{number}", bundles))
                tell(rows[-1], folder)
                if not rows[-1].good:
                    break
    except Exception as error:  # noqa: BLE001  # a stack that cannot be started, or not ended, is a bad verdict
        load, fault = plan[min(len(rows), len(plan) - 1)]
        rows.append(Outcome(load, fault.name, error=f"{type(error).__name__}: {error}"))
        tell(rows[-1], folder)
    return rows


def one_trial(folder: Path, trial: Trial, options: argparse.Namespace) -> Outcome:
    """A trial on a stack of its own."""
    row = Outcome(trial.load, trial.name)
    try:
        with Rig(folder, **trial.layout) as rig:
            tried(rig, row, lambda: trial.run(rig, row, options.seed, say))
    except Exception as error:  # noqa: BLE001  # a stack that cannot be started, or not ended, is a bad verdict
        row.good, row.error = False, f"{type(error).__name__}: {error}"
    tell(row, folder)
    return row


def tell(row: Outcome, folder: Path) -> None:
    """Say how it went; a bad one names its folder and its reasons."""
    say(line(row))
    if not row.good:
        row.folder = str(folder)
        for text in (f"kept: {folder}", *troubles(row)):
            say(f"     {text}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--loads", default=",".join(LOADS), help=f"{AGENTS}, or scenarios of `covey sim scenarios`")
    parser.add_argument("--faults", default="*", help="patterns of faults and trials, after commas: 'kill-*,cut-*'")
    parser.add_argument("--every", action="store_true", help="every fault with every load; hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="go on with kill-any until there were so many kills")
    count = {"type": int, "nargs": "?", "const": 1_000_000, "default": 0, "metavar": "MESSAGES"}
    parser.add_argument("--million", help="the long run: so many messages (1,000,000) under kills", **count)  # type: ignore[arg-type]  # argparse takes it
    parser.add_argument("--million-kills", type=int, default=110, help="kills in the long run")
    parser.add_argument("--million-minutes", type=float, default=240.0, help="judge what there is after so long")
    parser.add_argument("--outage-s", type=float, default=45.0, help="how long Kafka is down in the trial `outage`")
    parser.add_argument("--bad", type=int, default=10_000, help="messages of the trial `bad-messages`")
    parser.add_argument("--clients", type=int, default=10_000, help="clients of the trial `crowd`")
    parser.add_argument("--folder", default=None, help="where the stacks' folders are made")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good combinations too")
    parser.add_argument("--list", action="store_true", help="print the faults and exit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.loads = options.loads.split(",")
    options.faults = options.faults.split(",")
    names = {fault.name: missing(fault) for fault in faults()} | {trial.name: "" for trial in trials(options)}
    if options.list:
        for name, why in names.items():
            print(f"{name:<22} {why or 'ok'}")
        return 0
    if options.million and options.faults == ["*"]:
        options.faults = []  # the long run alone, unless more was asked for
    elif not any(wanted(name, options) for name in names):
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
