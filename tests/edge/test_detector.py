"""The detector's promises, worked by hand."""

import math

import pytest

from covey.bundle import Scoring
from edge.scoring.detector import Detector


def scoring(begin=2, end=2):
    return Scoring(1.0, 0.99, 1.0, begin, end, 5, "channel", [0])


def run(detector, scores, flight=0, first=0):
    return [detector.push(score, 1.0, flight, first + i) for i, score in enumerate(scores)]


def test_an_anomaly_begins_with_the_nth_consecutive_window_above_the_threshold():
    steps = run(Detector(scoring(begin=3)), [2, 2, 0.5, 2, 3, 2.5])
    assert [s.began is not None for s in steps] == [False] * 5 + [True]
    began = steps[5].began
    assert (began.raised, began.last, began.windows, began.score, began.peak_score) == (5, 5, 3, 2.5, 3)


def test_an_anomaly_ends_after_n_consecutive_windows_below_and_names_its_last_one():
    steps = run(Detector(scoring(begin=1, end=3)), [4, 0, 0, 2, 0, 0, 0, 0])
    assert [s.alarmed for s in steps] == [True] * 6 + [False, False]
    assert [s.ended is not None for s in steps] == [False] * 6 + [True, False]
    ended = steps[6].ended
    assert (ended.number, ended.raised, ended.last, ended.windows, ended.score, ended.peak_score) == (1, 0, 3, 2, 2, 4)


def test_a_score_at_the_threshold_is_normal():
    assert not run(Detector(scoring(begin=1)), [1.0])[0].anomalous


def test_a_score_that_is_not_a_number_is_anomalous():
    assert run(Detector(scoring(begin=1)), [math.nan])[0].began is not None


def test_a_new_flight_ends_what_is_open_and_counts_anew():
    detector = Detector(scoring(begin=2))
    run(detector, [2, 2])
    [first, second] = run(detector, [2, 2], flight=1, first=10)
    assert (first.ended.number, first.ended.last, first.began, first.alarmed) == (1, 1, None, False)
    assert (second.began.number, second.began.raised, second.began.windows) == (2, 11, 2)


def test_one_window_can_end_one_anomaly_and_begin_another_in_the_next_flight():
    detector = Detector(scoring(begin=1))
    run(detector, [2])
    [step] = run(detector, [2], flight=1, first=1)
    assert (step.ended.number, step.began.number) == (1, 2)


def test_the_end_of_the_stream_ends_what_is_open_once():
    detector = Detector(scoring(begin=1))
    run(detector, [2])
    assert detector.finish().windows == 1
    assert detector.finish() is None


@pytest.mark.parametrize("begin", [1, 2, 5])
def test_fewer_windows_than_asked_for_raise_nothing(begin):
    steps = run(Detector(scoring(begin=begin)), ([2] * (begin - 1) + [0]) * 4)
    assert not any(s.began or s.alarmed for s in steps)
