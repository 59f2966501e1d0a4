"""How much faster than Flower's own simulation is engine `simulation`, and how much memory do 10,000 devices take?

round      1,000 clients x 1 round of the same ClientApp on the same files and the same model (dense-ae, 80 features, 6,300
           weights, the plan's defaults): Flower's simulation (Ray, one client a core at a time) and ours, by turns in one
           run, each in a process of its own. Timed from the question to the last answer: neither's start counts, which
           favours Ray (it takes another 5 s). CPU-seconds are of all processes. On a busy machine both suffer.
many       10,000 clients, the same round, then the mean of their updates: peak resident memory, ours and the learners' added up

Ray is installed into an environment of its own (.covey/bench-ray, 500 MB) the first time. Where that fails the figures
of `round` are not there, and why is said on stderr.

What it does not show: GPUs; models of a million weights, where both wait for BLAS; the evaluation of a whole run, in neither part.

    .venv/bin/python benchmarks/federated_simulation.py
    .venv/bin/python benchmarks/federated_simulation.py --only many --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("round", "many")
CLIENTS, MANY = 1000, 10_000
CHANNELS, WINDOW = 8, 10
ROWS = (110, 210)  # of a device: 100 to 200 windows
RAY_ENV = ROOT / ".covey" / "bench-ray"
INSTALL_S, CHILD_S = 900.0, 1800.0
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # matrices are small; Ray's actors and our threads share the cores as it is
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
Figures = dict[str, dict[str, Any]]


def figure(value: float, unit: str, goal: float | None = None, *, at_most: bool = True) -> dict[str, Any]:
    met = None if goal is None else (value <= goal if at_most else value >= goal)
    return {"value": round(value, 4), "unit": unit, "goal": goal, "met": met}


def write_devices(folder: Path, count: int) -> None:
    """One NPZ a device: correlated noise around a slow swing, each with its own number of rows."""
    mix = np.random.default_rng(0).standard_normal(CHANNELS) * 2
    for number in range(count):
        rng = np.random.default_rng(number)
        rows = ROWS[0] + 37 * number % (ROWS[1] - ROWS[0])
        common = np.convolve(rng.standard_normal(rows + 8), np.ones(8) / 8, "valid")[:rows]
        samples = common[:, None] * mix + 0.2 * rng.standard_normal((rows, CHANNELS)) + np.arange(CHANNELS)
        np.savez(folder / f"d{number:05d}.npz", train=samples.astype(np.float32))


def devices_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.npz"))


def play(grid: Any, count: int) -> dict[str, float]:
    """One round, asked as the ServerApp asks; in the child."""
    from covey.bundle import Features, Inputs
    from federated.config import Plan, write_struct
    from federated.families import family_of
    from federated.strategy import Crew

    plan = Plan("dense-ae", window=WINDOW, timeout_s=CHILD_S, min_clients=count)
    inputs = Inputs([str(number) for number in range(CHANNELS)], 1.0, WINDOW, 1, Features("lag"))
    family = family_of("dense-ae")
    state = family.down(family.begin(plan, CHANNELS * WINDOW))
    while len(list(grid.get_node_ids())) < count:
        time.sleep(0.05)
    config = {"plan": write_struct(plan), "inputs": write_struct(inputs), "round": 1}
    begun = time.monotonic()
    answers = Crew(grid, plan, str).ask("round 1", "train", state, config, lambda told: None if told else "empty")
    took_s = time.monotonic() - begun
    mean = {name: np.zeros(values.shape) for name, values in state.items()}
    for update in answers.arrays.values():
        for name in mean.keys() & update.keys():
            mean[name] += update[name].astype(np.float64) / count
    norm = float(np.sqrt(sum(np.square(values).sum() for values in mean.values())))
    return {"round_s": took_s, "clients": len(answers.arrays), "norm": norm}


def ours(folder: Path) -> dict[str, float]:
    """In a child: engine `simulation`."""
    from flwr.supercore.task_identity import TaskIdentity

    from federated.engines.home import RUN_ID
    from federated.engines.learners import simulation

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1  # as run_server does
    files = devices_in(folder)
    with ExitStack() as stack:
        grid = simulation({path: {"files": json.dumps([path])} for path in files}, threading.Event(), None, stack)
        found = play(grid, len(files))
    learners = len(getattr(grid, "processes", ()))
    largest_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if learners else 0  # of one of them
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + learners * largest_kb
    return {**found, "peak_mb": peak_kb / 1024}


def ray(folder: Path) -> dict[str, float]:
    """In a child of Ray's environment: Flower's simulation of the same ClientApp, a partition is a device's file."""
    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    files = devices_in(folder)
    client, server = ClientApp(), ServerApp()
    found: dict[str, float] = {}

    @client.train()
    def learn(message: Any, context: Context) -> Any:
        from federated.client_app import app

        node = {"files": json.dumps([files[int(context.node_config["partition-id"])]])}
        return app(message, Context(context.run_id, context.node_id, node, context.state, {}))

    @server.main()
    def main(grid: Any, _: Context) -> None:
        found.update(play(grid, len(files)))

    run_simulation(server, client, num_supernodes=len(files), backend_config={"client_resources": {"num_cpus": 1}})
    return found


class RunError(Exception):
    """A measurement did not come to its end."""


