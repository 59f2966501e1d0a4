"""Both writers on every runtime against the integer reference, and the promises about the files themselves."""

import dataclasses
from itertools import pairwise

import numpy as np
import onnx
import pytest

from covey.errors import BundleError
from edge.scoring.runtimes import available, open_runtime
from federated.compile.graph import Conv, Dense, forward
from federated.compile.onnx_writer import write_onnx, write_onnx_float
from federated.compile.quantize import Ranges, observe, quantize, simulate
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


# Layers as (steps, channels in, channels out, kernel); 0 steps: dense.
CONVOLUTIONS = {
    "one convolution": ((10, 3, 4, 3),),
    "folded and unfolded": ((10, 8, 16, 3), (5, 32, 3, 1), (5, 3, 32, 3), (10, 16, 8, 3)),
    "kernel wider than the steps": ((2, 4, 6, 7), (1, 12, 5, 5), (1, 5, 8, 1)),
    "ending in a dense layer": ((8, 4, 6, 3), (8, 6, 6, 5), (0, 48, 32, 0)),
    "beginning with one": ((0, 12, 24, 0), (6, 4, 3, 3), (3, 6, 2, 3)),
}
SHAPES |= CONVOLUTIONS


def convolutional(layers, seed=1):
    rng = np.random.default_rng(seed)
    graph = []
    for number, (steps, before, after, kernel) in enumerate(layers):
        shape = (after, kernel, before) if steps else (after, before)
        weight = (rng.standard_normal(shape) * np.sqrt(2 / (before * max(kernel, 1)))).astype(np.float32)
        bias = (rng.standard_normal(after) * 0.1).astype(np.float32)
        relu = number < len(layers) - 1
        graph.append(Conv(weight, bias, steps, relu) if steps else Dense(weight, bias, relu))
    return tuple(graph)


def network(widths, seed=1):
    if isinstance(widths[0], tuple):
        return convolutional(widths, seed)
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
    x = windows(graph[0].inputs)
    qgraph = quantize(graph, observe(graph, x[:320] / 2))
    runtime = open_runtime(name, written(name, qgraph))
    expected = simulate(qgraph, x)
    for batch in (1, 7, 64):
        y = np.concatenate([runtime.run(x[start : start + batch]) for start in range(0, len(x), batch)])
        assert y.shape == expected.shape
        assert y.dtype == np.float32
        assert (steps_apart(qgraph, y, expected) <= 1).mean() >= 0.999


@pytest.mark.parametrize("shape", SHAPES)
def test_onnx_and_litert_give_the_same_elements(shape):
    if not {"onnx", "litert"} <= set(available()):
        pytest.skip("onnx and litert are not both installed")
    graph = network(SHAPES[shape])
    x = windows(graph[0].inputs, 2000)
    qgraph = quantize(graph, observe(graph, x))
    one, other = (open_runtime(name, written(name, qgraph)).run(x) for name in ("onnx", "litert"))
    assert (one == other).mean() >= 0.9999


@pytest.mark.parametrize("name", RUNTIMES)
def test_steps_at_both_ends_see_zeros(name):
    """Kernel 3 of ones over 4 steps of one channel, worked by hand: 1 + 2, 1 + 2 + 3, 2 + 3 + 4, 3 + 4."""
    graph = (Conv(np.ones((1, 3, 1), np.float32), np.zeros(1, np.float32), 4),)
    x = np.array([[1, 2, 3, 4]], np.float32)
    expected = np.array([[3, 6, 9, 7]], np.float32)
    assert np.array_equal(forward(graph, x), expected)
    assert open_runtime(name, written_float(name, graph)).run(x) == pytest.approx(expected)
    qgraph = quantize(graph, Ranges((-1.0, -1.0), (11.75, 11.75)))  # steps of 0.05, a zero point that is not 0
    assert qgraph.input.zero_point == -108
    assert open_runtime(name, written(name, qgraph)).run(x) == pytest.approx(expected, abs=0.05)


def test_moving_values_stays_in_int8():
    """ONNX Runtime would compute floats from a Transpose or Reshape on that has no quantisers at both sides."""
    graph = network(CONVOLUTIONS["folded and unfolded"])
    model = onnx.load_from_string(write_onnx(quantize(graph, observe(graph, windows(80)))))
    by_output = {node.output[0]: node for node in model.graph.node}
    users = {name: node for node in model.graph.node for name in node.input}
    moves = [node for node in model.graph.node if node.op_type in {"Transpose", "Reshape"}]
    assert len(moves) == 2 + 4 + 4 + 2  # in, fold, unfold (the code keeps its 5 steps), out
    for node in moves:
        assert by_output[node.input[0]].op_type == "DequantizeLinear"
        assert users[node.output[0]].op_type == "QuantizeLinear"


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
    x = windows(graph[0].inputs, 65)
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
