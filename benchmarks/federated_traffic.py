"""What a whole federated training puts on a device's link, against uploading what it learns from.

Counted are all messages of a run, as Flower serialises them, both ways, for the mean device: describe, every round, int8 ranges,
evaluation with the candidate's files. The raw data is the float32 samples that the device trains on. Beside it, so that a saving
that costs the model is seen: the share of the variance that the model leaves unexplained, and for labelled sets AUC-PR (devices' own
calibration, LiteRT; the same plan and seed, trained again); and the release itself, which comes down afterwards however it was made.

synthetic  ten devices, 20 sensors at 1 Hz for 4 h 33 min (seeded): 16,384 rows, 1.3 MB
smd, asd   the training halves of the server machines in --data, if they are there

What it does not show: TLS and HTTP around the messages, a radio's overhead, devices that stop and ask again.

    .venv/bin/python benchmarks/federated_traffic.py --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import CoveyError
from edge.sources.files import read_recording
from federated.config import DenseOptions, Gates, Plan
from federated.evaluation.figures import Judge
from federated.evaluation.protocols import fleet
from federated.evaluation.sets import servers
from federated.training import devices_of_files, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.evaluation.sets import Device

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
GOAL = 0.25
ROUNDS = 20
SENSORS, ROWS, DEVICES = 20, 16_384, 10
SHORT = 6  # rounds of as many epochs in all: what is sent rarely costs less than what is sent small
FEW, NARROW = 3, [16, 8, 16]  # for little data: half the usual widths, the same for every set
LEAN, SMALL = "dense-ae int8 few", "dense-ae int8 small"
WAYS: dict[str, tuple[int, dict[str, Any]]] = {  # rounds, plan
    "dense-ae fp32": (ROUNDS, {"compress": "none"}),
    "dense-ae float16": (ROUNDS, {"compress": "float16"}),
    "dense-ae int8": (ROUNDS, {"compress": "int8"}),
    "dense-ae topk": (ROUNDS, {"compress": "topk", "keep": 0.1}),
    "dense-ae int8 short": (SHORT, {"compress": "int8"}),
    LEAN: (FEW, {"compress": "int8"}),
    SMALL: (FEW, {"compress": "int8"}),
}
Figures = dict[str, dict[str, Any]]


def figure(value: float, unit: str, goal: float | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "met": None if goal is None else value <= goal}


def synthetic(folder: Path, devices: int, rows: int, seed: int) -> Path:
    """Sensors that follow four hidden swings, each device with its own gains."""
    mixing = np.random.default_rng(seed).standard_normal((4, SENSORS))
    for number in range(devices):
        rng = np.random.default_rng([seed, number])
        hidden = np.stack(
            [np.convolve(rng.standard_normal(rows + 20), np.ones(21) / 5, "valid") for _ in range(4)], axis=1
        )
        samples = hidden @ (mixing * rng.uniform(0.8, 1.2, SENSORS)) + 0.3 * rng.standard_normal((rows, SENSORS))
        np.savez(folder / f"d{number}.npz", train=samples.astype(np.float32))
    return folder


def raw_bytes(devices: dict[str, dict[str, str]]) -> float:
    """Of the mean device: its samples as float32."""
    sizes = []
    for node in devices.values():
        recordings = [read_recording(path) for path in json.loads(node["files"])]
        sizes.append(sum(4 * len(one.samples) * len(one.channels) for one in recordings))
    return float(np.mean(sizes))


def quality(devices: Sequence[Device], plan: Plan) -> float | None:
    """AUC-PR, mean over devices, of what LiteRT would say on them."""
    tree = fleet(devices, plan, Judge(vus=False, buffer=0), lambda _: None, modes=("personal",))
    found: float | None = tree["modes"]["personal"]["runtimes"]["litert"]["mean"]["auc_pr"]
    return found


def measure(name: str, paths: list[Path], *, epochs: int, batch: int, labelled: Sequence[Device] = ()) -> Figures:
    """A run for each way over one set; `epochs` in all."""
    devices = devices_of_files(paths)
    raw = raw_bytes(devices)
    found: Figures = {f"traffic.{name}.raw": figure(raw, "bytes a device")}
    loose = Gates(int8_error=1.0, int8_bias=1.0, false_alarms=1.0)  # the way is measured, not the model released
    base = {"gates": loose, "timeout_s": 3600.0, "window": 10}
    plans = {"pca": Plan("pca", gates=loose, timeout_s=3600.0)}  # windows and features as `auto` chooses them
    for way, (rounds, changes) in WAYS.items():
        hidden = NARROW if way == SMALL else None
        options = DenseOptions(epochs=round(epochs / rounds), batch=batch, learning_rate=2e-3, hidden=hidden)
        plans[way] = Plan("dense-ae", rounds=rounds, dense=options, **base, **changes)  # type: ignore[arg-type]  # a dictionary of several kinds
    for way, plan in plans.items():
        key = f"traffic.{name}.{way}"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "m.zip"
            try:
                report = run(
                    plan,
                    devices,
                    engine="simulation",
                    out=out,
                    initial=None,
                    checkpoint=None,
                    resume=False,
                    stop=threading.Event(),
                )
            except CoveyError as error:
                found[key] = {"value": None, "unit": str(error), "goal": GOAL, "met": False}
                continue
            share = (report.bytes_up_per_device + report.bytes_down_per_device) / raw
            wanted = GOAL if way in {"pca", LEAN, SMALL} else None
            found[key] = figure(share, "of the raw data", wanted)
            found[f"{key}.up"] = figure(report.bytes_up_per_device, "bytes")
            found[f"{key}.down"] = figure(report.bytes_down_per_device, "bytes")
            found[f"{key}.release"] = figure(out.stat().st_size / raw, "of the raw data, afterwards")
            if "litert.unexplained" in report.evidence:
                found[f"{key}.unexplained"] = figure(report.evidence["litert.unexplained"], "of the variance")
            judged = quality(labelled, plan) if labelled else None
            if judged is not None:
                found[f"{key}.auc_pr"] = figure(judged, "AUC-PR")
            unexplained = report.evidence.get("litert.unexplained")
            print(key, round(share, 3), unexplained, judged, file=sys.stderr, flush=True)
    return found


def sets(data: Path) -> dict[str, list[Path]]:
    """Public sets in a folder."""
    there = {name: sorted((data / name).glob("*.npz")) for name in ("smd", "asd")}
    return {name: paths for name, paths in there.items() if paths}


def figures(
    *, data: Path | None = DATA, devices: int = DEVICES, rows: int = ROWS, seed: int = 0, only: str | None = None
) -> Figures:
    """{figure: {value, unit, goal, met}}; `only`: of one public set; no `data`: of none."""
    found: Figures = {}
    if only is None:
        with tempfile.TemporaryDirectory() as folder:
            made = synthetic(Path(folder), devices, rows, seed)
            found |= measure("synthetic", [made], epochs=2 * ROUNDS, batch=512)
    for name, paths in (sets(data) if data is not None else {}).items():
        if only not in {None, name}:
            continue
        found |= measure(name, paths, epochs=ROUNDS, batch=512, labelled=servers(paths[0].parent)[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synthetic", action="store_true", help="no public sets")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public sets")
    parser.add_argument("--set", help="this public set alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = figures(
        only=options.set,
        devices=options.devices,
        rows=options.rows,
        seed=options.seed,
        data=None if options.synthetic else options.data,
    )
    if options.json:
        print(json.dumps(found))
        return
    for name, one in found.items():
        print(f"{name:44} {one['value']} {one['unit']} goal {one['goal']} {'' if one['met'] is None else one['met']}")


if __name__ == "__main__":
    main()
