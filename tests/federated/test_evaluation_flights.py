"""Figures over flights, worked by hand."""

import numpy as np
import pytest

from covey.errors import DataError
from federated.evaluation.flights import (
    Flight,
    Outcome,
    alarmed,
    auc,
    figures,
    flight_score,
    leave_one_out,
    named_rotor,
    ranks,
    spearman,
)


def outcome(flight, ratio, named=None):
    return Outcome(flight, np.array(ratio, float), np.array(named if named is not None else [0] * len(ratio)))


A0, A1, A2 = (Flight(f"a{n}", "a", healthy=True) for n in range(3))
B0, B1, B2 = (Flight(f"b{n}", "b", healthy=True) for n in range(3))
SHALLOW = Flight("a-1mm", "a", healthy=False, cut_mm=1, rotor=2)
DEEP = Flight("a-3mm", "a", healthy=False, cut_mm=3, rotor=2)
BOTH = Flight("a-4mm", "a", healthy=False, cut_mm=4)
TAPE = Flight("a-tape", "a", healthy=False, rotor=1)


def test_every_healthy_flight_is_left_out_once_and_its_drone_learns_from_its_others():
    folds = leave_one_out([A0, SHALLOW, B0, A1, B1, A2, TAPE, B2])
    assert [fold.held_out for fold in folds] == [A0, B0, A1, B1, A2, B2]
    assert folds[2].train == {"a": (A0, A2), "b": (B0, B1, B2)}
    assert folds[2].test == (A1, SHALLOW, TAPE)
    assert folds[3].train == {"a": (A0, A1, A2), "b": (B0, B2)}
    assert folds[3].test == (B1,)


def test_a_drone_with_two_healthy_flights_cannot_leave_one_out():
    with pytest.raises(DataError, match=r"b: at least 3 healthy flights expected, 2 found"):
        leave_one_out([A0, A1, A2, B0, B1, DEEP])
    with pytest.raises(DataError, match=r"a: at least 3 healthy flights expected, 0 found"):
        leave_one_out([DEEP])


def test_a_flights_score_is_the_median_of_its_windows():
    assert flight_score(np.array([0.1, 9.0, 0.4, 0.2])) == pytest.approx(0.3)
    with pytest.raises(DataError, match="at least one window"):
        flight_score(np.array([]))


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half():
    # pairs: 1<2, 1<4, 2=2, 2<4, 3>2, 3<4: four in order, one tie
    assert auc([1, 2, 3], [2, 4]) == pytest.approx(4.5 / 6)
    assert auc([], [1]) is None


def test_ties_share_their_mean_rank():
    assert ranks([5, 1, 5, 9]).tolist() == [2.5, 1, 2.5, 4]


def test_spearman_is_the_correlation_of_ranks():
    # without ties 1 - 6 sum d^2 / (n (n^2 - 1)): d = 0, 1, 1, 0 -> 1 - 12 / 60
    assert spearman([1, 2, 3, 10], [0.1, 0.3, 0.2, 0.9]) == pytest.approx(0.8)
    assert spearman([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)
    # ranks 1, 2, 3 and 1.5, 1.5, 3: deviations -1, 0, 1 and -.5, -.5, 1 -> 1.5 / sqrt(2 * 1.5)
    assert spearman([1, 2, 3], [0, 0, 5]) == pytest.approx(1.5 / 3**0.5)
    assert spearman([1, 2], [7, 7]) is None
    assert spearman([], []) is None


def test_an_alarm_takes_so_many_windows_in_a_row_and_a_missing_score_is_above():
    assert not alarmed(np.array([2, 2, 2, 0.5, 2, 2, 2]), 4)
    assert alarmed(np.array([0.5, 2, np.nan, 2, 2]), 4)
    assert not alarmed(np.array([1.0] * 9), 4)


def test_the_rotor_is_named_by_windows_above_the_threshold():
    assert named_rotor(outcome(DEEP, [0.5, 0.5, 0.5, 2, 3], [0, 0, 0, 2, 2])) == 2
    assert named_rotor(outcome(DEEP, [0.5, 0.5, 0.5], [3, 1, 3])) == 3


def test_figures_of_two_folds_by_hand():
    folds = [
        [
            outcome(A0, [0.2, 0.6, 0.7, 0.7, 1.2]),  # .7; one window of five above
            outcome(SHALLOW, [0.6] * 5),  # .6: below the healthy flight
            outcome(DEEP, [2.0] * 5, [2, 2, 0, 2, 2]),  # 2; named right
            outcome(BOTH, [3.0] * 5),
            outcome(TAPE, [0.9, 0.9, 1.1, 1.1, 1.1]),  # 1.1; three above in a row: no alarm
        ],
        [
            outcome(A1, [1.5] * 5),  # 1.5; a false alarm
            outcome(SHALLOW, [1.4] * 5),  # mean 1.0
            outcome(DEEP, [5.0] * 5, [0, 0, 0, 2, 2]),  # mean 3.5; named wrong
            outcome(BOTH, [2.6] * 5),  # mean 2.8: less than the shallower cut
            outcome(TAPE, [1.7] * 5),  # mean 1.4
        ],
    ]
    found = figures(folds, begin_windows=4)
    assert found.folds == 2
    assert found.auc == pytest.approx((3 / 4 + 3 / 4) / 2)
    # .7, 1.5 against 1.0, 3.5, 2.8, 1.4
    assert found.auc_pooled == pytest.approx((4 + 2) / 8)
    # depths 1, 3, 4, 0, 0 -> ranks 3, 4, 5, 1.5, 1.5; scores 1.0, 3.5, 2.8, .7, 1.5 -> 2, 5, 4, 1, 3
    # deviations 0, 1, 2, -1.5, -1.5 and -1, 2, 1, -2, 0: 0 + 2 + 2 + 3 + 0 = 7 over sqrt(9.5 * 10)
    assert found.spearman == pytest.approx(7 / 95**0.5)
    # cuts alone: fold one .6, 2, 3 in order: 1; fold two 1.4, 5, 2.6: ranks 1, 3, 2: 1 - 6 * 2 / 24
    assert found.spearman_cuts == pytest.approx((1 + 0.5) / 2)
    assert found.false_alarm_windows == pytest.approx(6 / 10)
    assert found.false_alarm_flights == pytest.approx(1 / 2)
    # windows: fold one 0 + 5 + 5 + 3, fold two 5 + 5 + 5 + 5, of 40
    assert found.recall_windows == pytest.approx(33 / 40)
    assert found.recall_flights == pytest.approx(6 / 8)
    assert found.recall_deep_windows == 1
    assert found.recall_deep_flights == 1
    assert found.rotor == pytest.approx(1 / 2)  # the cut of two rotors names none, the shallow one does not count


def test_figures_that_no_flight_tells_are_none():
    found = figures([[outcome(A0, [0.5] * 4)]], begin_windows=4)
    assert (found.auc, found.auc_pooled, found.spearman, found.rotor, found.recall_flights) == (None,) * 5
    assert found.false_alarm_windows == 0


def test_a_fold_without_its_healthy_flight_is_refused():
    for folds in ([], [[outcome(DEEP, [1.0])]], [[outcome(A0, [1.0]), outcome(A1, [1.0])]]):
        with pytest.raises(DataError, match="one healthy flight each"):
            figures(folds, begin_windows=4)
