"""Family `conv-ae`: a convolutional autoencoder over the samples of a window; all else is `dense-ae`'s.

What travels, how it is merged and judged is said there, the numbers are in conv.py. Its features are `lag`: D is the
window's samples times the channels, newest sample first. The window's length is the plan's, or the default one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from covey.errors import CoveyError, DataError
from federated.config import CLIP, LAG_WINDOW
from federated.families import conv
from federated.families.dense_ae import DenseAutoencoder, listed, named, told
from federated.families.dense_batch import THREADS, processors
from federated.gate import Arrays, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.compile.graph import Graph
    from federated.config import Plan
    from federated.families import Lesson
    from federated.families.dense import Weights


def layers_of(plan: Plan, d: int) -> list[conv.Layer]:
    """The network for D features.

    Raises:
        DataError: D is not a number of samples times channels, or an option is out of range.
    """
    steps = plan.window or LAG_WINDOW
    if d % steps:
        raise DataError(f"conv-ae: features of windows of {steps} samples expected, {d} came")
    return conv.layers_of(steps, d // steps, plan.conv.hidden, plan.conv.code, plan.conv.kernel)


class ConvAutoencoder(DenseAutoencoder):
    """See the module; state is w0, b0, w1, b1, ..."""

    def begin(self, plan: Plan, d: int) -> Arrays:
        """Fresh weights from the plan's seed."""
        return named(conv.init(layers_of(plan, d), plan.seed))

    def update(self, plan: Plan, state: Arrays, lesson: Lesson, seed: int) -> Arrays:
        """The change of the weights after some epochs on all windows."""
        before = listed(state)
        options = plan.dense
        after, _ = conv.train(
            _layers(plan, before),
            before,
            lesson.z,
            options.epochs,
            options.learning_rate,
            seed,
            batch_size=options.batch,
            clip=CLIP,
            proximal=options.proximal,
        )
        return told(before, after)

    def update_many(
        self, plan: Plan, state: Arrays, lessons: Sequence[Lesson], seeds: Sequence[int]
    ) -> list[Arrays | CoveyError]:
        """`update` of many devices, several at a time: one window's convolutions fill a processor, more axes gain nothing."""

        def one(lesson: Lesson, seed: int) -> Arrays | CoveyError:
            try:
                return self.update(plan, state, lesson, seed)
            except CoveyError as error:
                return error

        with ThreadPoolExecutor(min(THREADS, processors())) as pool:
            return list(pool.map(one, lessons, seeds))

    def shapes(self, plan: Plan, d: int) -> dict[str, Shape]:
        """Those of the weights."""
        shapes: dict[str, Shape] = {}
        for number, layer in enumerate(layers_of(plan, d)):
            shapes[f"w{number}"] = Shape((layer.after, layer.kernel, layer.before))
            shapes[f"b{number}"] = Shape((layer.after,))
        return shapes

    def to_graph(self, plan: Plan, state: Arrays, *, drone: bool) -> Graph:  # noqa: ARG002  # the interface's
        """Convolutions, ReLU between them."""
        weights = listed(self.down(state))
        return conv.to_graph(_layers(plan, weights), weights)


def _layers(plan: Plan, weights: Weights) -> list[conv.Layer]:
    return layers_of(plan, conv.features_of(plan.window or LAG_WINDOW, weights))
