"""Four hostile devices of twenty: what they cost the model that the other sixteen need.

Twenty synthetic devices (seeded): six sensors that follow three hidden swings through one mixing matrix, each device with its
own gains, offsets and noise. Four of them lie in every round, with the most windows that are believed:

noise     a random change of the weights, three times as long as the honest one (pca: the scatter of noise)
flip      the honest change backwards
scaled    the honest one times fifteen, below the gate's bound for norms
nan       not a number in one place
targeted  trained on windows that hold a fault (one sensor stuck high), to have it taken for normal; all four alike
little    the honest mean moved by one and a half deviations in every weight, all four alike (Baruch et al., NeurIPS 2019):
          made to pass every gate that compares; beyond the goal, shown without one

Held-out loss is the error on windows of the sixteen that nobody trained on, over that of the same rule with twenty honest ones.
A seed draws the devices' data, the lies, and the network's first weights; with several the worst is judged and the mean shown.
What is aggregated passes Flower's strategies and the gate as in any run; only files and int8 export are left out.

What it does not show: attackers who know the seed of the sampling, more than a fifth of them, or a fleet of kinds.

    .venv/bin/python benchmarks/federated_hostile.py --seeds 5 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from covey.errors import AggregationError
from edge.scoring.scorer import normalise
from edge.scoring.windows import DRONE_CHANNELS, features
from federated.checkpoint import Checkpoints, identity_of
from federated.config import DenseOptions, PcaOptions, Plan, choose_inputs, write_struct
from federated.engines.home import RUN_ID
from federated.engines.simulation import SimulationGrid
from federated.families import dense, family_of
from federated.families.pca import triangle
from federated.gate import MAX_WINDOWS
from federated.own import load, normalised
from federated.records import arrays_of
from federated.rounds import Course, Traffic, play
from federated.strategy import COMMON, Crew

DEVICES, HOSTILE = 20, 4
ROWS, HELD = 600, 300
CHANNELS = [str(n) for n in range(6)]  # as an NPZ names them
KINDS = ("noise", "flip", "scaled", "nan", "targeted", "little")
RULES = ("trimmed", "krum", "multikrum", "bulyan")
MOST_LOSS = 1.05
SEEDS = 5
FAULT = 6.0  # deviations that the stuck sensor lies high
Figures = dict[str, dict[str, Any]]


def figure(value: float, unit: str, goal: float | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "met": None if goal is None else value <= goal}


def recording(number: int, seed: int, rows: int, *, faulty: bool = False) -> np.ndarray:
    """(rows, 6) of one device: what all share is the mixing."""
    mixing = np.random.default_rng(1).standard_normal((3, len(CHANNELS)))
    own = np.random.default_rng(100 + number)
    gains, offsets = own.uniform(0.7, 1.4, len(CHANNELS)), own.uniform(-5, 5, len(CHANNELS))
    rng = np.random.default_rng([seed, number])
    hidden = np.stack(
        [np.convolve(rng.standard_normal(rows + 8), np.ones(9) / 3, "valid") for _ in range(3)], axis=1
    )  # (rows, 3)
    samples = hidden @ mixing + 0.3 * rng.standard_normal((rows, len(CHANNELS)))
    if faulty:
        samples[rows // 3 :, 0] += FAULT
    return (samples * gains + offsets).astype(np.float32)


@dataclass
class Fleet:
    """Twenty devices' files, and held-out features of the honest sixteen."""

    folder: Path
    devices: dict[str, dict[str, str]]
    poisoned: dict[str, dict[str, str]]

    @classmethod
    def make(cls, folder: Path, seed: int) -> Fleet:
        """Files of all devices, of the poisoned ones, and of what nobody trains on."""
        devices, poisoned = {}, {}
        for number in range(DEVICES):
            name = f"d{number:02d}"
            for kind, where in (("", devices), ("x", poisoned)):
                lied = bool(kind) and number < HOSTILE
                path = folder / f"{name}{kind}.npz"
                np.savez(path, train=recording(number, seed, ROWS, faulty=lied))
                where[name] = {"files": json.dumps([str(path)])}
            np.savez(folder / f"{name}h.npz", train=recording(number, seed + 1, HELD))
            np.savez(folder / f"{name}f.npz", train=recording(number, seed + 1, HELD, faulty=True))
        return cls(folder, devices, poisoned)

    def held_out(self, plan: Plan, inputs: Any, kind: str = "h") -> np.ndarray:
        """(N, D) features of new windows, by each honest device's own calibration."""
        parts = []
        for number in range(HOSTILE, DEVICES):
            name = f"d{number:02d}"
            _, center, scale = normalised(load(self.devices[name], plan, inputs), plan, inputs)
            new = load({"files": json.dumps([str(self.folder / f"{name}{kind}.npz")])}, plan, inputs)
            parts.append(normalise(features(new.windows, inputs), center, scale, dense.CLIP))
        return np.concatenate(parts)


