"""What does the agent cost on a device: time per window, memory, CPU, start, flash, uplink, and what int8 saves.

window     20 channels at 100 Hz, windows of 1 s, samples handed over five at a time as the agent's loop does: what
           AgentCore.push takes for the samples that complete a window, less the bare runtime call on the same input, by turns
agent      a real agent process against mosquitto, playing such a recording in real time: resident memory and CPU in
           steady state, CPU until it flies, the peak while it calibrates
int8       against 32 bit floats: size of the model, time of a call, rows with the same verdict
flash      bytes that a message costs the card, from the block device of a small ext4 (root on Linux; edge_flash.py)
uplink     crazypad (beside the repository): bytes of every event of a flight against the log's, at the default interval

What it does not show: an ARM board; a source that costs something to decode (docs/sources.md); hours.

    .venv/bin/python benchmarks/bench_edge.py --seconds 60
    .venv/bin/python benchmarks/bench_edge.py --only window --json
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
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import edge_rig as rig  # noqa: E402  # needs the path above

from covey import wire  # noqa: E402
from covey.bundle import read_bundle  # noqa: E402
from edge.core import AgentCore, Loaded  # noqa: E402
from edge.loading import open_model  # noqa: E402
from edge.scoring.calibration import calibrate  # noqa: E402
from edge.scoring.runtimes import available, open_runtime  # noqa: E402
from edge.scoring.scorer import Scorer  # noqa: E402
from edge.scoring.windows import cut  # noqa: E402
from edge.sources.files import read_recording  # noqa: E402
from edge_cloud import Cloud, start_agent, wait_status  # noqa: E402
from servers import Mosquitto  # noqa: E402

PARTS = ("window", "agent", "int8", "flash", "uplink")
FLASH_MESSAGES, FLASH_BYTES = 2000, 1100
MEMORY_GOAL_MIB = {"litert": 60.0, "onnx": 80.0}
Figures = dict[str, dict[str, Any]]


def figure(value: float, unit: str, goal: float | None = None, *, at_most: bool = True) -> dict[str, Any]:
    met = None if goal is None else (value <= goal if at_most else value >= goal)
    return {"value": round(value, 4), "unit": unit, "goal": goal, "met": met}


def loaded(path: Path, runtime: str) -> Loaded:
    """The model with a calibration from normal windows."""
    bundle = read_bundle(path)
    model = open_model(bundle, 1, runtime, None)
    inputs = bundle.manifest.inputs
    with tempfile.TemporaryDirectory() as folder:
        normal = cut(read_recording(rig.write_recording(Path(folder) / "log", 60, 5)), inputs)
    made = calibrate(bundle.manifest, bundle.digest, normal, {runtime: model.network}, 0.0)
    return open_model(bundle, 1, runtime, made)


def window(folder: Path, windows: int) -> Figures:
    rig.write_bundle(folder / "m.covey")
    out: Figures = {}
    portion = 5
    for runtime in available():
        model = loaded(folder / "m.covey", runtime)
        core = AgentCore("d1", model)
        core.begin_flight("f", rig.CHANNELS)
        rows = rig.samples(windows, 3)
        bare_input = np.random.default_rng(0).standard_normal((1, rig.D)).astype(np.float32)
        beyond, bare, every = [], [], []
        spent = 0
        for start in range(0, len(rows), portion):
            part = rows[start : start + portion]
            begun = time.perf_counter_ns()
            output = core.push(part, start / rig.RATE_HZ)
            took = time.perf_counter_ns() - begun
            spent += took
            if output.windows:
                begun = time.perf_counter_ns()
                model.network.run(bare_input)
                alone = time.perf_counter_ns() - begun
                bare.append(alone / 1000)
                beyond.append((took - alone) / 1000)
                every.append((spent - alone) / 1000)
                spent = 0
        out[f"window_{runtime}_bare_us"] = figure(statistics.median(bare), "us p50")
        out[f"window_{runtime}_beyond_us"] = figure(statistics.median(beyond), "us p50", 100.0)
        out[f"window_{runtime}_beyond_p99_us"] = figure(float(np.quantile(beyond, 0.99)), "us p99")
        out[f"window_{runtime}_all_pushes_us"] = figure(statistics.median(every), "us p50, its 20 portions")
    return out


def agent(folder: Path, seconds: float) -> Figures:
    rig.write_bundle(folder / "m.covey")
    flight = rig.write_recording(folder / "flight", 60, 1)
    before = rig.write_recording(folder / "before", 120, 2)
    out: Figures = {}
    with Mosquitto(folder / "mosquitto") as broker, Cloud(broker.port):
        for runtime in available():
            device = f"bench-{runtime}"
            words = ["--bundle", str(folder / "m.covey"), "--runtime", runtime, "--commission", str(before)]
            process = start_agent(folder, broker.port, device, *words, "--source", str(flight), "--repeat")
            wait_status(folder, device, pid=process.pid, state="flying", connected=True)
            first_s = rig.cpu_s(process.pid)
            calibrating = rig.memory_mib(process.pid)[1]
            process.stop()
            # Started again it has a calibration: what a device does at every power-on.
            process = start_agent(folder, broker.port, device, *words, "--source", str(flight), "--repeat")
            wait_status(folder, device, pid=process.pid, state="flying", connected=True)
            start_s = rig.cpu_s(process.pid)
            time.sleep(5)
            spent = rig.cpu_s(process.pid)
            time.sleep(seconds)
            spent = rig.cpu_s(process.pid) - spent
            memory, peak = rig.memory_mib(process.pid)
            process.stop()
            out[f"agent_{runtime}_memory_mib"] = figure(memory, "MiB resident", MEMORY_GOAL_MIB.get(runtime))
            out[f"agent_{runtime}_peak_mib"] = figure(peak, "MiB, peak of a later start")
            out[f"agent_{runtime}_first_start_peak_mib"] = figure(calibrating, "MiB, peak with commissioning")
            out[f"agent_{runtime}_cpu_share"] = figure(100 * spent / seconds, "% of a core", 2.0)
            out[f"agent_{runtime}_start_cpu_s"] = figure(start_s, "CPU-s until it flies", 0.5)
            out[f"agent_{runtime}_first_start_cpu_s"] = figure(first_s, "CPU-s, with commissioning")
    return out


def int8(folder: Path) -> Figures:
    sizes = rig.write_bundle(folder / "m.covey")
    bundle = read_bundle(folder / "m.covey")
    plain = rig.float_model()
    float_network = open_runtime("onnx", plain)
    out: Figures = {
        "int8_onnx_size": figure(sizes["model.onnx"] / len(plain), "of fp32's bytes"),
        "int8_tflite_size": figure(sizes["model.tflite"] / len(plain), "of fp32's bytes"),
    }
    x = np.random.default_rng(0).standard_normal((1, rig.D)).astype(np.float32)
    networks = {name: open_runtime(name, bundle.model(name)) for name in available()}
    took: dict[str, list[float]] = {name: [] for name in ("fp32_onnx", *networks)}
    for _ in range(2000):
        for name, network in (("fp32_onnx", float_network), *networks.items()):
            begun = time.perf_counter_ns()
            network.run(x)
            took[name].append((time.perf_counter_ns() - begun) / 1000)
    for name, values in took.items():
        out[f"int8_{name}_call_us"] = figure(statistics.median(values), "us p50")
    return out


def flash(folder: Path) -> Figures:
    if os.geteuid() or not Path("/dev/loop-control").exists():
        print("flash: root and loop devices expected, not here", file=sys.stderr)
        return {}
    words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        str(ROOT / "benchmarks" / "edge_flash.py"),
    ]
    done = subprocess.run(
        [*words, str(folder), str(FLASH_MESSAGES), str(FLASH_BYTES)], check=True, stdout=subprocess.PIPE, timeout=600
    )
    out: Figures = {}
    for name, value in json.loads(done.stdout).items():
        writer, _, group = name.rpartition("_")
        out[f"flash_{writer}_by_{group}"] = figure(value, f"bytes a message of {FLASH_BYTES}, {group} a commit")
    return out


def crazypad() -> Path | None:
    for root in (ROOT.parent / "shared" / "data", ROOT / "data"):
        if (root / "crazypad").is_dir():
            return root / "crazypad"
    return None


def uplink(folder: Path) -> Figures:
    data = crazypad()
    if data is None:
        print("uplink: data set crazypad is not beside the repository", file=sys.stderr)
        return {}
    from covey.bundle import STATE, Features, Inputs
    from edge.scoring.windows import DRONE_CHANNELS, join
    from federated.compile.graph import forward
    from federated.config import AIRBORNE_ABOVE, SETTLE_S, Plan
    from federated.families import family_of, unpack_state
    from federated.training import run
    from federated_rigs import write_ring

    drone_inputs = Inputs(list(DRONE_CHANNELS), 100.0, 100, 25, Features("drone", AIRBORNE_ABOVE, SETTLE_S))
    normal = data / "normal_flight"
    logs = [normal / f"{drone}_log{n:02d}" for drone in ("E8", "E9") for n in (0, 3)]
    rings = {
        log.name: {"ring": str(write_ring(folder / f"{log.name}.ring", drone_inputs, [(log, False)]))} for log in logs
    }
    run(Plan("pca"), rings, engine="simulation", out=folder / "c.covey", initial=None, checkpoint=None, resume=False,
        stop=threading.Event())  # fmt: skip
    bundle = read_bundle(folder / "c.covey")
    inputs = bundle.manifest.inputs
    graph = family_of("pca").to_graph(Plan("pca"), unpack_state(bundle.files[STATE], "state"), drone=True)

    class Floats:
        def run(self, x: Any) -> Any:
            return forward(graph, x)

    raw = sent = rows = same = 0
    by_kind: dict[str, int] = {}
    count: dict[str, int] = {}
    flown_s = 0.0
    for drone in ("E8", "E9"):
        own = [cut(read_recording(log, inputs.channels), inputs) for log in logs if log.name.startswith(drone)]
        shifted = [own[0], type(own[1])(own[1].samples, own[1].end_row, own[1].flight + 1000, own[1].start_s)]
        normal_windows = join(shifted, inputs)
        network = open_runtime("litert", bundle.model("litert"))
        made = calibrate(bundle.manifest, bundle.digest, normal_windows, {"litert": network}, 0.0)
        plain = calibrate(bundle.manifest, bundle.digest, normal_windows, {"litert": Floats()}, 0.0)
        for log in sorted(data.glob(f"*/{drone}_log*")):
            recording = read_recording(log, inputs.channels)
            core = AgentCore(drone, open_model(bundle, 1, "litert", made))
            events: list[tuple[str, Any]] = [
                ("alarm", one.alarm) for one in core.begin_flight(log.name, recording.channels)
            ]
            step = round(30.0 * inputs.rate_hz)  # the default summary_interval_s
            for start in range(0, len(recording.samples), step):
                output = core.push(recording.samples[start : start + step], start / inputs.rate_hz)
                events += [("alarm", one.alarm) for one in output.alarms]
                events.append(("summary", _summary(core)))
            events += [("alarm", one.alarm) for one in core.end_flight()]
            for n, (kind, data_) in enumerate(events):
                size = len(wire.make_event(wire.Identity(drone, "0" * 16, n + 1), kind, 1e9, data_))
                by_kind[kind] = by_kind.get(kind, 0) + size
                count[kind] = count.get(kind, 0) + 1
                sent += size
            raw += log.stat().st_size
            flown_s += len(recording.samples) / inputs.rate_hz
            seen = cut(recording, inputs)
            verdicts = []
            for calibration, net in ((made, network), (plain, Floats())):
                scorer = Scorer(bundle.manifest, net, "litert", calibration)
                verdicts.append(scorer.score(seen).score > scorer.threshold)
            rows += len(seen)
            same += int((verdicts[0] == verdicts[1]).sum())
    return {
        "uplink_share": figure(100 * sent / raw, "% of the logs' bytes", 1.0),
        "uplink_summary_bytes": figure(
            by_kind["summary"] / count["summary"], f"bytes each, {count['summary']} of them"
        ),
        "uplink_alarm_bytes": figure(by_kind["alarm"] / count["alarm"], f"bytes each, {count['alarm']} of them"),
        "uplink_flown_s": figure(flown_s, "s, 46 flights"),
        "uplink_bytes_per_flight_hour": figure(sent / flown_s * 3600, "bytes"),
        "int8_same_verdict": figure(100 * same / max(1, rows), "% of crazypad's windows", 99.0, at_most=False),
    }


def _summary(core: AgentCore) -> wire.Summary:
    model = core.model
    reported = wire.Reported(1, model.digest, model.runtime, model.provider, model.calibration_digest, "a")
    health = wire.Health(60_000_000, 12.5, 1, 1200, 12_345_678, 123_456, 0, 45.0, 3.9)
    return core.summary.build(1e9, core.threshold, reported, health, core.open_alarms, core.flight_name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="steady state of each agent")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: Figures = {}
    for part in options.only or PARTS:
        with tempfile.TemporaryDirectory(dir=ROOT / ".servers" if (ROOT / ".servers").is_dir() else None) as place:
            folder = Path(place)
            if part == "window":
                figures |= window(folder, options.windows)
            elif part == "agent":
                figures |= agent(folder, options.seconds)
            elif part == "int8":
                figures |= int8(folder)
            elif part == "flash":
                figures |= flash(folder)
            else:
                figures |= uplink(folder)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, covey {version('covey')}")
    for name, row in figures.items():
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}"
        print(f"{name:<36} {row['value']:>12,.2f} {row['unit']:<28} {goal:<10} {verdict}")


if __name__ == "__main__":
    main()
