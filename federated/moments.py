"""The moments of family `pca` as one vector of words that may be masked and summed, and the sum back as moments.

Under masks a device's center and scale are summed too: the group's are then means, not medians, so that an odd device moves
them; and only the sum can be looked at. What one device may add is bounded by the device alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError
from federated.masking import narrow, narrow_sum, wide, wide_sum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from federated.gate import Arrays, Shape

_COUNTS = 4  # windows new to the model, flights, windows, devices


@dataclass(frozen=True)
class Layout:
    """How long the parts of a vector are.

    Attributes:
        within: numbers of the scatter within flights.
        between: of that between them; 0 where a family sends none.
        affine: of center and of scale.
    """

    within: int
    between: int
    affine: int

    @property
    def size(self) -> int:
        """Words of a vector."""
        return _COUNTS + self.within + self.between + 6 * self.affine


def layout_of(shapes: Mapping[str, Shape], affine: int) -> Layout:
    """From the shapes of a family's updates and the number of centers that a device tells."""
    within = shapes["within"].shape[0]
    return Layout(within, within if "between" in shapes else 0, affine)


@dataclass(frozen=True)
class Moments:
    """A fleet's sums.

    Attributes:
        within: triangle (D (D + 1) / 2,), or one for each branch, of the sum of scatters about flights' means.
        between: likewise of flights' means about devices' centers.
        fresh: windows in `within`.
        flights: in `between`.
        windows: in all.
        devices: summed.
        center: (D,) mean.
        scale: (D,) of a device chosen at random, its center's distance included.
    """

    within: NDArray[np.float64]
    between: NDArray[np.float64]
    fresh: int
    flights: int
    windows: int
    devices: int
    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    def as_update(self) -> Arrays:
        """As one device's update would be: means and counts, for the gate of the family."""
        within = self.within / max(self.fresh, 1)
        if not len(self.between):
            return {"within": within, "counts": np.array([self.fresh], np.int64)}
        return {
            "within": within,
            "between": self.between / max(self.flights, 1),
            "counts": np.array([self.fresh, self.flights], np.int64),
        }


def to_words(
    update: Arrays, center: NDArray[np.float64], scale: NDArray[np.float64], windows: int
) -> NDArray[np.uint64]:
    """One device's part of the sum, as its layout has it.

    Raises:
        DataError: a number that does not fit.
    """
    fresh, *more = (int(count) for count in update["counts"])
    flights = more[0] if more else 0
    between = np.empty(0)
    if "between" in update:  # one zero stands for a scatter of one flight
        between = np.broadcast_to(update["between"].astype(np.float64), update["within"].shape)
    return np.concatenate(
        [
            np.array([fresh, flights, windows, 1], np.uint64),
            narrow(fresh * update["within"].astype(np.float64), "scatter"),
            narrow(flights * between, "scatter"),
            wide(center, "center"),
            wide(np.square(center), "squared center"),
            wide(np.square(scale), "squared scale"),
        ]
    )


def from_words(words: NDArray[np.uint64], layout: Layout, devices: int) -> Moments:
    """The sum of so many devices' vectors.

    Raises:
        AggregationError: it is not one.
    """
    if words.shape != (layout.size,) or int(words[3]) != devices:
        raise AggregationError(f"masked sum: of {devices} devices expected, the masks do not cancel")
    ends = np.cumsum([_COUNTS, layout.within, layout.between, 2 * layout.affine, 2 * layout.affine])
    counts, within, between, center, squared, scale = np.split(words, ends)
    mean = wide_sum(center) / devices
    apart = np.maximum(wide_sum(squared) / devices - np.square(mean), 0.0)
    return Moments(
        narrow_sum(within),
        narrow_sum(between),
        int(counts[0]),
        int(counts[1]),
        int(counts[2]),
        devices,
        mean,
        np.sqrt(wide_sum(scale) / devices + apart),
    )
