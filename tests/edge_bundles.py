"""A small bundle that runs on every runtime: score = mean z^2 of a lag window, worked out by an int8 identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covey.bundle import (
    GOLDEN_INPUT,
    Defaults,
    Features,
    Golden,
    Inputs,
    Manifest,
    Model,
    Scoring,
    golden_output,
    pack,
    sha256,
)
from covey.sketch import Sketch
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import Dense, forward
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import observe, quantize
from federated.compile.tflite_writer import write_tflite

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("ax", "ay")
WINDOW = 4
D = WINDOW * len(CHANNELS)
CLIP = 8.0
TOLERANCE = 0.1  # int8 over [-8, 8] has steps of 0.063


def make_bundle(
    path: Path,
    *,
    gain: float = 1.0,
    threshold: float = 4.0,
    commission_windows: int = 20,
    channels: tuple[str, ...] = CHANNELS,
    begin_windows: int = 2,
    end_windows: int = 2,
    broken_golden: bool = False,
) -> str:
    """Write a bundle and return its digest: y = gain * z, score = mean y^2."""
    d = WINDOW * len(channels)
    graph = (Dense(np.eye(d, dtype=np.float32) * np.float32(gain), np.zeros(d, np.float32)),)
    rng = np.random.default_rng(7)
    spread = rng.uniform(-CLIP, CLIP, (256, d)).astype(np.float32)
    spread[0], spread[1] = CLIP, -CLIP
    qgraph = quantize(graph, observe(graph, spread))
    files = {"model.onnx": write_onnx(qgraph), "model.tflite": write_tflite(qgraph)}
    golden = rng.standard_normal((8, d)).astype(np.float32)
    files[GOLDEN_INPUT] = golden.astype("<f4").tobytes()
    truth = forward(graph, golden)
    for name in available():
        y = open_runtime(name, files["model.onnx" if name == "onnx" else "model.tflite"]).run(golden)
        assert np.abs(y - truth).max() < TOLERANCE * gain, name  # a second method: the float graph in NumPy
        files[golden_output(name)] = (y + 5.0 * broken_golden).astype("<f4").tobytes()
    reference = Sketch()
    reference.extend(np.square(rng.standard_normal((500, d))).mean(axis=1).tolist())
    manifest = Manifest(
        format="covey-bundle/1",
        family="test",
        group="test",
        made="2026-01-01T00:00:00.000Z",
        made_by="tests",
        inputs=Inputs(list(channels), 1.0, WINDOW, WINDOW, Features("lag")),
        defaults=Defaults(
            center=[0.0] * d,
            scale=[1.0] * d,
            clip=CLIP,
            spread=[1.0] * d,
            thresholds=dict.fromkeys(available(), threshold),
            reference={name: reference.to_wire() for name in available()},
        ),
        model=Model("project", d, d),
        scoring=Scoring(
            smoothing=1.0,
            quantile=0.99,
            factor=4 / 3,
            begin_windows=begin_windows,
            end_windows=end_windows,
            commission_windows=commission_windows,
            attribution="channel",
            channel_of_feature=[i % len(channels) for i in range(d)],
        ),
        golden=Golden(len(golden), dict.fromkeys(available(), TOLERANCE * gain)),
        evidence={},
        files={},
    )
    content = pack(manifest, files)
    path.write_bytes(content)
    return sha256(content)


def write_flight(path: Path, rows: int, seed: int, *, bad: tuple[int, int] = (0, 0), channel: str = "ay") -> Path:
    """A table of unit noise; `channel` is offset by 6 in the rows `bad`."""
    samples = np.random.default_rng(seed).standard_normal((rows, len(CHANNELS)))
    samples[bad[0] : bad[1], CHANNELS.index(channel)] += 6.0
    np.savetxt(path, samples, delimiter=",", header=",".join(CHANNELS), comments="", fmt="%.6f")
    return path
