"""What an update must be, and robust means; numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import AggregationError
from federated import gate
from federated.gate import (
    Shape,
    away_faults,
    bounded_weights,
    far_faults,
    fault,
    length,
    norm_faults,
    require_finite,
    shortened,
    windows_fault,
)

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


def test_a_long_update_is_shortened_and_a_short_one_is_not():
    step = {"w": np.array([[3.0, 0.0]]), "b": np.array([4.0])}
    assert length(step) == 5.0
    cut = shortened(step, 5.0, 2.5)
    np.testing.assert_allclose(cut["w"], [[1.5, 0.0]])
    np.testing.assert_allclose(cut["b"], [2.0])
    assert shortened(step, 5.0, 6.0) is step


def test_a_number_of_windows_weighs_at_most_four_times_the_median():
    assert bounded_weights([10, 20, 30, 1_000_000, 0]) == [10.0, 20.0, 30.0, 80.0, 1.0]


def test_a_merged_state_that_is_not_finite_ends_the_run():
    require_finite({"w": np.ones(2)})
    with pytest.raises(AggregationError, match="merged w: finite numbers expected"):
        require_finite({"b": np.ones(1), "w": np.array([1.0, np.inf])})


def points(*rows):
    return [{"w": np.array(row, np.float64)} for row in rows]


def test_an_update_far_from_the_median_of_the_others_is_refused_from_eight_on():
    # medians 0, 0; distances 1 of eight, and 5; the median of them 1
    near = points([1, 0], [-1, 0], [0, 1], [0, -1], [1, 0], [-1, 0], [0, 1], [0, -1])
    told = far_faults([*near, *points([3, 4])], 3.0)
    assert [why is None for why in told] == [True] * 8 + [False]
    assert told[8] == "distance of at most 3 from the others' median expected, 5 came"
    assert far_faults([*near[:6], *points([300, 400])], 3.0) == [None] * 7


def test_a_change_that_points_the_other_way_is_refused_while_most_agree():
    agreed = points([1, 0.1], [1, -0.1], [1, 0.2], [1, -0.2], [1, 0], [1, 0.1], [1, -0.1], [-1, 0])
    assert [why is None for why in away_faults(agreed)] == [True] * 7 + [False]
    # Nobody agrees: the median is nothing, and no direction is wrong.
    apart = points([1, 0], [-1, 0], [0, 1], [0, -1], [1, 0], [-1, 0], [0, 1], [0, -1])
    assert away_faults(apart) == [None] * 8
    assert away_faults(agreed[1:]) == [None] * 7


def test_updates_compared_some_values_at_a_time_are_told_what_whole_ones_are(monkeypatch):
    rng = np.random.default_rng(3)
    way = rng.standard_normal(35)
    rows = way + 0.3 * rng.standard_normal((12, 35))
    rows[4] = way * 9  # far away in the same direction
    rows[9] = -way
    updates = [{"w": row[:30].reshape(5, 6), "b": row[30:]} for row in rows]
    middle = np.median(rows, axis=0)
    distances = np.linalg.norm(rows - middle, axis=1)
    cosines = rows @ middle / np.linalg.norm(rows, axis=1) / np.linalg.norm(middle)
    monkeypatch.setattr(gate, "COLUMNS_BYTES", 8 * 12 * 7)  # seven values at a time: 30 are no multiple of them
    far, away = far_faults(updates, 3.0), away_faults(updates)
    assert (
        {n for n, why in enumerate(far) if why} == set(np.flatnonzero(distances > 3 * np.median(distances))) == {4, 9}
    )
    assert f"distance of at most {3 * np.median(distances):.4g} " in far[4]
    assert far[4].endswith(f"{distances[4]:.4g} came")
    assert [n for n, why in enumerate(away) if why] == [9]
    assert f"({cosines[9]:.2g}) came" in away[9]
