"""The figures that covey has set itself, held against a report; pure.

A goal is held by every int8 runtime: the one that does worst decides, and for int8 beside fp32 the mode that does worst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from federated.evaluation.figures import Figures, Tree

DIFFERENCE, SAME = 0.01, 0.99  # int8 against fp32: AUC-PR, and rows with the same alarm
_AT_LEAST, _AT_MOST = ">=", "<="


def goals_of(protocol: str, sets: Tree, *, prefix: bool = False) -> list[Tree]:
    """Every goal that this report can answer: figure, value, goal, sense, met (None without a value).

    Args:
        protocol: of the report.
        sets: its sets.
        prefix: the devices learned from the first rows of their test series.
    """
    out: list[Tree] = []
    for name, tree in sets.items():
        mean = _mean_of(tree)
        if protocol == "skab":
            out += [_goal("SKAB F1", mean("personal", "f1", min), 0.86)]
            out += [_goal(f"SKAB {rate.upper()}", mean("personal", rate, max), goal, _AT_MOST) for rate, goal in _SKAB]
        elif protocol == "fleet" and name in _FLEET:
            goal = 0.53 if prefix and name == "smd" else _FLEET[name]
            if not (prefix and name == "asd"):
                what = f"{name.upper()} {'prefix ' if prefix else ''}VUS-PR"
                out += [_goal(f"{what}, buffer 100 rows", mean("personal", "vus_pr", min), goal)]
                out += [_goal(f"{what}, buffer the period", mean("personal", "vus_pr_period", min), goal)]
                tsb = mean("personal", "vus_pr_tsb", min)
                out += [] if tsb is None else [_goal(f"{what}, buffer 100 rows, by vus", tsb, goal)]
        elif protocol == "coldstart" and name == "asd 1 day":
            out += _cold(tree, mean)
        elif protocol == "crazypad":
            out += _drones(tree, mean)
        out += _int8(name, tree)
    return out


_SKAB = (("far", 0.17), ("mar", 0.15))
_FLEET = {"asd": 0.75, "smd": 0.62}
_FLIGHT_AUC = {"E8": 0.92, "E9": 0.99}
_ROTOR = {"E8": 0.92, "E9": 0.75}


def _cold(tree: Tree, mean: Callable[..., float | None]) -> list[Tree]:
    personal = mean("personal", "auc_pr", min)
    network = mean("local-dense-ae", "auc_pr", max)
    gain = None if personal is None or network is None else personal - network
    gaps: list[float] = []
    for runtime, told in _int8_runtimes(tree, "personal").items():
        alone = _int8_runtimes(tree, "local-pca").get(runtime, {"devices": {}})["devices"]
        for device, figures in told["devices"].items():
            here, there = figures["auc_pr"], alone.get(device, {}).get("auc_pr")
            if here is not None and there is not None:
                gaps.append(here - there)
    return [
        _goal("ASD 1 day AUC-PR", personal, 0.57),
        _goal("ASD 1 day AUC-PR, personal - local pca, worst server", min(gaps, default=None), 0.0),
        _goal("ASD 1 day AUC-PR, personal - local dense-ae", gain, 0.05),
    ]


def _drones(tree: Tree, mean: Callable[..., float | None]) -> list[Tree]:
    def of(drone: str, figure: str) -> float | None:
        there = [
            told["devices"][drone][figure]
            for told in _int8_runtimes(tree, "personal").values()
            if drone in told["devices"]
        ]
        return _worst(there, min)

    out = [_goal(f"{drone} flight AUC", of(drone, "auc"), goal) for drone, goal in _FLIGHT_AUC.items()]
    out += [_goal(f"{drone} damaged rotor named", of(drone, "rotor"), goal) for drone, goal in _ROTOR.items()]
    return [
        *out,
        _goal("healthy windows in alarm", mean("personal", "false_alarm_windows", max), 0.05, _AT_MOST),
        _goal("damaged flights' windows in alarm", mean("personal", "recall_windows", min), 0.75),
        _goal("Spearman with cut depth", mean("personal", "spearman", min), 0.90),
    ]


def _int8(name: str, tree: Tree) -> list[Tree]:
    """Both runtimes, the mode that does worst."""
    out: list[Tree] = []
    for runtime, modes in tree["int8"].items():
        gap = _worst((one["auc_pr_difference"] for one in modes.values()), max)
        same = _worst((one["same_alarms"] for one in modes.values()), min)
        out += [
            _goal(f"{name}: {runtime} AUC-PR apart from fp32's", gap, DIFFERENCE, _AT_MOST),
            _goal(f"{name}: {runtime} same alarms as fp32", same, SAME),
        ]
    return out


def _mean_of(tree: Tree) -> Callable[..., float | None]:
    def mean(mode: str, figure: str, worst: Callable[..., float]) -> float | None:
        return _worst((told["mean"][figure] for told in _int8_runtimes(tree, mode).values()), worst)

    return mean


def _int8_runtimes(tree: Tree, mode: str) -> dict[str, dict[str, Any]]:
    runtimes = tree["modes"].get(mode, {"runtimes": {}})["runtimes"]
    return {name: told for name, told in runtimes.items() if name in tree["int8"]}


def _worst(values: Iterable[float | None], worst: Callable[..., float]) -> float | None:
    known = [value for value in values if value is not None]
    return worst(known) if known else None


def _goal(figure: str, value: float | None, goal: float, sense: str = _AT_LEAST) -> Tree:
    met = None if value is None else value >= goal if sense == _AT_LEAST else value <= goal
    return {"figure": figure, "value": value, "goal": goal, "sense": sense, "met": met}


def figure_of(mean: Figures, name: str) -> str:
    """A figure for people: three decimals, a dash for none."""
    value = mean.get(name)
    return "-" if value is None else f"{value:.3f}"
