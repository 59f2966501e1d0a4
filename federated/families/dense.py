"""The dense autoencoder in NumPy: weights, gradients, training with Adam. Numbers only.

The input is normalised by the caller and clipped here; the loss is the mean squared error of its reconstruction. The
same arguments give the same weights on the same machine (BLAS may sum in another order elsewhere). Ring files,
rounds and aggregation are elsewhere, and so is the score: this file learns to reconstruct what is normal.

Weights are one flat list [W0, b0, W1, b1, ...], Wi (out, in) and bi (out,), the order in which they are aggregated.
Hidden layers have ReLU, the last is linear.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.errors import AggregationError, DataError
from federated.compile.graph import Dense, Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Weights: TypeAlias = list[NDArray[Any]]

CLIP = 8.0  # of the normalised input; the int8 input range as well
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba, ICLR 2015, algorithm 1
EVALUATION_BATCH = 4096  # windows at a time: bounds memory on devices


def init(d: int, hidden: Sequence[int], seed: int) -> Weights:
    """Fresh float32 weights of d -> hidden... -> d, such as hidden (64, 16, 64).

    Normal with variance 2 / inputs before a ReLU, 1 / inputs before the linear output; biases 0.

    Raises:
        DataError: a width below 1, or no hidden layer.

    Source: He et al., ICCV 2015.
    """
    widths = [d, *hidden, d]
    if not hidden or min(widths) < 1:
        raise DataError(f"autoencoder: widths >= 1 with a hidden layer expected, {widths} came")
    rng = np.random.default_rng(seed)
    weights: Weights = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        gain = 1.0 if number == len(hidden) else 2.0
        weights.append((rng.standard_normal((outputs, inputs)) * np.sqrt(gain / inputs)).astype(np.float32))
        weights.append(np.zeros(outputs, np.float32))
    return weights


def reconstruct(weights: Weights, x: NDArray[Any]) -> NDArray[Any]:
    """The network's output for clipped, normalised windows: (B, D) -> (B, D)."""
    return _activations(weights, x)[-1]


def _activations(weights: Weights, x: NDArray[Any]) -> list[NDArray[Any]]:
    tensors = [x]
    for number in range(0, len(weights), 2):
        y = tensors[-1] @ weights[number].T + weights[number + 1]  # (B, in) -> (B, out)
        tensors.append(y if number == len(weights) - 2 else np.maximum(y, 0))
    return tensors


