"""Mergeable quantile sketch with a relative error of 1 %: what a summary carries instead of its scores.

DDSketch (Masson, Rim, Lee, PVLDB 12(12), 2019): value x > 0 falls into bin ceil(log_gamma x) with
gamma = (1 + a)/(1 - a), so that every value of a bin is within a of its estimate 2 gamma^i/(gamma + 1).
Scores are not negative; values up to MIN_VALUE count as zero. Pure; stdlib only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from covey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(GAMMA)
MIN_VALUE = 1e-9
MAX_VALUE = 1e12
LOWEST_BIN = math.floor(math.log(MIN_VALUE) / _LOG_GAMMA)  # bins that `add` can make; of others no value can be told
HIGHEST_BIN = math.ceil(math.log(MAX_VALUE) / _LOG_GAMMA)
MAX_COUNT = 2**53 - 1  # as every count on the wire
MAX_BINS = 512  # past it the lowest bins are merged: high quantiles, which alarms live on, stay exact


@dataclass
class Sketch:
    """Counts of scores in logarithmic bins.

    Attributes:
        zero: how many values were <= MIN_VALUE.
        bins: bin index -> count, at most MAX_BINS of them.
    """

    zero: int = 0
    bins: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of values added."""
        return self.zero + sum(self.bins.values())

    def add(self, value: float) -> None:
        """Add one score; values above MAX_VALUE (and inf) count as MAX_VALUE.

        Raises:
            ValueError: a negative value or NaN: a score is neither.
        """
        if math.isnan(value) or value < 0:
            msg = f"a score >= 0 expected, {value} received"
            raise ValueError(msg)
        if value <= MIN_VALUE:
            self.zero += 1
            return
        index = math.ceil(math.log(min(value, MAX_VALUE)) / _LOG_GAMMA)
        self.bins[index] = self.bins.get(index, 0) + 1
        self._bound()

    def extend(self, values: Iterable[float]) -> None:
        """Add many scores."""
        for value in values:
            self.add(value)

    def merge(self, other: Sketch) -> None:
        """Add another sketch's counts; the order of merging does not matter."""
        self.zero += other.zero
        for index, n in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + n
        self._bound()

    def quantile(self, q: float) -> float:
        """Value at quantile q in [0, 1], within 1 %; 0.0 for an empty sketch."""
        if not 0 <= q <= 1:
            msg = f"a quantile in [0, 1] expected, {q} received"
            raise ValueError(msg)
        rank = q * (self.count - 1)
        seen = self.zero
        if seen > rank or not self.bins:
            return 0.0
        index = 0
        for index in sorted(self.bins):  # past the end, the last index is the answer
            seen += self.bins[index]
            if seen > rank:
                break
        return self.value_of(index)

    @staticmethod
    def value_of(index: int) -> float:
        """The estimate for every value of a bin."""
        return 2 * GAMMA**index / (GAMMA + 1)

    def to_wire(self) -> list[list[int]]:
        """`[[zero, 0], [index, count], ...]` ascending; the form in docs/protocol.md."""
        return [[self.zero, 0], *([i, self.bins[i]] for i in sorted(self.bins))]

    @classmethod
    def from_wire(cls, rows: list[list[int]]) -> Sketch:
        """The inverse of `to_wire`.

        Raises:
            WireError: reason `bad_sketch`.
        """
        if not rows or len(rows) > MAX_BINS + 1 or any(len(r) != 2 for r in rows):
            raise WireError("bad_sketch", f"1 to {MAX_BINS + 1} pairs expected")
        (zero, mark), *pairs = rows
        bins = {index: n for index, n in pairs}  # noqa: C416  # rows are lists, not pairs
        counts = (zero, *bins.values())
        if any(not LOWEST_BIN <= index <= HIGHEST_BIN for index in bins) or max(counts) > MAX_COUNT:
            raise WireError("bad_sketch", f"bins from {LOWEST_BIN} to {HIGHEST_BIN}, counts up to {MAX_COUNT} expected")
        if zero < 0 or mark != 0 or len(bins) != len(pairs) or any(n <= 0 for n in bins.values()):
            raise WireError("bad_sketch", "counts > 0 and distinct bins expected")
        return cls(zero, bins)

    def _bound(self) -> None:
        while len(self.bins) > MAX_BINS:
            lowest, second = sorted(self.bins)[:2]
            self.bins[second] += self.bins.pop(lowest)