class Tree(threading.Thread):
    """CPU-seconds of a process and all that it started, the ended ones as last seen; looked at four times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._seen: dict[int, float] = {}
        self.alive: set[int] = set()  # as last seen
        self.over = threading.Event()

    def run(self) -> None:
        """Look until it is over."""
        known = {self._pid}
        while not self.over.wait(0.25):
            parents = {}
            for one in Path("/proc").glob("[0-9]*/stat"):
                try:
                    told = one.read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                pid = int(one.parent.name)
                parents[pid] = (int(told[1]), (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK"))
            grown = True
            while grown:  # what was once in the tree stays in it: Ray's workers change their parent
                more = {pid for pid, (parent, _) in parents.items() if parent in known} - known
                known |= more
                grown = bool(more)
            self.alive = known & parents.keys()
            for pid in self.alive:
                self._seen[pid] = max(self._seen.get(pid, 0.0), parents[pid][1])

    @property
    def cpu_s(self) -> float:
        """So far."""
        return sum(self._seen.values())


def child(python: Path, who: str, folder: Path) -> dict[str, float]:
    """One measurement in a process of its own, with the CPU-seconds of everything that it started."""
    command = [str(python), str(Path(__file__).resolve()), "--child", who, str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}, text=True
    )
    tree = Tree(process.pid)
    tree.start()
    try:
        out, err = process.communicate(timeout=CHILD_S)
    except subprocess.TimeoutExpired:  # Ray waits for ever once its raylet has died, as it did on a machine under load
        raise RunError(f"{who}: no end after {CHILD_S:g} s") from None
    finally:
        tree.over.set()
        tree.join()
        for pid in tree.alive - {os.getpid()}:  # Ray's daemons outlive a driver that is killed
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise RunError(f"{who}: {err.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    return {**found, "cpu_s": tree.cpu_s}


def ray_python() -> Path | str:
    """The Python of an environment with Flower's simulation in it, made when it is not there; or why it cannot be."""
    python = RAY_ENV / "bin" / "python"
    works = [str(python), "-c", "import ray, flwr.simulation, federated.client_app"]
    if python.exists() and subprocess.run(works, capture_output=True, check=False).returncode == 0:
        return python
    wanted = [f"flwr[simulation]=={version('flwr')}", "-e", f"{ROOT}[federated]"]
    options = ["-q", "-c", str(ROOT / "constraints.txt"), "--only-binary", ":all:"]
    uv = Path(sys.executable).with_name("uv")
    install = [str(python), "-m", "pip", "install"]
    if uv.exists():
        install = [str(uv), "pip", "install", "--python", str(python)]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(RAY_ENV)], check=True, capture_output=True)
        subprocess.run([*install, *options, *wanted], check=True, capture_output=True, timeout=INSTALL_S)
        subprocess.run(works, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:][0] or "installation failed"
    except (OSError, subprocess.TimeoutExpired, IndexError) as error:
        return str(error) or "installation failed"
    return python


def one_round(folder: Path, clients: int, turns: int) -> Figures:
    python = ray_python()
    if isinstance(python, str):
        print(f"round: skipped, Ray cannot be installed here: {python}", file=sys.stderr)
        return {}
    write_devices(folder, clients)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "ray": []}
    for _ in range(turns):
        found["ours"].append(child(Path(sys.executable), "ours", folder))
        try:
            found["ray"].append(child(python, "ray", folder))
        except RunError as error:
            print(f"round: nothing to compare with, {error}", file=sys.stderr)
            return {}
    norms = [one["norm"] for rows in found.values() for one in rows]
    if max(norms) - min(norms) > 0.02 * max(norms):  # seeds hang on node ids, which differ
        sys.exit(f"the same mean update expected of both engines, norms {norms} came")
    middle = {
        f"{who}.{name}": statistics.median(row[name] for row in rows)
        for who, rows in found.items()
        for name in ("round_s", "cpu_s")
    }
    what = f"{clients} clients, median of {turns}"
    return {
        "round_ray_s": figure(middle["ray.round_s"], f"s, {what}"),
        "round_ours_s": figure(middle["ours.round_s"], f"s, {what}"),
        "round_faster": figure(middle["ray.round_s"] / middle["ours.round_s"], "times", 10.0, at_most=False),
        "round_ray_cpu_s": figure(middle["ray.cpu_s"], "CPU-s, start included"),
        "round_ours_cpu_s": figure(middle["ours.cpu_s"], "CPU-s, start included"),
        "round_ours_peak_mb": figure(max(row["peak_mb"] for row in found["ours"]), "MB resident"),
    }


def many_clients(folder: Path, clients: int) -> Figures:
    write_devices(folder, clients)
    found = child(Path(sys.executable), "ours", folder)
    return {
        "many_peak_mb": figure(found["peak_mb"], f"MB resident, {found['clients']:.0f} clients", 2048.0),
        "many_round_s": figure(found["round_s"], "s"),
        "many_cpu_s": figure(found["cpu_s"], "CPU-s"),
    }


def figures(parts: tuple[str, ...] = PARTS, clients: int = CLIENTS, many: int = MANY, turns: int = 1) -> Figures:
    """All figures by name: value, unit, goal, and whether it is met."""
    out: Figures = {}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="covey-bench-") as place:
            out |= one_round(Path(place), clients, turns) if part == "round" else many_clients(Path(place), many)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, place = options.child
        print(json.dumps((ours if who == "ours" else ray)(Path(place))))
        return
    found = figures(tuple(options.only or PARTS), options.clients, options.many, options.turns)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, covey {version('covey')}")
    for name, row in found.items():
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}"
        print(f"{name:<24} {row['value']:>12,.2f} {row['unit']:<32} {goal:<10} {verdict}")


if __name__ == "__main__":
    main()
