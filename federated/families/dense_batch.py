"""Many dense autoencoders at once: the training of `dense.train`, with a client as one more axis of every array.

Clients walk in lockstep: step t of one stands beside step t of the others, and who is through drops out. Each keeps its
own weights, order of windows, minibatches and moments, and every product, sum and Adam step is the one of training alone:
NumPy hands each client's matrices to BLAS by themselves. Minibatches that are smaller than the others (an epoch's last) are
walked with those of their own size. So what a client gets is what `dense.train` gives it, whoever trains beside it.

Numbers only, as in dense.py. Groups bound the memory: weights, slopes and moments of a group stay in the processor's
cache. Groups are independent, so several threads share them; NumPy lets go of the interpreter in all that takes long.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import AggregationError, DataError
from federated.families import dense
from federated.families.dense import BETA1, BETA2, CLIP, EPSILON, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

GROUP_BYTES = 4 << 20  # of weights, slopes and two moments: more clients gain little, and leave the cache
MOST = 64  # clients of a group
THREADS = 4  # at most: a simulation is not alone on its machine
SHARERS = "COVEY_LEARNERS"  # environment: processes of one engine that train at the same time


@dataclass(frozen=True)
class Pupil:
    """One client's part.

    Attributes:
        x: (N, D) finite windows, N >= 1, not yet clipped.
        seed: of the order of windows.
    """

    x: NDArray[Any]
    seed: int


def train_many(
    weights: Weights,
    pupils: Sequence[Pupil],
    epochs: int,
    lr: float,
    *,
    batch_size: int = 64,
    clip: float = CLIP,
    proximal: float = 0.0,
) -> list[Weights | DataError | AggregationError]:
    """Train a copy of the weights for every client; arguments as of `dense.train`.

    Returns:
        A client's new weights, or why it has none: its windows cannot be used, or its training diverged.

    Raises:
        DataError: an option is out of range.
    """
    dense.check_options(epochs, lr, batch_size, proximal)
    results: list[Weights | DataError | AggregationError] = [[] for _ in pupils]
    fit: list[int] = []
    for number, pupil in enumerate(pupils):
        try:
            dense.check_windows(weights, pupil.x)
        except DataError as error:
            results[number] = error
        else:
            fit.append(number)

    def go(group: list[int]) -> None:
        numbers = [fit[place] for place in group]
        members = [pupils[number] for number in numbers]
        trained = _train(weights, members, epochs, lr, batch_size, clip, proximal)
        for number, pupil, after in zip(numbers, members, trained, strict=True):
            told = np.isfinite(_loss(weights, after, pupil.x, clip))
            results[number] = _split(weights, after) if told else dense.diverged(lr, len(pupil.x))

    threads = min(THREADS, processors())
    groups = list(_groups([len(pupils[number].x) for number in fit], batch_size, _most(weights, len(fit), threads)))
    if threads == 1 or len(groups) < 2:
        for group in groups:
            go(group)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(go, groups))
    return results


def processors() -> int:
    """Those this process may use: all, or its part of them where an engine started several like it."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get(SHARERS, "1")))


