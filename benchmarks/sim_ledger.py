"""What does the truth ledger cost a simulator of 10,000 devices, and how long does the report take?

First: 1,000 events are put, committed in groups, given out and acknowledged in every simulated second, spread over all devices, and
the CPU time of this process is taken. Making an event's bytes is not in it (they are made before), hashing them is. Then the report:
a ledger of a million events against as many export lines. What it does not show: fsync on a slow disk (it is waited for, not computed;
the wall seconds are told too), and what the sessions and the scoring beside it cost.

    .venv/bin/python benchmarks/sim_ledger.py --json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from firmware_sim.truth.facts import read_facts
from firmware_sim.truth.ledger import Device, Flight, Ledger
from firmware_sim.truth.report import compare
from firmware_sim.truth.stored import read_lines

DEVICES = 10_000
EVENTS_PER_S = 1_000
BODY = b"x" * 1_200  # about what a summary weighs
T0 = 1_800_000_000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="simulated seconds of traffic")
    parser.add_argument("--commits-per-s", type=int, default=4, help="transactions in a simulated second")
    parser.add_argument("--lines", type=int, default=1_000_000, help="export lines for the report; 0: leave it out")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = traffic(Path(folder) / "fleet.ledger", options.seconds, options.commits_per_s)
        if options.lines:
            figures |= report(Path(folder), options.lines)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, one in figures.items():
            print(f"{name:42} {one['value']:12.4g} {one['unit']:14} {one['goal']}")
    return 0 if all(one["met"] for one in figures.values()) else 1


def traffic(path: Path, seconds: int, commits_per_s: int) -> dict[str, Any]:
    """Put, commit, give out and acknowledge."""
    share, group = [], EVENTS_PER_S // commits_per_s
    with Ledger.create(path, {}) as ledger:
        ledger.register([Device(f"sim-{n:05d}", "quadrotor", "lte") for n in range(DEVICES)])
        empty = size(path)
        n, begun = 0, time.monotonic()
        for second in range(seconds):
            used = time.process_time()
            for _ in range(commits_per_s):
                sent = []
                for _ in range(group):
                    i = n * 7919 % DEVICES  # every device once in ten seconds, in no order of the file
                    ledger.put(i, "alarm" if n % 50 == 0 else "summary", T0 + second, lambda _: BODY)
                    sent.append(i)
                    n += 1
                ledger.commit()
                for i in sent:
                    (row,) = ledger.batch(i, ledger.last_seq(i) - 1, 8)
                    ledger.acknowledge(i, ledger.outbox(i), [(row.seq, row.seq)], T0 + second + 0.5)
            share.append(time.process_time() - used)
        wall_s = time.monotonic() - begun
    grown = (size(path) - empty) / n
    mean = sum(share) / len(share)
    return {
        "core_share": figure(mean, "of a core", "< 0.1", met=mean < 0.1),
        "core_share_worst_second": figure(max(share), "of a core", "", met=True),
        "wall_s_per_simulated_s": figure(wall_s / seconds, "s", "< 1", met=wall_s < seconds),
        "file_bytes_per_event": figure(grown, "B", "", met=True),
    }


def report(folder: Path, lines: int) -> dict[str, Any]:
    """A clean run of this many events, read and judged."""
    path, events = folder / "big.ledger", folder / "events.jsonl"
    flights = [Flight(T0 + 40 * n, T0 + 40 * n + 26) for n in range(25)]
    with Ledger.create(path, {"start_epoch_s": T0}) as ledger, events.open("w", encoding="ascii") as file:
        ledger.register(
            [Device(f"sim-{n:05d}", "quadrotor", ("lte", "wifi")[n % 2], 0.0, [], flights) for n in range(DEVICES)]
        )
        for n in range(lines):
            i, at_s = n * 7919 % DEVICES, T0 + n / EVENTS_PER_S
            one = ledger.put(i, "summary", at_s, lambda identity: str(identity).encode())
            if n % 10_000 == 9_999:
                ledger.commit()
            sha256 = hashlib.sha256(str(one).encode()).hexdigest()
            file.write(
                f'{{"device":"{one.device}","outbox":"{one.outbox}","seq":{one.seq},"kind":"summary",'
                f'"time":"2027-01-15T08:00:00.000Z","sha256":"{sha256}","received_s":{at_s + 0.3}}}\n'
            )
        ledger.commit()
        for i in range(DEVICES):
            ledger.acknowledge(i, ledger.outbox(i), [(1, max(1, ledger.last_seq(i)))], T0 + lines / EVENTS_PER_S)
    begun = time.monotonic()
    with events.open("rb") as source:
        found = compare(read_facts(path), read_lines(source, "events"))
    took_s = time.monotonic() - begun
    if not found.clean or found.stored != lines:
        sys.exit(f"{lines} stored and a clean verdict expected, {found.stored} and {found.problems[:3]} came")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "report_s": figure(took_s, f"s, {lines} lines", "< 60", met=took_s < 60),
        "peak_mb": figure(peak, "MB, all of this", "< 500", met=peak < 500),
    }


def figure(value: float, unit: str, goal: str, *, met: bool) -> dict[str, Any]:
    return {"value": value, "unit": unit, "goal": goal, "met": met}


def size(path: Path) -> int:
    """Bytes of the file and its log."""
    return sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists())


if __name__ == "__main__":
    sys.exit(main())
