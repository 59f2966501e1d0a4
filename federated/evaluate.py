"""Federated evaluation: what a device measures on its own windows, and what the server makes of many devices' figures.

A device calibrates the candidate on the older two thirds of its windows and judges it on the last third, with the int8
files that would be released, in every runtime it has, beside the float graph and beside the current release. Up go
rates, errors, a sketch of scores and a spread; never a window. The server's gates are pure functions of those.

The candidate was fitted on all of them: held out is what the thresholds rest on, which is what false alarms come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey.errors import AggregationError, CoveyError, DataError
from covey.sketch import MAX_BINS, Sketch
from edge.scoring.calibration import calibrate
from edge.scoring.runtimes import available, open_runtime
from edge.scoring.scorer import Scorer, normalise, raw_scores
from edge.scoring.temporal import Channels
from edge.scoring.windows import Windows, features
from federated.compile.graph import forward
from federated.gate import Arrays, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from covey.bundle import Bundle, Calibration, Manifest
    from edge.scoring.scorer import Network
    from federated.compile.graph import Floats, Graph
    from federated.config import Gates

FLOAT = "float"  # the graph's name among the runtimes
# Order of a runtime's figures in a device's answer.
FIGURES = ("int8_error", "int8_bias", "false_alarms", "false_alarms_fp32", "false_alarms_current", "unexplained")
NONE = -1.0  # a figure that does not exist: no current release, or not for that runtime


class FloatNetwork:
    """The float graph behind the interface of a runtime."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(self, x: Floats) -> Floats:
        """(B, D) -> (B, K)."""
        return forward(self._graph, x)


def take(windows: Windows, rows: NDArray[np.bool_]) -> Windows:
    """Some of the windows, in order; consecutive ones are not copied: padded windows are views of their rows."""
    here = np.flatnonzero(rows)
    if len(here) and here[-1] - here[0] + 1 == len(here):
        part = slice(int(here[0]), int(here[-1]) + 1)
        return Windows(windows.samples[part], windows.end_row[part], windows.flight[part], windows.start_s[part])
    return Windows(windows.samples[rows], windows.end_row[rows], windows.flight[rows], windows.start_s[rows])


def held_out(flight: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) which windows the thresholds may not rest on: the last third of three flights or more, else of the windows.

    Raises:
        DataError: fewer than 3 windows.
    """
    if len(flight) < 3:
        raise DataError(f"evaluation: at least 3 windows expected, {len(flight)} found")
    numbers = np.unique(flight)
    if len(numbers) >= 3:
        return np.isin(flight, numbers[-(len(numbers) // 3) :])
    rows = np.arange(len(flight))
    late: NDArray[np.bool_] = rows >= len(flight) - len(flight) // 3
    return late


@lru_cache(maxsize=6)
def opened(name: str, model: bytes) -> Network:
    """`open_runtime`, once a process: opening takes milliseconds, and one process may judge for thousands of devices.

    Six are kept: candidate and current release in three runtimes. Not for several threads.
    """
    return open_runtime(name, model)


def judge(candidate: Bundle, graph: Graph, current: Bundle | None, windows: Windows) -> Arrays:
    """What a device tells about a candidate.

    Returns:
        `<runtime>.figures` (6,) float32 in the order of FIGURES, `<runtime>.reference` (bins, 2) int32 for every runtime
        installed here, `spread` (D,) float32 and `held_out` (1,) int64.

    Raises:
        DataError: too few windows, or no runtime.
    """
    late = held_out(windows.flight)
    early, rest = take(windows, ~late), take(windows, late)
    runtimes = available()
    if not runtimes:
        raise DataError(
            "evaluation: a runtime expected (onnxruntime, ai-edge-litert or tflite-runtime), none installed"
        )
    networks: dict[str, Network] = {name: opened(name, candidate.model(name)) for name in runtimes}
    networks[FLOAT] = FloatNetwork(graph)
    scores, limits = _scores(candidate, networks, early, rest)
    before: dict[str, float] = {}
    if current is not None:
        # A current release that this device cannot run is no reason to refuse the next one.
        olds: dict[str, Network] = {}
        for name in runtimes:
            try:
                olds[name] = opened(name, current.model(name))
            except CoveyError:
                continue
        was, bounds = _scores(current, olds, early, rest) if olds else ({}, {})
        before = {name: float((was[name] > bounds[name]).mean()) for name in was}
    whole = calibrate(_eager(candidate.manifest), candidate.digest, windows, networks, 0.0)
    fp32 = scores[FLOAT]
    unexplained = NONE
    if candidate.manifest.model.kind == "reconstruct":
        unexplained = _unexplained(candidate, networks[FLOAT], windows, whole)
    answer: Arrays = {
        "spread": np.asarray(whole.spread, np.float32),
        "held_out": np.array([len(rest)], np.int64),
    }
    for name in runtimes:
        figures = (
            float(np.quantile(np.abs(scores[name] - fp32), 0.99)) / limits[FLOAT],
            float(scores[name].mean() / max(float(fp32.mean()), 1e-12)) - 1.0,
            float((scores[name] > limits[name]).mean()),
            float((fp32 > limits[FLOAT]).mean()),
            before.get(name, NONE),
            unexplained,
        )
        answer[f"{name}.figures"] = np.array(figures, np.float32)
        answer[f"{name}.reference"] = np.array(whole.reference[name], np.int32)
    return answer


def judged_shapes(answer: Mapping[str, NDArray[np.generic]], d: int) -> dict[str, Shape]:
    """What an answer of `judge` must look like, for the runtimes that it names."""
    shapes = {"spread": Shape((d,)), "held_out": Shape((1,), "i")}
    for name in ("onnx", "litert", "tflite"):
        if f"{name}.figures" in answer:
            shapes[f"{name}.figures"] = Shape((len(FIGURES),))
            shapes[f"{name}.reference"] = Shape((-1, 2), "i", most=MAX_BINS + 1)
    return shapes


def _unexplained(candidate: Bundle, network: Network, windows: Windows, own: Calibration) -> float:
    """Mean squared residual of the float graph over that of answering zero: 1 and above is a model that learned nothing."""
    manifest = candidate.manifest
    channels = Channels.of(own) if manifest.inputs.padded else None
    phi = features(windows, manifest.inputs, channels)
    z = normalise(phi, np.asarray(own.center), np.asarray(own.scale), manifest.defaults.clip)
    return float(raw_scores("reconstruct", z, network.run(z)).mean() / max(float(np.square(z).mean()), 1e-12))


def _eager(manifest: Manifest) -> Manifest:
    """The manifest for a part of the windows: a device needs fewer of them to judge than to fly."""
    return msgspec.structs.replace(manifest, scoring=msgspec.structs.replace(manifest.scoring, commission_windows=1))


def _scores(
    bundle: Bundle, networks: Mapping[str, Network], early: Windows, rest: Windows
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Smoothed scores of `rest` and thresholds from `early`, by runtime."""
    manifest = _eager(bundle.manifest)
    calibration = calibrate(manifest, bundle.digest, early, networks, 0.0)
    scores = {
        name: Scorer(manifest, network, name, calibration).score(rest).score for name, network in networks.items()
    }
    return scores, dict(calibration.thresholds)


