"""What bench_edge.py measures with: a model of 20 channels at 100 Hz, recordings of it, and a look into a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
)
from covey.sketch import Sketch
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import Dense
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import observe, quantize
from federated.compile.tflite_writer import write_tflite
from firmware_sim.usdlog import write_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = tuple(f"s.c{i:02d}" for i in range(20))
RATE_HZ = 100.0
WINDOW = 100  # 1 s
D = WINDOW * len(CHANNELS)
K = 16  # 2000 x 16 = 32,000 weights: the size of notes on int8 models of ours
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Flight:
    """What usdlog writes."""

    channels: tuple[str, ...]
    rate_hz: float
    samples: NDArray[np.float64]


def samples(seconds: float, seed: int) -> NDArray[np.float32]:
    """(n, 20) of unit noise."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((round(seconds * RATE_HZ), len(CHANNELS))).astype(np.float32)


def write_recording(path: Path, seconds: float, seed: int) -> Path:
    """A Crazyflie log of them."""
    write_log(Flight(CHANNELS, RATE_HZ, samples(seconds, seed).astype(np.float64)), path)
    return path


def weights() -> NDArray[np.float32]:
    """(D, K) orthonormal columns: y = z W is a PCA's residual in shape and size."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, K)))
    return q.astype(np.float32)


def float_model() -> bytes:
    """The same network in ONNX with 32 bit floats."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", D])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", K])],
        [numpy_helper.from_array(weights(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return content


def write_bundle(path: Path) -> dict[str, int]:
    """The bundle; returns the sizes of its models in bytes."""
    graph = (Dense(np.ascontiguousarray(weights().T), np.zeros(K, np.float32)),)
    rng = np.random.default_rng(1)
    seen = rng.standard_normal((512, D)).astype(np.float32).clip(-8, 8)
    seen[0, :], seen[1, :] = 8.0, -8.0
    quantised = quantize(graph, observe(graph, seen))
    files = {"model.onnx": write_onnx(quantised), "model.tflite": write_tflite(quantised)}
    golden = rng.standard_normal((4, D)).astype(np.float32)
    files[GOLDEN_INPUT] = golden.astype("<f4").tobytes()
    reference = Sketch()
    reference.extend(np.square(golden @ weights()).mean(axis=1).tolist())
    for name in available():
        model = files["model.onnx" if name == "onnx" else "model.tflite"]
        files[golden_output(name)] = open_runtime(name, model).run(golden).astype("<f4").tobytes()
    manifest = Manifest(
        format="covey-bundle/1",
        family="bench",
        group="bench",
        made="2026-01-01T00:00:00.000Z",
        made_by="bench",
        inputs=Inputs(list(CHANNELS), RATE_HZ, WINDOW, WINDOW, Features("lag")),
        defaults=Defaults(
            center=[0.0] * D,
            scale=[1.0] * D,
            clip=8.0,
            spread=[1.0] * D,
            thresholds=dict.fromkeys(available(), 4.0),
            reference={name: reference.to_wire() for name in available()},
        ),
        model=Model("project", D, K),
        scoring=Scoring(0.2, 0.99, 4 / 3, 4, 4, 20, "channel", [i % len(CHANNELS) for i in range(D)]),
        golden=Golden(len(golden), dict.fromkeys(available(), 0.5)),
        evidence={},
        files={},
    )
    path.write_bytes(pack(manifest, files))
    return {name: len(content) for name, content in files.items() if name.startswith("model.")}


def cpu_s(pid: int) -> float:
    """CPU-seconds of a process."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / _TICKS


def memory_mib(pid: int) -> tuple[float, float]:
    """(resident, peak) of a process, in MiB, as ps and systemd tell it."""
    now = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return now, peak / 1024
