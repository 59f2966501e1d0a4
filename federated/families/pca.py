"""Family `pca`: the fleet's covariance from exact sums, in one shot; the network is one linear layer.

A device sends the scatter of its new windows about each flight's mean (W), the scatter of its flights' means about its
own center (B), and counts: 1 kB for drones. Sums of such scatters are exact, so one round ends it and more change nothing.
B tells how sessions differ (battery, trim, temperature): what moves between healthy flights must not raise the score, so
drones weigh it five times. Windows that an earlier round knows (`fitted`) count for center and B, never twice for W.

`drone`: y = T^-1/2 z with T = W/n + 5 B/(flights - devices) + ridge: the score is a Mahalanobis distance. `lag`: y = the
components of z beyond the first k (Q statistic; Jackson and Mudholkar, Technometrics 21(3), 1979).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from covey.errors import AggregationError
from federated.compile.graph import Dense
from federated.families.scatter import square, triangle
from federated.gate import Arrays, Shape, windows_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from federated.compile.graph import Graph
    from federated.config import Plan
    from federated.families import Lesson
    from federated.moments import Moments

HALF_FROM = 40  # features: from here on scatters travel as float16, 1.6 kB instead of 3.3
BETWEEN_DRONE, BETWEEN_LAG = 5.0, 1.0
_NOT_A_SCATTER = 0.05  # of the trace: more negative than float16 rounding can make an eigenvalue


def scatters(lesson: Lesson) -> tuple[NDArray[np.float64], int, NDArray[np.float64], int]:
    """W (D, D) over new windows, their number, B (D, D) over all flights, and the number of flights."""
    z = lesson.z.astype(np.float64)
    d = z.shape[1]
    within, between = np.zeros((d, d)), np.zeros((d, d))
    means = []
    for number in np.unique(lesson.flight):
        here = lesson.flight == number
        mean = z[here].mean(axis=0)
        means.append(mean)
        apart = z[here & ~lesson.fitted] - mean
        within += apart.T @ apart
    about = np.array(means) - np.mean(means, axis=0) if means else np.zeros((0, d))
    between = about.T @ about
    return within, int((~lesson.fitted).sum()), between, len(means)


class Pca:
    """See the module; state is `within` (triangle of sums), `between` (likewise) and `counts` (n, flights, devices)."""

    kind: ClassVar[Literal["project", "reconstruct"]] = "project"
    one_shot: ClassVar[bool] = True
    headroom: ClassVar[float] = 2.0  # outputs saturate at the range: anomalies need room above normal windows

    def begin(self, plan: Plan, d: int) -> Arrays:  # noqa: ARG002  # the interface's
        """Nothing seen yet."""
        size = d * (d + 1) // 2
        return {"within": np.zeros(size), "between": np.zeros(size), "counts": np.zeros(3, np.int64)}

    def down(self, state: Arrays) -> Arrays:  # noqa: ARG002  # the interface's
        """Devices need nothing: the sums are the server's."""
        return {}

    def update(self, plan: Plan, state: Arrays, lesson: Lesson, seed: int) -> Arrays:  # noqa: ARG002  # the interface's
        """Means of the scatters (float16 holds them, not sums), and counts (windows, flights)."""
        within, n, between, flights = scatters(lesson)
        wire = np.float16 if lesson.z.shape[1] >= HALF_FROM else np.float32
        return {
            "within": triangle(within / max(n, 1)).astype(wire),
            # One flight has no scatter between flights, and that is one zero.
            "between": triangle(between / max(flights, 1)).astype(wire) if flights > 1 else np.zeros(1, wire),
            "counts": np.array([n, flights], np.int64),
        }

    def shapes(self, plan: Plan, d: int) -> dict[str, Shape]:  # noqa: ARG002  # the interface's
        """Two triangles (one zero for that between flights when there was one flight) and two counts."""
        size = d * (d + 1) // 2
        return {"within": Shape((size,)), "between": Shape((-1,), most=size), "counts": Shape((2,), "i")}

    def fault(self, update: Arrays) -> str | None:
        """Counts that can be, and scatters that are ones: positive semidefinite, no larger than clipped features give."""
        n, flights = (int(count) for count in update["counts"])
        told = windows_fault(n) or windows_fault(flights)
        if told is not None or flights < 1:
            return told or "flights: at least 1 expected, 0 came"
        size = update["between"].size
        if size != update["within"].size and (flights > 1 or size > 1 or update["between"].any()):
            return f"between: {update['within'].size} numbers of {flights} flights expected, {size} came"
        for name in ("within", "between"):
            values = np.linalg.eigvalsh(square(update[name].astype(np.float64)))
            total = float(values.sum())
            if values[0] < -_NOT_A_SCATTER * max(total, 0.0) - 1e-6:
                return f"{name}: a scatter has no negative eigenvalue, {values[0]:.3g} came"
            if total > 64.0 * len(values) * 1.01:  # |z| <= 8
                return f"{name}: variance of at most 64 a feature expected, {total / len(values):.4g} came"
        return None

    def norm(self, update: Arrays) -> float:
        """Frobenius norm of both scatters."""
        sizes = [np.linalg.norm(square(update[name].astype(np.float64))) for name in ("within", "between")]
        return float(np.linalg.norm(sizes))

    def merge(self, plan: Plan, state: Arrays, updates: Sequence[Arrays], weights: Sequence[int]) -> Arrays:  # noqa: ARG002  # counts are in the updates
        """Exact sums."""
        size = state["within"].size
        within, between = np.zeros(size), np.zeros(size)
        fresh = flights = 0
        for update in updates:
            new, seen = (int(count) for count in update["counts"])
            within = within + new * update["within"].astype(np.float64)
            between = between + seen * update["between"].astype(np.float64)
            fresh, flights = fresh + new, flights + seen
        return self._merged(plan, state, within, between, (fresh, flights, len(updates)))

    def merge_sums(self, plan: Plan, state: Arrays, moments: Moments) -> Arrays:
        """The same of sums that were made under masks."""
        counts = (moments.fresh, moments.flights, moments.devices)
        return self._merged(plan, state, moments.within, moments.between, counts)

    @staticmethod
    def _merged(
        plan: Plan,
        state: Arrays,
        within: NDArray[np.float64],
        between: NDArray[np.float64],
        counts: tuple[int, int, int],
    ) -> Arrays:
        """B replaces the state's when devices sent enough of it: their rings hold the fitted flights too."""
        n0, flights0, devices0 = (int(count) for count in state["counts"])
        fresh, flights, devices = counts
        n = round(plan.pca.forget * n0) + fresh
        if flights <= devices and flights0 > devices0:  # one flight a device tells nothing about sessions
            between, flights, devices = state["between"].astype(np.float64), flights0, devices0
        if n < 2:
            raise AggregationError(f"pca: at least 2 windows that are new or known expected, {n} came")
        within = plan.pca.forget * state["within"].astype(np.float64) + within
        return {"within": within, "between": between, "counts": np.array([n, flights, devices], np.int64)}

    def spread(self, plan: Plan, state: Arrays, *, drone: bool) -> NDArray[np.float64]:
        """T without its ridge, (D, D)."""
        n, flights, devices = (int(count) for count in state["counts"])
        weight = plan.pca.between if plan.pca.between is not None else BETWEEN_DRONE if drone else BETWEEN_LAG
        total = square(state["within"]) / max(n, 1)
        if flights > devices:  # each device's own center took one degree of freedom
            total = total + weight * square(state["between"]) / (flights - devices)
        return total

    def to_graph(self, plan: Plan, state: Arrays, *, drone: bool) -> Graph:
        """One dense layer without bias.

        Raises:
            AggregationError: the covariance is zero.
        """
        total = self.spread(plan, state, drone=drone)
        d = len(total)
        if not np.trace(total) > 0:
            raise AggregationError("pca: windows that vary expected, their covariance is zero")
        if drone:
            total = total + plan.pca.ridge * np.trace(total) / d * np.eye(d)
        values, vectors = np.linalg.eigh(total)  # ascending
        weight = vectors / np.sqrt(values) @ vectors.T if drone else vectors[:, : d - self._kept(plan, values[::-1])].T
        return (Dense(np.ascontiguousarray(weight, np.float32), np.zeros(len(weight), np.float32)),)

    def weigh(self, plan: Plan, state: Arrays) -> None:
        """All outputs count alike."""

    @staticmethod
    def _kept(plan: Plan, values: NDArray[np.float64]) -> int:
        """Components that count as normal, at least 1, at most D - 1; `values` descending."""
        keep = plan.pca.keep
        if plan.pca.variance is not None:
            share = np.cumsum(np.maximum(values, 0)) / np.maximum(values, 0).sum()
            keep = int(np.searchsorted(share, plan.pca.variance) + 1)
        return max(1, min(keep, len(values) - 1))
