"""Figures over whole flights of drones with known damage: leave one healthy flight out. Pure: rules and ranks.

Protocol. Drones learn together from healthy flights alone: in each fold one healthy flight of one drone is left out, every
drone is one client with its other healthy flights, and the drone calibrates on those of its own. The fold then scores, with
what a device would score, the flight left out and all damaged flights of that drone. Every healthy flight is left out once.

* A flight's score is the median over its windows of smoothed score / threshold: a device can keep it in a sketch, one gust
  does not move it, and it compares between folds, whose thresholds differ.
* `auc`: mean over folds of the share of (left out, damaged) pairs in order. Both sides have one model.
* `spearman`: over flights with a cut (by depth) and healthy ones (depth 0); a damaged flight's score is its mean over the
  folds. Tape and weights have no depth and are left out. `spearman_cuts`: mean over folds, cuts alone.
* False alarms: share of the left-out flights' windows above the threshold, and of those flights with an alarm (so many
  windows in a row as the bundle says). Recall: the same of all damaged flights, and of those cut by at least DEEP_MM.
* `rotor`: share of (flight, fold) of cuts of at least DEEP_MM on one rotor in which the rotor named most often is that one;
  windows above the threshold count, or all of a flight that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

DEEP_MM = 2.0  # a cut that must be found and named


@dataclass(frozen=True)
class Flight:
    """One recording and the truth about it.

    Attributes:
        file: its path; its name in everything here.
        drone: whose.
        healthy: nothing was done to the drone.
        cut_mm: how much its propellers were cut in all; 0: not at all.
        rotor: index of the only rotor that was damaged; None: several, or none.
    """

    file: str
    drone: str
    healthy: bool
    cut_mm: float = 0.0
    rotor: int | None = None


@dataclass(frozen=True)
class Fold:
    """Who learns from what, and what is tested.

    Attributes:
        held_out: a healthy flight.
        train: drone -> its healthy flights, without `held_out`; each drone is one client.
        test: `held_out` and all damaged flights of its drone.
    """

    held_out: Flight
    train: dict[str, tuple[Flight, ...]]
    test: tuple[Flight, ...]


@dataclass(frozen=True)
class Outcome:
    """A flight as one fold's model saw it.

    Attributes:
        flight: which.
        ratio: (N,) smoothed score / threshold of each of its windows, in order; above 1 is anomalous.
        named: (N,) index of the rotor that each window names.
    """

    flight: Flight
    ratio: NDArray[np.floating[Any]]
    named: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Figures:
    """What one drone's folds give; see the module. None: there is no flight that could tell."""

    folds: int
    auc: float | None
    auc_pooled: float | None  # every healthy flight by its own fold against the damaged ones' means over folds
    spearman: float | None
    spearman_cuts: float | None
    false_alarm_windows: float
    false_alarm_flights: float
    recall_windows: float | None
    recall_flights: float | None
    recall_deep_windows: float | None
    recall_deep_flights: float | None
    rotor: float | None


def leave_one_out(flights: Sequence[Flight]) -> list[Fold]:
    """The folds, in the flights' order.

    Raises:
        DataError: a drone with damaged flights has fewer than three healthy ones, so that two remain to learn from.
    """
    healthy: dict[str, list[Flight]] = {}
    for flight in flights:
        healthy.setdefault(flight.drone, []).extend([flight] if flight.healthy else [])
    for drone, own in healthy.items():
        if len(own) < 3:
            raise DataError(f"{drone}: at least 3 healthy flights expected, {len(own)} found")
    folds = []
    for held_out in (flight for flight in flights if flight.healthy):
        train = {drone: tuple(flight for flight in own if flight != held_out) for drone, own in healthy.items()}
        damaged = tuple(flight for flight in flights if flight.drone == held_out.drone and not flight.healthy)
        folds.append(Fold(held_out, train, (held_out, *damaged)))
    return folds


def flight_score(ratio: NDArray[np.floating[Any]]) -> float:
    """Median of a flight's smoothed scores (N,) over their thresholds.

    Raises:
        DataError: no window.
    """
    if not len(ratio):
        raise DataError("flight: at least one window expected, none came")
    return float(np.median(ratio))


