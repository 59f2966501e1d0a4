"""Engine `flower` with three real SuperNodes over TLS: five rounds, and again with harm done to every part of it.

Three runs on one SuperLink and one database: undisturbed; the SuperLink killed in the third round, started again, the run
resumed; a straggler in the second round and a node killed in the fourth. Figures: whether each ends as it should, how far
the resumed run's state is from the undisturbed one's, seconds a round.

Run alone: `python benchmarks/federated_flower.py --json` (6 to 12 minutes; needs about 1.5 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from federated.checkpoint import Checkpoints
from federated.events import read
from flower_rigs import COMMAND, SuperLinkRig, make_device
from processes import Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


ROUNDS = 5
TIMEOUT_S = 60.0  # of a message round: a busy machine of two cores needs up to 30 s
PLAN = ["--family", "dense-ae", "--window", "4", "--rounds", str(ROUNDS), "--min-clients", "2", "--seed", "3"]
RUN_S = 1200.0


class Bench:
    """The processes of one benchmark; ended by their ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices = [make_device(folder, number) for number in range(3)]
        self.rig = SuperLinkRig(folder / "superlink")
        self.joined: dict[str, Process] = {}

    def join(self) -> None:
        """Every device that is not there."""
        for device in self.devices:
            if device.name not in self.joined or not self.joined[device.name].alive:
                self.joined[device.name] = self.rig.join(device)

    def train(self, name: str, timeout_s: float, *more: str) -> Process:
        """A run."""
        words = [*COMMAND, "train", "--engine", "flower", "--superlink", str(self.rig.folder), *PLAN]
        words += ["--timeout-s", str(timeout_s), "--checkpoint", str(self.folder / name)]
        words += ["--out", str(self.folder / f"{name}.zip"), *more]
        return Process(f"train {name}", words, self.folder / f"{name}.log").start()

    def until(self, name: str, kind: str, number: int, process: Process) -> None:
        """Wait for a line of a run."""
        path = self.folder / name / "events.jsonl"

        def there() -> bool:
            if not process.alive:
                raise AssertionError(process.tail())
            return path.exists() and any(one.kind == kind and one.round == number for one in read(path))

        wait_for(there, RUN_S, f"{name}: {kind} {number}")

    def launcher(self, name: str) -> psutil.Process:
        """What starts a device's ClientApps, once it is there."""

        def there() -> psutil.Process | None:
            children = psutil.Process(self.joined[name].pid).children()
            return next((one for one in children if any("flower-superexec" in word for word in one.cmdline())), None)

        found = wait_for(there, RUN_S, f"the launcher of {name}")
        assert found is not None
        return found

    def leave(self, timeout_s: float = 120.0) -> dict[str, int]:
        """Exit codes of the devices that are still there, once they have left by themselves."""
        return {name: one.wait(timeout_s) for name, one in self.joined.items() if one.alive or one.wait(0.1) == 0}

    def stop(self) -> None:
        """End what is left."""
        for one in self.joined.values():
            one.stop()
        self.rig.stop()


def figures() -> dict[str, dict[str, Any]]:
    """{figure: {value, unit, goal, met}}."""
    with tempfile.TemporaryDirectory(prefix="covey-flower-") as name:
        bench = Bench(Path(name))
        try:
            return _measure(bench)
        finally:
            bench.stop()


