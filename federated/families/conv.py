"""The convolutional autoencoder over time in NumPy: shape, weights, gradients, training with Adam. Numbers only.

A window is a flat vector of steps, each of so many channels. The encoder folds: two neighbouring steps become one of
twice the channels, which moves no value, and a convolution looks at a step and its neighbours. The decoder does the same
backwards: a convolution gives twice the channels, which are read as twice the steps. So everything is convolutions of
stride 1 (compile/graph.py), which each runtime has for int8, and the number of weights does not grow with the window.

Weights are one flat list [W0, b0, W1, b1, ...], Wi (out, kernel, in) and bi (out,). ReLU everywhere but at the end; loss,
clipping and Adam are dense.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import DataError
from federated.compile.graph import Conv, Graph, neighbours
from federated.families import dense
from federated.families.dense import CLIP, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_FOLDS = 2
CODE_SHARE = 3 / 16  # of the values of a folded step: what dense-ae's default leaves of 80 features


@dataclass(frozen=True)
class Layer:
    """One convolution: (B, steps, before) -> (B, steps, after)."""

    steps: int
    before: int
    after: int
    kernel: int


def layers_of(steps: int, channels: int, hidden: int, code: int | None, kernel: int) -> list[Layer]:
    """The network for windows of so many steps and channels.

    Args:
        steps: samples of a window; it is folded twice, once or not at all, as it can be halved.
        channels: values of a sample.
        hidden: channels between the layers.
        code: channels of the narrowest tensor; a share of the folded values when None.
        kernel: steps that a convolution sees, odd.

    Raises:
        DataError: a number below 1, or an even kernel.
    """
    if min(steps, channels, hidden, kernel, code or 1) < 1 or kernel % 2 == 0:
        raise DataError(
            "convolutions: steps, channels, hidden, code >= 1 and an odd kernel expected, "
            f"{steps}, {channels}, {hidden}, {code}, {kernel} came"
        )
    folds = 0
    while folds < MOST_FOLDS and (steps >> folds) % 2 == 0:
        folds += 1
    factors = [2] * folds + [1] * (MOST_FOLDS - folds)
    encoder: list[Layer] = []
    at, width = steps, channels
    for factor in factors:
        at, width = at // factor, width * factor
        encoder.append(Layer(at, width, hidden, kernel))
        width = hidden
    folded = channels * steps // at
    narrow = code if code is not None else max(1, round(CODE_SHARE * folded))
    middle = [Layer(at, hidden, narrow, 1)]
    decoder: list[Layer] = []
    width = narrow
    for number, factor in enumerate(reversed(factors)):
        last = number == len(factors) - 1
        decoder.append(Layer(at, width, factor * (channels if last else hidden), kernel))
        at, width = at * factor, hidden
    return encoder + middle + decoder


def features_of(steps: int, weights: Weights) -> int:
    """D of the windows of so many steps that these weights are for."""
    return int(weights[0].shape[2]) * (
        steps // 2 if steps % 2 == 0 else steps
    )  # of the first layer, as `layers_of` folds


def init(layers: list[Layer], seed: int) -> Weights:
    """Fresh float32 weights; as `dense.init`, with the values that a kernel sees as inputs.

    Source: He et al., ICCV 2015.
    """
    rng = np.random.default_rng(seed)
    weights: Weights = []
    for number, layer in enumerate(layers):
        gain = 1.0 if number == len(layers) - 1 else 2.0
        spread = np.sqrt(gain / (layer.kernel * layer.before))
        shape = (layer.after, layer.kernel, layer.before)
        weights += [(rng.standard_normal(shape) * spread).astype(np.float32), np.zeros(layer.after, np.float32)]
    return weights


def reconstruct(layers: list[Layer], weights: Weights, x: NDArray[Any]) -> NDArray[Any]:
    """The network's output for clipped, normalised windows: (B, D) -> (B, D)."""
    return _activations(layers, weights, x)[0]


def _activations(
    layers: list[Layer], weights: Weights, x: NDArray[Any]
) -> tuple[NDArray[Any], list[NDArray[Any]], list[NDArray[Any]]]:
    """Output (B, D); what each layer sees (B, steps, kernel * before); and what it gives (B, steps, after)."""
    seen, given = [], []
    y = x
    for number, layer in enumerate(layers):
        seen.append(neighbours(y.reshape(len(x), layer.steps, layer.before), layer.kernel))
        y = seen[-1] @ weights[2 * number].reshape(layer.after, -1).T + weights[2 * number + 1]
        if number < len(layers) - 1:
            y = np.maximum(y, 0)
        given.append(y)
    return y.reshape(len(x), -1), seen, given


