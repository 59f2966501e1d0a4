"""The weights on their way down: whole, or as what changed since the view that a device holds.

The server's end is `Views`, the device's is `received`. A device gets a difference only when it answered the round before,
so that it holds that round's view; one that says otherwise (it lost its memory) fails that round and gets a whole view next.
The first view of a run is the weights as int8, a byte a weight: what that leaves out is in the next difference. Later whole
views are two bytes a weight, since those who come late must hold the bits that the others have.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError, DataError
from federated.compress import LOSSY, shapes_of, squeeze, unsqueeze
from federated.families import pack_state, unpack_state
from federated.records import as_array, deflated, inflated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from federated.config import Plan
    from federated.gate import Arrays

_VIEW = "view."
_GRAPH = "graph"


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
            self._whole = coarse(weights)
            self.view = fine(self._whole)
            return
        apart = {name: weights[name].astype(np.float64) - self.view[name] for name in self.view}
        self._change = squeeze(apart, how, self._plan.keep)
        self.view = advanced(self.view, self._change, self._plan)
        self._whole = self.view

    def to(self, node: int) -> Arrays:
        """What this device is sent."""
        return self._change if self._change and node in self._holders else self._whole

    def graph_to(self, node: int, graph: Arrays) -> Arrays | None:
        """The change alone of a graph that is made of the view, for a device that holds what that builds on; None: send all of it.

        Args:
            node: the device.
            graph: arrays of the graph; `graph_received` gives the same ones on the device.
        """
        same = [name for name in self.view if name in graph and np.array_equal(graph[name], self.view[name])]
        if not self._change or node not in self._holders or len(same) < len(self.view):
            return None
        return {**{name: values for name, values in graph.items() if name not in self.view}, **self._change}

    def answered(self, nodes: Iterable[int]) -> None:
        """Those devices hold the view of the round that is over; no other does."""
        self._holders = set(nodes)

    def kept(self) -> Arrays:
        """What belongs into the checkpoint."""
        return {f"{_VIEW}{name}": values for name, values in self.view.items()} if self._plan.compress in LOSSY else {}


def coarse(weights: Arrays) -> Arrays:
    """Weights as int8 under their own names, and `scales` (arrays,) float32 in the order of the sorted names."""
    wire = squeeze(weights, "int8", 1.0)
    names = sorted(weights)
    ends = np.cumsum([weights[name].size for name in names])[:-1]
    parts = dict(zip(names, np.split(wire["delta"], ends), strict=True))
    return {**{name: parts[name].reshape(weights[name].shape) for name in names}, "scales": wire["scales"]}


def fine(coarsely: Arrays) -> Arrays:
    """The view that such weights are: the same bits on server and device.

    Raises:
        DataError: it is not what `coarse` makes.
    """
    names = sorted(coarsely.keys() - {"scales"})
    scales = coarsely["scales"]
    if scales.shape != (len(names),) or not all(coarsely[name].dtype == np.int8 for name in names):
        raise DataError(f"weights: {len(names)} int8 arrays with a scale each expected, something else came")
    delta = np.concatenate([coarsely[name].ravel() for name in names])
    try:
        view = unsqueeze({"delta": delta, "scales": scales}, shapes_of({n: coarsely[n] for n in names}), "int8", 1.0)
    except AggregationError as error:
        raise DataError(f"weights: {error}") from error
    return {name: values.astype(np.float16) for name, values in view.items()}


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
    elif "scales" in arrays:
        view = fine(arrays)
    else:
        view = arrays
    rests = {name: values for name, values in memory.items() if not name.startswith("view")}
    marks = {"view_round": np.array([number]), "view_run": np.array([run])}
    return (
        {name: values.astype(np.float32) for name, values in view.items()},
        {**rests, **{f"{_VIEW}{name}": values for name, values in view.items()}, **marks},
    )


def graph_whole(graph: Arrays) -> Arrays:
    """All of a graph, deflated: half of a `pca` of several branches is zeros."""
    return {_GRAPH: deflated(pack_state(graph))}


def graph_received(plan: Plan, arrays: Arrays, memory: Arrays, number: int, run: int) -> tuple[Arrays, Arrays]:
    """The arrays of a graph that `graph_whole` or `Views.graph_to` brought, and what the device remembers then.

    Raises:
        BundleError: not a graph.
        DataError: a difference from a view that the device does not hold.
    """
    if _GRAPH in arrays:
        return _inflated(arrays[_GRAPH].tobytes()), memory
    change: Arrays = {name: arrays[name] for name in ("delta", "mask", "scales") if name in arrays}
    if not change:
        raise DataError(f"graph: one, or a change of the weights expected, {', '.join(sorted(arrays))} came")
    _, memory = received(plan, change, memory, number, run)
    view = {name[len(_VIEW) :]: values for name, values in memory.items() if name.startswith(_VIEW)}
    return {**{name: values for name, values in arrays.items() if name not in change}, **view}, memory


@lru_cache(maxsize=2)
def _inflated(content: bytes) -> Arrays:
    """Once for all devices of a process; nobody changes what comes out."""
    return unpack_state(inflated(as_array(content), "graph"), "graph")
