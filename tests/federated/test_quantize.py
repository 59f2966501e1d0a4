"""The int8 quantiser against arithmetic done by hand and against bounds derived from its rounding."""

from itertools import pairwise

import numpy as np
import pytest

from covey.errors import AggregationError, BundleError
from federated.compile.graph import Dense, forward
from federated.compile.quantize import Ranges, merge_ranges, observe, quantize, simulate


def dense(weight, bias, relu=False):
    return Dense(np.array(weight, np.float32), np.array(bias, np.float32), relu)


def network(widths, seed):
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


def error_bound(graph, qgraph, x):
    """Largest possible int8 error of each output, from half a step per rounding (second method: interval sums)."""
    # Rounding of the input, plus the half step by which the zero point may have moved an end of the range.
    error = np.full(x.shape, qgraph.input.scale)  # (B, D)
    tensors = [x.astype(np.float64)]
    for layer, q in zip(graph, qgraph.layers, strict=True):
        weight = layer.weight.astype(np.float64)
        half_weight = q.weight_scale.astype(np.float64) / 2  # (out,)
        seen = (np.abs(tensors[-1]) + error).sum(axis=1, keepdims=True)  # (B, 1)
        error = error @ np.abs(weight).T + seen * half_weight + q.bias_scale.astype(np.float64) / 2 + q.output.scale
        y = tensors[-1] @ weight.T + layer.bias
        tensors.append(np.maximum(y, 0) if layer.relu else y)
    return error


def test_a_two_by_two_layer_is_quantised_as_worked_by_hand():
    # Input range -1..4.1 is 255 steps of 0.02; zero point -128 + 1 / 0.02 = -78.
    # Row 0 has largest weight 1.27: scale 0.01, integers 127, -50. Row 1: 0.254: scale 0.002, integers 100, 127.
    # Bias scales 0.0002 and 0.00004: integers 0.5 / 0.0002 = 2500 and -0.1 / 0.00004 = -2500.
    # Output range -2.55..7.65 is 255 steps of 0.04; zero point -128 + 2.55 / 0.04 = -64.25, rounded -64.
    graph = (dense([[1.27, -0.5], [0.2, 0.254]], [0.5, -0.1]),)
    qgraph = quantize(graph, Ranges((-1.0, -2.55), (4.1, 7.65)))
    layer = qgraph.layers[0]

    assert qgraph.input.scale == pytest.approx(0.02)
    assert qgraph.input.zero_point == -78
    assert layer.weight.tolist() == [[127, -50], [100, 127]]
    assert layer.weight_scale == pytest.approx([0.01, 0.002])
    assert layer.bias.tolist() == [2500, -2500]
    assert layer.bias_scale == pytest.approx([0.0002, 0.00004])
    assert layer.output.scale == pytest.approx(0.04)
    assert layer.output.zero_point == -64

    # x = 1, 3 is 50 and 150 steps. Row 0: 127 * 50 - 50 * 150 + 2500 = 1350 units of 0.0002 = 0.27 = 6.75 steps: 7.
    # Row 1: 100 * 50 + 127 * 150 - 2500 = 21550 units of 0.00004 = 0.862 = 21.55 steps: 22.
    assert simulate(qgraph, np.array([[1.0, 3.0]], np.float32)) == pytest.approx(np.array([[0.28, 0.88]]))
    # Out of range: 10 saturates at 127 + 78 = 205 steps (4.1), -10 at -50 steps (-1).
    # Row 0: 127 * 205 + 50 * 50 + 2500 = 31035 units = 6.207 = 155.175 steps: 155. Row 1: 11650 units = 0.466 = 11.65: 12.
    assert simulate(qgraph, np.array([[10.0, -10.0]], np.float32)) == pytest.approx(np.array([[6.2, 0.48]]))


