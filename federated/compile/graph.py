"""The float model that families hand to the compiler: a chain of dense and convolutional layers, and what it computes.

It holds weights and refuses what cannot be exported: other types, other shapes, numbers that are not finite. Every layer
takes and gives flat vectors. A convolution reads its vector as steps of channels, the steps one after the other, so that
a layer of half as many steps and twice as many channels needs no other layer between.
Training is in the families, int8 in `quantize.py`, files in the writers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.errors import BundleError

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Dense:
    """One layer, y = x W' + b, then max(y, 0) when `relu`.

    Attributes:
        weight: (out, in) float32, finite.
        bias: (out,) float32, finite.
        relu: whether negative outputs become 0.

    Raises:
        BundleError: another dtype or shape, or a number that is not finite.
    """

    weight: Floats
    bias: Floats
    relu: bool = False

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise BundleError(f"layer: weight of shape (out, in) expected, {self.weight.shape} came")
        _check_numbers(self.weight, self.bias)

    @property
    def steps(self) -> int:
        """One: the whole vector at once."""
        return 1

    @property
    def inputs(self) -> int:
        """Values it takes."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Values it gives."""
        return int(self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution over time with zeros at both ends, then max(y, 0) when `relu`: (B, steps * in) -> (B, steps * out).

    Attributes:
        weight: (out, kernel, in) float32, finite; an odd kernel, its middle on the step at hand.
        bias: (out,) float32, finite.
        steps: of the input and the output, >= 1.
        relu: whether negative outputs become 0.

    Raises:
        BundleError: another dtype or shape, or a number that is not finite.
    """

    weight: Floats
    bias: Floats
    steps: int
    relu: bool = False

    def __post_init__(self) -> None:
        if self.weight.ndim != 3 or 0 in self.weight.shape or self.weight.shape[1] % 2 == 0:
            raise BundleError(f"layer: weight of shape (out, odd kernel, in) expected, {self.weight.shape} came")
        if self.steps < 1:
            raise BundleError(f"layer: at least 1 step expected, {self.steps} came")
        _check_numbers(self.weight, self.bias)

    @property
    def inputs(self) -> int:
        """Values it takes."""
        return int(self.steps * self.weight.shape[2])

    @property
    def outputs(self) -> int:
        """Values it gives."""
        return int(self.steps * self.weight.shape[0])


def _check_numbers(weight: Floats, bias: Floats) -> None:
    if bias.shape != weight.shape[:1]:
        raise BundleError(f"layer: bias of shape {weight.shape[:1]} expected, {bias.shape} came")
    for name, values in (("weight", weight), ("bias", bias)):
        if values.dtype != np.float32:
            raise BundleError(f"layer: {name} in float32 expected, {values.dtype} came")
        if not np.isfinite(values).all():
            raise BundleError(f"layer: {name} holds a number that is not finite")


Layer: TypeAlias = Dense | Conv
Graph: TypeAlias = tuple[Layer, ...]


def check_graph(graph: Graph) -> None:
    """Refuse a graph whose layers do not fit one another.

    Raises:
        BundleError: no layer, or a layer that does not take what the one before gives.
    """
    if not graph:
        raise BundleError("graph: at least one layer expected, none came")
    for number, (before, after) in enumerate(pairwise(graph), start=1):
        gives, takes = before.outputs, after.inputs
        if gives != takes:
            raise BundleError(f"graph: layer {number} takes {takes} values, layer {number - 1} gives {gives}")


def neighbours(x: NDArray[Any], kernel: int) -> NDArray[Any]:
    """What a kernel sees at each step, zeros beyond the ends: (B, steps, in) -> (B, steps, kernel * in)."""
    count, steps, width = x.shape
    seen = np.zeros((count, steps, kernel, width), x.dtype)
    for place in range(kernel):
        shift = place - kernel // 2  # of the step that is seen
        low, high = max(0, -shift), min(steps, steps - shift)
        if low < high:
            seen[:, low:high, place] = x[:, low + shift : high + shift]
    return seen.reshape(count, steps, kernel * width)


def product(x: NDArray[Any], weight: NDArray[Any], steps: int) -> NDArray[Any]:
    """A layer's sums without bias: (B, D) with weights (out, in) or (out, kernel, in) -> (B, steps, out)."""
    if weight.ndim == 3:
        x = neighbours(x.reshape(len(x), steps, weight.shape[2]), weight.shape[1])
    sums: NDArray[Any] = x @ weight.reshape(len(weight), -1).T
    return sums.reshape(len(x), steps, len(weight))


def layer_outputs(graph: Graph, x: Floats) -> list[Floats]:
    """Every tensor of the float model in order: the input (B, D), then the output of each layer.

    Raises:
        BundleError: the graph is malformed, or x is not (B, D).
    """
    check_graph(graph)
    inputs = graph[0].inputs
    if x.ndim != 2 or x.shape[1] != inputs:
        raise BundleError(f"graph: input of shape (B, {inputs}) expected, {x.shape} came")
    tensors = [np.asarray(x, dtype=np.float32)]
    for layer in graph:
        y = product(tensors[-1], layer.weight, layer.steps) + layer.bias  # (B, steps, out)
        y = y.reshape(len(x), layer.outputs)
        tensors.append(np.maximum(y, np.float32(0)) if layer.relu else y)
    return tensors


def forward(graph: Graph, x: Floats) -> Floats:
    """What the float model computes, in float32: (B, D) -> (B, K).

    Raises:
        BundleError: the graph is malformed, or x is not (B, D).
    """
    return layer_outputs(graph, x)[-1]