def gradients(layers: list[Layer], weights: Weights, x: NDArray[Any]) -> tuple[float, Weights]:
    """Mean squared error over windows and features of x (B, D), and its gradient in the order of the weights."""
    output, seen, given = _activations(layers, weights, x)
    error = output - x
    loss = float(np.mean(np.square(error), dtype=np.float64))
    slope = error * (2.0 / error.size)  # dL/dy of the layer at hand
    result: Weights = [np.empty(0)] * len(weights)
    for number in range(len(layers) - 1, -1, -1):
        layer = layers[number]
        slope = slope.reshape(len(x), layer.steps, layer.after)
        if number < len(layers) - 1:
            slope = slope * (given[number] > 0)
        rows = slope.reshape(-1, layer.after)  # (B * steps, after)
        result[2 * number] = (rows.T @ seen[number].reshape(len(rows), -1)).reshape(weights[2 * number].shape)
        result[2 * number + 1] = rows.sum(axis=0)
        if number:
            back = slope @ weights[2 * number].reshape(layer.after, -1)  # (B, steps, kernel * before)
            slope = _gathered(back.reshape(len(x), layer.steps, layer.kernel, layer.before))
    return loss, result


def _gathered(seen: NDArray[Any]) -> NDArray[Any]:
    """The adjoint of `neighbours`: (B, steps, kernel, before) -> (B, steps, before)."""
    _, steps, kernel, _ = seen.shape
    total = np.zeros((len(seen), steps, seen.shape[3]), seen.dtype)
    for place in range(kernel):
        shift = place - kernel // 2
        low, high = max(0, -shift), min(steps, steps - shift)
        if low < high:
            total[:, low + shift : high + shift] += seen[:, low:high, place]
    return total


def train(
    layers: list[Layer],
    weights: Weights,
    x: NDArray[Any],
    epochs: int,
    lr: float,
    seed: int,
    *,
    batch_size: int = 64,
    clip: float = CLIP,
    proximal: float = 0.0,
) -> tuple[Weights, float]:
    """Train a copy of the weights; arguments, result and errors as of `dense.train`.

    Raises:
        DataError: x is empty, of another width or not finite, or an option is out of range.
        AggregationError: training diverged.
    """
    dense.check_options(epochs, lr, batch_size, proximal)
    x = _clipped(layers, weights, x, clip)
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is told once, below
        trained = dense.adam(weights, x, partial(gradients, layers), epochs, lr, seed, batch_size, proximal)
        loss = evaluate(layers, trained, x, clip)
    if not np.isfinite(loss):
        raise dense.diverged(lr, len(x))
    return trained, loss


def evaluate(layers: list[Layer], weights: Weights, x: NDArray[Any], clip: float = CLIP) -> float:
    """Mean squared error over all windows of x (N, D), N >= 1, clipped as in training.

    Raises:
        DataError: x is empty, of another width, or not finite.
    """
    x = _clipped(layers, weights, x, clip)
    total = 0.0
    for start in range(0, len(x), dense.EVALUATION_BATCH):
        part = x[start : start + dense.EVALUATION_BATCH]
        total += float(np.sum(np.square(reconstruct(layers, weights, part) - part), dtype=np.float64))
    return total / x.size


def to_graph(layers: list[Layer], weights: Weights) -> Graph:
    """The trained network for the compiler, in float32.

    Raises:
        BundleError: a weight is not finite or of a wrong shape.
    """
    return tuple(
        Conv(
            np.ascontiguousarray(weights[2 * number], np.float32),
            np.ascontiguousarray(weights[2 * number + 1], np.float32),
            layer.steps,
            relu=number < len(layers) - 1,
        )
        for number, layer in enumerate(layers)
    )


def _clipped(layers: list[Layer], weights: Weights, x: NDArray[Any], clip: float) -> NDArray[Any]:
    dense.check_width(layers[0].steps * layers[0].before, x)
    return np.clip(x, -clip, clip).astype(weights[0].dtype, copy=False)
