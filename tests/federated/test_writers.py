"""Both writers on every runtime against the integer reference, and the promises about the files themselves."""

import dataclasses
from itertools import pairwise

import numpy as np
import onnx
import pytest

from covey.errors import BundleError
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import Dense, forward
from federated.compile.onnx_writer import write_onnx, write_onnx_float
from federated.compile.quantize import observe, quantize, simulate
from federated.compile.tflite_writer import write_tflite, write_tflite_float

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(name not in available(), reason=f"{name} is not installed"))
    for name in ("onnx", "litert", "tflite")
]
SHAPES = {
    "one linear layer": (24, 6),
    "autoencoder": (48, 16, 48),
    "deep": (256, 64, 16, 64, 256),
    "one value": (7, 1),
}


def network(widths, seed=1):
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(widths))
    return tuple(
        Dense(
            (rng.standard_normal((after, before)) * np.sqrt(2 / before)).astype(np.float32),
            (rng.standard_normal(after) * 0.1).astype(np.float32),
            relu=number < len(pairs) - 1,
        )
        for number, (before, after) in enumerate(pairs)
    )


def windows(width, count=640):
    return np.clip(np.random.default_rng(2).standard_normal((count, width)) * 2, -8, 8).astype(np.float32)


def written(name, qgraph):
    return write_onnx(qgraph) if name == "onnx" else write_tflite(qgraph)


def written_float(name, graph):
    return write_onnx_float(graph) if name == "onnx" else write_tflite_float(graph)


def steps_apart(qgraph, y, expected):
    return np.abs(np.rint((y - expected) / qgraph.layers[-1].output.scale))


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_runs_as_simulated_to_one_step(name, shape):
    graph = network(SHAPES[shape])
    # Calibrated on half: the rest reaches out of the ranges and must saturate alike.
    x = windows(SHAPES[shape][0])
    qgraph = quantize(graph, observe(graph, x[:320] / 2))
    runtime = open_runtime(name, written(name, qgraph))
    expected = simulate(qgraph, x)
    for batch in (1, 7, 64):
        y = np.concatenate([runtime.run(x[start : start + batch]) for start in range(0, len(x), batch)])
        assert y.shape == expected.shape
        assert y.dtype == np.float32
        assert (steps_apart(qgraph, y, expected) <= 1).mean() >= 0.999


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_int8_runs_exactly_as_simulated_where_rescaling_is_float(name):
    if name not in available():
        pytest.skip(f"{name} is not installed")
    graph = network(SHAPES["deep"])
    x = windows(256)
    qgraph = quantize(graph, observe(graph, x))
    y = open_runtime(name, written(name, qgraph)).run(x)
    assert (steps_apart(qgraph, y, simulate(qgraph, x)) == 0).mean() >= 0.999


@pytest.mark.parametrize("name", RUNTIMES)
def test_large_weights_and_inputs_do_not_saturate_the_sums(name):
    """All at their largest: pairs of products overflow 16 bits on x86 without `x64quantprecision`."""
    graph = (Dense(np.ones((4, 512), np.float32), np.zeros(4, np.float32)),)
    x = np.full((3, 512), 8.0, np.float32)
    x[1] = -8.0
    x[2, ::2] = -8.0
    qgraph = quantize(graph, observe(graph, x))
    y = open_runtime(name, written(name, qgraph)).run(x)
    step = qgraph.layers[0].output.scale
    assert y == pytest.approx(np.repeat([[4096.0], [-4096.0], [0.0]], 4, axis=1), abs=3 * step)


@pytest.mark.parametrize("name", RUNTIMES)
def test_extreme_rows_load_and_run(name):
    first = np.array([[0.0, 0.0], [1e-12, 0.0], [1.0, -1.0]], np.float32)
    graph = (
        Dense(first, np.array([0.0, 100.0, 0.0], np.float32), relu=True),
        Dense(np.zeros((2, 3), np.float32), np.zeros(2, np.float32)),
    )
    silent = (Dense(np.ones((1, 2), np.float32), np.zeros(1, np.float32)),)
    x = np.array([[1.0, -1.0], [0.5, -0.5]], np.float32)
    for part in (graph[:1], graph, silent):
        qgraph = quantize(part, observe(part, x))
        y = open_runtime(name, written(name, qgraph)).run(x)
        assert (steps_apart(qgraph, y, simulate(qgraph, x)) <= 1).all()


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_float_models_compute_the_graph(name, shape):
    graph = network(SHAPES[shape])
    x = windows(SHAPES[shape][0], 65)
    runtime = open_runtime(name, written_float(name, graph))
    expected = forward(graph, x)
    for batch in (1, 7, 65):
        assert runtime.run(x[:batch]) == pytest.approx(expected[:batch], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_wrong_scale_in_the_file_is_noticed(name):
    """The comparison with the reference is sharp enough: a weight scale wrong by 2 % fails it."""
    graph = network(SHAPES["autoencoder"])
    x = windows(48)
    qgraph = quantize(graph, observe(graph, x))
    layer = qgraph.layers[0]
    scale = layer.weight_scale * np.float32(1.02)
    wrong = dataclasses.replace(layer, weight_scale=scale, bias_scale=scale * np.float32(qgraph.input.scale))
    y = open_runtime(name, written(name, dataclasses.replace(qgraph, layers=(wrong, *qgraph.layers[1:])))).run(x)
    assert (steps_apart(qgraph, y, simulate(qgraph, x)) <= 1).mean() < 0.999


def test_the_same_graph_gives_the_same_bytes():
    graph = network(SHAPES["autoencoder"])
    qgraph = quantize(graph, observe(graph, windows(48)))
    assert write_onnx(qgraph) == write_onnx(qgraph)
    assert write_tflite(qgraph) == write_tflite(qgraph)
    assert write_onnx_float(graph) == write_onnx_float(graph)
    assert write_tflite_float(graph) == write_tflite_float(graph)


def test_onnx_files_are_opset_17_ir_8_and_qdq_only():
    graph = network(SHAPES["autoencoder"])
    model = onnx.load_from_string(write_onnx(quantize(graph, observe(graph, windows(48)))))
    assert model.ir_version == 8
    assert [(part.domain, part.version) for part in model.opset_import] == [("", 17)]
    assert {node.op_type for node in model.graph.node} == {"QuantizeLinear", "DequantizeLinear", "Gemm", "Relu"}
    batch, width = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, width.dim_value) == ("batch", 48)


def test_tflite_files_carry_their_identifier_and_aligned_constants():
    graph = network(SHAPES["autoencoder"])
    qgraph = quantize(graph, observe(graph, windows(48)))
    data = write_tflite(qgraph)
    assert data[4:8] == b"TFL3"
    for layer in qgraph.layers:
        assert data.index(layer.weight.tobytes()) % 16 == 0
        assert data.index(layer.bias.tobytes()) % 16 == 0


def test_int8_files_of_a_35k_parameter_model_stay_below_50_kb():
    graph = network(SHAPES["deep"])
    qgraph = quantize(graph, observe(graph, windows(256)))
    parameters = 2 * (256 * 64 + 64 * 16) + 64 + 16 + 64 + 256
    assert parameters < len(write_tflite(qgraph)) < 50_000
    assert parameters < len(write_onnx(qgraph)) < 50_000


def test_writers_refuse_graphs_that_do_not_fit_together():
    broken = (network((4, 3))[0], network((4, 3))[0])
    with pytest.raises(BundleError, match="layer 1 takes 4"):
        write_onnx_float(broken)
    with pytest.raises(BundleError, match="layer 1 takes 4"):
        write_tflite_float(broken)
