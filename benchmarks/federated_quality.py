"""How good is what the fleet learns, on the public sets: every goal of detection and of int8 beside fp32.

The figures are those of `covey federated evaluate`; a set that is not in the folder is left out and said on stderr.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from covey.errors import UsageError
from federated.config import Plan
from federated.evaluation.report import Options, evaluate

if TYPE_CHECKING:
    from pathlib import Path

# What is asked of each set: modes that no goal rests on are left to the command.
QUESTIONS = (
    ("skab", Options("skab")),
    ("asd", Options("fleet")),
    ("smd", Options("fleet")),
    ("smd", Options("fleet", prefix=True)),
    ("asd", Options("coldstart")),
    ("crazypad", Options("crazypad")),
)
MEANS = ("auc_pr", "vus_pr", "vus_pr_period", "f1", "far", "mar", "auc", "spearman", "recall_windows", "rotor")


def figures(data: Path, plan: Plan | None = None) -> dict[str, dict[str, Any]]:
    """Goals first, then, without a goal, the means of every mode on LiteRT.

    Args:
        data: folder with skab/, asd/, smd/ and crazypad/, or some of them.
        plan: of the bundles; family `pca` as it is by default.
    """
    out: dict[str, dict[str, Any]] = {}
    for folder, options in QUESTIONS:
        try:
            report = evaluate(data / folder, plan or Plan("pca"), options, _talk)
        except UsageError as error:
            _talk(f"left out: {error}")
            continue
        mark = f"{'prefix ' if options.prefix else ''}{options.protocol}"
        for goal in report["goals"]:
            if goal["value"] is not None:
                out[_name(mark, goal["figure"])] = _figure(goal["value"], goal["goal"], goal["met"])
        for name, tree in report["sets"].items():
            for mode, told in tree["modes"].items():
                for figure, value in told["runtimes"].get("litert", {"mean": {}})["mean"].items():
                    if figure in MEANS and value is not None:
                        out[_name(mark, f"{name} {mode} {figure}")] = _figure(value)
        out[_name(mark, f"{folder} seconds")] = {**_figure(report["seconds"]), "unit": "s"}
    return out


def _name(mark: str, text: str) -> str:
    told = text if text.lower().startswith(mark) else f"{mark} {text}"
    return "_".join(re.findall(r"[a-z0-9]+", told.lower().replace("'s", "")))


def _figure(value: float, goal: float | None = None, met: bool | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": "", "goal": goal, "met": met}


def _talk(line: str) -> None:
    print(line, file=sys.stderr)
