"""Protocol `crazypad`: real flights, learned from healthy ones only, told apart flight by flight.

Each drone is one client with its own healthy flights. One healthy flight at a time is left out of everything, training and
calibration, and judged beside all damaged flights of its drone with the same bundle; figures are means over these folds, so no
healthy flight is judged by a model that saw it. A flight's value is the median of its smoothed window scores over the threshold.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from covey.errors import AggregationError, CoveyError, UsageError
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut
from edge.sources.files import read_recording
from federated.config import write_struct
from federated.evaluation.figures import Figures, Tree, mean
from federated.evaluation.metrics import auc_pr, auc_roc, spearman
from federated.evaluation.protocols import MODES
from federated.evaluation.runs import FP32, calibration, int8_runtimes, train, windows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edge.scoring.windows import Windows
    from federated.config import Plan
    from federated.evaluation.protocols import Say
    from federated.evaluation.runs import Trained
    from federated.evaluation.sets import Flight

_Cache: TypeAlias = "dict[tuple[str, str], Windows]"  # by log and inputs

NAMED_FROM_MM = 2.0  # a smaller cut is not asked for its rotor


@dataclass(frozen=True)
class FlightScores:
    """What was said of one flight.

    Attributes:
        flight: which, and what is true of it.
        score: (W,) smoothed scores of its windows.
        threshold: what they are compared with.
        top: per window, the channel that names the cause; empty where nobody asks.
    """

    flight: Flight
    score: NDArray[np.float64]
    threshold: float
    top: tuple[str, ...]

    @property
    def value(self) -> float:
        """Median score over the threshold; 0 without a window."""
        return float(np.median(self.score)) / self.threshold if len(self.score) else 0.0

    @property
    def rotor(self) -> str | None:
        """The motor ("M3") named by most windows above the threshold, of all windows when none is."""
        above = [name for name, hit in zip(self.top, self.score > self.threshold, strict=True) if hit] or list(self.top)
        if not above:
            return None
        return Counter(above).most_common(1)[0][0].rpartition(".")[2].upper()


@dataclass
class _Mode:
    """Runtime -> drone -> folds, each the flights that one bundle judged."""

    folds: dict[str, dict[str, list[list[FlightScores]]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def crazypad(flights: Sequence[Flight], plan: Plan, say: Say, *, modes: Sequence[str] = MODES) -> Tree:
    """All drones, every healthy flight left out once.

    Raises:
        UsageError: no drone has two healthy flights.
        CoveyError: a log cannot be read.
    """
    drones = sorted({one.drone for one in flights})
    healthy = {drone: [one for one in flights if one.drone == drone and one.healthy] for drone in drones}
    usable = [drone for drone in drones if len(healthy[drone]) >= 2]
    if not usable:
        raise UsageError("crazypad: a drone with at least 2 healthy flights expected, none came")
    found = {mode: _Mode() for mode in modes}
    cache: _Cache = {}
    for drone in usable:
        for left_out in healthy[drone]:
            known = {
                name: [one for one in healthy[name] if one is not left_out]
                for name in drones
                if any(one is not left_out for one in healthy[name])
            }
            nodes = {name: {"files": json.dumps([str(one.path) for one in own])} for name, own in known.items()}
            judged = [left_out, *(one for one in flights if one.drone == drone and not one.healthy)]
            runs: dict[str, Trained | None] = {}
            for mode in modes:
                entry, kind = found[mode], "federated" if mode == "personal" else mode
                began = time.monotonic()
                if kind not in runs:
                    chosen = {drone: nodes[drone]} if kind == "local" else nodes
                    runs[kind] = _trained(entry, left_out.name, plan, chosen, central=kind == "pooled")
                _judge(entry, drone, runs[kind], plan, nodes[drone], judged, cache, personal=mode != "federated")
                entry.seconds += time.monotonic() - began
            say(f"{drone}: {left_out.name} left out, {len(judged)} flights judged")
    return {
        "devices": usable,
        "flights": {"healthy": sum(map(len, healthy.values())), "damaged": sum(not one.healthy for one in flights)},
        "modes": {
            name: {
                "runtimes": {runtime: of_drones(drone) for runtime, drone in mode.folds.items()},
                "refused": mode.refused,
                "failed": mode.failed,
                "seconds": round(mode.seconds, 2),
            }
            for name, mode in found.items()
        },
        "int8": {
            runtime: {
                name: _agreement(mode.folds[FP32], mode.folds[runtime])
                for name, mode in found.items()
                if {FP32, runtime} <= mode.folds.keys()
            }
            for runtime in int8_runtimes()
        },
    }


def _trained(
    entry: _Mode, fold: str, plan: Plan, nodes: Mapping[str, Mapping[str, str]], *, central: bool
) -> Trained | None:
    try:
        found = train(plan, nodes, central=central)
    except AggregationError as error:
        entry.failed[fold] = str(error)
        return None
    if found.refused is not None:
        entry.refused[fold] = found.refused
    entry.failed.update(found.failed)
    return found


def _judge(
    entry: _Mode,
    drone: str,
    found: Trained | None,
    plan: Plan,
    node: Mapping[str, str],
    judged: Sequence[Flight],
    cache: _Cache,
    *,
    personal: bool,
) -> None:
    if found is None:
        return
    manifest = found.bundle.manifest
    try:
        own = calibration(found, windows_of(found, plan, node), personal=personal)
    except CoveyError as error:
        entry.failed[f"{drone} without {judged[0].name}"] = str(error)
        return
    for runtime, network in found.networks.items():
        fold: list[FlightScores] = []
        for one in judged:
            key = (str(one.path), write_struct(manifest.inputs))  # the logs' rates differ, and windows follow them
            if key not in cache:
                cache[key] = cut(read_recording(one.path, manifest.inputs.channels), manifest.inputs)
            scorer = Scorer(manifest, network, runtime, own)
            scored = scorer.score(cache[key])
            asked = one.cut_mm >= NAMED_FROM_MM
            top = tuple(scorer.attribute(error)[1] for error in scored.error.astype(np.float64)) if asked else ()
            fold.append(FlightScores(one, scored.score, scorer.threshold, top))
        entry.folds.setdefault(runtime, {}).setdefault(drone, []).append(fold)


def of_drones(drones: Mapping[str, Sequence[Sequence[FlightScores]]]) -> Tree:
    """`mean` over drones and `devices`."""
    each = {name: of_folds(folds) for name, folds in drones.items()}
    names = next(iter(each.values())).keys()
    return {"mean": {name: mean(one[name] for one in each.values()) for name in names}, "devices": each}


def of_folds(folds: Sequence[Sequence[FlightScores]]) -> Figures:
    """Figures of one drone, means over its folds.

    `flight_auc`: healthy against damaged flights of any kind. `spearman`: value against cut depth over healthy and cut flights,
    healthy 0. `false_alarms` and `recall`: shares of windows above the threshold. `rotor_named`: of cuts of 2 mm and more.
    """
    rows: list[Figures] = []
    for fold in folds:
        values = np.array([one.value for one in fold])
        damaged = np.array([not one.flight.healthy for one in fold])
        depth = [one for one in fold if one.flight.healthy or one.flight.family == "cut"]
        named = [one.rotor in one.flight.motors for one in fold if one.top and one.flight.family == "cut"]
        rows.append(
            {
                "flight_auc": auc_roc(damaged, values),
                "flight_auc_pr": auc_pr(damaged, values),
                "spearman": spearman(
                    np.array([one.value for one in depth]), np.array([one.flight.cut_mm for one in depth])
                ),
                "false_alarms": _above([one for one in fold if one.flight.healthy]),
                "recall": _above([one for one in fold if not one.flight.healthy]),
                "rotor_named": mean(map(float, named)),
            }
        )
    return {name: mean(row[name] for row in rows) for name in rows[0]}


def _above(flights: Sequence[FlightScores]) -> float | None:
    """Share of windows above the threshold."""
    windows = sum(len(one.score) for one in flights)
    return sum(int((one.score > one.threshold).sum()) for one in flights) / windows if windows else None


def _agreement(
    fp32: Mapping[str, Sequence[Sequence[FlightScores]]], int8: Mapping[str, Sequence[Sequence[FlightScores]]]
) -> Figures:
    """As `figures.agreement`, with flights in the place of rows for AUC-PR, and windows for alarms."""
    gaps: list[float] = []
    same = windows = 0
    for drone, folds in fp32.items():
        for exact, coarse in zip(folds, int8[drone], strict=True):
            areas = [
                auc_pr(np.array([not one.flight.healthy for one in fold]), np.array([one.value for one in fold]))
                for fold in (exact, coarse)
            ]
            if areas[0] is not None and areas[1] is not None:
                gaps.append(abs(areas[0] - areas[1]))
            for a, b in zip(exact, coarse, strict=True):
                same += int(((a.score > a.threshold) == (b.score > b.threshold)).sum())
                windows += len(a.score)
    return {
        "auc_pr_difference": mean(gaps),
        "auc_pr_difference_worst": max(gaps, default=None),
        "same_alarms": same / windows if windows else None,
    }
