"""The Flower ClientApp: learns from, observes and judges on this device's own windows, and sends numbers about them.

Where the windows are is said by the node's own configuration, never by a message: `ring` (path of the agent's ring) or
`files` (JSON list of recordings, simulation), of which `rows` (JSON [A, B]; the plan's without it) of `array` (of an NPZ;
`train` without it). What leaves is: names of channels, how many rows there are and how much a daily course explains of them; updates
of a family, lowest and highest values of tensors, figures, sketches. No window, no sample, no time stamp ever does.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.clientapp import ClientApp

from covey.bundle import unpack
from covey.errors import DataError
from covey.ring import RingReader
from federated.compile.graph import Conv, Dense, Graph, Layer
from federated.compile.quantize import observe
from federated.config import CLIP, Plan, read_struct
from federated.evaluate import judge
from federated.families import family_for
from federated.learning import asked, prepare, respond
from federated.masked_device import make_keys, make_shares, mask, open_masks
from federated.memory import recall, remember
from federated.own import files_of, load, node_of, normalised, recording
from federated.records import answer, arrays_of, config_of, inflated
from federated.streams import DAYS, daily_shares
from federated.views import graph_received

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from numpy.typing import NDArray

    from covey.bundle import Bundle
    from federated.gate import Arrays

app = ClientApp()
GRAPH = "graph."  # the candidate's float graph in a device's memory, between the two evaluations
_LARGEST = 60_000.0  # float16 ends at 65,504


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Channels, rate, window length (0: free), rows and daily course of this device's data."""
    plan = read_struct(Plan, str(config_of(message)["plan"]), "plan")
    node = node_of(context)
    if "ring" in node:
        with RingReader(Path(node["ring"])) as ring:
            info, rows = ring.info, sum(1 for _ in ring.records())
        channels, rate_hz, window = info.channels, info.rate_hz, info.window
    else:
        recordings = [recording(path, node, plan, plan.columns) for path in files_of(node)]
        channels, rate_hz, window = recordings[0].channels, recordings[0].rate_hz, 0
        rows = sum(len(one.samples) for one in recordings)
    text = np.frombuffer("\n".join(channels).encode(), np.uint8)
    told: Arrays = {"channels": text, "shape": np.array([rate_hz, window], np.float64), "rows": np.array([rows])}
    told["daily"] = (
        np.zeros(len(DAYS))
        if window or plan.features not in {"auto", "temporal"} or plan.stream not in {"auto", "daily"}
        else daily_shares(recordings[0].samples)
    )
    return answer(told, message)


@app.train()
def learn(message: Message, context: Context) -> Message:
    """One local update."""
    task = prepare(message, context)
    return respond(task, family_for(task.plan).update(task.plan, task.state, task.lesson, task.seed))


@app.query("mask_keys")
def mask_keys(message: Message, context: Context) -> Message:
    """Masked sum, step 1."""
    return make_keys(message, context)


@app.query("mask_shares")
def mask_shares(message: Message, context: Context) -> Message:
    """Masked sum, step 2."""
    return make_shares(message, context)


@app.train("mask_update")
def mask_update(message: Message, context: Context) -> Message:
    """Masked sum, step 3: one local update, of which only a masked vector leaves."""
    task = prepare(message, context)
    return mask(task, family_for(task.plan).update(task.plan, {}, task.lesson, task.seed))


@app.query("mask_open")
def mask_open(message: Message, context: Context) -> Message:
    """Masked sum, step 4."""
    return open_masks(message, context)


@app.evaluate("observe")
def observe_ranges(message: Message, context: Context) -> Message:
    """Lowest and highest value of every tensor of the float graph on this device's windows."""
    config = config_of(message)
    plan, inputs = asked(config)
    z, _, _ = normalised(load(node_of(context), plan, inputs), plan, inputs)
    number, run = int(config.get("round", 0)), int(config.get("run", 0))
    graph, memory = graph_received(plan, arrays_of(message), recall(context), number, run)
    if "scale" in graph:  # the group's, found by the round
        z = np.clip(z / graph["scale"], -CLIP, CLIP)
    ranges = observe(graph_of(graph), z)
    others = {name: values for name, values in memory.items() if not name.startswith(GRAPH)}
    remember(context, {**others, **{f"{GRAPH}{name}": values for name, values in graph.items()}})  # to judge it by
    return answer({"low": np.array(ranges.low, np.float32), "high": np.array(ranges.high, np.float32)}, message)


@app.evaluate("judge")
def judge_candidate(message: Message, context: Context) -> Message:
    """Figures of the candidate, as int8 files and as a float graph, and of the current release."""
    plan, inputs = asked(config_of(message))
    arrays = arrays_of(message)
    own = load(node_of(context), plan, inputs)
    candidate = _unpacked(inflated(arrays.pop("candidate"), "candidate"), "candidate")
    current = None
    if "current" in arrays:
        current = _unpacked(inflated(arrays.pop("current"), "current release"), "current release")
    memory = recall(context)
    graph = {name[len(GRAPH) :]: values for name, values in memory.items() if name.startswith(GRAPH)}
    if not graph:
        raise DataError(f"{own.name}: the graph of the candidate expected, the device does not hold it")
    remember(context, {name: values for name, values in memory.items() if not name.startswith(GRAPH)})
    return answer(judge(candidate, graph_of(graph), current, own.windows), message)


@lru_cache(maxsize=2)
def _unpacked(content: bytes, what: str) -> Bundle:
    """`unpack`, once for all devices of a process that are sent the same bundle; nobody changes one."""
    return unpack(content, what)


def graph_of(arrays: Arrays) -> Graph:
    """The float graph that a message carries as w0, b0, r0, w1, ...; s0 beside a convolution."""
    count = sum(name.startswith("w") for name in arrays)
    layers: list[Layer] = []
    for n in range(count):
        weight, bias, relu = (
            arrays[f"w{n}"].astype(np.float32),
            arrays[f"b{n}"].astype(np.float32),
            bool(arrays[f"r{n}"][0]),
        )
        if weight.ndim == 3:
            layers.append(Conv(weight, bias, int(arrays[f"s{n}"][0]), relu))
        else:
            layers.append(Dense(weight, bias, relu))
    return tuple(layers)


def arrays_of_graph(graph: Graph) -> Arrays:
    """The inverse of `graph_of`."""
    arrays: Arrays = {}
    for n, layer in enumerate(graph):
        arrays |= {f"w{n}": short(layer.weight), f"b{n}": short(layer.bias), f"r{n}": np.array([layer.relu], np.uint8)}
        if isinstance(layer, Conv):
            arrays[f"s{n}"] = np.array([layer.steps], np.int64)
    return arrays


def short(values: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """As float16, unless they do not fit: its error is an eighth of int8's, which the float graph is there to judge."""
    return values.astype(np.float16) if np.abs(values).max(initial=0.0) <= _LARGEST else values
