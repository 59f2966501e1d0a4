"""The weights on their way down: whole, or as what changed since the view that a device holds.

The server's end is `Views`, the device's is `received`. A device gets a difference only when it answered the round before,
so that it holds that round's view; one that says otherwise (it lost its memory) fails that round and gets a whole view next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError, DataError
from federated.compress import LOSSY, shapes_of, squeeze, unsqueeze

if TYPE_CHECKING:
    from collections.abc import Iterable

    from federated.config import Plan
    from federated.gate import Arrays

_VIEW = "view."


class Views:
    """What devices hold of the weights, on the server.

    Attributes:
        view: the weights as the devices of the last round hold them, float16; empty before the first.
    """

    def __init__(self, plan: Plan, state: Arrays) -> None:
        """Args: state: of the last round, as `kept` left it."""
        self._plan = plan
        self.view = {name[len(_VIEW) :]: values for name, values in state.items() if name.startswith(_VIEW)}
        self._holders: set[int] = set()  # after a resume nobody is known to hold anything
        self._whole: Arrays = {}
        self._change: Arrays = {}

    def next(self, weights: Arrays) -> None:
        """Make the messages of a round: what `whole` and `to` give from now on."""
        how = self._plan.compress
        if how not in LOSSY:
            self._whole, self._change = squeeze(weights, how, 1.0), {}
            return
        if not self.view:
            self._change = {}
            self.view = squeeze(weights, "float16", 1.0)
        else:
            apart = {name: weights[name].astype(np.float64) - self.view[name] for name in self.view}
            self._change = squeeze(apart, how, self._plan.keep)
            self.view = advanced(self.view, self._change, self._plan)
        self._whole = self.view

    def to(self, node: int) -> Arrays:
        """What this device is sent."""
        return self._change if self._change and node in self._holders else self._whole

    def answered(self, nodes: Iterable[int]) -> None:
        """Those devices hold the view of the round that is over; no other does."""
        self._holders = set(nodes)

    def kept(self) -> Arrays:
        """What belongs into the checkpoint."""
        return {f"{_VIEW}{name}": values for name, values in self.view.items()} if self._plan.compress in LOSSY else {}


def advanced(view: Arrays, change: Arrays, plan: Plan) -> Arrays:
    """The view after a difference: the same bits on server and device."""
    step = unsqueeze(change, shapes_of(view), plan.compress, plan.keep)
    return {name: (values.astype(np.float32) + step[name]).astype(np.float16) for name, values in view.items()}


def received(plan: Plan, arrays: Arrays, memory: Arrays, number: int, run: int) -> tuple[Arrays, Arrays]:
    """The weights that a message brought to a device, float32, and what the device remembers of them.

    Raises:
        DataError: a difference from a view that the device does not hold.
    """
    if plan.compress not in LOSSY:
        return {name: values.astype(np.float32) for name, values in arrays.items()}, memory
    held = {name[len(_VIEW) :]: values for name, values in memory.items() if name.startswith(_VIEW)}
    if "delta" in arrays:
        at = (int(memory["view_run"][0]), int(memory["view_round"][0])) if held else (0, 0)
        if at != (run, number - 1):
            raise DataError(
                f"weights of round {number - 1} expected to add the change to, the device holds none of them"
            )
        try:
            view = advanced(held, arrays, plan)
        except AggregationError as error:
            raise DataError(f"weights: {error}") from error
    else:
        view = arrays
    rests = {name: values for name, values in memory.items() if not name.startswith("view")}
    marks = {"view_round": np.array([number]), "view_run": np.array([run])}
    return (
        {name: values.astype(np.float32) for name, values in view.items()},
        {**rests, **{f"{_VIEW}{name}": values for name, values in view.items()}, **marks},
    )
