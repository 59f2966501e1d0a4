"""What does a message cost from MQTT to Kafka, how fast is it there, and what does a kill -9 lose: ours and others, in one run.

All candidates take turns, round by round, through the same mosquitto (fresh for each run, same settings) into the same Kafka.

saturated  jobs raw and covey: the broker's queue is filled while the candidate is stopped, then it drains alone. CPU-seconds
           per 100,000 messages over all its threads and children, until everything is in Kafka and acknowledged
latency    at 1,000/s and 5,000/s from publishing to a Kafka consumer's receipt; CPU meanwhile
kill       kill -9 at random moments under 5,000/s and started again at once: lost, double, out of order

What it does not show: brokers on machines of their own; a network that costs anything; compression; hours of load. On a small
machine wall rates are shared between candidate, mosquitto and Kafka; CPU-seconds are the figure to trust.

    .venv/bin/python benchmarks/bench_gateway.py --rounds 3
    .venv/bin/python benchmarks/bench_gateway.py --only covey --candidates ours,stock-paho --quick --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")])

from gateway_candidates import ALL, Candidate  # noqa: E402  # after the path of the tests' servers
from gateway_jobs import COVEY, JOBS, RAW, Job  # noqa: E402
from gateway_kafka import start_kafka  # noqa: E402
from gateway_rig import MOSQUITTO, Rig, RunError  # noqa: E402
from gateway_table import figures, table  # noqa: E402

from covey.errors import ProcessError  # noqa: E402

if TYPE_CHECKING:
    from servers import Kafka

PARTS = ("raw", "covey", "latency", "kill")
RATES_S = (1_000, 5_000)
_SEED = 20_261_123
_OWN_LOAD = 4.0  # candidate, mosquitto, Kafka and generator, at most


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    messages: int  # of a saturated run
    warm_up: int
    devices: int
    latency_s: float
    kill_s: float
    kills: int
    kafka_warm_up: int


FULL = Size(3, 200_000, 30_000, 10_000, 20.0, 20.0, 3, 200_000)
QUICK = Size(1, 40_000, 15_000, 10_000, 6.0, 6.0, 1, 60_000)

Results = dict[tuple[str, str], list[dict[str, float]]]  # (part, candidate) -> runs


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """Runs, round by round."""

    def __init__(self, place: Path, kafka: Kafka, size: Size) -> None:
        self._place = place
        self._kafka = kafka
        self._size = size
        self._number = 0
        self.results: Results = defaultdict(list)
        self.failed: dict[str, str] = {}

    def once(self, part: str, candidate: Candidate, job: Job, rate_s: int = 0) -> None:
        """One run; what a candidate cannot do is told, not raised."""
        size = self._size
        self._number += 1
        place = self._place / f"run{self._number}"
        try:
            with Rig(place, self._kafka, candidate, job, size.devices) as rig:
                rig.warm_up(size.warm_up)
                if part.startswith("latency"):
                    told = rig.paced(rate_s, size.latency_s)
                elif part == "kill":
                    dice = random.Random(_SEED + len(self.results[part, candidate.name]))
                    moments = sorted(dice.uniform(1.0, size.kill_s - 1.0) for _ in range(size.kills))
                    told = rig.killed(rate_s, size.kill_s, moments)
                else:
                    told = rig.saturated(size.messages)
        except (RunError, ProcessError, subprocess.SubprocessError, OSError, TimeoutError) as error:
            self.failed[f"{part}, {candidate.name}"] = " ".join(str(error).split())[:300]
            say(f"  {part:<13} {candidate.name:<11} FAILED: {error}")
            return
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self.results[part, candidate.name].append(told)
        say(f"  {part:<13} {candidate.name:<11} " + ", ".join(f"{k} {v:.4g}" for k, v in told.items()))


def runs(parts: list[str], paced_job: Job) -> list[tuple[str, Job, int]]:
    """(part, job, rate) of each run of a round."""
    out: list[tuple[str, Job, int]] = [(name, JOBS[name], 0) for name in ("raw", "covey") if name in parts]
    if "latency" in parts:
        out += [(f"latency-{rate}", paced_job, rate) for rate in RATES_S]
    if "kill" in parts:
        out.append(("kill", paced_job, RATES_S[-1]))
    return out


def measure(names: list[str], parts: list[str], size: Size, paced_job: Job) -> tuple[Results, dict[str, str]]:
    """All runs; and what is not there or failed, with why."""
    plan = runs(parts, paced_job)
    absent: dict[str, str] = {}
    for name in names:
        for job in dict.fromkeys(job for _, job, _ in plan):
            if why := ALL[name].absent(job):
                absent[f"{job.name}, {name}"] = why
                say(f"  not there: {name} ({job.name}): {why}")
    with (
        tempfile.TemporaryDirectory(prefix="covey-bench-") as folder,
        contextlib.contextmanager(start_kafka)(Path(folder), [RAW, COVEY], size.kafka_warm_up) as kafka,
    ):
        bench = Bench(Path(folder), kafka, size)
        for number in range(size.rounds):
            say(f"round {number + 1} of {size.rounds}")
            turn = names[number % len(names) :] + names[: number % len(names)]  # nobody is always first
            for part, job, rate in plan:
                for name in turn:
                    if f"{job.name}, {name}" not in absent:
                        bench.once(part, ALL[name], job, rate)
        return bench.results, absent | bench.failed


def machine() -> dict[str, str]:
    """What the figures belong to."""
    model = next(
        (row.split(":")[1].strip() for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row), ""
    )
    mosquitto = subprocess.run(
        [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-h"], capture_output=True, text=True, check=False
    ).stdout.split("\n", 1)[0]
    jar = next((ROOT / ".servers" / "kafka" / "libs").glob("kafka_*.jar"), Path("?"))
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {model}",
        "python": platform.python_version(),
        "covey": version("covey"),
        "mosquitto": mosquitto.removeprefix("mosquitto version "),
        "mosquitto settings": "; ".join(MOSQUITTO.strip().splitlines()),
        "kafka": f"{jar.stem}, one KRaft node, 6 partitions, acks=all, no compression",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--candidates", default=",".join(ALL), help=f"of {', '.join(ALL)}")
    parser.add_argument("--paced-job", choices=sorted(JOBS), default="raw", help="of latency and kill")
    parser.add_argument(
        "--quick", action="store_true", help="one round, few messages: to see that it works, not to quote"
    )
    for name, kind in (("rounds", int), ("messages", int), ("warm-up", int), ("devices", int), ("kafka-warm-up", int)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--latency-s", type=float)
    parser.add_argument("--kill-s", type=float)
    parser.add_argument("--kills", type=int, help="of one run")
    parser.add_argument("--build", action="store_true", help="fetch and build the candidates first; minutes, for Go")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.candidates.split(",") if name]
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"--candidates: of {', '.join(ALL)} expected, {', '.join(unknown)} given")
    given = {field: getattr(options, field) for field in Size._fields if getattr(options, field, None) is not None}
    size = (QUICK if options.quick else FULL)._replace(**given)
    load = os.getloadavg()[0]
    for name in names if options.build else ():
        say(f"building {name}: {ALL[name].build() or 'there'}")
    results, missing = measure(names, options.only or list(PARTS), size, JOBS[options.paced_job])
    found = figures(results)
    if max(load, os.getloadavg()[0] - _OWN_LOAD) > 1.0:
        say(
            f"others used this machine ({load:.1f} before, {os.getloadavg()[0]:.1f} after): do not quote latencies and wall rates"
        )
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in machine().items():
        print(f"{name:<19} {value}")
    for name in names:
        if any(who == name for _, who in results):
            print(f"{name:<19} {ALL[name].about}; {ALL[name].version()}".rstrip("; "))
    print(table(results))
    for name, row in found.items():
        if row["goal"] is not None:
            print(
                f"{name:<38} {row['value']:>12,.2f} {row['unit']:<46} goal {row['goal']:>9,g}  {'met' if row['met'] else 'MISSED'}"
            )
    for what, why in missing.items():
        print(f"not measured: {what}: {why}")


if __name__ == "__main__":
    main()
