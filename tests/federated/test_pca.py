"""Family `pca` against sums by hand and against the covariance of all windows in one place."""

from __future__ import annotations

import numpy as np
import pytest

from federated.config import PcaOptions, Plan
from federated.families import Lesson, pack_state, unpack_state
from federated.families.pca import Pca, scatters, square, triangle

PLAN = Plan("pca")


def lesson(z, flight, fitted=None, *, drone=True):
    z = np.asarray(z, np.float32)
    flight = np.asarray(flight, np.int64)
    return Lesson(z, flight, np.zeros(len(z), bool) if fitted is None else np.asarray(fitted, bool), drone)


def test_triangle_and_square_are_inverse():
    matrix = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    assert triangle(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    assert square(triangle(matrix)).tolist() == matrix.tolist()


def test_scatters_of_two_flights_by_hand():
    # flight 0: (0, 0), (2, 0), mean (1, 0); flight 1: (4, 1), (4, 3), mean (4, 2); mean of means (2.5, 1)
    within, n, between, flights = scatters(lesson([[0, 0], [2, 0], [4, 1], [4, 3]], [0, 0, 1, 1]))
    assert within.tolist() == [[2, 0], [0, 2]]
    assert (n, flights) == (4, 2)
    assert between.tolist() == [[4.5, 3.0], [3.0, 2.0]]


def test_fitted_windows_count_between_flights_but_not_within_them_again():
    z, flight = [[0, 0], [2, 0], [4, 1], [4, 3]], [0, 0, 1, 1]
    within, n, between, flights = scatters(lesson(z, flight, [True, True, False, False]))
    assert within.tolist() == [[0, 0], [0, 2]]
    assert (n, flights) == (2, 2)
    assert between.tolist() == [[4.5, 3.0], [3.0, 2.0]]


def test_drones_weigh_what_moves_between_flights_five_times():
    family = Pca()
    one = family.update(PLAN, {}, lesson([[0, 0], [2, 0], [4, 1], [4, 3]], [0, 0, 1, 1]), 0)
    other = family.update(PLAN, {}, lesson([[1, 1], [1, 3], [1, 1], [1, 3]], [0, 0, 1, 1]), 0)
    state = family.merge(PLAN, family.begin(PLAN, 2), [one, other], [4, 4])
    # W = [[2, 0], [0, 2 + 4]], n = 8; B as above; 4 flights - 2 devices = 2
    expected = np.array([[2, 0], [0, 6]]) / 8 + 5 * np.array([[4.5, 3], [3, 2]]) / 2
    np.testing.assert_allclose(family.spread(PLAN, state, drone=True), expected, rtol=1e-6)
    expected += 0.03 * np.trace(expected) / 2 * np.eye(2)
    (layer,) = family.to_graph(PLAN, state, drone=True)
    weight = layer.weight.astype(float)
    np.testing.assert_allclose(weight @ expected @ weight, np.eye(2), atol=1e-5)  # T^-1/2
    np.testing.assert_allclose(weight, weight.T, atol=1e-6)


def test_merging_devices_equals_fitting_all_windows_in_one_place():
    rng = np.random.default_rng(3)
    family = Pca()
    parts = [rng.standard_normal((50 + 10 * k, 6)) @ rng.standard_normal((6, 6)) * 0.3 for k in range(4)]
    updates = [family.update(PLAN, {}, lesson(z, np.zeros(len(z))), 0) for z in parts]
    state = family.merge(PLAN, family.begin(PLAN, 6), updates, [len(z) for z in parts])
    together = np.concatenate([z - z.mean(axis=0) for z in parts])
    expected = together.T @ together / len(together)
    np.testing.assert_allclose(family.spread(PLAN, state, drone=True), expected, rtol=2e-5, atol=1e-6)


def test_the_initial_bundles_windows_are_added_and_can_be_forgotten():
    family = Pca()
    update = family.update(PLAN, {}, lesson([[0, 0], [2, 0]], [0, 0]), 0)
    first = family.merge(PLAN, family.begin(PLAN, 2), [update], [2])
    second = family.merge(PLAN, first, [update], [2])
    assert square(second["within"]).tolist() == [[4, 0], [0, 0]]
    assert second["counts"].tolist() == [4, 1, 1]
    half = Plan("pca", pca=PcaOptions(forget=0.5))
    assert square(family.merge(half, first, [update], [2])["within"]).tolist() == [[3, 0], [0, 0]]


def test_one_flight_a_device_keeps_what_is_known_between_flights():
    family = Pca()
    two = family.update(PLAN, {}, lesson([[0, 0], [2, 0], [4, 1], [4, 3]], [0, 0, 1, 1]), 0)
    one = family.update(PLAN, {}, lesson([[0, 0], [2, 0]], [0, 0]), 0)
    known = family.merge(PLAN, family.begin(PLAN, 2), [two], [4])
    after = family.merge(PLAN, known, [one], [2])
    assert square(after["between"]).tolist() == [[4.5, 3.0], [3.0, 2.0]]


def test_lag_scores_what_lies_beyond_the_kept_components():
    rng = np.random.default_rng(5)
    axes = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    z = rng.standard_normal((400, 5)) * (3, 2, 0.1, 0.1, 0.1) @ axes.T
    family = Pca()
    plan = Plan("pca", pca=PcaOptions(keep=2))
    update = family.update(plan, {}, lesson(z, np.zeros(400), drone=False), 0)
    state = family.merge(plan, family.begin(plan, 5), [update], [400])
    (layer,) = family.to_graph(plan, state, drone=False)
    assert layer.weight.shape == (3, 5)
    assert np.abs(layer.weight @ axes[:, :2]).max() < 0.02  # blind to what is normal
    np.testing.assert_allclose(layer.weight @ layer.weight.T, np.eye(3), atol=1e-5)
    by_share = Plan("pca", pca=PcaOptions(variance=0.99))
    assert family.to_graph(by_share, state, drone=False)[0].weight.shape == (3, 5)


def test_wide_scatters_travel_in_half_precision_and_stay_scatters():
    rng = np.random.default_rng(7)
    z = np.clip(rng.standard_normal((300, 80)), -8, 8)
    update = Pca().update(PLAN, {}, lesson(z, np.zeros(300), drone=False), 0)
    assert update["within"].dtype == np.float16
    assert Pca().fault(update) is None
    assert sum(values.nbytes for values in update.values()) < 13_000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": np.array([5, 0])}, "flights: at least 1"),
        ({"counts": np.array([2_000_000, 1])}, "windows: 0 to 1000000"),
        ({"within": np.array([1.0, 5.0, 1.0], np.float32)}, "no negative eigenvalue"),
        ({"within": np.array([200.0, 0.0, 200.0], np.float32)}, "variance of at most 64"),
    ],
)
def test_what_is_no_scatter_is_refused(change, told):
    update = Pca().update(PLAN, {}, lesson([[0, 0], [2, 0], [1, 1]], [0, 0, 0]), 0)
    assert Pca().fault(update) is None
    assert told in Pca().fault({**update, **change})


def test_state_survives_its_bytes_and_the_same_state_has_the_same():
    state = {"within": np.arange(3.0), "counts": np.array([1, 2, 3])}
    again = unpack_state(pack_state(state), "state")
    assert all((again[name] == state[name]).all() for name in state)
    assert pack_state(state) == pack_state(again)
