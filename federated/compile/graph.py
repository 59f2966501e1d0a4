"""The float model that families hand to the compiler: a chain of dense layers, and what it computes.

It holds weights and refuses what cannot be exported: other types, other shapes, numbers that are not finite.
Training is in the families, int8 in `quantize.py`, files in the writers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

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
        if self.bias.shape != self.weight.shape[:1]:
            raise BundleError(f"layer: bias of shape {self.weight.shape[:1]} expected, {self.bias.shape} came")
        for name, values in (("weight", self.weight), ("bias", self.bias)):
            if values.dtype != np.float32:
                raise BundleError(f"layer: {name} in float32 expected, {values.dtype} came")
            if not np.isfinite(values).all():
                raise BundleError(f"layer: {name} holds a number that is not finite")


Graph: TypeAlias = tuple[Dense, ...]


def check_graph(graph: Graph) -> None:
    """Refuse a graph whose layers do not fit one another.

    Raises:
        BundleError: no layer, or a layer that does not take what the one before gives.
    """
    if not graph:
        raise BundleError("graph: at least one layer expected, none came")
    for number, (before, after) in enumerate(pairwise(graph), start=1):
        gives, takes = before.weight.shape[0], after.weight.shape[1]
        if gives != takes:
            raise BundleError(f"graph: layer {number} takes {takes} values, layer {number - 1} gives {gives}")


def layer_outputs(graph: Graph, x: Floats) -> list[Floats]:
    """Every tensor of the float model in order: the input (B, D), then the output of each layer.

    Raises:
        BundleError: the graph is malformed, or x is not (B, D).
    """
    check_graph(graph)
    inputs = graph[0].weight.shape[1]
    if x.ndim != 2 or x.shape[1] != inputs:
        raise BundleError(f"graph: input of shape (B, {inputs}) expected, {x.shape} came")
    tensors = [np.asarray(x, dtype=np.float32)]
    for layer in graph:
        y = tensors[-1] @ layer.weight.T + layer.bias  # (B, in) -> (B, out)
        tensors.append(np.maximum(y, np.float32(0)) if layer.relu else y)
    return tensors


def forward(graph: Graph, x: Floats) -> Floats:
    """What the float model computes, in float32: (B, D) -> (B, K).

    Raises:
        BundleError: the graph is malformed, or x is not (B, D).
    """
    return layer_outputs(graph, x)[-1]
