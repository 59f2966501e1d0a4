"""The one int8 quantiser: both writers take their integers from here, so that all runtimes compute the same.

Weights are symmetric int8 per output channel, biases int32 with scale s_in * s_w, activations asymmetric int8 whose
range includes 0, ranges are minimum and maximum. `simulate` is the reference of what the runtimes compute.

Ranges can be observed where the data is and merged elsewhere: in federated evaluation a client sends 2 numbers a
tensor and no window. This file knows neither file formats nor runtimes. It does not clip outliers away: a clipped
range can look like a gain in quality, so whoever wants one says so by explicit ranges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.errors import AggregationError, BundleError
from federated.compile.graph import Floats, Graph, check_graph, layer_outputs, product

if TYPE_CHECKING:
    from collections.abc import Iterable

Int8s: TypeAlias = NDArray[np.int8]
Int32s: TypeAlias = NDArray[np.int32]

QMIN, QMAX = -128, 127  # int8 activations
WMAX = 127  # symmetric int8 weights: -128 is not used, so that the negative of a weight is one
MAX_WIDTH = 2**30 // (WMAX * 255)  # inputs of a layer whose int32 sum cannot overflow beside a bias below 2^30
MIN_INPUT_SPAN = 1e-12  # below it an input is constant, and its scale not a normal float32 in the products


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of every tensor: the input first, then the output of each layer.

    Raises:
        BundleError: lengths differ, a number is not finite, or a low end is above its high end.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or len(self.low) < 2:
            raise BundleError(
                f"ranges: as many low as high ends expected, at least 2; {len(self.low)} and {len(self.high)} came"
            )
        for number, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise BundleError(f"ranges: tensor {number}: finite low <= high expected, {low} and {high} came")

    def with_input(self, low: float, high: float) -> Ranges:
        """The same ranges with a known input range, such as -8..8 for features that are clipped there."""
        return replace(self, low=(low, *self.low[1:]), high=(high, *self.high[1:]))

    def widened(self, factor: float) -> Ranges:
        """Every layer's range times factor >= 1, the input's kept: room for windows that calibration did not hold.

        Each doubling costs one bit of resolution.

        Raises:
            BundleError: the factor is below 1 or not finite.
        """
        if not (math.isfinite(factor) and factor >= 1):
            raise BundleError(f"ranges: widening factor >= 1 expected, {factor} came")
        low = (self.low[0], *(value * factor for value in self.low[1:]))
        high = (self.high[0], *(value * factor for value in self.high[1:]))
        return Ranges(low, high)


def observe(graph: Graph, x: Floats) -> Ranges:
    """Ranges of all tensors over calibration windows x: (B, D), B >= 1.

    Raises:
        BundleError: the graph is malformed, x is empty, of another width, or leads to numbers that are not finite.
    """
    if x.shape[:1] == (0,):
        raise BundleError("ranges: at least one calibration window expected, none came")
    tensors = layer_outputs(graph, x)
    return Ranges(tuple(float(t.min()) for t in tensors), tuple(float(t.max()) for t in tensors))


def merge_ranges(many: Iterable[Ranges]) -> Ranges:
    """Ranges over the union of the data that each of `many` was observed on; order does not matter.

    Raises:
        AggregationError: none came, or they are of graphs with different numbers of layers.
    """
    ranges = list(many)
    lengths = {len(one.low) for one in ranges}
    if len(lengths) != 1:
        raise AggregationError(f"ranges: one number of tensors expected, {sorted(lengths) or 'no ranges'} came")
    low = tuple(min(ends) for ends in zip(*(one.low for one in ranges), strict=True))
    high = tuple(max(ends) for ends in zip(*(one.high for one in ranges), strict=True))
    return Ranges(low, high)


@dataclass(frozen=True)
class Affine:
    """How an int8 activation stands for a real one: real = (q - zero_point) * scale.

    Attributes:
        scale: > 0, exactly a float32.
        zero_point: in [-128, 127]; stands for 0.0 exactly.
    """

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A layer in integers.

    Attributes:
        weight: (out, in), or (out, kernel, in) of a convolution, int8 in [-127, 127].
        weight_scale: (out,) float32 > 0.
        bias: (out,) int32 in units of bias_scale.
        bias_scale: (out,) float32, input scale * weight_scale.
        relu: outputs do not fall below the zero point.
        output: of the layer's output; with relu its zero point is -128.
        steps: of a convolution; 1 of a dense layer.
    """

    weight: Int8s
    weight_scale: Floats
    bias: Int32s
    bias_scale: Floats
    relu: bool
    output: Affine
    steps: int = 1

    @property
    def inputs(self) -> int:
        """Values it takes."""
        return int(self.steps * self.weight.shape[-1])

    @property
    def outputs(self) -> int:
        """Values it gives."""
        return int(self.steps * self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """The integer model: float input quantised by `input`, then the layers, float output by the last one's `output`."""

    input: Affine
    layers: tuple[QuantizedLayer, ...]


def _affine(low: float, high: float, least_scale: float = 0.0) -> Affine:
    low, high = min(low, 0.0), max(high, 0.0)  # 0 must be exact: padding, ReLU and "nothing happens" are 0
    scale = float(np.float32(max((high - low) / (QMAX - QMIN), least_scale)))
    return Affine(scale, min(max(round(QMIN - low / scale), QMIN), QMAX))


def quantize(graph: Graph, ranges: Ranges) -> QuantizedGraph:
    """Turn a float graph into integers that represent `ranges`.

    Raises:
        BundleError: ranges are of another graph, the input's is empty, or a layer is too wide for int32 sums.
    """
    check_graph(graph)
    if len(ranges.low) != len(graph) + 1:
        raise BundleError(f"ranges: {len(graph) + 1} tensors expected, {len(ranges.low)} came")
    if max(ranges.high[0], 0.0) - min(ranges.low[0], 0.0) < MIN_INPUT_SPAN:
        raise BundleError("ranges: the input was always 0: calibrate on windows that hold data")
    first = before = _affine(ranges.low[0], ranges.high[0])
    layers = []
    for number, layer in enumerate(graph):
        width = layer.weight[0].size
        if width > MAX_WIDTH:
            raise BundleError(f"graph: layer {number}: at most {MAX_WIDTH} inputs fit int32 sums, {width} came")
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        # The second term keeps a bias beside tiny weights within int32 (half of it: the sum needs the other half).
        weight_scale = np.maximum(
            np.abs(weight).reshape(len(weight), -1).max(axis=1) / WMAX, np.abs(bias) / (before.scale * 2.0**30)
        )
        # An output step far below one unit of the sum tells nothing, and XNNPACK refuses a ratio of 256 or more.
        finest = before.scale * float(weight_scale.max()) / 64
        low = 0.0 if layer.relu else ranges.low[number + 1]
        after = _affine(low, ranges.high[number + 1], finest or 1.0)
        # XNNPACK refuses a ratio below 2^-32 too; a channel that this floor touches moves less than one output step.
        weight_scale = np.maximum(weight_scale, after.scale * 2.0**-30 / before.scale)
        scale = weight_scale.astype(np.float32)  # (out,)
        bias_scale = np.float32(before.scale) * scale  # rounded as the runtimes multiply it
        layers.append(
            QuantizedLayer(
                weight=np.clip(np.rint(weight.T / scale).T, -WMAX, WMAX).astype(np.int8),  # channels are the first axis
                weight_scale=scale,
                bias=np.rint(bias / bias_scale).astype(np.int32),
                bias_scale=bias_scale,
                relu=layer.relu,
                output=after,
                steps=layer.steps,
            )
        )
        before = after
    return QuantizedGraph(first, tuple(layers))


def _to_int(values: Floats, affine: Affine, least: int = QMIN) -> NDArray[np.float64]:
    """Round half to even, saturate; integers are carried as float64, where their products and sums stay exact."""
    rounded = np.rint(values).astype(np.float64) + affine.zero_point
    return np.clip(rounded, least, QMAX)


def simulate(qgraph: QuantizedGraph, x: Floats) -> Floats:
    """What the runtimes compute, in exact integer arithmetic: (B, D) float32 -> (B, K) float32.

    Sums are exact, rescaling is one float32 product as in ONNX Runtime and XNNPACK. Runtimes that rescale in fixed
    point, or multiply by 1 / scale, round a few values in a thousand to the neighbouring step.

    Raises:
        BundleError: x is not (B, D).
    """
    inputs = qgraph.layers[0].inputs
    if x.ndim != 2 or x.shape[1] != inputs:
        raise BundleError(f"graph: input of shape (B, {inputs}) expected, {x.shape} came")
    before = qgraph.input
    q = _to_int(np.asarray(x, dtype=np.float32) / np.float32(before.scale), before)
    for layer in qgraph.layers:
        total = product(q - before.zero_point, layer.weight.astype(np.float64), layer.steps) + layer.bias  # (B, S, out)
        ratio = layer.bias_scale / np.float32(layer.output.scale)  # (out,)
        before = layer.output
        q = _to_int(total.astype(np.float32) * ratio, before, before.zero_point if layer.relu else QMIN)
        q = q.reshape(len(x), layer.outputs)
    return (q - before.zero_point).astype(np.float32) * np.float32(before.scale)
