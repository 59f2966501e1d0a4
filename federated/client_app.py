"""The Flower ClientApp: learns from, observes and judges on this device's own windows, and sends numbers about them.

Where the windows are is said by the node's own configuration, never by a message: `ring` (path of the agent's ring) or
`files` (JSON list of recordings, simulation), of which `rows` (JSON [A, B]; the plan's without it) of `array` (of an NPZ;
`train` without it). What leaves is: updates of a family, lowest and highest values of tensors, figures, sketches. No window,
no sample, no time stamp ever does.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.clientapp import ClientApp

from covey.bundle import Inputs, Manifest, Model, unpack
from covey.errors import DataError, UsageError
from covey.ring import FITTED, RingReader
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.scorer import normalise
from edge.scoring.windows import Windows, cut, drone_channels_of, features, join
from federated.compile.graph import Dense, Graph
from federated.compile.quantize import observe
from federated.config import Plan, draft_manifest, read_struct, scoring_of
from federated.evaluate import judge
from federated.families import Lesson, family_of
from federated.permission import ask
from federated.records import answer, arrays_of, config_of

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from numpy.typing import NDArray

    from edge.sources import Recording
    from federated.gate import Arrays

app = ClientApp()

_TRIES = 5  # readings of a ring that its agent is writing


@dataclass(frozen=True)
class Own:
    """What a device holds.

    Attributes:
        name: for messages.
        windows: in order of time.
        fitted: (N,) bool: the group's model was fitted on the window.
        session: (N,) int64: flight in the device's own count, which a window left out does not cut in two.
    """

    name: str
    windows: Windows
    fitted: NDArray[np.bool_]
    session: NDArray[np.int64]


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Channels, rate and window length (0: free) of this device's data."""
    plan = read_struct(Plan, str(config_of(message)["plan"]), "plan")
    node = _node(context)
    if "ring" in node:
        with RingReader(Path(node["ring"])) as ring:
            info = ring.info
        channels, rate_hz, window = info.channels, info.rate_hz, info.window
    else:
        recordings = [_recording(path, node, plan, plan.columns) for path in _files(node)]
        channels, rate_hz, window = recordings[0].channels, recordings[0].rate_hz, 0
    text = np.frombuffer("\n".join(channels).encode(), np.uint8)
    return answer({"channels": text, "shape": np.array([rate_hz, window], np.float64)}, message)


@app.train()
def learn(message: Message, context: Context) -> Message:
    """One local update."""
    config = config_of(message)
    plan, inputs = _asked(config)
    own = load(_node(context), plan, inputs)
    z, center, scale = normalised(own, plan, inputs)
    lesson = Lesson(z, own.session, own.fitted, inputs.features.kind == "drone")
    seed = zlib.crc32(f"{plan.seed}/{config['round']}/{context.node_id}".encode())
    update = family_of(plan.family).update(plan, arrays_of(message), lesson, seed)
    told: Arrays = {
        **update,
        "center": center.astype(np.float32),
        "scale": scale.astype(np.float32),
        "windows": np.array([len(z)], np.int64),
    }
    return answer(told, message)


@app.evaluate("observe")
def observe_ranges(message: Message, context: Context) -> Message:
    """Lowest and highest value of every tensor of the float graph on this device's windows."""
    plan, inputs = _asked(config_of(message))
    z, _, _ = normalised(load(_node(context), plan, inputs), plan, inputs)
    ranges = observe(graph_of(arrays_of(message)), z)
    return answer({"low": np.array(ranges.low, np.float32), "high": np.array(ranges.high, np.float32)}, message)


@app.evaluate("judge")
def judge_candidate(message: Message, context: Context) -> Message:
    """Figures of the candidate, as int8 files and as a float graph, and of the current release."""
    plan, inputs = _asked(config_of(message))
    arrays = arrays_of(message)
    own = load(_node(context), plan, inputs)
    candidate = unpack(arrays.pop("candidate").tobytes(), "candidate")
    current = unpack(arrays.pop("current").tobytes(), "current release") if "current" in arrays else None
    return answer(judge(candidate, graph_of(arrays), current, own.windows), message)


def load(node: dict[str, str], plan: Plan, inputs: Inputs) -> Own:
    """This device's windows.

    Raises:
        DataError: its ring or files cannot be used, or hold too few windows; or its agent says that it may not learn now.
    """
    if "ring" in node:
        ask(Path(node["ring"]))
    own = _from_ring(Path(node["ring"]), inputs) if "ring" in node else _from_files(node, plan, inputs)
    if not np.isfinite(own.windows.samples).all():
        raise DataError(f"{own.name}: finite samples expected, others found")
    return own


