"""What a model family is: learn on the device, merge on the server, give a graph to the compiler.

A family sees normalised features (z) and named arrays; it knows no window, no file and no message. Its state is a
dictionary of arrays that travels in the bundle (`STATE`), so that the next round starts where this one ended.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from covey.errors import BundleError, UsageError
from federated.gate import Arrays, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from covey.bundle import Outputs
    from covey.errors import CoveyError
    from federated.compile.graph import Graph
    from federated.config import Plan

__all__ = [
    "Arrays",
    "Family",
    "Lesson",
    "ManyAtOnce",
    "Weighing",
    "family_for",
    "family_of",
    "pack_state",
    "unpack_state",
]


@dataclass(frozen=True)
class Lesson:
    """What a device learns from, normalised by its own center and scale.

    Attributes:
        z: (N, D) float32, clipped.
        flight: (N,) int64.
        fitted: (N,) bool: the group's model knows this window already.
        drone: features are `drone`; `lag` otherwise.
    """

    z: NDArray[np.float32]
    flight: NDArray[np.int64]
    fitted: NDArray[np.bool_]
    drone: bool


@dataclass(frozen=True)
class Weighing:
    """What a projecting model's outputs are to a device.

    Attributes:
        rule: what it makes of them by its own windows.
        weights: (K,) of their squares, for a device that has no windows yet.
        scale: (D,) of the features, the same for all devices unless they have their own.
        windows: that the model rests on.
    """

    rule: Outputs
    weights: NDArray[np.float64]
    scale: NDArray[np.float64]
    windows: int


class Family(Protocol):
    """One way to learn; stateless, all state is in arrays."""

    kind: ClassVar[Literal["project", "reconstruct"]]
    one_shot: ClassVar[bool]  # every round starts from the initial state again: its result is exact after one
    headroom: ClassVar[float]  # widening of observed int8 ranges, >= 1

    def begin(self, plan: Plan, d: int) -> Arrays:
        """State before the first round."""
        ...

    def down(self, state: Arrays) -> Arrays:
        """The part of the state that devices need to learn."""
        ...

    def update(self, plan: Plan, state: Arrays, lesson: Lesson, seed: int) -> Arrays:
        """On the device: what it learned; autoencoders: the change of the weights, float32. `state` is what `down` gave."""
        ...

    def shapes(self, plan: Plan, d: int) -> dict[str, Shape]:
        """What every update must look like."""
        ...

    def fault(self, update: Arrays) -> str | None:
        """Why an update of the right shapes is refused, or None."""
        ...

    def norm(self, update: Arrays) -> float:
        """Size of an update, compared with the others'."""
        ...

    def merge(self, plan: Plan, state: Arrays, updates: Sequence[Arrays], weights: Sequence[int]) -> Arrays:
        """On the server, rule `sum` only: the new state. Any other rule averages changes (federated/rules.py)."""
        ...

    def to_graph(self, plan: Plan, state: Arrays, *, drone: bool) -> Graph:
        """The network for the compiler."""
        ...

    def weigh(self, plan: Plan, state: Arrays) -> Weighing | None:
        """How devices weigh the network's outputs; None: all alike."""
        ...


@runtime_checkable
class ManyAtOnce(Protocol):
    """What a family adds that can train many devices of one process together; engines ask for it, devices never do."""

    def update_many(
        self, plan: Plan, state: Arrays, lessons: Sequence[Lesson], seeds: Sequence[int]
    ) -> list[Arrays | CoveyError]:
        """What each device learned, as `update` of its lesson and seed alone would tell, or why it learned nothing."""
        ...


def family_of(name: str) -> Family:
    """The family of that name.

    Raises:
        UsageError: there is none.
    """
    if name == "pca":
        from federated.families.pca import Pca

        return Pca()
    if name == "dense-ae":
        from federated.families.dense_ae import DenseAutoencoder

        return DenseAutoencoder()
    if name == "conv-ae":
        from federated.families.conv_ae import ConvAutoencoder

        return ConvAutoencoder()
    raise UsageError(f"family: one of pca, dense-ae, conv-ae expected, {name!r} came")


def family_for(plan: Plan) -> Family:
    """The family of a plan whose features are settled."""
    if plan.family == "pca" and plan.features == "temporal":
        from federated.families.pca_time import PcaOverTime

        return PcaOverTime(plan)
    return family_of(plan.family)


def pack_state(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """NPZ bytes; the same arrays give the same bytes (NumPy writes ZIP's epoch as the date)."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def unpack_state(content: bytes, what: str) -> Arrays:
    """The inverse of `pack_state`.

    Raises:
        BundleError: not an NPZ of plain arrays.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise BundleError(f"{what}: an NPZ of plain arrays expected: {str(error).splitlines()[0]}") from error
