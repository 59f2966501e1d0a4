"""From a float graph to a bundle: int8 in two formats, golden windows with what each runtime makes of them, evidence.

Golden windows are synthetic: seeded normal numbers and extremes, never a device's data. Their outputs come from really
running each runtime that is installed here; a model whose runtimes disagree with exact integer arithmetic is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey.bundle import (
    GOLDEN_INPUT,
    MODEL_OF_RUNTIME,
    STATE,
    Golden,
    golden_output,
    pack,
)
from covey.errors import BundleError
from covey.sketch import MIN_VALUE, Sketch
from covey.wire import rfc3339
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import forward
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import quantize, simulate
from federated.compile.tflite_writer import write_tflite
from federated.config import CLIP, RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from covey.bundle import Bundle, Manifest
    from federated.compile.graph import Floats, Graph
    from federated.compile.quantize import QuantizedGraph, Ranges

GOLDEN_NORMAL, GOLDEN_SEED = 24, 20_260
STEPS = 4  # of the output: rounding differs by one step a layer between kernels and processors
STEPS_UNSEEN = 8  # for a runtime that is not installed here, whose outputs are taken from a sibling


@dataclass(frozen=True)
class Compiled:
    """One int8 model in both formats, and the graph it stands for."""

    graph: Graph
    quantized: QuantizedGraph
    onnx: bytes
    tflite: bytes

    @property
    def models(self) -> dict[str, bytes]:
        """File name in the bundle -> bytes."""
        return {MODEL_OF_RUNTIME["onnx"]: self.onnx, MODEL_OF_RUNTIME["tflite"]: self.tflite}


def compile_graph(graph: Graph, ranges: Ranges, headroom: float) -> Compiled:
    """Quantise by observed ranges, widened for the layers, +-clip for the input.

    Raises:
        BundleError: the graph cannot be quantised.
    """
    quantized = quantize(graph, ranges.with_input(-CLIP, CLIP).widened(headroom))
    return Compiled(graph, quantized, write_onnx(quantized), write_tflite(quantized))


def trimmed(bundle: Bundle) -> bytes:
    """A bundle's bytes without what judging does not need; another digest, the same models."""
    return pack(bundle.manifest, {name: bundle.files[name] for name in {*MODEL_OF_RUNTIME.values()} & {*bundle.files}})


def golden_windows(d: int) -> Floats:
    """(B, D) float32 normalised inputs: seeded normal ones, all low, all high, zero, and single features at the clip."""
    rng = np.random.default_rng(GOLDEN_SEED)
    normal = np.clip(rng.standard_normal((GOLDEN_NORMAL, d)), -CLIP, CLIP)
    single = np.zeros((5, d))
    for row, feature in enumerate(np.linspace(0, d - 1, len(single)).astype(int)):
        single[row, feature] = CLIP if row % 2 else -CLIP
    extremes = np.stack([np.full(d, -CLIP), np.full(d, CLIP), np.zeros(d)])
    return np.ascontiguousarray(np.concatenate([normal, extremes, single]), np.float32)


def golden_outputs(compiled: Compiled, x: Floats) -> tuple[dict[str, Floats], dict[str, float]]:
    """Outputs and tolerance of every runtime, by running it where it is installed.

    Raises:
        BundleError: no runtime is installed, or one strays from exact integer arithmetic.
    """
    step = compiled.quantized.layers[-1].output.scale
    exact = simulate(compiled.quantized, x)
    outputs: dict[str, Floats] = {}
    tolerance: dict[str, float] = {}
    for name in available():
        y = open_runtime(name, compiled.models[MODEL_OF_RUNTIME[name]]).run(x)
        worst = float(np.abs(y - exact).max())
        if not worst <= STEPS * step:
            raise BundleError(
                f"{name}: golden outputs within {STEPS} steps of {step:.3g} of exact integers expected, {worst:.3g} came"
            )
        outputs[name], tolerance[name] = y, STEPS * step
    if not outputs:
        raise BundleError("export: onnxruntime or ai-edge-litert expected to make golden outputs, none installed")
    for name in RUNTIMES:  # not installed here: its sibling's outputs, and more room for its own rounding
        if name not in outputs:
            sibling = next(other for other in ("litert", "tflite", "onnx") if other in outputs)
            outputs[name], tolerance[name] = outputs[sibling], STEPS_UNSEEN * step
    return outputs, tolerance


def float_error(compiled: Compiled, x: Floats) -> float:
    """Median relative error of the int8 outputs' mean square on x against the float graph's: no device needed."""
    exact = np.square(forward(compiled.graph, x), dtype=np.float64).mean(axis=1)
    found = np.square(simulate(compiled.quantized, x), dtype=np.float64).mean(axis=1)
    return float(np.median(np.abs(found - exact) / np.maximum(exact, 1e-12)))


def export(
    manifest: Manifest,
    compiled: Compiled,
    *,
    reference: Mapping[str, Sketch],
    spread: NDArray[np.float64],
    evidence: Mapping[str, float],
    state: bytes,
    made_s: float,
) -> bytes:
    """The bytes of the bundle.

    Args:
        manifest: the draft that was judged.
        compiled: its models.
        reference: merged sketch of normal scores, for at least one runtime; the others take a sibling's.
        spread: (D,) merged.
        evidence: figures of the gates.
        state: what the next round starts from.
        made_s: seconds since the epoch.

    Raises:
        BundleError: no reference, or golden outputs cannot be made.
    """
    if not any(sketch.count for sketch in reference.values()):
        raise BundleError("export: normal scores of at least one runtime expected, none came")
    x = golden_windows(manifest.model.inputs)
    outputs, tolerance = golden_outputs(compiled, x)
    sketches = {name: _of(reference, name) for name in RUNTIMES}
    scoring = manifest.scoring
    thresholds = {
        name: max(scoring.factor * sketch.quantile(scoring.quantile), MIN_VALUE) for name, sketch in sketches.items()
    }
    whole = msgspec.structs.replace(
        manifest,
        made=rfc3339(made_s),
        made_by=f"covey {version('covey')}",
        defaults=msgspec.structs.replace(
            manifest.defaults,
            spread=spread.tolist(),
            thresholds=thresholds,
            reference={name: sketch.to_wire() for name, sketch in sketches.items()},
        ),
        golden=Golden(windows=len(x), tolerance=tolerance),
        evidence={**evidence, "golden_float_error": float_error(compiled, x[:GOLDEN_NORMAL])},
    )
    files = {
        **compiled.models,
        GOLDEN_INPUT: x.astype("<f4").tobytes(),
        **{golden_output(name): y.astype("<f4").tobytes() for name, y in outputs.items()},
        STATE: state,
    }
    return pack(whole, files)


def _of(reference: Mapping[str, Sketch], name: str) -> Sketch:
    for other in (name, "litert", "tflite", "onnx"):
        if other in reference and reference[other].count:
            return reference[other]
    raise BundleError(f"export: normal scores for runtime {name} expected, none came")
