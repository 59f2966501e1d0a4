"""Protocol `crazypad`: real flights, learned from healthy ones only; which flights, and what their figures mean, is in flights.py.

Each drone is one client. One healthy flight at a time is left out of everything, training and calibration, and judged beside all
damaged flights of its drone with the same bundle, so that no healthy flight is judged by a model that saw it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from covey.errors import AggregationError, CoveyError, UsageError
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut
from edge.sources.files import read_recording
from federated.config import write_struct
from federated.evaluation.figures import Tree, mean
from federated.evaluation.flights import DEEP_MM, Outcome, figures, flight_score
from federated.evaluation.metrics import auc_pr
from federated.evaluation.protocols import MODES
from federated.evaluation.runs import FP32, calibrations, int8_runtimes, train, windows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.scoring.windows import Windows
    from federated.config import Plan
    from federated.evaluation.flights import Flight
    from federated.evaluation.protocols import Say
    from federated.evaluation.runs import Trained

_Cache: TypeAlias = "dict[tuple[str, str], Windows]"  # by log and inputs

ROTORS = 4  # the first channels of `drone` features


@dataclass
class _Mode:
    """Runtime -> drone -> folds, each the flights that one bundle judged."""

    folds: dict[str, dict[str, list[list[Outcome]]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    begin_windows: int = 1


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
            nodes = {name: {"files": json.dumps([one.file for one in own])} for name, own in known.items()}
            judged = [left_out, *(one for one in flights if one.drone == drone and not one.healthy)]
            runs: dict[str, Trained | None] = {}
            for mode in modes:
                entry, kind = found[mode], "federated" if mode == "personal" else mode
                began = time.monotonic()
                if kind not in runs:
                    chosen = {drone: nodes[drone]} if kind == "local" else nodes
                    runs[kind] = _trained(entry, Path(left_out.file).name, plan, chosen, central=kind == "pooled")
                _judge(entry, drone, runs[kind], plan, nodes[drone], judged, cache, personal=mode != "federated")
                entry.seconds += time.monotonic() - began
            say(f"{drone}: {Path(left_out.file).name} left out, {len(judged)} flights judged")
    return {
        "devices": usable,
        "flights": {"healthy": sum(map(len, healthy.values())), "damaged": sum(not one.healthy for one in flights)},
        "modes": {
            name: {
                "runtimes": {runtime: of_drones(drone, mode.begin_windows) for runtime, drone in mode.folds.items()},
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
        own = calibrations(found, windows_of(found, plan, node), personal=personal)
    except CoveyError as error:
        entry.failed[f"{drone} without {Path(judged[0].file).name}"] = str(error)
        return
    entry.begin_windows = manifest.scoring.begin_windows
    motors = manifest.inputs.channels[:ROTORS]
    for runtime, network in found.networks.items():
        fold: list[Outcome] = []
        for one in judged:
            key = (one.file, write_struct(manifest.inputs))  # the logs' rates differ, and windows follow them
            if key not in cache:
                cache[key] = cut(read_recording(one.file, manifest.inputs.channels), manifest.inputs)
            if not len(cache[key]):
                entry.failed[one.file] = "at least one window in the air expected, none found"
                continue
            scorer = Scorer(manifest, network, runtime, own[runtime])
            scored = scorer.score(cache[key])
            asked = not one.healthy and one.cut_mm >= DEEP_MM
            tops = [scorer.attribute(row)[1] for row in scored.error.astype(np.float64)] if asked else []
            named = np.array([motors.index(top) for top in tops] or [0] * len(scored.score), np.int64)
            fold.append(Outcome(one, scored.score / scorer.threshold, named))
        if any(one.flight.healthy for one in fold):
            entry.folds.setdefault(runtime, {}).setdefault(drone, []).append(fold)


def of_drones(drones: Mapping[str, Sequence[Sequence[Outcome]]], begin_windows: int) -> Tree:
    """`mean` over drones and `devices`: `auc`, `spearman`, `false_alarm_windows`, ... as in flights.py."""
    each = {name: asdict(figures(folds, begin_windows)) for name, folds in drones.items()}
    names = next(iter(each.values())).keys()
    return {"mean": {name: mean(one[name] for one in each.values()) for name in names}, "devices": each}


def _agreement(
    fp32: Mapping[str, Sequence[Sequence[Outcome]]], int8: Mapping[str, Sequence[Sequence[Outcome]]]
) -> Tree:
    """As `figures.agreement`, with flights in the place of rows for AUC-PR, and windows for alarms."""
    gaps: list[float] = []
    same = windows = 0
    for drone, folds in fp32.items():
        for exact, coarse in zip(folds, int8[drone], strict=True):
            truth = np.array([not one.flight.healthy for one in exact])
            areas = [auc_pr(truth, np.array([flight_score(one.ratio) for one in fold])) for fold in (exact, coarse)]
            if areas[0] is not None and areas[1] is not None:
                gaps.append(abs(areas[0] - areas[1]))
            for a, b in zip(exact, coarse, strict=True):
                same += int(((a.ratio > 1) == (b.ratio > 1)).sum())
                windows += len(a.ratio)
    return {
        "auc_pr_difference": mean(gaps),
        "auc_pr_difference_worst": max(gaps, default=None),
        "same_alarms": same / windows if windows else None,
    }
