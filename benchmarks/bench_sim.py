"""Does the simulated fleet do what it promises: 10,000 devices beside broker, gateway, Kafka and store on one machine?

Four questions, each runnable alone (`--only`):

physics  vehicle-steps a second of the whole flight loop, one core (benchmarks/sim_physics.py)
windows  windows a second that agents in one process cut, score and judge, one core: batches of 1,000 devices' cores; the features
         are worked out for each device, as a fleet in which nobody shares a recording would have to
fleet    the scenario ten-thousand against mosquitto, gateway, Apache Kafka and store: everything acknowledged, the ledger's
         verdict, memory and CPU of every part
kills    the ledger's verdict over many kills -9 of every part (tests/chaos)

What it does not show: other hardware; a network between the parts; brokers that are tuned or on machines of their own.

    .venv/bin/python benchmarks/bench_sim.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

GOAL_STEPS = 1_000_000
GOAL_WINDOWS = 20_000
GOAL_DEVICES = 10_000
GOAL_MEMORY_MB = 1024
GOAL_KILLS = 100
TICKS = os.sysconf("SC_CLK_TCK")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def figure(value: float, unit: str, goal: float | None = None, *, at_most: bool = False) -> dict[str, Any]:
    """One figure as every benchmark prints it."""
    met = None if goal is None else (value <= goal if at_most else value >= goal)
    return {"value": round(value, 3), "unit": unit, "goal": goal, "met": met}


def physics() -> dict[str, Any]:
    """The figures of sim_physics.py, in a process of its own with one thread."""
    command = [sys.executable, str(ROOT / "benchmarks" / "sim_physics.py"), "--json"]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True, timeout=600)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def windows(devices: int = 1000) -> dict[str, Any]:
    """Windows a second of agents in one process, on the flights of the scenario calm-day."""
    import numpy as np

    from edge.scoring.windows import plain_features
    from firmware_sim.fleets.agents import Agents
    from firmware_sim.fleets.bundles import fit_bundle
    from firmware_sim.fleets.launch import open_bundle
    from firmware_sim.fleets.recordings import calibrations, cut_pool, fly_pool
    from firmware_sim.scene.plan import plan_fleet
    from firmware_sim.scene.scenario import load_scenario

    plan = plan_fleet(load_scenario("calm-day"), devices, seed=1)
    flown = fly_pool(plan.recordings, lambda _done: None)
    with tempfile.TemporaryDirectory() as place:
        healthy = [flown[n] for numbers in plan.commission.values() for n in numbers]
        bundle = fit_bundle("quadrotor", healthy, Path(place) / "m.covey", Path(place), threading.Event())
        model = open_bundle(bundle)
    recordings = cut_pool(flown, plan.recordings, {"quadrotor": model.manifest.inputs})
    made = calibrations(recordings, plan.commission, {"quadrotor": model})
    agents = Agents(plan.devices, {"quadrotor": model}, made)
    playing = [recordings[device.stretches[0].recording] for device in plan.devices]
    for i, recording in enumerate(playing):
        agents.begin(i, recording, 0.0, 0.0)
    everyone = range(devices)
    begun = time.process_time()
    for t_s in np.arange(1.0, 27.0):
        agents.advance(everyone, float(t_s), lambda _i, t_s=t_s: 1e9 + float(t_s))
    judged_s = time.process_time() - begun
    samples = np.concatenate([one.windows(0, len(one.due_s), 0.0, 0).samples for one in playing[:200]])
    begun = time.process_time()
    for first in range(0, len(samples), 1000):
        plain_features(samples[first : first + 1000], model.manifest.inputs)
    feature_s = (time.process_time() - begun) / len(samples)
    own_s = judged_s / agents.windows + feature_s
    return {
        "agent_windows_per_s": figure(1 / own_s, "windows/s/core, features of each device", GOAL_WINDOWS),
        "agent_windows_shared_per_s": figure(agents.windows / judged_s, "windows/s/core, as a fleet shares flights"),
    }


def cpu_s(pid: int) -> float:
    """CPU-seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid: int) -> float:
    """Greatest resident memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000


def fleet(devices: int, seconds: float) -> dict[str, Any]:
    """The scenario ten-thousand against the whole stack; the verdict is the ledger's."""
    from processes import Process, free_port, wait_for
    from servers import Kafka, Mosquitto, accepts

    covey = [sys.executable, "-m", "covey"]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mosquitto = stack.enter_context(Mosquitto(place / "mosquitto"))
        kafka = stack.enter_context(Kafka(place / "kafka"))
        health = free_port()

        def part(name: str, *words: str) -> Process:
            process = Process(name, [*covey, *words], place / f"{name}.log", env=os.environ | ONE_THREAD)
            stack.callback(process.stop)
            return process.start()

        mqtt = f"127.0.0.1:{mosquitto.port}"
        gateway = part(
            "gateway", "gateway", "run", "--mqtt", mqtt, "--kafka", kafka.bootstrap, "--health-port", str(health)
        )
        wait_for(lambda: accepts(health), 60, "the gateway answers")
        store = part(
            "cloud",
            "cloud",
            "run",
            "--kafka",
            kafka.bootstrap,
            "--store",
            f"{place}/s.db",
            "--repository-dir",
            f"{place}/r",
        )
        words = [
            "sim",
            "fleet",
            "--scenario",
            "ten-thousand",
            "--devices",
            str(devices),
            "--seconds",
            str(seconds),
            "--mqtt",
            mqtt,
        ]
        sim = part("sim", *words, "--ledger", f"{place}/l", "--seed", "1", "--json", "--quiet")
        pids = {
            "mosquitto": mosquitto.process.pid,
            "kafka": kafka.process.pid,
            "gateway": gateway.pid,
            "store": store.pid,
        }
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        code = sim.wait(seconds + 300)
        used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
        memory = {name: peak_mb(pid) for name, pid in pids.items()}
        result = json.loads((place / "sim.log").read_text(encoding="utf-8").splitlines()[-1])
        events = sum(result["written"].values())

        def report() -> dict[str, Any] | None:
            """Read the store until it has what Kafka has; it may lag."""
            subprocess.run(
                [*covey, "cloud", "export", "--store", f"{place}/s.db", "--out", f"{place}/e"], check=True, timeout=300
            )
            command = [*covey, "sim", "report", "--ledger", f"{place}/l", "--events", f"{place}/e", "--json"]
            told: dict[str, Any] = json.loads(
                subprocess.run(command, capture_output=True, check=False, timeout=600).stdout
            )
            return told if told["stored"] >= result["acknowledged"] else None

        verdict = wait_for(report, 120, "the store has everything")
    delay = verdict["delivery"][0]["delay_s"]
    figures = {
        "fleet_devices": figure(result["connects"], "devices connected", GOAL_DEVICES),
        "fleet_events_per_s": figure(events / result["fleet_s"], "events/s", devices / 10),
        "fleet_unacknowledged": figure(result["unacknowledged"] + (code != 0), "events", 0, at_most=True),
        "fleet_lost": figure(verdict["lost"]["total"], "events", 0, at_most=True),
        "fleet_double": figure(verdict["duplicate"] + verdict["conflicting"], "events", 0, at_most=True),
        "fleet_delivery_p50": figure(delay["p50"], "s from device to Kafka"),
        "fleet_delivery_p99": figure(delay["p99"], "s from device to Kafka"),
        "sim_memory": figure(result["memory_bytes"] / 1e6, "MB resident at most", GOAL_MEMORY_MB, at_most=True),
        "sim_cpu": figure(result["cpu_s"] / result["seconds"], "cores, flying and fitting included"),
    }
    for name in pids:
        figures[f"{name}_cpu"] = figure(used[name] / events * 1e5, "CPU-s/100k events, connects and acks included")
        figures[f"{name}_memory"] = figure(memory[name], "MB resident at most")
    return figures


