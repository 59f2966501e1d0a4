"""The Flower ClientApp: learns from, observes and judges on this device's own windows, and sends numbers about them.

Where the windows are is said by the node's own configuration, never by a message: `ring` (path of the agent's ring) or
`files` (JSON list of recordings, simulation). What leaves is: updates of a family, lowest and highest values of tensors,
figures, sketches. No window, no sample, no time stamp ever does.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.clientapp import ClientApp

from covey.bundle import unpack
from covey.ring import RingReader
from federated.compile.graph import Conv, Dense, Graph, Layer
from federated.compile.quantize import observe
from federated.config import Plan, read_struct
from federated.evaluate import judge
from federated.families import family_of
from federated.learning import asked, prepare, respond
from federated.own import files_of, load, node_of, normalised
from federated.records import answer, arrays_of, config_of

if TYPE_CHECKING:
    from flwr.app import Context, Message

    from covey.bundle import Bundle
    from federated.gate import Arrays

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Channels, rate and window length (0: free) of this device's data."""
    plan = read_struct(Plan, str(config_of(message)["plan"]), "plan")
    node = node_of(context)
    if "ring" in node:
        with RingReader(Path(node["ring"])) as ring:
            info = ring.info
        channels, rate_hz, window = info.channels, info.rate_hz, info.window
    else:
        from federated.recordings import read

        recordings = [read(path, plan.columns, plan.rows) for path in files_of(node)]
        channels, rate_hz, window = recordings[0].channels, recordings[0].rate_hz, 0
    text = np.frombuffer("\n".join(channels).encode(), np.uint8)
    return answer({"channels": text, "shape": np.array([rate_hz, window], np.float64)}, message)


@app.train()
def learn(message: Message, context: Context) -> Message:
    """One local update."""
    task = prepare(message, context)
    return respond(task, family_of(task.plan.family).update(task.plan, task.state, task.lesson, task.seed))


@app.evaluate("observe")
def observe_ranges(message: Message, context: Context) -> Message:
    """Lowest and highest value of every tensor of the float graph on this device's windows."""
    plan, inputs = asked(config_of(message))
    z, _, _ = normalised(load(node_of(context), plan, inputs), plan, inputs)
    ranges = observe(graph_of(arrays_of(message)), z)
    return answer({"low": np.array(ranges.low, np.float32), "high": np.array(ranges.high, np.float32)}, message)


@app.evaluate("judge")
def judge_candidate(message: Message, context: Context) -> Message:
    """Figures of the candidate, as int8 files and as a float graph, and of the current release."""
    plan, inputs = asked(config_of(message))
    arrays = arrays_of(message)
    own = load(node_of(context), plan, inputs)
    candidate = _unpacked(arrays.pop("candidate").tobytes(), "candidate")
    current = _unpacked(arrays.pop("current").tobytes(), "current release") if "current" in arrays else None
    return answer(judge(candidate, graph_of(arrays), current, own.windows), message)


@lru_cache(maxsize=2)
def _unpacked(content: bytes, what: str) -> Bundle:
    """`unpack`, once for all devices of a process that are sent the same bundle; nobody changes one."""
    return unpack(content, what)


def graph_of(arrays: Arrays) -> Graph:
    """The float graph that a message carries as w0, b0, r0, w1, ...; s0 beside a convolution."""
    count = sum(name.startswith("w") for name in arrays)
    layers: list[Layer] = []
    for n in range(count):
        weight, bias, relu = arrays[f"w{n}"], arrays[f"b{n}"], bool(arrays[f"r{n}"][0])
        if weight.ndim == 3:
            layers.append(Conv(weight, bias, int(arrays[f"s{n}"][0]), relu))
        else:
            layers.append(Dense(weight, bias, relu))
    return tuple(layers)


def arrays_of_graph(graph: Graph) -> Arrays:
    """The inverse of `graph_of`."""
    arrays: Arrays = {}
    for n, layer in enumerate(graph):
        arrays |= {f"w{n}": layer.weight, f"b{n}": layer.bias, f"r{n}": np.array([layer.relu], np.uint8)}
        if isinstance(layer, Conv):
            arrays[f"s{n}"] = np.array([layer.steps], np.int64)
    return arrays