def normalised(
    own: Own, plan: Plan, inputs: Inputs
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """(N, D) features by the device's own center and scale, exactly as its agent will calibrate; and those two (D,).

    Raises:
        DataError: fewer windows than the device needs to calibrate.
    """
    phi = features(own.windows.samples, inputs)
    draft = draft_of(plan, inputs, outputs=1)
    try:
        calibration = calibrate(draft, "0" * 64, own.windows, {"onnx": _Silent()}, 0.0)
    except DataError as error:
        raise DataError(f"{own.name}: {error}") from error
    center, scale = np.asarray(calibration.center), np.asarray(calibration.scale)
    return normalise(phi, center, scale, draft.defaults.clip), center, scale


class _Silent:
    """A network that says nothing: calibrating with it leaves center and scale."""

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(x), 1), np.float32)


def draft_of(plan: Plan, inputs: Inputs, outputs: int) -> Manifest:
    """The manifest before anything is learned: unit scale, no center."""
    drone = inputs.features.kind == "drone"
    channels = len(inputs.channels)
    channel_of = drone_channels_of(inputs) if drone else [n % channels for n in range(inputs.window * channels)]
    d = len(channel_of)
    kind = family_of(plan.family).kind
    model = Model(kind="project", inputs=d, outputs=outputs) if kind == "project" else Model("reconstruct", d, d)
    if outputs == 1:  # only center and scale are wanted
        model = Model(kind="project", inputs=d, outputs=1)
    return draft_manifest(plan, inputs, scoring_of(plan, inputs, channel_of), model, center=[0.0] * d, scale=[1e-3] * d)


def graph_of(arrays: Arrays) -> Graph:
    """The float graph that a message carries as w0, b0, r0, w1, ..."""
    count = sum(name.startswith("w") for name in arrays)
    return tuple(Dense(arrays[f"w{n}"], arrays[f"b{n}"], relu=bool(arrays[f"r{n}"][0])) for n in range(count))


def arrays_of_graph(graph: Graph) -> Arrays:
    """The inverse of `graph_of`."""
    arrays: Arrays = {}
    for n, layer in enumerate(graph):
        arrays |= {f"w{n}": layer.weight, f"b{n}": layer.bias, f"r{n}": np.array([layer.relu], np.uint8)}
    return arrays


def _asked(config: dict[str, str | int]) -> tuple[Plan, Inputs]:
    return read_struct(Plan, str(config["plan"]), "plan"), read_struct(Inputs, str(config["inputs"]), "inputs")


def _node(context: Context) -> dict[str, str]:
    node = {name: str(value) for name, value in context.node_config.items()}
    if not {"ring", "files"} & node.keys():
        raise UsageError("node configuration: ring or files expected, neither is there")
    return node


def _files(node: dict[str, str]) -> list[str]:
    return [str(path) for path in json.loads(node["files"])]


def _from_ring(path: Path, inputs: Inputs) -> Own:
    """Windows and their flags: two readings, which agree unless the agent wrote in between."""
    for _ in range(_TRIES):
        windows = ring_windows(path, inputs)
        with RingReader(path) as ring:
            heads = [(record.start_s, record.flags, record.flight) for record in ring.records()]
        if [start for start, _, _ in heads] == windows.start_s.tolist():
            fitted = np.array([bool(flags & FITTED) for _, flags, _ in heads], np.bool_)
            return Own(str(path), windows, fitted, np.array([flight for _, _, flight in heads], np.int64))
    raise DataError(f"{path}: a ring that holds still for a moment expected, it changed {_TRIES} times while read")


def _recording(path: str, node: dict[str, str], plan: Plan, columns: list[str] | None) -> Recording:
    from edge.sources.files import read_recording

    rows = _span(node["rows"]) if "rows" in node else plan.rows
    return read_recording(path, columns, rows, node.get("array"))


def _span(text: str) -> tuple[int, int]:
    try:
        start, stop = (int(row) for row in json.loads(text))
    except (ValueError, TypeError) as error:
        raise UsageError(f"node configuration: rows [A, B] expected, {text!r} came") from error
    return start, stop


def _from_files(node: dict[str, str], plan: Plan, inputs: Inputs) -> Own:
    paths = _files(node)
    parts: list[Windows] = []
    flight = 0
    for path in paths:
        part = cut(_recording(path, node, plan, inputs.channels), inputs)
        parts.append(Windows(part.samples, part.end_row, part.flight + flight, part.start_s))
        flight += 1 + (int(part.flight[-1]) if len(part) else 0)
    windows = join(parts, inputs)
    return Own(", ".join(paths), windows, np.zeros(len(windows), np.bool_), windows.flight)
