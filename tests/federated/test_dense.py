"""The dense autoencoder: gradients against differences, training against what it must learn."""

import numpy as np
import pytest

from covey.errors import AggregationError, DataError
from federated.compile.graph import forward
from federated.families import dense


def correlated(count, seed=0, width=12, rank=3):
    """Windows that live on a plane of `rank` dimensions, plus noise of variance 0.01."""
    plane = np.random.default_rng(7).standard_normal((rank, width)) / np.sqrt(rank)
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, rank)) @ plane + 0.1 * rng.standard_normal((count, width))).astype(np.float32)


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(1)
    weights = [values.astype(np.float64) for values in dense.init(5, (7, 3, 6), seed=2)]
    for values in weights[1::2]:
        np.add(
            values, rng.standard_normal(values.shape), out=values
        )  # biases away from 0, so that every ReLU is on one side
    x = rng.standard_normal((60, 5))
    slopes = dense.gradients(weights, x)[1]
    step = 1e-6
    for values, slope in zip(weights, slopes, strict=True):
        numeric = np.empty_like(values)
        for index in np.ndindex(values.shape):
            kept = values[index]
            values[index] = kept + step
            above = dense.gradients(weights, x)[0]
            values[index] = kept - step
            below = dense.gradients(weights, x)[0]
            values[index] = kept
            numeric[index] = (above - below) / (2 * step)
        assert slope == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_the_loss_is_the_mean_squared_error_worked_by_hand():
    # 1 -> 1 -> 1: relu(2 * x + 1), then 0.5 * h - 1. x = 1: h 3, y 0.5, error -0.5. x = -2: h 0, y -1, error 1.
    weights = [np.array([[2.0]]), np.array([1.0]), np.array([[0.5]]), np.array([-1.0])]
    loss, slopes = dense.gradients(weights, np.array([[1.0], [-2.0]]))
    assert loss == pytest.approx((0.25 + 1.0) / 2)
    # dL/dy = error; W1: -0.5 * 3 + 1 * 0; b1: -0.5 + 1; through the live relu of x = 1 only: -0.5 * 0.5 = -0.25.
    assert [float(one.sum()) for one in slopes] == pytest.approx([-0.25, -0.25, -1.5, 0.5])


def test_the_first_adam_step_moves_every_weight_by_the_learning_rate():
    weights = dense.init(6, (4,), seed=3)
    x = correlated(16, width=6)
    slopes = dense.gradients(weights, x)[1]
    trained, _ = dense.train(weights, x, epochs=1, lr=0.01, seed=0, batch_size=16)
    for before, after, slope in zip(weights, trained, slopes, strict=True):
        moved = np.abs(slope) > 1e-4  # with bias correction the first step is lr * sign of the gradient
        assert (after - before)[moved] == pytest.approx(-0.01 * np.sign(slope[moved]), rel=1e-2)


def test_training_learns_the_plane_and_scores_what_leaves_it_higher():
    x, fresh = correlated(800), correlated(200, seed=1)
    weights, loss = dense.train(dense.init(12, (16, 4, 16), seed=0), x, epochs=60, lr=3e-3, seed=0)
    assert loss < 0.2 * float(np.var(x))
    assert loss == pytest.approx(float(np.mean((dense.reconstruct(weights, x) - x) ** 2)), rel=1e-5)
    strange = np.random.default_rng(2).permuted(fresh, axis=1)  # the same values on the wrong channels
    normal = np.mean((dense.reconstruct(weights, fresh) - fresh) ** 2, axis=1)
    odd = np.mean((dense.reconstruct(weights, strange) - strange) ** 2, axis=1)
    assert np.median(odd) > 3 * np.median(normal)


def test_the_same_seed_trains_the_same_weights_and_leaves_its_input_alone():
    start = dense.init(12, (8,), seed=4)
    kept = [values.copy() for values in start]
    x = correlated(130)
    first, loss = dense.train(start, x, epochs=3, lr=1e-3, seed=9)
    second, again = dense.train(start, x, epochs=3, lr=1e-3, seed=9)
    other, _ = dense.train(start, x, epochs=3, lr=1e-3, seed=10)
    assert loss == again
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert all(np.array_equal(one, two) for one, two in zip(start, kept, strict=True))
    assert all(values.dtype == np.float32 for values in first)


def test_zero_epochs_only_measure():
    start = dense.init(12, (8,), seed=4)
    x = correlated(50)
    weights, loss = dense.train(start, x, epochs=0, lr=1e-3, seed=0)
    assert all(np.array_equal(one, two) for one, two in zip(start, weights, strict=True))
    assert loss == dense.evaluate(start, x)


def test_the_input_is_clipped_so_that_one_outlier_does_not_rule():
    start = dense.init(4, (3,), seed=0)
    x = correlated(40, width=4)
    wild, tame = x.copy(), x.copy()
    wild[0, 0], tame[0, 0] = 1e6, 8.0
    assert dense.train(start, wild, epochs=2, lr=1e-3, seed=0)[1] == dense.train(start, tame, 2, 1e-3, 0)[1]


def test_a_proximal_term_keeps_the_weights_nearer_to_the_start():
    start = dense.init(12, (8,), seed=4)
    x = correlated(200)

    def distance(mu):
        trained, _ = dense.train(start, x, epochs=20, lr=1e-3, seed=0, proximal=mu)
        return sum(float(np.sum((a - b) ** 2)) for a, b in zip(trained, start, strict=True))

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_the_compiled_graph_computes_the_trained_network():
    weights = dense.init(12, (8, 3, 8), seed=1)
    x = correlated(20)
    graph = dense.to_graph(weights)
    assert [layer.relu for layer in graph] == [True, True, True, False]
    assert forward(graph, x) == pytest.approx(dense.reconstruct(weights, x), rel=1e-6)


def test_bad_windows_and_options_are_refused():
    weights = dense.init(3, (2,), seed=0)
    good = np.zeros((4, 3), np.float32)
    with pytest.raises(DataError, match=r"shape \(N, 3\)"):
        dense.train(weights, np.zeros((4, 2), np.float32), epochs=1, lr=0.1, seed=0)
    with pytest.raises(DataError, match="N >= 1"):
        dense.train(weights, good[:0], epochs=1, lr=0.1, seed=0)
    with pytest.raises(DataError, match="not finite"):
        dense.train(weights, np.full((4, 3), np.nan, np.float32), epochs=1, lr=0.1, seed=0)
    with pytest.raises(DataError, match="lr > 0"):
        dense.train(weights, good, epochs=1, lr=0.0, seed=0)
    with pytest.raises(DataError, match="hidden layer"):
        dense.init(3, (), seed=0)


def test_diverged_training_is_an_error_not_an_update():
    with pytest.raises(AggregationError, match="diverged"):
        dense.train(dense.init(12, (8,), seed=0), correlated(200), epochs=5, lr=1e30, seed=0)