def _most(weights: Weights, count: int, threads: int) -> int:
    """Clients of a group: as many as the cache holds, fewer if a thread would have nothing to do."""
    size = 4 * sum(values.nbytes for values in weights)
    return max(1, min(MOST, GROUP_BYTES // size, -(-count // threads)))


def _groups(counts: Sequence[int], batch_size: int, most: int) -> Iterator[list[int]]:
    """Places of clients that train together: minibatches of one size, similar numbers of steps, most steps first.

    A client with fewer windows than a minibatch is together with clients of its own number only: its one minibatch is
    as long as itself.
    """
    width = [min(batch_size, count) for count in counts]
    order = sorted(range(len(counts)), key=lambda place: (-width[place], -counts[place], place))
    group: list[int] = []
    for place in order:
        if group and (len(group) == most or width[place] != width[group[0]]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _train(
    weights: Weights, members: Sequence[Pupil], epochs: int, lr: float, batch_size: int, clip: float, proximal: float
) -> NDArray[Any]:
    """(K, P) trained weights, flat; members have most steps first."""
    dtype = weights[0].dtype
    flat = np.concatenate([values.ravel() for values in weights])  # (P,)
    trained = np.repeat(flat[None], len(members), axis=0)  # (K, P)
    x = np.concatenate([np.clip(pupil.x, -clip, clip).astype(dtype, copy=False) for pupil in members])  # (sum N, D)
    rows, sizes = _schedule(members, epochs, min(batch_size, max(len(pupil.x) for pupil in members)))
    net = _Net(weights, len(members), rows.shape[2], dtype)
    first, second = np.zeros_like(trained), np.zeros_like(trained)
    scratch, more = np.empty_like(trained), np.empty_like(trained)
    active = (sizes > 0).sum(axis=0)  # (steps,) clients still at work: the first so many
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is told once, by the caller
        for step, k in enumerate(active.tolist(), start=1):
            net.slopes(trained[:k], x[rows[:k, step - 1]], sizes[:k, step - 1])
            rate = lr * (1 - BETA2**step) ** 0.5 / (1 - BETA1**step)
            slope, m, v, w, a, b = net.flat[:k], first[:k], second[:k], trained[:k], scratch[:k], more[:k]
            if proximal:
                np.subtract(w, flat, out=a)
                a *= proximal
                slope += a
            np.subtract(slope, m, out=a)
            a *= 1 - BETA1
            m += a
            np.square(slope, out=a)
            a -= v
            a *= 1 - BETA2
            v += a
            np.sqrt(v, out=a)
            a += EPSILON
            np.multiply(m, rate, out=b)
            b /= a
            w -= b
    return trained


def _schedule(members: Sequence[Pupil], epochs: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of every step (K, steps, width), any row where a minibatch is not full, and how full they are (K, steps)."""
    steps = [epochs * -(-len(pupil.x) // width) for pupil in members]
    rows = np.zeros((len(members), max(steps), width), np.int64)
    sizes = np.zeros((len(members), max(steps)), np.int64)
    begin = 0
    for place, pupil in enumerate(members):
        count = len(pupil.x)
        each = -(-count // width)
        rng = np.random.default_rng(pupil.seed)
        mine = rows[place, : steps[place]].reshape(epochs, each * width)  # a view
        for epoch in range(epochs):
            mine[epoch, :count] = rng.permutation(count)
        mine += begin
        sizes[place, : steps[place]] = np.tile(np.r_[np.full(each - 1, width), count - (each - 1) * width], epochs)
        begin += count
    return rows, sizes


class _Net:
    """Slopes of K networks of one shape, with all that a step needs allocated once.

    Attributes:
        flat: (K, P) slopes, in the order of the weights.
    """

    def __init__(self, weights: Weights, count: int, width: int, dtype: np.dtype[Any]) -> None:
        self._shapes = [values.shape for values in weights]
        self._starts = np.r_[0, np.cumsum([values.size for values in weights])].tolist()
        self.flat = np.empty((count, self._starts[-1]), dtype)
        widths = [shape[0] for shape in self._shapes[::2]]
        self._tensors = [np.empty((count, width, outputs), dtype) for outputs in widths]
        self._back = [np.empty((count, width, outputs), dtype) for outputs in widths]

    def _views(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """(k, P) as [(k, out, in), (k, out), ...]."""
        parts = zip(self._starts, self._starts[1:], self._shapes, strict=False)
        return [flat[:, start:stop].reshape(len(flat), *shape) for start, stop, shape in parts]

    def slopes(self, trained: NDArray[Any], x: NDArray[Any], sizes: NDArray[np.int64]) -> None:
        """Gradient of the mean squared error of each client's minibatch x[k, :sizes[k]] into `flat[:k]`."""
        k, width = x.shape[:2]
        full = sizes == width
        if full.any():
            self._pass(trained, x, self.flat[:k])
        if full.all():
            return
        for size in np.unique(sizes[~full]).tolist():  # clients of one number of windows are short at the same step
            places = np.flatnonzero(sizes == size)
            found = np.empty((len(places), trained.shape[1]), trained.dtype)
            self._pass(trained[places], x[places, :size], found)
            self.flat[places] = found

    def _pass(self, trained: NDArray[Any], x: NDArray[Any], flat: NDArray[Any]) -> None:
        """Of x (k, B, D), all of whose rows count, into `flat` (k, P)."""
        k, rows, d = x.shape
        weights, slopes = self._views(trained), self._views(flat)
        last = len(weights) - 2
        tensors = [x]
        for number in range(0, last + 2, 2):
            y = self._tensors[number // 2][:k, :rows]
            np.matmul(tensors[-1], weights[number].transpose(0, 2, 1), out=y)  # (k, B, in) -> (k, B, out)
            y += weights[number + 1][:, None]
            if number != last:
                np.maximum(y, 0, out=y)
            tensors.append(y)
        slope = tensors[-1]
        slope -= x
        slope *= 2.0 / (rows * d)
        for number in range(last, -1, -2):
            before = tensors[number // 2]  # (k, B, in)
            np.matmul(slope.transpose(0, 2, 1), before, out=slopes[number])
            np.sum(slope, axis=1, out=slopes[number + 1])
            if number:
                through = self._back[number // 2 - 1][:k, :rows]
                np.matmul(slope, weights[number], out=through)
                through *= before > 0
                slope = through


def _split(like: Weights, flat: NDArray[Any]) -> Weights:
    parts: Weights = []
    start = 0
    for values in like:
        parts.append(flat[start : start + values.size].reshape(values.shape))
        start += values.size
    return parts


def _loss(like: Weights, flat: NDArray[Any], x: NDArray[Any], clip: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return dense.evaluate(_split(like, flat), x, clip)
