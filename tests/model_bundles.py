"""Small real bundles for tests: two channels, lag features, a projection compiled to int8 for every runtime."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec
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
    write_bundle,
)
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import Dense
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import observe, quantize
from federated.compile.tflite_writer import write_tflite

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ["x", "y"]
WINDOW = 3
GOLDEN = 8


def rows(n: int, seed: int = 0) -> np.ndarray:
    """(n, 2) normal samples: y follows x, with a little noise."""
    rng = np.random.default_rng(seed)
    x = 10 + rng.normal(size=n)
    return np.stack([x, -3 + x + 0.1 * rng.normal(size=n)], axis=1).astype(np.float32)


def write_csv(path: Path, samples: np.ndarray, header: str = "x,y") -> Path:
    path.write_text(header + "\n" + "".join(",".join(f"{v:.6f}" for v in row) + "\n" for row in samples))
    return path


@cache
def contents(weight: float = 1.0) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of a bundle whose model tells x and y apart: y_k = weight * (z_x - z_y) of lag k."""
    d = WINDOW * 2
    matrix = np.zeros((WINDOW, d), np.float32)
    for k in range(WINDOW):
        matrix[k, 2 * k], matrix[k, 2 * k + 1] = weight, -weight
    graph = (Dense(matrix, np.zeros(WINDOW, np.float32)),)
    rng = np.random.default_rng(7)
    seen = np.clip(rng.normal(size=(512, d)) * 2, -8, 8).astype(np.float32)
    qgraph = quantize(graph, observe(graph, seen).with_input(-8.0, 8.0))
    models = {"model.onnx": write_onnx(qgraph), "model.tflite": write_tflite(qgraph)}
    golden = seen[:GOLDEN]
    files = {**models, GOLDEN_INPUT: golden.tobytes()}
    for name in available():
        network = open_runtime(name, models["model.onnx" if name == "onnx" else "model.tflite"])
        files[golden_output(name)] = network.run(golden).astype("<f4").tobytes()
    manifest = Manifest(
        format="covey-bundle/1",
        family="pca",
        group="test",
        made="2026-01-01T00:00:00.000Z",
        made_by="0.1.0",
        inputs=Inputs(channels=CHANNELS, rate_hz=1.0, window=WINDOW, hop=1, features=Features(kind="lag")),
        defaults=Defaults(
            center=[10.0, 7.0] * WINDOW,
            scale=[1.0] * d,
            clip=8.0,
            spread=[1.0] * d,
            thresholds=dict.fromkeys(available(), 0.2),
            reference={name: [[0, 0], [1, 10]] for name in available()},
        ),
        model=Model(kind="project", inputs=d, outputs=WINDOW),
        scoring=Scoring(
            smoothing=0.5,
            quantile=0.9,
            factor=4 / 3,
            begin_windows=2,
            end_windows=2,
            commission_windows=20,
            attribution="channel",
            channel_of_feature=[0, 1] * WINDOW,
        ),
        golden=Golden(windows=GOLDEN, tolerance=dict.fromkeys(available(), 0.05)),
        evidence={},
        files={},
    )
    return manifest, files


def make_bundle(path: Path, weight: float = 1.0, files: dict[str, bytes] | None = None, **changes: object) -> str:
    """Write a bundle; returns its digest.

    Args:
        path: where.
        weight: another one gives another bundle.
        files: these replace the bundle's own.
        changes: manifest fields to replace.
    """
    manifest, own = contents(weight)
    return write_bundle(path, msgspec.structs.replace(manifest, **changes), {**own, **(files or {})})
