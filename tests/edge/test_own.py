"""A device's own directions and the balance of branches: two features and two branches by hand."""

import numpy as np
import pytest

from edge.scoring.own import Own, find_own
from edge.scoring.weights import balanced, believed


def plane(count=400, seed=0):
    """Features (a, a, n, m): the first two move together, n hardly, m a lot."""
    rng = np.random.default_rng(seed)
    a, n, m = rng.standard_normal((3, count))
    return np.stack([a, a, 0.1 * n, 2 * m], axis=1).astype(np.float32)


def test_distances_are_what_lies_beyond_the_directions():
    # Branch 1: direction (1, 1)/sqrt 2: of (3, 1) the part (1, -1) lies beyond, 2. Branch 2: direction (0, 1): of (5, 7) 25.
    half = np.array([[1.0, 1.0]], np.float32) / np.sqrt(2, dtype=np.float32)
    own = Own([slice(0, 2), slice(2, 4)], [half, np.array([[0.0, 1.0]], np.float32)], [0.5, 2.0])
    e = np.array([[3, 1, 5, 7]], np.float32)
    assert own.distances(e)[0] == pytest.approx([2.0, 25.0], rel=1e-5)
    assert own.score(e) == pytest.approx([51.0], rel=1e-5)
    assert np.square(own.residuals(e)).sum(axis=1) == pytest.approx([51.0], rel=1e-5)


def test_found_directions_hold_the_variance_asked_for_and_scores_average_to_the_share():
    e = plane()
    own = find_own(e, [slice(0, 2), slice(2, 4)], keep=0.95, share=0.5)
    assert [rows.shape for rows in own.directions] == [(1, 2), (1, 2)]
    assert np.abs(own.directions[0]) == pytest.approx(np.full((1, 2), np.sqrt(0.5)), abs=1e-3)
    assert abs(own.directions[1][0, 1]) == pytest.approx(1.0, abs=1e-2)
    assert own.score(e).mean() == pytest.approx(0.5, rel=1e-6)
    parts = own.distances(e).mean(axis=0) * np.array(own.weights)
    assert parts[1] == pytest.approx(0.25, rel=1e-6)


def test_a_direction_is_always_left_to_lie_beyond():
    own = find_own(plane()[:, :2], [slice(0, 2)], keep=0.999999, share=1.0)
    assert own.directions[0].shape == (1, 2)
    apart = np.array([[1.0, -1.0]], np.float32)
    assert own.score(apart)[0] > 1e3


def test_branches_count_alike_whatever_their_size():
    squares = np.array([[4.0, 0.0, 100.0], [0.0, 2.0, 300.0]])
    # Weighted means: branch 0: 1 * 2 + 3 * 1 = 5, branch 1: .5 * 200 = 100; each half of 1.
    weights = balanced(squares, np.array([1.0, 3.0, 0.5]), [0, 0, 1])
    assert weights == pytest.approx([0.1, 0.3, 0.0025])
    assert (squares @ weights).mean() == pytest.approx(1.0)


def test_the_highest_share_of_windows_is_not_believed():
    scores = np.arange(100.0)
    assert believed(scores, 0.03).sum() == 97
    assert not believed(scores, 0.03)[97:].any()
    assert believed(scores, 0.0).all()
