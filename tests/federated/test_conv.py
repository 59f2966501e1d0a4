"""The convolutional autoencoder: shapes, gradients against differences, a kernel worked by hand, training, the graph."""

from itertools import pairwise

import numpy as np
import pytest

from covey.errors import AggregationError, DataError
from federated.compile.graph import forward
from federated.families import conv
from federated.families.conv import Layer

LAYERS = conv.layers_of(8, 3, 6, 2, 3)


def swings(count, seed=0, steps=8, channels=3):
    """Windows of one swing of random phase, seen by every channel with another sign and delay, plus noise of variance .01."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1)) + np.array([0.0, 1.0, 2.0])[:channels]
    size = rng.uniform(0.5, 2.0, (count, 1, 1))
    x = size * np.sin(np.arange(steps)[None, :, None] * 0.7 + phase) + 0.1 * rng.standard_normal(
        (count, steps, channels)
    )
    return x.reshape(count, -1).astype(np.float32)


def test_the_network_folds_twice_codes_and_unfolds_twice():
    assert conv.layers_of(16, 8, 32, None, 3) == [
        Layer(8, 16, 32, 3),
        Layer(4, 64, 32, 3),
        Layer(4, 32, 6, 1),  # 3/16 of the 32 values of a step of four samples
        Layer(4, 6, 64, 3),
        Layer(8, 32, 16, 3),
    ]


@pytest.mark.parametrize(("steps", "ends"), [(10, (5, 5)), (7, (7, 7)), (4, (2, 1)), (2, (1, 1)), (1, (1, 1))])
def test_windows_are_folded_as_often_as_they_can_be_halved(steps, ends):
    layers = conv.layers_of(steps, 3, 8, None, 3)
    assert (layers[0].steps, layers[2].steps) == ends
    for before, after in pairwise(layers):
        assert before.steps * before.after == after.steps * after.before
    for end in (layers[0].steps * layers[0].before, layers[-1].steps * layers[-1].after):
        assert end == steps * 3 == conv.features_of(steps, conv.init(layers, 0))
    assert conv.reconstruct(layers, conv.init(layers, 0), np.zeros((2, steps * 3), np.float32)).shape == (2, steps * 3)


def test_weights_are_about_ten_thousand_and_do_not_grow_with_the_window():
    sizes = [
        sum(values.size for values in conv.init(conv.layers_of(steps, 8, 32, 6, 3), 0)) for steps in (16, 100, 1000)
    ]
    assert 9_000 < sizes[0] < 12_000
    assert len(set(sizes)) == 1


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(1)
    weights = [values.astype(np.float64) for values in conv.init(LAYERS, seed=2)]
    for values in weights[1::2]:
        np.add(
            values, rng.standard_normal(values.shape), out=values
        )  # biases away from 0, so that every ReLU is on one side
    x = rng.standard_normal((20, 24))
    slopes = conv.gradients(LAYERS, weights, x)[1]
    step = 1e-6
    for values, slope in zip(weights, slopes, strict=True):
        numeric = np.empty_like(values)
        for index in np.ndindex(values.shape):
            kept = values[index]
            values[index] = kept + step
            above = conv.gradients(LAYERS, weights, x)[0]
            values[index] = kept - step
            below = conv.gradients(LAYERS, weights, x)[0]
            values[index] = kept
            numeric[index] = (above - below) / (2 * step)
        assert slope == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_a_kernel_sees_the_step_before_at_hand_and_after_worked_by_hand():
    # One channel, 3 steps, weights 1 (before), 10 (at hand), 100 (after), bias 0.5; beyond the ends are zeros.
    layers = [Layer(3, 1, 1, 3)]
    weights = [np.array([[[1.0], [10.0], [100.0]]]), np.array([0.5])]
    y = conv.reconstruct(layers, weights, np.array([[1.0, 2.0, 3.0]]))
    assert y.tolist() == [[10 + 200 + 0.5, 1 + 20 + 300 + 0.5, 2 + 30 + 0.5]]


def test_training_learns_the_swing_and_scores_what_is_none_higher():
    layers = conv.layers_of(8, 3, 16, None, 3)
    x, fresh = swings(800), swings(200, seed=1)
    weights, loss = conv.train(layers, conv.init(layers, 0), x, epochs=60, lr=3e-3, seed=0, batch_size=32)
    assert loss < 0.25 * float(np.mean(x**2))
    assert loss == pytest.approx(float(np.mean((conv.reconstruct(layers, weights, x) - x) ** 2)), rel=1e-5)
    strange = np.random.default_rng(2).permuted(fresh, axis=1)
    normal = np.mean((conv.reconstruct(layers, weights, fresh) - fresh) ** 2, axis=1)
    odd = np.mean((conv.reconstruct(layers, weights, strange) - strange) ** 2, axis=1)
    assert np.median(odd) > 3 * np.median(normal)


def test_the_same_seed_trains_the_same_weights_and_leaves_its_input_alone():
    start = conv.init(LAYERS, 4)
    kept = [values.copy() for values in start]
    first, second, other = (conv.train(LAYERS, start, swings(100), 2, 1e-3, seed)[0] for seed in (9, 9, 10))
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert all(np.array_equal(one, two) for one, two in zip(start, kept, strict=True))
    assert all(values.dtype == np.float32 for values in first)


def test_the_compiled_graph_computes_the_trained_network():
    weights = [values + np.float32(0.1) for values in conv.init(LAYERS, 1)]
    x = swings(20)
    graph = conv.to_graph(LAYERS, weights)
    assert [layer.relu for layer in graph] == [True, True, True, True, False]
    assert forward(graph, x) == pytest.approx(conv.reconstruct(LAYERS, weights, x), rel=1e-4, abs=1e-5)


def test_bad_windows_and_options_are_refused():
    weights = conv.init(LAYERS, 0)
    with pytest.raises(DataError, match=r"shape \(N, 24\)"):
        conv.train(LAYERS, weights, np.zeros((4, 2), np.float32), epochs=1, lr=0.1, seed=0)
    with pytest.raises(DataError, match="not finite"):
        conv.train(LAYERS, weights, np.full((4, 24), np.nan, np.float32), epochs=1, lr=0.1, seed=0)
    with pytest.raises(DataError, match="lr > 0"):
        conv.train(LAYERS, weights, swings(5), epochs=1, lr=0.0, seed=0)
    with pytest.raises(DataError, match="odd kernel"):
        conv.layers_of(8, 3, 6, 2, 4)
    with pytest.raises(DataError, match="code >= 1"):
        conv.layers_of(8, 3, 0, 2, 3)


def test_diverged_training_is_an_error_not_an_update():
    with pytest.raises(AggregationError, match="diverged"):
        conv.train(LAYERS, conv.init(LAYERS, 0), swings(200), epochs=5, lr=1e30, seed=0)