def _measure(bench: Bench) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def tell(figure: str, value: object, unit: str, goal: object, met: bool) -> None:
        found[figure] = {"value": value, "unit": unit, "goal": goal, "met": met}
        print(f"{time.strftime('%H:%M:%S')} {figure}: {value} {unit} ({'met' if met else 'missed'})", file=sys.stderr)

    bench.rig.start()
    bench.rig.register(bench.devices)
    # 1: undisturbed
    bench.join()
    code = bench.train("whole", TIMEOUT_S).wait(RUN_S)
    rounds = Checkpoints(bench.folder / "whole").rounds()
    tell("flower_rounds", len(rounds), "rounds", ROUNDS, code == 0 and [one.clients for one in rounds] == [3] * ROUNDS)
    tell("flower_round_s", round(float(np.median([one.seconds for one in rounds])), 2), "s", None, True)
    tell("flower_resident_mb", _resident_mb(bench), "MB on the server", None, True)
    left = bench.leave()
    tell("flower_nodes_left_after_run", sum(code == 0 for code in left.values()), "nodes", 3, len(left) == 3)
    # 2: the SuperLink is killed in round 3, started again, and the run goes on
    bench.join()
    process = bench.train("restarted", TIMEOUT_S)
    bench.until("restarted", "asked", 3, process)
    bench.rig.kill()
    bench.rig.start()
    code = process.wait(RUN_S)
    said = process.tail(1)
    tell("flower_superlink_killed_run_fails_in_words", said, "", "exit 1", code == 1 and "--resume" in said)
    bench.leave()
    bench.join()
    code = bench.train("restarted", TIMEOUT_S, "--resume").wait(RUN_S)
    gap = _gap(bench.folder / "whole", bench.folder / "restarted")
    tell("flower_resumed_state_difference", gap, "largest", 0.0, code == 0 and gap == 0.0)
    bench.leave()
    _harm(bench, tell)
    # 4: a key that nobody registered
    stranger = make_device(bench.folder, 9)
    refused = bench.rig.join(stranger)
    code, said = refused.wait(120), refused.tail(1)
    tell("flower_unregistered_key_refused", said[-80:], "", "exit 1", code == 1 and "is not registered there" in said)
    return found


def _harm(bench: Bench, tell: Callable[[str, object, str, object, bool], None]) -> None:
    """Third run: a straggler in round 2, a node killed in round 4."""
    bench.join()
    process = bench.train("harmed", TIMEOUT_S)
    slow = bench.launcher("d1")  # the node itself stays in touch, as one that works too long does
    bench.until("harmed", "round", 1, process)
    slow.suspend()
    bench.until("harmed", "round", 2, process)
    slow.resume()
    bench.until("harmed", "asked", 4, process)
    children = psutil.Process(bench.joined["d2"].pid).children(recursive=True)
    bench.joined["d2"].kill9()
    code = process.wait(RUN_S)
    lines = read(bench.folder / "harmed" / "events.jsonl")
    left_out = sorted({(one.round, one.device) for one in lines if one.kind in ("missing", "refused")})
    back = sorted({one.round for one in lines if one.kind == "answered" and one.device == "d1"} - {0})
    rounds = Checkpoints(bench.folder / "harmed").rounds()
    met = [number for number, device in left_out if device == "d1"] == [2]
    tell("flower_straggler_left_out_of_rounds", left_out, "", "d1 of 2 only", met)
    tell("flower_straggler_answered_rounds", back, "", [1, 3, 4, 5], back == [1, 3, 4, 5])
    tell("flower_rounds_with_harm", len(rounds), "rounds", ROUNDS, code == 0 and len(rounds) == ROUNDS)
    tell("flower_killed_node_named", (4, "d2") in left_out, "", True, (4, "d2") in left_out)
    _, alive = psutil.wait_procs(children, timeout=15)
    tell("flower_orphans_of_killed_node", len(alive), "processes", 0, not alive)


def _resident_mb(bench: Bench) -> int:
    """SuperLink and what it started."""
    process = bench.rig.process
    assert process is not None
    whole = psutil.Process(process.pid)
    return round(sum(one.memory_info().rss for one in [whole, *whole.children(recursive=True)]) / 2**20)


def _gap(one: Path, other: Path) -> float:
    """Largest difference between the last states of two runs; inf where they are of another form."""
    states = [Checkpoints(folder)._load(ROUNDS)[0] for folder in (one, other)]  # noqa: SLF001  # no other way in
    for state in states:
        state.pop("run", None)  # a token that is drawn anew for each run
    if states[0].keys() != states[1].keys():
        return float("inf")
    if all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0]):
        return 0.0
    return max(float(np.abs(states[0][name].astype(float) - states[1][name].astype(float)).max()) for name in states[0])


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 when one was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    told = parser.parse_args(words)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found = figures()
    if told.json:
        print(json.dumps(found, indent=1, default=str))
    return 0 if all(one["met"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