@dataclass(frozen=True)
class Judgement:
    """What the fleet says about a candidate.

    Attributes:
        evidence: figures by name, for the bundle.
        reference: sketch of normal scores by runtime.
        spread: (D,).
    """

    evidence: dict[str, float]
    reference: dict[str, Sketch]
    spread: NDArray[np.float64]


def pool(answers: Sequence[Arrays]) -> Judgement:
    """Merge the devices' answers: rates by windows, errors by their median (one odd device decides nothing).

    Raises:
        AggregationError: no answer.
    """
    if not answers:
        raise AggregationError("evaluation: at least one device expected, none answered")
    weights = np.array([max(int(answer["held_out"][0]), 1) for answer in answers], np.float64)
    reference: dict[str, Sketch] = {}
    evidence: dict[str, float] = {"devices": float(len(answers)), "held_out_windows": float(weights.sum())}
    for name in sorted({key.partition(".")[0] for answer in answers for key in answer if key.endswith(".figures")}):
        have = [number for number, answer in enumerate(answers) if f"{name}.figures" in answer]
        rows = np.array([answers[number][f"{name}.figures"] for number in have], np.float64)  # (K, 6)
        share = weights[have]
        evidence[f"{name}.int8_error"] = float(np.median(rows[:, 0]))
        evidence[f"{name}.int8_error_worst"] = float(rows[:, 0].max())
        evidence[f"{name}.int8_bias"] = float(np.median(rows[:, 1]))
        evidence[f"{name}.false_alarms"] = float(np.average(rows[:, 2], weights=share))
        evidence[f"{name}.false_alarms_fp32"] = float(np.average(rows[:, 3], weights=share))
        if (rows[:, 5] >= 0).any():
            evidence[f"{name}.unexplained"] = float(np.median(rows[:, 5]))
        known = rows[:, 4] >= 0
        if known.any():
            evidence[f"{name}.false_alarms_current"] = float(np.average(rows[known, 4], weights=share[known]))
        merged = Sketch()
        for number in have:
            merged.merge(Sketch.from_wire(answers[number][f"{name}.reference"].tolist()))
        reference[name] = merged
    spread = np.sqrt(np.mean([np.square(answer["spread"], dtype=np.float64) for answer in answers], axis=0))
    return Judgement(evidence, reference, np.maximum(spread, 1e-6))


def refuse_worse(evidence: Mapping[str, float], gates: Gates) -> None:
    """The gate before releasing.

    Raises:
        AggregationError: int8 strays from fp32, or false alarms exceed fp32's or the current release's; names figures.
    """
    told: list[str] = []
    for name in sorted({key.partition(".")[0] for key in evidence if "." in key}):
        error, bias = evidence[f"{name}.int8_error"], evidence[f"{name}.int8_bias"]
        if not error <= gates.int8_error:
            told.append(f"{name}: int8 error of at most {gates.int8_error:g} thresholds expected, {error:.3g} came")
        if not abs(bias) <= gates.int8_bias:
            told.append(f"{name}: int8 scores within {gates.int8_bias:g} of fp32's mean expected, {bias:+.3g} came")
        share = evidence.get(f"{name}.unexplained", NONE)
        if not share < 1:
            told.append(f"{name}: a model that explains its windows expected, {share:.3g} of their variance is left")
        rate = evidence[f"{name}.false_alarms"]
        for other, what in (("false_alarms_fp32", "fp32's"), ("false_alarms_current", "the current release's")):
            base = evidence.get(f"{name}.{other}")
            if base is not None and not rate <= base + gates.false_alarms:
                told.append(
                    f"{name}: false alarms of at most {what} {base:.3g} + {gates.false_alarms:g} expected, {rate:.3g} came"
                )
    if told:
        raise AggregationError("candidate refused: " + "; ".join(told))
