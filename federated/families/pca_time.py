"""Family `pca` over `temporal` features: one covariance for each branch, in one shot; the network turns windows into its directions.

A device sends the scatter of its new windows about its own center, branch by branch, and their number: sums are exact, so
one round equals the principal components of all windows pooled, each device centered by itself. The network is one layer, block by
block: y = S^-1/2 U' z with the pooled covariance U L U'. What lies beyond the leading directions of a branch is its score (Q),
with a little of their own (T^2). A device adds its own directions and balances the branches (edge/scoring/own.py, weights.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from covey.bundle import Outputs
from covey.errors import AggregationError
from edge.scoring.own import find_own
from edge.scoring.weights import balanced, believed
from federated.branches import branch
from federated.compile.graph import Dense
from federated.config import CLIP
from federated.families import Weighing
from federated.families.scatter import square, triangle
from federated.gate import Arrays, Shape, windows_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from federated.compile.graph import Graph
    from federated.config import Plan
    from federated.families import Lesson
    from federated.moments import Moments

INPUT_STEP = 2 * CLIP / 255  # of the int8 input
FLOOR = 3 * INPUT_STEP**2 / 12  # three times the variance of its rounding
LEAST_SCALE = 0.5  # so that a feature that hardly moves is clipped at half of what a channel is, not at nothing
LEAST_DAILY_SCALE = 0.05  # of any feature, where a daily course explains nearly all: as a device's own features have it
KEEP = 0.65  # share of a branch's variance that counts as normal variation
_NOT_A_SCATTER = 0.05  # of the trace: more negative than float16 rounding can make an eigenvalue


def parts(blocks: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """(features, numbers of the triangle) of each branch."""
    at = entries = 0
    for size in blocks:
        upper = size * (size + 1) // 2
        yield slice(at, at + size), slice(entries, entries + upper)
        at, entries = at + size, entries + upper


def entries_of(blocks: Sequence[int]) -> int:
    """Numbers in all triangles."""
    return sum(size * (size + 1) // 2 for size in blocks)


def directions(blocks: Sequence[int], state: Arrays) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(L descending, U) of each branch's covariance.

    Raises:
        AggregationError: a covariance is zero.
    """
    out = []
    for _, upper in parts(blocks):
        values, vectors = np.linalg.eigh(square(state["within"][upper]) / max(int(state["counts"][0]), 1))
        if not values.sum() > 0:
            raise AggregationError("pca: windows that vary expected, their covariance is zero")
        out.append((np.maximum(values[::-1], 0.0), vectors[:, ::-1]))
    return out


def kept(values: NDArray[np.float64], keep: float) -> int:
    """How many directions hold that share of the variance: at least 1, at most all but one; `values` descending."""
    held = np.cumsum(values) / values.sum()
    return min(int(np.searchsorted(held, keep)) + 1, len(values) - 1)


def sizes(values: NDArray[np.float64], keep: float) -> NDArray[np.float64]:
    """(K,) variance that one unit of an output's square stands for.

    Directions of normal variation are shortened to the length of the first one beyond them: int8 has one step for all
    outputs, and those that count most vary least.
    """
    cut = max(float(values[kept(values, keep)]), FLOOR)
    return np.maximum(values, cut) / cut


def branch_weights(
    values: NDArray[np.float64], size: NDArray[np.float64], keep: float, within: float
) -> NDArray[np.float64]:
    """(K,) of y^2: what lies beyond the directions of normal variation by its size (Q), those standardised (T^2).

    Source: Jackson and Mudholkar, Technometrics 21(3), 1979.
    """
    inner = kept(values, keep)
    weights = size / max(len(values) - inner, 1)
    weights[:inner] = within / inner * size[:inner] / np.maximum(values[:inner], FLOOR)
    return weights


