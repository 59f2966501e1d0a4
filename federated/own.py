"""A device's own windows: read from where its configuration says, normalised exactly as its agent will calibrate.

`ring` is the path of the agent's ring, `files` a JSON list of recordings (simulation). Knows no message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covey.bundle import Inputs, Manifest, Model
from covey.errors import DataError, UsageError
from covey.ring import FITTED, RingReader
from edge.scoring.calibration import affine, ring_windows
from edge.scoring.scorer import normalise
from edge.scoring.temporal import channel_of_feature
from edge.scoring.windows import Windows, cut, drone_channels_of, features, join, newest_rows
from federated.config import Plan, draft_manifest, scoring_of
from federated.families import family_for
from federated.permission import ask

if TYPE_CHECKING:
    from flwr.app import Context
    from numpy.typing import NDArray

    from edge.sources import Recording

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


def load(node: dict[str, str], plan: Plan, inputs: Inputs) -> Own:
    """This device's windows.

    Raises:
        DataError: its ring or files cannot be used, or hold too few windows; or its agent says that it may not learn now.
    """
    if "ring" in node:
        ask(Path(node["ring"]))
    own = _from_ring(Path(node["ring"]), inputs) if "ring" in node else _from_files(node, plan, inputs)
    if not np.isfinite(newest_rows(own.windows, inputs)).all():
        raise DataError(f"{own.name}: finite samples expected, others found")
    return own


def normalised(
    own: Own, plan: Plan, inputs: Inputs
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """(N, D) features by the device's own center and scale, exactly as its agent will calibrate; and those two.

    Center and scale are (D,), followed by those of the channels (C,) where the features are `temporal`.

    Raises:
        DataError: fewer windows than the device needs to calibrate.
    """
    draft = draft_of(plan, inputs, outputs=1)
    try:
        center, scale, channels = affine(draft, own.windows)
    except DataError as error:
        raise DataError(f"{own.name}: {error}") from error
    z = normalise(features(own.windows, inputs, channels), center, scale, draft.defaults.clip)
    if channels is None:
        return z, center, scale
    return z, np.r_[center, channels.center], np.r_[scale, channels.scale]


def draft_of(plan: Plan, inputs: Inputs, outputs: int) -> Manifest:
    """The manifest before anything is learned: unit scale, no center."""
    channels = len(inputs.channels)
    channel_of = {
        "drone": lambda: list(drone_channels_of(inputs)),
        "lag": lambda: [n % channels for n in range(inputs.window * channels)],
        "temporal": lambda: channel_of_feature(inputs),
    }[inputs.features.kind]()
    d = len(channel_of)
    kind = family_for(plan).kind
    model = Model(kind="project", inputs=d, outputs=outputs) if kind == "project" else Model("reconstruct", d, d)
    if outputs == 1:  # only center and scale are wanted
        model = Model(kind="project", inputs=d, outputs=1)
    unit = 1.0 if inputs.padded and kind == "project" else 1e-3  # the first is kept, the second a floor of a floor
    return draft_manifest(plan, inputs, scoring_of(plan, inputs, channel_of), model, center=[0.0] * d, scale=[unit] * d)


def node_of(context: Context) -> dict[str, str]:
    """A node's configuration as text.

    Raises:
        UsageError: neither ring nor files.
    """
    node = {name: str(value) for name, value in context.node_config.items()}
    if not {"ring", "files"} & node.keys():
        raise UsageError("node configuration: ring or files expected, neither is there")
    return node


def files_of(node: dict[str, str]) -> list[str]:
    """The recordings of a simulated device."""
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


def recording(path: str, node: dict[str, str], plan: Plan, columns: list[str] | None) -> Recording:
    """A recording of a simulated device, as far as its configuration says: `rows` [A, B], `array` of an NPZ."""
    from federated.recordings import read

    rows = _span(node["rows"]) if "rows" in node else plan.rows
    return read(path, columns, rows, node.get("array"))


def _span(text: str) -> tuple[int, int]:
    try:
        start, stop = (int(row) for row in json.loads(text))
    except (ValueError, TypeError) as error:
        raise UsageError(f"node configuration: rows [A, B] expected, {text!r} came") from error
    return start, stop


def _from_files(node: dict[str, str], plan: Plan, inputs: Inputs) -> Own:
    paths = files_of(node)
    parts: list[Windows] = []
    flight = 0
    for path in paths:
        part = cut(recording(path, node, plan, inputs.channels), inputs)
        parts.append(Windows(part.samples, part.end_row, part.flight + flight, part.start_s))
        flight += 1 + (int(part.flight[-1]) if len(part) else 0)
    windows = join(parts, inputs)
    return Own(", ".join(paths), windows, np.zeros(len(windows), np.bool_), windows.flight)
