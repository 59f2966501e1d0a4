"""What is lost or repeated when every stage of the stream is killed (kill -9), many times, under load?

Apache Kafka on this machine, each stage in a process of its own, SQLite or PostgreSQL, one webhook. Counted: rows of events and
deliveries, committed messages of the enriched and routed topics, what the webhook was sent. What it does not show: a power cut
(Kafka's and SQLite's disks go on), a broker that dies, several instances of a stage.

    .venv/bin/python benchmarks/bench_stages_kill.py --kills 50 --store postgres --json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from covey import topics  # noqa: E402
from servers import Kafka, Postgres  # noqa: E402
from stages_rig import PARTITIONS, STAGES, Stages, wrong  # noqa: E402


def run(kills: int, per_s: float, seed: int, folder: Path, store: str = "sqlite") -> dict[str, float]:
    """Kill each stage so often; what became of every alarm."""
    rng, began = random.Random(seed), time.monotonic()
    with ExitStack() as stack:
        broker = stack.enter_context(Kafka(folder / "kafka"))
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        url = stack.enter_context(Postgres(folder / "postgres")).database() if store == "postgres" else ""
        with Stages(folder / "stages", broker, url) as stages:
            stages.load(per_s)
            plan = [stage for stage in STAGES for _ in range(kills)]
            rng.shuffle(plan)
            for number, stage in enumerate(plan, 1):
                stages.kill(stage, rng)
                print(f"{number}/{len(plan)} {stage}: {len(stages.produced)} alarms", file=sys.stderr, flush=True)
            verdict: dict[str, float] = dict(stages.finish(180))
    return {"kills": len(plan), "seconds": round(time.monotonic() - began, 1), **verdict}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--per-s", type=float, default=40.0, help="alarms a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="covey-stages-") as folder:
        found = run(options.kills, options.per_s, options.seed, Path(folder), options.store)
    free = {"kills", "seconds", "produced", "webhook_repeated"}
    figures = {
        name: {"value": value, "unit": "s" if name == "seconds" else "", "goal": None if name in free else 0}
        for name, value in found.items()
    }
    ok = not wrong({name: int(value) for name, value in found.items() if name not in ("kills", "seconds")})
    for figure in figures.values():
        figure["met"] = figure["goal"] is None or figure["value"] == figure["goal"]
    if options.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name:<22} {figure['value']:>10g} {figure['unit']:<3} {'' if figure['met'] else 'NOT MET'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