def test_relu_outputs_start_at_zero_and_use_all_256_values():
    graph = (dense([[1.0], [-1.0]], [0.0, 0.0], relu=True),)
    # A low end below 0, as a careless client may send it, cannot be: it would only cost resolution.
    qgraph = quantize(graph, Ranges((-2.0, -1.0), (2.0, 2.0)))
    assert qgraph.layers[0].output.zero_point == -128
    assert qgraph.layers[0].output.scale == pytest.approx(2 / 255)
    y = simulate(qgraph, np.array([[1.0], [-1.0]], np.float32))
    assert y[0, 1] == 0.0
    assert y[1, 0] == 0.0
    assert y[0, 0] == pytest.approx(1.0, abs=0.02)


def test_ranges_always_include_zero_and_represent_it_exactly():
    qgraph = quantize((dense([[1.0]], [0.0]),), Ranges((3.0, 5.0), (4.0, 6.0)))
    assert (qgraph.input.zero_point, qgraph.layers[0].output.zero_point) == (-128, -128)
    assert qgraph.input.scale == pytest.approx(4 / 255)
    assert simulate(qgraph, np.zeros((1, 1), np.float32)).tolist() == [[0.0]]


@pytest.mark.parametrize("widths", [(12, 5), (40, 16, 40), (96, 32, 8, 32, 96)])
def test_int8_stays_within_the_rounding_bound_of_float(widths):
    rng = np.random.default_rng(3)
    graph = network(widths, seed=1)
    x = np.clip(rng.standard_normal((300, widths[0])) * 2, -8, 8).astype(np.float32)
    qgraph = quantize(graph, observe(graph, x))
    error = np.abs(simulate(qgraph, x) - forward(graph, x))
    assert (error <= error_bound(graph, qgraph, x)).all()
    # The bound is the worst case; on average the roundings cancel to a few steps.
    assert error.mean() < 2 * qgraph.layers[-1].output.scale


def test_a_doubled_scale_breaks_the_rounding_bound():
    """The bound above is tight enough to notice a wrong scale."""
    graph = network((40, 16, 40), seed=1)
    x = np.random.default_rng(3).standard_normal((300, 40)).astype(np.float32)
    ranges = observe(graph, x)
    halved = Ranges(tuple(low / 2 for low in ranges.low), tuple(high / 2 for high in ranges.high))
    qgraph = quantize(graph, halved)
    error = np.abs(simulate(qgraph, x) - forward(graph, x))
    assert (error > error_bound(graph, qgraph, x)).any()


def test_observed_ranges_hold_the_input_and_every_layer():
    graph = (dense([[1.0, 1.0], [1.0, -1.0]], [0.0, -1.0], relu=True), dense([[2.0, -1.0]], [0.5]))
    # Rows: (1, 2) -> sums 3, -1 - 1 = -2 -> relu 3, 0 -> 6.5; (-4, -5) -> -9, 0 -> 0, 0 -> 0.5.
    ranges = observe(graph, np.array([[1.0, 2.0], [-4.0, -5.0]], np.float32))
    assert ranges == Ranges((-5.0, 0.0, 0.5), (2.0, 3.0, 6.5))


def test_merged_client_ranges_equal_those_of_the_pooled_windows():
    graph = network((20, 8, 20), seed=5)
    x = np.random.default_rng(6).standard_normal((90, 20)).astype(np.float32)
    parts = [x[:10], x[10:50], x[50:]]
    merged = merge_ranges(observe(graph, part) for part in parts)
    pooled = observe(graph, x)
    assert merged == merge_ranges([observe(graph, part) for part in reversed(parts)])
    # Matrix products of another batch size may differ in the last bit.
    assert merged.low == pytest.approx(pooled.low, rel=1e-5)
    assert merged.high == pytest.approx(pooled.high, rel=1e-5)


