"""Family `dense-ae`: a dense autoencoder; devices send the change of its weights, a rule averages the changes.

The numbers are in dense.py, the rules in federated/rules.py; how weights travel is federated/compress.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from covey.errors import AggregationError, BundleError, CoveyError
from federated.config import CLIP
from federated.families import dense, dense_batch
from federated.gate import Arrays, Shape, length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.compile.graph import Graph
    from federated.config import Plan
    from federated.families import Lesson


def hidden_widths(plan: Plan, d: int) -> list[int]:
    """Widths of the hidden layers: as planned, or outer, inner, outer from 3/4 and 3/8 of D, at most 32 and 16."""
    if plan.dense.hidden is not None:
        return list(plan.dense.hidden)
    outer, inner = min(32, max(4, 3 * d // 4)), min(16, max(2, 3 * d // 8))
    return [outer, inner, outer]


class DenseAutoencoder:
    """See the module; state is w0, b0, w1, b1, ..."""

    kind: ClassVar[Literal["project", "reconstruct"]] = "reconstruct"
    one_shot: ClassVar[bool] = False
    headroom: ClassVar[float] = 1.25  # the error is taken against the float input: outputs need not follow anomalies

    def begin(self, plan: Plan, d: int) -> Arrays:
        """Fresh weights from the plan's seed."""
        return named(dense.init(d, hidden_widths(plan, d), plan.seed))

    def down(self, state: Arrays) -> Arrays:
        """All weights."""
        return {name: state[name] for name in state if name[0] in "wb" and name[1:].isdigit()}

    def update(self, plan: Plan, state: Arrays, lesson: Lesson, seed: int) -> Arrays:
        """The change of the weights after some epochs on all windows, fitted ones as well (or they would be forgotten)."""
        before = listed(state)
        options = plan.dense
        after, _ = dense.train(
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
        """`update` of many devices of one process, in lockstep."""
        before = listed(state)
        options = plan.dense
        pupils = [dense_batch.Pupil(lesson.z, seed) for lesson, seed in zip(lessons, seeds, strict=True)]
        trained = dense_batch.train_many(
            before,
            pupils,
            options.epochs,
            options.learning_rate,
            batch_size=options.batch,
            clip=CLIP,
            proximal=options.proximal,
        )
        return [after if isinstance(after, CoveyError) else told(before, after) for after in trained]

    def shapes(self, plan: Plan, d: int) -> dict[str, Shape]:
        """Those of the weights."""
        widths = [d, *hidden_widths(plan, d), d]
        shapes: dict[str, Shape] = {}
        for number in range(len(widths) - 1):
            shapes[f"w{number}"] = Shape((widths[number + 1], widths[number]))
            shapes[f"b{number}"] = Shape((widths[number + 1],))
        return shapes

    def fault(self, update: Arrays) -> str | None:  # noqa: ARG002  # the interface's
        """Nothing beyond shape and norm can be told from weights."""
        return None

    def norm(self, update: Arrays) -> float:
        """Euclidean norm of the change."""
        return length(update)

    def merge(self, plan: Plan, state: Arrays, updates: Sequence[Arrays], weights: Sequence[int]) -> Arrays:  # noqa: ARG002  # the interface's
        """Not summed: the plan's rule averages."""
        raise AggregationError(f"{plan.family}: a rule that averages expected, {plan.rule} came")

    def to_graph(self, plan: Plan, state: Arrays, *, drone: bool) -> Graph:  # noqa: ARG002  # the interface's
        """Dense layers, ReLU between them."""
        return dense.to_graph(listed(self.down(state)))

    def weigh(self, plan: Plan, state: Arrays) -> None:
        """All outputs count alike."""


def told(before: dense.Weights, after: dense.Weights) -> Arrays:
    """The change of the weights."""
    return named([new - old for new, old in zip(after, before, strict=True)])


def named(weights: dense.Weights) -> Arrays:
    """[W0, b0, W1, ...] as w0, b0, w1, ..."""
    return {f"{'wb'[number % 2]}{number // 2}": values for number, values in enumerate(weights)}


def listed(arrays: Arrays) -> dense.Weights:
    """The inverse of `named`.

    Raises:
        BundleError: other names.
    """
    try:
        return [arrays[f"{'wb'[number % 2]}{number // 2}"] for number in range(len(arrays))]
    except KeyError as error:
        raise BundleError(f"autoencoder: weights w0, b0, w1, ... expected, {', '.join(sorted(arrays))} came") from error
