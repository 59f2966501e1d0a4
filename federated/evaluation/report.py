"""One evaluation from a folder to a report: which sets, which seeds, how long, which versions; and the report as a table.

It prints to the console that it is given and to nothing else; the figures are the protocols'.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import msgspec

from covey.bands import Band
from covey.errors import UsageError
from federated.config import PcaOptions
from federated.evaluation.drones import crazypad
from federated.evaluation.figures import VUS_BUFFER, Judge, Tree, averaged
from federated.evaluation.goals import figure_of, goals_of
from federated.evaluation.metrics import vus_here
from federated.evaluation.protocols import DAY_ROWS, MODES, coldstart, fleet
from federated.evaluation.sets import flights, servers, skab_files
from federated.families import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from federated.config import Plan
    from federated.evaluation.protocols import Say
    from federated.evaluation.sets import Device

PROTOCOLS = ("skab", "fleet", "coldstart", "crazypad")
FLIGHT_BAND = Band(10.0, 50.0, "correlation")  # Hz; above the attitude loop
FLIGHT_BETWEEN, FLIGHT_RIDGE = 20.0, 0.1
_PACKAGES = ("covey", "flwr", "numpy", "onnxruntime", "ai-edge-litert", "aeon")
_TABLE = {
    "AUC-PR": "auc_pr",
    "VUS-PR": "vus_pr",
    "..period": "vus_pr_period",
    "..TSB": "vus_pr_tsb",
    "F1": "f1",
    "FAR": "far",
    "MAR": "mar",
}
_FLIGHTS = {
    "AUC": "auc",
    "depth": "spearman",
    "false": "false_alarm_windows",
    "recall": "recall_windows",
    "deep": "recall_deep_windows",
    "rotor": "rotor",
}


class Options(msgspec.Struct, frozen=True):
    """What is evaluated, beside the plan."""

    protocol: str
    modes: tuple[str, ...] = MODES
    seeds: tuple[int, ...] = (0,)
    prefix: bool = False  # fleet: learn from the first rows of test, as TSB-AD
    starts: int = 1  # coldstart: beginnings of the new device's days
    day_rows: int | None = None  # coldstart: rows of a day; by the set where None
    vus_buffer: int = VUS_BUFFER


def evaluate(folder: Path, plan: Plan, options: Options, say: Say) -> Tree:
    """Run one protocol on what lies below a folder.

    Args:
        folder: holds the set's files, at any depth.
        plan: of the bundles; the protocol sets its rows and, where it has none, its columns.
        options: see there.
        say: a line of progress.

    Returns:
        The report: protocol, family, sets (name -> devices, modes -> runtimes -> mean and devices, int8), goals, notes,
        seeds, seconds, versions, plan.

    Raises:
        UsageError: no such protocol or mode, or nothing of it in the folder.
        CoveyError: a file of the set cannot be used.
    """
    if options.protocol not in PROTOCOLS:
        raise UsageError(f"--protocol: one of {', '.join(PROTOCOLS)} expected, {options.protocol!r} came")
    strangers = [mode for mode in options.modes if mode not in MODES]
    if strangers or not options.modes:
        raise UsageError(f"--mode: of {', '.join(MODES)} expected, {', '.join(strangers) or 'none'} came")
    if not options.seeds or options.starts < 1 or options.vus_buffer < 0 or (options.day_rows or 1) < 1:
        raise UsageError("evaluate: at least one seed, --starts >= 1, --day-rows >= 1 and --vus-buffer >= 0 expected")
    began = time.monotonic()
    notes: list[str] = []
    seeds = options.seeds
    if family_of(plan.family).one_shot and options.protocol != "coldstart" and len(seeds) > 1:
        notes.append(f"{plan.family} is the same for every seed: one run")
        seeds = seeds[:1]
    if options.protocol != "crazypad" and not vus_here():
        notes.append("VUS-PR is left out: aeon is not installed: pip install 'covey[evaluate]'")
    plan = suited(plan, options)
    judge = Judge(vus=vus_here(), buffer=options.vus_buffer)
    trees: list[Tree] = []
    for seed in seeds:
        run = _Run(folder, msgspec.structs.replace(plan, seed=seed, rows=None), options, judge, say)
        trees.append(run.sets())
        notes += [note for note in run.notes if note not in notes]
    sets = averaged(trees)
    return {
        "protocol": options.protocol,
        "family": plan.family,
        "sets": sets,
        "goals": goals_of(options.protocol, sets, prefix=options.prefix),
        "notes": notes,
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "options": msgspec.json.decode(msgspec.json.encode(options)),
        "plan": msgspec.json.decode(msgspec.json.encode(plan)),
    }


def suited(plan: Plan, options: Options) -> Plan:
    """The plan, with what is recommended for a set's kind of data where the plan leaves it open.

    Flight logs of 100 samples/s: one band of the accelerations (docs/decisions/0026). The first rows of a long history are few, and
    no run of a machine for that.
    """
    if options.protocol == "crazypad" and plan.features == "auto" and not plan.bands:
        pca = plan.pca
        if pca == PcaOptions():
            pca = msgspec.structs.replace(pca, between=FLIGHT_BETWEEN, ridge=FLIGHT_RIDGE)
        return msgspec.structs.replace(plan, bands=[FLIGHT_BAND], pca=pca)
    if options.prefix and plan.stream == "auto":
        return msgspec.structs.replace(plan, stream="metrics")
    return plan


class _Run:
    """One seed."""

    def __init__(self, folder: Path, plan: Plan, options: Options, judge: Judge, say: Say) -> None:
        self.notes: list[str] = []
        self._folder, self._plan, self._options, self._judge, self._say = folder, plan, options, judge, say

    def sets(self) -> Tree:
        options = self._options
        if options.protocol == "crazypad":
            found, self.notes = flights(self._folder)
            return {"crazypad": crazypad(found, self._plan, self._say, modes=options.modes)}
        if options.protocol == "skab":
            files, self.notes = skab_files(self._folder)
            return {"skab": self._fleet(files)}
        if options.protocol == "fleet":
            return {
                name: self._fleet(devices) for name, devices in servers(self._folder, prefix=options.prefix).items()
            }
        out: Tree = {}
        for name, devices in servers(self._folder).items():
            rows = options.day_rows or DAY_ROWS.get(name)
            if rows is None or len(devices) < 2:
                why = "--day-rows expected, its rate is not known" if rows is None else "2 devices expected, 1 came"
                self.notes.append(f"{name}: {why}: left out")
                continue
            spans = coldstart(devices, self._plan, self._judge, self._say, day_rows=rows, starts=options.starts)
            out |= {f"{name} {span}": tree for span, tree in spans.items()}
        if not out:
            raise UsageError(f"{self._folder}: coldstart: {'; '.join(self.notes)}")
        return out

    def _fleet(self, devices: Sequence[Device]) -> Tree:
        return fleet(devices, self._plan, self._judge, self._say, modes=self._options.modes)


def versions() -> dict[str, str]:
    """What the figures rest on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def show(report: Tree, console: Console) -> None:
    """The report for people: a table a set, int8 beside fp32, goals, notes."""
    from rich import box
    from rich.table import Table

    def table_of(title: str, *columns: str) -> Table:
        table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        for n, column in enumerate(columns):
            table.add_column(column, justify="right" if n and column not in {"runtime", "of"} else "left", no_wrap=True)
        return table

    flown = report["protocol"] == "crazypad"
    names = _FLIGHTS if flown else _TABLE
    for name, tree in report["sets"].items():
        table = table_of(f"{name}: {len(tree['devices'])} devices, {report['family']}", "mode", "runtime", "of", *names)
        for mode, told in tree["modes"].items():
            for runtime, figures in told["runtimes"].items():
                for who, row in {**(figures["devices"] if flown else {}), "all": figures["mean"]}.items():
                    table.add_row(mode, runtime, who, *(figure_of(row, one) for one in names.values()))
        console.print(table)
        for mode, told in tree["modes"].items():
            for what in ("refused", "failed"):
                for device, why in told[what].items():
                    console.print(f"{mode}: {device}: {what}: {why}", markup=False, highlight=False, soft_wrap=True)
    table = table_of("goals", "figure", "value", "goal", "met")
    for goal in report["goals"]:
        met = {True: "met", False: "MISSED", None: "not measured"}[goal["met"]]
        value = "-" if goal["value"] is None else f"{goal['value']:.4f}"
        table.add_row(goal["figure"], value, f"{goal['sense']} {goal['goal']:g}", met)
    console.print(table)
    for note in report["notes"]:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    seeds = ", ".join(str(seed) for seed in report["seeds"])
    told = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    console.print(f"seeds {seeds}; {report['seconds']} s; {told}", markup=False, highlight=False, soft_wrap=True)