def test_ranges_that_cannot_be_merged_are_refused():
    with pytest.raises(AggregationError, match="no ranges came"):
        merge_ranges([])
    with pytest.raises(AggregationError, match=r"\[2, 3\] came"):
        merge_ranges([Ranges((0.0, 0.0), (1.0, 1.0)), Ranges((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])


def test_a_known_input_range_replaces_the_observed_one_and_widening_spares_it():
    ranges = Ranges((-1.0, -2.0, 0.0), (1.0, 3.0, 4.0)).with_input(-8.0, 8.0).widened(1.5)
    assert ranges == Ranges((-8.0, -3.0, 0.0), (8.0, 4.5, 6.0))


@pytest.mark.parametrize(
    ("low", "high"),
    [((0.0, 0.0), (1.0,)), ((0.0,), (1.0,)), ((0.0, 2.0), (1.0, 1.0)), ((0.0, float("nan")), (1.0, 1.0))],
)
def test_malformed_ranges_are_refused(low, high):
    with pytest.raises(BundleError, match="ranges"):
        Ranges(low, high)


def test_bad_calibration_is_refused_with_its_reason():
    graph = network((4, 3, 4), seed=0)
    with pytest.raises(BundleError, match="at least one calibration window"):
        observe(graph, np.empty((0, 4), np.float32))
    with pytest.raises(BundleError, match="finite low"):
        observe(graph, np.full((2, 4), np.nan, np.float32))
    with pytest.raises(BundleError, match="input was always 0"):
        quantize(graph, observe(graph, np.zeros((2, 4), np.float32)))
    with pytest.raises(BundleError, match="3 tensors expected, 2 came"):
        quantize(graph, Ranges((-1.0, -1.0), (1.0, 1.0)))
    with pytest.raises(BundleError, match=r"shape \(B, 4\) expected"):
        observe(graph, np.zeros((2, 5), np.float32))


def test_malformed_graphs_are_refused():
    with pytest.raises(BundleError, match="float32 expected, float64 came"):
        Dense(np.zeros((2, 2)), np.zeros(2, np.float32))
    with pytest.raises(BundleError, match=r"bias of shape \(2,\) expected"):
        dense([[1.0], [1.0]], [1.0])
    with pytest.raises(BundleError, match="not finite"):
        dense([[np.inf]], [1.0])
    with pytest.raises(BundleError, match="layer 1 takes 3 values, layer 0 gives 1"):
        forward((dense([[1.0]], [0.0]), dense([[1.0, 1.0, 1.0]], [0.0])), np.zeros((1, 1), np.float32))
    with pytest.raises(BundleError, match="at least one layer"):
        forward((), np.zeros((1, 1), np.float32))


# A dead row, a row of tiny weights beside a large bias, an ordinary one; then an output without weights.
EXTREME = (
    dense([[0.0, 0.0], [1e-12, 0.0], [1.0, -1.0]], [0.0, 100.0, 0.0], relu=True),
    dense([[0.0, 0.0, 0.0]], [0.0]),
)
# Weights whose output happened to stay at 0 over all calibration windows.
SILENT = (dense([[1.0, 1.0]], [0.0]),)


@pytest.mark.parametrize("graph", [EXTREME, SILENT])
def test_extreme_layers_keep_integers_in_range_and_ratios_where_kernels_take_them(graph):
    x = np.array([[1.0, -1.0], [0.5, -0.5]], np.float32)
    qgraph = quantize(graph, observe(graph, x))
    before = qgraph.input
    for layer in qgraph.layers:
        assert np.abs(layer.bias.astype(np.int64)).max() <= 2**30
        ratio = layer.bias_scale / layer.output.scale
        assert (ratio >= 2.0**-32).all()
        assert (ratio < 256).all()
        assert layer.bias_scale == pytest.approx(before.scale * layer.weight_scale)
        before = layer.output
    assert simulate(qgraph, x) == pytest.approx(np.zeros((2, 1)), abs=0.01)


def test_a_large_bias_beside_tiny_weights_is_kept():
    graph = EXTREME[:1]
    x = np.array([[1.0, -1.0], [0.5, -0.5]], np.float32)
    assert simulate(quantize(graph, observe(graph, x)), x)[:, 1] == pytest.approx([100.0, 100.0], rel=0.01)