def auc(healthy: ArrayLike, damaged: ArrayLike) -> float | None:
    """Share of (healthy, damaged) pairs in which the damaged one scores higher; a tie counts half (Mann and Whitney, 1947)."""
    low, high = np.asarray(healthy, np.float64), np.asarray(damaged, np.float64)
    if not (low.size and high.size):
        return None
    apart = high[:, None] - low[None, :]
    return float(((apart > 0) + 0.5 * (apart == 0)).mean())


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Correlation of ranks, ties at their mean rank (Spearman, 1904); None when one side does not vary."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else None


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """(N,) ranks from 1, ties at their mean rank."""
    _, which, count = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    middle: NDArray[np.float64] = last - (count - 1) / 2
    out: NDArray[np.float64] = middle[which.ravel()]
    return out


def alarmed(ratio: NDArray[np.floating[Any]], begin_windows: int) -> bool:
    """Whether so many windows in a row lie above the threshold; NaN lies above it, as in edge/scoring/detector.py."""
    run = 0
    for value in ratio.tolist():
        run = 0 if value <= 1 else run + 1
        if run >= begin_windows:
            return True
    return False


def named_rotor(outcome: Outcome) -> int:
    """The rotor that most windows above the threshold name, of all windows where none is; the first of equals."""
    above = ~(outcome.ratio <= 1)
    return int(np.argmax(np.bincount(outcome.named[above] if above.any() else outcome.named)))


def figures(folds: Sequence[Sequence[Outcome]], begin_windows: int) -> Figures:
    """One drone's figures.

    Args:
        folds: of each fold of the drone, the outcomes of the flights tested; one of them is healthy.
        begin_windows: windows in a row that begin an alarm.

    Raises:
        DataError: no fold, or one without its healthy flight.
    """
    kept = [[o for o in fold if o.flight.healthy] for fold in folds]
    if not kept or any(len(one) != 1 for one in kept):
        raise DataError("flights: folds with one healthy flight each expected")
    healthy = [one[0] for one in kept]
    damaged = [[o for o in fold if not o.flight.healthy] for fold in folds]
    every = [outcome for fold in damaged for outcome in fold]
    deep = [outcome for outcome in every if outcome.flight.cut_mm >= DEEP_MM]
    single = [outcome for outcome in deep if outcome.flight.rotor is not None]
    # Means over folds, of each damaged flight
    scores: dict[Flight, list[float]] = {}
    for outcome in every:
        scores.setdefault(outcome.flight, []).append(flight_score(outcome.ratio))
    mean = {flight: float(np.mean(values)) for flight, values in scores.items()}
    left_out = [flight_score(outcome.ratio) for outcome in healthy]
    cuts = [flight for flight in mean if flight.cut_mm > 0]
    aucs = [
        auc([own], [flight_score(o.ratio) for o in fold]) for own, fold in zip(left_out, damaged, strict=True) if fold
    ]
    by_fold = [
        spearman([flight_score(o.ratio) for o in own], [o.flight.cut_mm for o in own])
        for own in ([o for o in fold if o.flight.cut_mm > 0] for fold in damaged)
    ]
    ranked = [one for one in by_fold if one is not None]
    return Figures(
        folds=len(folds),
        auc=_mean([one for one in aucs if one is not None]),
        auc_pooled=auc(left_out, list(mean.values())),
        spearman=spearman(
            [*(mean[flight] for flight in cuts), *left_out],
            [*(flight.cut_mm for flight in cuts), *[0.0] * len(healthy)],
        ),
        spearman_cuts=_mean(ranked),
        false_alarm_windows=_windows(healthy) or 0.0,
        false_alarm_flights=_flights(healthy, begin_windows) or 0.0,
        recall_windows=_windows(every),
        recall_flights=_flights(every, begin_windows),
        recall_deep_windows=_windows(deep),
        recall_deep_flights=_flights(deep, begin_windows),
        rotor=_mean([float(named_rotor(outcome) == outcome.flight.rotor) for outcome in single]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _windows(outcomes: Sequence[Outcome]) -> float | None:
    """Share of all windows above the threshold."""
    return float(np.mean(np.concatenate([~(o.ratio <= 1) for o in outcomes]))) if outcomes else None


def _flights(outcomes: Sequence[Outcome], begin_windows: int) -> float | None:
    """Share of the flights with an alarm."""
    return _mean([float(alarmed(outcome.ratio, begin_windows)) for outcome in outcomes])
