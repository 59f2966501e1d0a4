"""Figures of one device, of a fleet, and of int8 beside fp32, from what a device said of every row; pure.

The tree that leaves here is what the report prints: mode -> runtime -> mean and devices. Rates (F1, FAR, MAR) of a fleet are
taken from its summed counts, as the SKAB leaderboard does; areas are means over the devices that have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from federated.evaluation.metrics import Counts, auc_pr, count, filled, vus_pr, vus_pr_tsb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from edge.scoring.rows import RowScores

Tree: TypeAlias = dict[str, Any]
Figures: TypeAlias = dict[str, float | None]

VUS_BUFFER = 100  # rows: TSB-AD's default where no period is given
# The largest buffer of VUS-PR decides its value: told for a fixed one, and for the series' period as TSB-AD's tables
# have it; and, where `vus` is installed, by that package, whose arithmetic TSB-AD's is.
VOLUMES = ("vus_pr", "vus_pr_period", "vus_pr_tsb")


@dataclass(frozen=True)
class Judged:
    """What one runtime said of one device's judged rows.

    Attributes:
        auc_pr: average precision, None without both classes.
        volumes: VUS-PR by name of its buffer, None likewise or without the library.
        counts: rows by alarm and truth.
        alarm: (N,) of the judged rows.
    """

    auc_pr: float | None
    volumes: dict[str, float | None]
    counts: Counts
    alarm: NDArray[np.bool_]


class Judge:
    """Turns scores into figures; the areas of scores that came before are not computed again."""

    def __init__(self, *, vus: bool = True, buffer: int = VUS_BUFFER) -> None:
        """Args: vus: whether VUS-PR is wanted; buffer: its largest, in rows."""
        self._vus, self._buffer = vus, buffer
        self._areas: dict[tuple[bytes, bytes, int], tuple[float | None, dict[str, float | None]]] = {}

    def __call__(self, told: RowScores, label: NDArray[np.bool_], judged_from: int, period_rows: int) -> Judged:
        """Figures of the rows from `judged_from` on of a series that repeats itself after `period_rows`."""
        truth, alarm = label[judged_from:], told.alarm[judged_from:]
        scores = filled(told.score)[judged_from:]
        key = (scores.tobytes(), truth.tobytes(), period_rows)
        if key not in self._areas:
            volumes: dict[str, float | None] = dict.fromkeys(VOLUMES)
            if self._vus:
                volumes |= {
                    "vus_pr": vus_pr(truth, scores, self._buffer),
                    "vus_pr_period": vus_pr(truth, scores, period_rows),
                }
            volumes["vus_pr_tsb"] = vus_pr_tsb(truth, scores, self._buffer)
            self._areas[key] = (auc_pr(truth, scores), volumes)
        return Judged(*self._areas[key], count(alarm, truth), alarm)


def of_device(judged: Sequence[Judged]) -> Figures:
    """Figures of one device, over one or several trials."""
    counts = sum((one.counts for one in judged), Counts())
    return {
        "auc_pr": mean(one.auc_pr for one in judged),
        **{name: mean(one.volumes[name] for one in judged) for name in VOLUMES},
        "f1": counts.f1,
        "far": counts.far,
        "mar": counts.mar,
    }


def of_fleet(devices: Mapping[str, Sequence[Judged]]) -> Tree:
    """`mean` over devices (rates from summed counts, `f1_mean` the mean of the devices' F1) and `devices`."""
    each = {name: of_device(judged) for name, judged in devices.items()}
    counts = sum((one.counts for judged in devices.values() for one in judged), Counts())
    middle: Figures = {
        "auc_pr": mean(one["auc_pr"] for one in each.values()),
        **{name: mean(one[name] for one in each.values()) for name in VOLUMES},
        "f1": counts.f1,
        "far": counts.far,
        "mar": counts.mar,
        "f1_mean": mean(one["f1"] for one in each.values()),
    }
    return {"mean": middle, "devices": each}


def agreement(fp32: Mapping[str, Sequence[Judged]], int8: Mapping[str, Sequence[Judged]]) -> Figures:
    """How far int8 is from fp32: |AUC-PR difference|, mean over devices and worst, and the share of rows with the same alarm."""
    gaps: list[float] = []
    same = rows = 0
    for name, judged in fp32.items():
        for exact, coarse in zip(judged, int8[name], strict=True):
            if exact.auc_pr is not None and coarse.auc_pr is not None:
                gaps.append(abs(exact.auc_pr - coarse.auc_pr))
            same += int((exact.alarm == coarse.alarm).sum())
            rows += len(exact.alarm)
    return {
        "auc_pr_difference": mean(gaps),
        "auc_pr_difference_worst": max(gaps, default=None),
        "same_alarms": same / rows if rows else None,
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def averaged(trees: Sequence[Tree]) -> Tree:
    """Trees of several seeds as one: numbers become their means, and every `mean` gets a `std` (of the sample) beside it."""
    out: Tree = {}
    for key, first in trees[0].items():
        there = [tree[key] for tree in trees if key in tree]
        if isinstance(first, dict):
            out[key] = averaged(there)
            if key == "mean" and len(there) > 1:
                out["std"] = {name: _spread([one.get(name) for one in there]) for name in first}
        elif isinstance(first, (int, float)) and not isinstance(first, bool):
            out[key] = mean(there)
        elif first is None:
            out[key] = mean(value for value in there if isinstance(value, (int, float)))
        else:
            out[key] = first
    return out


def _spread(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