class HostileGrid(SimulationGrid):
    """Engine `simulation` in which the first four devices lie when they are asked to train."""

    def __init__(self, fleet: Fleet, kind: str | None, plan: Plan, seed: int) -> None:
        super().__init__(fleet.poisoned if kind == "targeted" else fleet.devices)
        self.kind, self.plan, self.rng = kind, plan, np.random.default_rng(seed)

    def answers(self, messages: list[Message], deadline: float) -> Any:
        """All answers, four of them lies."""
        replies = list(super().answers(messages, deadline))
        if self.kind is None or messages[0].metadata.message_type != "train":
            return replies
        told = {reply.metadata.src_node_id: arrays_of(reply) for reply in replies}
        honest = [self._open(arrays) for node, arrays in told.items() if node > HOSTILE]
        for reply in replies:
            node = reply.metadata.src_node_id
            if node <= HOSTILE:
                record = reply.content.array_records["arrays"]
                for name, values in self._lie(told[node], honest).items():
                    record[name] = Array(np.ascontiguousarray(values))
        return replies

    def _open(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values.astype(np.float64) for name, values in arrays.items() if name not in COMMON}

    def _lie(self, arrays: dict[str, np.ndarray], honest: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        own = {name: values for name, values in self._open(arrays).items() if name != "counts"}
        pca = "counts" in arrays
        if self.kind == "noise":
            made = self._noise(own, pca=pca)
        elif self.kind == "little":
            made = {}
            for name in own:
                rows = np.array([one[name] for one in honest])
                made[name] = rows.mean(axis=0) - 1.5 * rows.std(axis=0)
        elif self.kind == "nan":
            made = {name: values.copy() for name, values in own.items()}
            next(iter(made.values())).flat[0] = np.nan
        else:
            made = {
                name: values * {"flip": -1.0, "scaled": 15.0, "targeted": 1.0}[str(self.kind)]
                for name, values in own.items()
            }
        lies = {name: values.astype(arrays[name].dtype) for name, values in made.items()}
        if not pca:  # the most that is believed, and a center far off
            lies |= {"windows": np.array([MAX_WINDOWS]), "center": np.full_like(arrays["center"], 1e6)}
        return lies

    def _noise(self, own: dict[str, np.ndarray], *, pca: bool) -> dict[str, np.ndarray]:
        if pca:  # a scatter as anything else is refused
            d = int(np.sqrt(2 * next(iter(own.values())).size))
            rows = self.rng.standard_normal((2, 3 * d, d)) * 3.0
            return {name: triangle(part.T @ part / len(part)) for name, part in zip(own, rows, strict=True)}
        length = np.sqrt(sum(float(np.square(values).sum()) for values in own.values()))
        made = {name: self.rng.standard_normal(values.shape) for name, values in own.items()}
        size = np.sqrt(sum(float(np.square(values).sum()) for values in made.values()))
        return {name: values * (3.0 * length / size) for name, values in made.items()}


def learn(fleet: Fleet, kind: str | None, plan: Plan, seed: int) -> tuple[dict[str, np.ndarray], Course]:
    """State after all rounds."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID
    grid = HostileGrid(fleet, kind, plan, seed)
    inputs = choose_inputs(plan, [("d", tuple(CHANNELS), 1.0, 0)], DRONE_CHANNELS)
    family, d = family_of(plan.family), inputs.window * len(CHANNELS)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        checkpoints.begin(identity_of(plan, inputs, None), resume=False)
        asked = {"plan": write_struct(plan), "inputs": write_struct(inputs)}
        crew = Crew(grid, plan, grid.names.__getitem__)
        course = Course(crew, family, plan, d, family.begin(plan, d), asked, checkpoints, Traffic(grid), None, [])
        play(course)
    assert course.state is not None
    return course.state, course


def loss(plan: Plan, state: dict[str, np.ndarray], z: np.ndarray) -> float:
    """Mean squared error of reconstruction; for pca, mean energy beyond the kept components."""
    family = family_of(plan.family)
    graph = family.to_graph(plan, state, drone=False)
    if plan.family == "pca":
        return float(np.square(z @ graph[0].weight.T).mean())
    weights = [part for layer in graph for part in (layer.weight, layer.bias)]
    return dense.evaluate(weights, z)


def plans(rounds: int, seed: int = 0) -> dict[str, Plan]:
    options = DenseOptions(epochs=4, batch=64, learning_rate=4e-3)
    base = {"window": 3, "commission_windows": 50, "rounds": rounds, "timeout_s": 600.0, "seed": seed}
    made = {
        f"dense-ae.{rule}": Plan("dense-ae", strategy=rule, dense=options, **base)  # type: ignore[arg-type]  # a dictionary of several kinds
        for rule in RULES
    }
    made["dense-ae.fedavg, no clip"] = Plan(
        "dense-ae", strategy="fedavg", clip="none", far="none", dense=options, **base
    )  # type: ignore[arg-type]  # likewise
    made["pca.sum"] = Plan("pca", window=3, commission_windows=50, timeout_s=600.0, seed=seed, pca=PcaOptions(keep=6))
    return made


def figures(
    *, seed: int = 0, seeds: int = SEEDS, rounds: int = 8, only: str | None = None, talk: bool = False
) -> Figures:
    """{figure: {value, unit, goal, met}}: the worst of so many seeds from `seed` on, and beside it their mean without a goal."""
    each = [_of_seed(one, rounds=rounds, only=only, talk=talk) for one in range(seed, seed + seeds)]
    return each[0] if len(each) == 1 else over_seeds(each)


def over_seeds(each: list[Figures]) -> Figures:
    """Each figure's worst (a run that gave no model is the worst of all) and `.mean`; the least of what a fault stands out by."""
    found: Figures = {}
    for name in dict.fromkeys(name for one in each for name in one):
        rows = [one[name] for one in each if name in one]  # a run that gave no model has no further figures
        failed = [row for row in rows if row["value"] is None]
        if failed:
            found[name] = failed[0]
            continue
        values = [row["value"] for row in rows]
        worst = min(values) if name.endswith(".fault") else max(values)
        found[name] = figure(worst, rows[0]["unit"], rows[0]["goal"])
        found[f"{name}.mean"] = figure(float(np.mean(values)), rows[0]["unit"])
    return found


def _of_seed(seed: int, *, rounds: int, only: str | None, talk: bool) -> Figures:
    """Loss of each rule and kind of lie over the same rule's clean loss."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet.make(Path(folder), seed)
        for name, plan in plans(rounds, seed).items():
            if only is not None and only not in name:
                continue
            inputs = choose_inputs(plan, [("d", tuple(CHANNELS), 1.0, 0)], DRONE_CHANNELS)
            z, faulty = fleet.held_out(plan, inputs), fleet.held_out(plan, inputs, "f")
            clean, _ = learn(fleet, None, plan, seed)
            base, seen = loss(plan, clean, z), loss(plan, clean, faulty)
            found[f"hostile.{name}.clean"] = figure(base, "loss")
            for kind in KINDS:
                goal = None if "no clip" in name or kind == "little" else MOST_LOSS
                key = f"hostile.{name}.{kind}"
                try:
                    state, course = learn(fleet, kind, plan, seed)
                except AggregationError as error:
                    found[key] = {"value": None, "unit": str(error), "goal": goal, "met": False if goal else None}
                    continue
                ratio = loss(plan, state, z) / base
                found[key] = figure(ratio, "clean loss", goal)
                scale = float(np.max(state["scale"] / clean["scale"]))
                found[f"{key}.scale"] = figure(scale, "clean scale", 2.0 if goal else None)
                if kind == "targeted":  # of what the fault stands out by
                    found[f"{key}.fault"] = figure(loss(plan, state, faulty) / seen, "clean fault loss")
                if kind == "nan":
                    broken = sum(int((~np.isfinite(values)).sum()) for values in state.values())
                    refused = [len(one.refused) for one in course.rounds]
                    found[f"{key}.aggregated"] = figure(
                        float(broken + sum(n != HOSTILE for n in refused)), "numbers", 0.0
                    )
                if talk:
                    print(seed, key, round(ratio, 4), [len(one.refused) for one in course.rounds], file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", help="figures whose rule holds this text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = figures(seed=options.seed, seeds=options.seeds, rounds=options.rounds, only=options.only, talk=True)
    if options.json:
        print(json.dumps(found))
        return
    for name, one in found.items():
        print(f"{name:44} {one['value']} {one['unit']} goal {one['goal']} {'' if one['met'] is None else one['met']}")


if __name__ == "__main__":
    main()