def gradients(weights: Weights, x: NDArray[Any]) -> tuple[float, Weights]:
    """Mean squared error over windows and features of x (B, D), and its gradient in the order of the weights."""
    tensors = _activations(weights, x)
    error = tensors[-1] - x
    loss = float(np.mean(np.square(error), dtype=np.float64))
    slope = error * (2.0 / error.size)  # dL/dy of the layer at hand, (B, out)
    result: Weights = [np.empty(0)] * len(weights)
    for number in range(len(weights) - 2, -1, -2):
        before = tensors[number // 2]  # (B, in)
        result[number] = slope.T @ before
        result[number + 1] = slope.sum(axis=0)
        if number:
            slope = (slope @ weights[number]) * (before > 0)
    return loss, result


def evaluate(weights: Weights, x: NDArray[Any], clip: float = CLIP) -> float:
    """Mean squared error over all windows of x (N, D), N >= 1, clipped as in training.

    Raises:
        DataError: x is empty, of another width, or not finite.
    """
    x = _clipped(weights, x, clip)
    total = 0.0
    for start in range(0, len(x), EVALUATION_BATCH):
        part = x[start : start + EVALUATION_BATCH]
        total += float(np.sum(np.square(reconstruct(weights, part) - part), dtype=np.float64))
    return total / x.size


def train(
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
    """Train a copy of the weights on normalised windows x (N, D) with Adam over shuffled minibatches.

    Args:
        weights: where to start; not changed.
        x: (N, D) finite, N >= 1; clipped to +-clip.
        epochs: passes over x, >= 0.
        lr: Adam's step size, > 0.
        seed: of the order of windows.
        batch_size: windows a step; the last of an epoch may be smaller.
        clip: bound of the normalised input.
        proximal: mu of FedProx: pulls towards `weights` by mu / 2 * distance^2; 0 is plain training.

    Returns:
        New weights in the dtype of the old, and the mean squared error on x with them.

    Raises:
        DataError: x is empty, of another width or not finite, or an option is out of range.
        AggregationError: training diverged; such an update must not be sent.

    Source: Kingma and Ba, ICLR 2015 (Adam); Li et al., MLSys 2020 (FedProx).
    """
    check_options(epochs, lr, batch_size, proximal)
    x = _clipped(weights, x, clip)
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is told once, below
        trained = adam(weights, x, gradients, epochs, lr, seed, batch_size, proximal)
        loss = evaluate(trained, x, clip)
    if not np.isfinite(loss):
        raise diverged(lr, len(x))
    return trained, loss


def adam(
    weights: Weights,
    x: NDArray[Any],
    gradients_of: Callable[[Weights, NDArray[Any]], tuple[float, Weights]],
    epochs: int,
    lr: float,
    seed: int,
    batch_size: int,
    proximal: float,
) -> Weights:
    """A trained copy of the weights of any network: Adam over shuffled minibatches, arguments as of `train`."""
    trained = [values.copy() for values in weights]
    first = [np.zeros_like(values) for values in weights]
    second = [np.zeros_like(values) for values in weights]
    rng = np.random.default_rng(seed)
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch_size):
            step += 1
            slopes = gradients_of(trained, x[order[start : start + batch_size]])[1]
            rate = lr * (1 - BETA2**step) ** 0.5 / (1 - BETA1**step)  # a Python float keeps float32 arrays so
            for number, slope in enumerate(slopes):
                if proximal:
                    slope += proximal * (trained[number] - weights[number])  # noqa: PLW2901  # in place on purpose
                first[number] += (1 - BETA1) * (slope - first[number])
                second[number] += (1 - BETA2) * (np.square(slope) - second[number])
                trained[number] -= rate * first[number] / (np.sqrt(second[number]) + EPSILON)
    return trained


def to_graph(weights: Weights) -> Graph:
    """The trained network for the compiler, in float32.

    Raises:
        BundleError: a weight is not finite or of a wrong shape.
    """
    return tuple(
        Dense(
            np.ascontiguousarray(weights[number], np.float32),
            np.ascontiguousarray(weights[number + 1], np.float32),
            relu=number < len(weights) - 2,
        )
        for number in range(0, len(weights), 2)
    )


def check_options(epochs: int, lr: float, batch_size: int, proximal: float) -> None:
    """Refuse options of training that are out of range.

    Raises:
        DataError: names what was expected and what came.
    """
    if epochs < 0 or batch_size < 1 or not lr > 0 or proximal < 0:
        raise DataError(
            "autoencoder: epochs >= 0, lr > 0, batch_size >= 1, proximal >= 0 expected, "
            f"{epochs}, {lr}, {batch_size}, {proximal} came"
        )


def check_windows(weights: Weights, x: NDArray[Any]) -> None:
    """Refuse windows that these weights cannot be trained on.

    Raises:
        DataError: x is empty, of another width, or not finite.
    """
    check_width(weights[0].shape[1], x)


def check_width(width: int, x: NDArray[Any]) -> None:
    """Refuse windows that are not (N, width), N >= 1, of finite numbers.

    Raises:
        DataError: says which.
    """
    if x.ndim != 2 or x.shape[1] != width or not len(x):
        raise DataError(f"autoencoder: windows of shape (N, {width}), N >= 1, expected, {x.shape} came")
    if not np.isfinite(x).all():
        raise DataError("autoencoder: the windows hold a number that is not finite")


def diverged(lr: float, windows: int) -> AggregationError:
    """What is told of a training that ended in numbers that are not finite."""
    return AggregationError(f"autoencoder: training diverged at learning rate {lr} on {windows} windows")


def _clipped(weights: Weights, x: NDArray[Any], clip: float) -> NDArray[Any]:
    check_windows(weights, x)
    return np.clip(x, -clip, clip).astype(weights[0].dtype, copy=False)
