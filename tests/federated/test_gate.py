"""What an update must be, and robust means; numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import AggregationError
from federated.gate import Shape, clip_to_median, fault, norm_faults, robust_mean, trimmed_mean, windows_fault

SHAPES = {"w": Shape((2, 3)), "n": Shape((1,), "i"), "rows": Shape((-1, 2), most=4)}


def good():
    return {"w": np.ones((2, 3), np.float32), "n": np.array([3]), "rows": np.zeros((4, 2))}


def test_what_was_asked_for_passes():
    assert fault(good(), SHAPES) is None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("w", np.full((2, 3), np.nan, np.float32), "finite numbers expected, 6 others came"),
        ("w", np.array([[1, 2, np.inf], [1, 2, 3]]), "finite numbers expected, 1 others came"),
        ("w", np.ones((3, 2)), "shape (2, 3) expected, (3, 2) came"),
        ("w", np.ones(6), "shape (2, 3) expected, (6,) came"),
        ("n", np.array([3.0]), "numbers of kind i expected, float64 came"),
        ("rows", np.zeros((5, 2)), "shape (-1, 2) expected, (5, 2) came"),
        ("rows", np.zeros((0, 2)), "shape (-1, 2) expected, (0, 2) came"),
        ("extra", np.ones(1), "arrays n, rows, w expected, extra, n, rows, w came"),
    ],
)
def test_anything_else_is_refused_by_name(name, value, told):
    assert told in fault({**good(), name: value}, SHAPES)


def test_more_windows_than_a_ring_holds_are_not_believed():
    assert windows_fault(1_000_000) is None
    assert windows_fault(1_000_001) is not None
    assert windows_fault(-1) is not None


def test_a_norm_far_above_the_median_is_refused_from_three_on():
    assert norm_faults([1.0, 1000.0]) == [None, None]
    assert [told is None for told in norm_faults([1.0, 1.0, 19.9, 20.1, 1.0])] == [True, True, True, False, True]


def test_long_updates_are_shortened_to_the_median_length():
    clipped = clip_to_median(np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]]))  # lengths 5, 1, 10
    np.testing.assert_allclose(clipped, [[3.0, 4.0], [0.0, 1.0], [3.0, 4.0]])


def test_trimmed_mean_drops_the_extremes_of_each_coordinate():
    rows = np.array([[0.0, 9.0], [1.0, 8.0], [2.0, 7.0], [100.0, -100.0]])
    weights = np.array([1.0, 1.0, 3.0, 1.0])
    # coordinate 0 keeps 1 and 2 with weights 1 and 3; coordinate 1 keeps 8 and 7 with weights 1 and 3
    np.testing.assert_allclose(trimmed_mean(rows, weights, 0.25), [7 / 4, 29 / 4])


def test_trimmed_mean_needs_three_clients():
    with pytest.raises(AggregationError, match="at least 3 clients expected, 2 came"):
        trimmed_mean(np.ones((2, 1)), np.ones(2), 0.2)


def test_two_clients_are_averaged_by_their_windows():
    np.testing.assert_allclose(robust_mean(np.array([[0.0], [4.0]]), np.array([1.0, 3.0]), 0.2), [3.0])


def test_one_hostile_client_of_five_moves_the_mean_no_further_than_honest_ones_differ():
    honest = np.array([[1.0, 1.0], [1.1, 0.9], [0.9, 1.1], [1.0, 1.05]])
    rows = np.vstack([honest, [[-1e6, 1e6]]])
    mean = robust_mean(rows, np.ones(5), 0.2)
    assert np.abs(mean - 1.0).max() < 0.11