class PcaOverTime:
    """See the module; state is `within` (triangles of sums, branch by branch) and `counts` (windows, devices)."""

    kind: ClassVar[Literal["project", "reconstruct"]] = "project"
    one_shot: ClassVar[bool] = True
    headroom: ClassVar[float] = 2.0  # outputs saturate at the range: anomalies need room above normal windows

    def __init__(self, plan: Plan) -> None:
        """Args: plan: its branches."""
        branches = [branch(name) for name in plan.temporal.branches or []]
        self._filters = [len(one.taps) for one in branches]
        self._daily = [one.daily for one in branches]

    def blocks(self, d: int) -> list[int]:
        """Features of each branch; d is all of them."""
        return [count * (d // sum(self._filters)) for count in self._filters]

    def begin(self, plan: Plan, d: int) -> Arrays:  # noqa: ARG002  # the interface's
        """Nothing seen yet."""
        return {"within": np.zeros(entries_of(self.blocks(d))), "counts": np.zeros(2, np.int64)}

    def down(self, state: Arrays) -> Arrays:  # noqa: ARG002  # the interface's
        """Devices need nothing: the sums are the server's."""
        return {}

    def update(self, plan: Plan, state: Arrays, lesson: Lesson, seed: int) -> Arrays:  # noqa: ARG002  # the interface's
        """Mean of the scatter of new windows (float16), and how many there are."""
        blocks = self.blocks(lesson.z.shape[1])
        fresh = lesson.z[~lesson.fitted]
        if (
            plan.temporal.distrust and len(fresh) > 1
        ):  # those farthest from the device's own directions are not believed
            own = find_own(fresh, [here for here, _ in parts(blocks)], self._keep(plan), 1.0)
            fresh = fresh[believed(own.score(fresh), plan.temporal.distrust)]
        z = fresh.astype(np.float64)
        mean = [triangle(z[:, here].T @ z[:, here] / max(len(z), 1)) for here, _ in parts(blocks)]
        return {"within": np.concatenate(mean).astype(np.float16), "counts": np.array([len(z)], np.int64)}

    def shapes(self, plan: Plan, d: int) -> dict[str, Shape]:  # noqa: ARG002  # the interface's
        """A triangle for each branch, one after the other, and a count."""
        return {"within": Shape((entries_of(self.blocks(d)),)), "counts": Shape((1,), "i")}

    def fault(self, update: Arrays) -> str | None:
        """A count that can be, and scatters that are ones: positive semidefinite, no larger than clipped features give."""
        wrong = windows_fault(int(update["counts"][0]))
        if wrong is not None:
            return wrong
        for number, (_, upper) in enumerate(parts(self._blocks_of(update))):
            values = np.linalg.eigvalsh(square(update["within"][upper].astype(np.float64)))
            total = float(values.sum())
            if values[0] < -_NOT_A_SCATTER * max(total, 0.0) - 1e-6:
                return f"within: branch {number}: a scatter has no negative eigenvalue, {values[0]:.3g} came"
            if total > CLIP**2 * len(values) * 1.01:
                mean = total / len(values)
                return f"within: branch {number}: variance of at most {CLIP**2:g} a feature expected, {mean:.4g} came"
        return None

    def norm(self, update: Arrays) -> float:
        """Frobenius norm of the scatters."""
        return float(np.linalg.norm(update["within"].astype(np.float64)))

    def merge(self, plan: Plan, state: Arrays, updates: Sequence[Arrays], weights: Sequence[int]) -> Arrays:  # noqa: ARG002  # counts are in the updates
        """Exact sums over devices, added to what the state holds.

        Raises:
            AggregationError: fewer than two windows in all.
        """
        counts = [int(update["counts"][0]) for update in updates]
        parts_of = zip(updates, counts, strict=True)
        within = np.sum([count * update["within"].astype(np.float64) for update, count in parts_of], axis=0)
        return self._merged(plan, state, within, sum(counts), len(updates))

    def merge_sums(self, plan: Plan, state: Arrays, moments: Moments) -> Arrays:
        """The same of sums that were made under masks."""
        return self._merged(plan, state, moments.within, moments.fresh, moments.devices)

    @staticmethod
    def _merged(plan: Plan, state: Arrays, within: NDArray[np.float64], fresh: int, devices: int) -> Arrays:
        n0, devices0 = (int(count) for count in state["counts"])
        n = round(plan.pca.forget * n0) + fresh
        if n < 2:
            raise AggregationError(f"pca: at least 2 windows that are new or known expected, {n} came")
        within = plan.pca.forget * state["within"].astype(np.float64) + within
        return {"within": within, "counts": np.array([n, max(devices0, devices)], np.int64)}

    def to_graph(self, plan: Plan, state: Arrays, *, drone: bool) -> Graph:  # noqa: ARG002  # the interface's
        """One dense layer, block by block, whose outputs have the variance 1 over the fleet's windows."""
        blocks = self._blocks_of(state)
        weight = np.zeros((sum(blocks), sum(blocks)))
        for (here, _), (values, vectors) in zip(parts(blocks), directions(blocks, state), strict=True):
            weight[here, here] = (vectors / np.sqrt(sizes(values, self._keep(plan)))).T
        weight *= self.scale(plan, state)
        # Rounded as it travels: half the bytes, and far finer than int8.
        return (Dense(np.ascontiguousarray(weight.astype(np.float16), np.float32), np.zeros(len(weight), np.float32)),)

    def scale(self, plan: Plan, state: Arrays) -> NDArray[np.float64]:
        """(D,) the group's scale of features, in spreads of their channels: int8 has one step for all inputs.

        Devices that scale features by their own spread have learned with it already, and it is 1. The least scale is half of
        what the median channel varies by that is not known beforehand: all of it, or what its daily course leaves.
        """
        blocks = self._blocks_of(state)
        if plan.temporal.own_scale:
            return np.ones(sum(blocks))
        n = max(int(state["counts"][0]), 1)
        diagonal = np.concatenate([np.diag(square(state["within"][upper])) / n for _, upper in parts(blocks)])
        out: NDArray[np.float64] = np.maximum(np.sqrt(diagonal), LEAST_SCALE * self._unknown(blocks, diagonal))
        return out

    def _unknown(self, blocks: Sequence[int], variance: NDArray[np.float64]) -> float:
        """Spread of the median channel beyond its daily course, in spreads of channels; 1 where no branch knows a course.

        Args:
            blocks: features of each branch.
            variance: (D,) of features in the group.
        """
        if not any(self._daily):
            return 1.0
        number = self._daily.index(True)
        start, channels = sum(blocks[:number]), blocks[number] // self._filters[number]
        left = float(
            np.sqrt(np.median(variance[start : start + channels]))
        )  # of the newest row, the branch's first filter
        return min(max(left, LEAST_DAILY_SCALE / LEAST_SCALE), 1.0)

    def weigh(self, plan: Plan, state: Arrays) -> Weighing:
        """Of the directions."""
        blocks, keep = self._blocks_of(state), self._keep(plan)
        weights, mean = [], []
        for values, _ in directions(blocks, state):
            size = sizes(values, keep)
            mean.append(values / size)
            weights.append(branch_weights(values, size, keep, plan.temporal.within or 0.0))
        rule = Outputs(
            branch=np.repeat(np.arange(len(blocks)), blocks).tolist(),
            own=plan.temporal.own or 0.0,
            keep=keep,
            trim=plan.temporal.distrust or 0.0,
        )
        group = balanced(np.concatenate(mean)[None], np.concatenate(weights), rule.branch)
        return Weighing(rule, group, self.scale(plan, state), int(state["counts"][0]))

    @staticmethod
    def _keep(plan: Plan) -> float:
        return plan.temporal.keep if plan.temporal.keep is not None else KEEP

    def _blocks_of(self, arrays: Arrays) -> list[int]:
        entries, channels = len(arrays["within"]), 1
        while entries_of(self.blocks(channels * sum(self._filters))) < entries:
            channels += 1
        return self.blocks(channels * sum(self._filters))
