"""Family `dense-ae`: what travels and how it is merged; by hand on a network of a few weights."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import BundleError
from federated.config import DenseOptions, Plan
from federated.families import Lesson, dense
from federated.families.dense_ae import DenseAutoencoder, hidden_widths
from federated.rules import average, moved
from federated.strategy import own_part, update_fault

PLAN = Plan("dense-ae", dense=DenseOptions(hidden=[2], epochs=1, batch=8))
FAMILY = DenseAutoencoder()


def constant(value):
    """An update that moves every weight of 3 -> 2 -> 3 by the same."""
    return {name: np.full(shape.shape, value, np.float32) for name, shape in FAMILY.shapes(PLAN, 3).items()}


def test_widths_follow_the_number_of_features():
    assert hidden_widths(Plan("dense-ae"), 11) == [8, 4, 8]
    assert hidden_widths(Plan("dense-ae"), 80) == [32, 16, 32]
    assert hidden_widths(Plan("dense-ae"), 2) == [4, 2, 4]


def test_an_update_is_the_change_that_local_training_made():
    state = FAMILY.begin(PLAN, 3)
    z = np.random.default_rng(1).standard_normal((64, 3)).astype(np.float32)
    lesson = Lesson(z, np.zeros(64, np.int64), np.zeros(64, bool), drone=False)
    update = FAMILY.update(PLAN, state, lesson, seed=5)
    before = [state[name] for name in ("w0", "b0", "w1", "b1")]
    after, _ = dense.train(before, z, 1, PLAN.dense.learning_rate, 5, batch_size=8)
    for name, new, old in zip(("w0", "b0", "w1", "b1"), after, before, strict=True):
        np.testing.assert_array_equal(update[name], new - old)
    assert {name: values.shape for name, values in update.items()} == {
        name: shape.shape for name, shape in FAMILY.shapes(PLAN, 3).items()
    }


def test_each_weight_moves_by_its_own_mean():
    state = FAMILY.begin(PLAN, 3)
    one, other = constant(0.0), constant(0.0)
    one["w1"][2, 1], other["w1"][2, 1], one["b0"][1] = 1.0, 3.0, 8.0
    step, _ = average(PLAN, 1, [one, other], [10, 30], 0, {})
    merged = moved(state, step)
    apart = {name: merged[name] - state[name] for name in state}
    assert apart["w1"][2, 1] == pytest.approx(2.5)
    assert apart["b0"][1] == pytest.approx(2.0)
    apart["w1"][2, 1] = apart["b0"][1] = 0
    assert all(np.abs(values).max() == 0 for values in apart.values())


def test_a_hostile_device_of_four_is_trimmed_away():
    state = FAMILY.begin(PLAN, 3)
    updates = [constant(0.1), constant(0.2), constant(0.3), constant(-0.4)]
    step, _ = average(PLAN, 1, updates, [1, 1, 1, 1], 0, {})
    # norms .1 .2 .3 .4, median .25: .3 -> .25, -.4 -> -.25; without both ends of -.25 .1 .2 .25: (.1 + .2) / 2
    np.testing.assert_allclose(moved(state, step)["w0"] - state["w0"], 0.15, atol=1e-6)


def test_what_every_update_carries_is_not_taken_for_weights():
    told = {**constant(0.1), "center": np.ones(3), "scale": np.ones(3), "windows": np.array([5])}
    assert own_part(told).keys() == constant(0.1).keys()
    assert update_fault(FAMILY, PLAN, 3, told) is None
    assert "positive numbers" in update_fault(FAMILY, PLAN, 3, {**told, "scale": np.array([1.0, 0.0, 1.0])})


def test_a_state_without_its_weights_is_told():
    with pytest.raises(BundleError, match=r"weights w0, b0, w1, \.\.\. expected, b0, w1 came"):
        FAMILY.to_graph(PLAN, {"b0": np.ones(2), "w1": np.ones((3, 2))}, drone=False)