def kills(count: int) -> dict[str, Any]:
    """`make chaos` with so many kills -9 of any part, on both loads, and the verdict."""
    command = [sys.executable, "-m", "chaos.run", "--faults", "kill-any", "--kills", str(count), "--json"]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=False, timeout=7200)
    told = json.loads(done.stdout)
    totals = told["totals"]
    return {
        "kills": figure(told["kills"], "kills -9 of mosquitto, Kafka, gateway, store, devices", GOAL_KILLS),
        "kills_written": figure(totals["written"], "events meanwhile"),
        "kills_lost": figure(totals["lost"], "events", 0, at_most=True),
        "kills_double": figure(totals["double"] + totals["conflicting"], "events", 0, at_most=True),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["physics", "windows", "fleet", "kills"], action="append")
    parser.add_argument("--devices", type=int, default=GOAL_DEVICES)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the fleet's run")
    parser.add_argument("--kills", type=int, default=GOAL_KILLS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)  # before NumPy is loaded
    chosen = options.only or ["physics", "windows", "fleet", "kills"]
    figures: dict[str, Any] = {}
    for name in chosen:
        print(f"{name} ...", file=sys.stderr)
        run = {
            "physics": physics,
            "windows": windows,
            "fleet": lambda: fleet(options.devices, options.seconds),
            "kills": lambda: kills(options.kills),
        }[name]
        figures |= run()
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, covey {version('covey')}")
    for name, row in figures.items():
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        goal = "" if row["goal"] is None else f"goal {row['goal']:,g}"
        print(f"{name:<28} {row['value']:>14,.2f} {row['unit']:<56} {goal:<16} {verdict}")


if __name__ == "__main__":
    main()
