"""Lag, its expectation and the consumers it asks for: numbers worked by hand."""

from __future__ import annotations

import pytest

from cloud.stream.lag import History, Rates, Sample, arriving, expected, rates, wanted
from cloud.stream.stage import BatchSize


def steady(per_s: float, until_s: int, step_s: int = 10) -> list[Sample]:
    return [Sample(float(t), int(per_s * t), int(per_s * t), t / 4) for t in range(0, until_s + 1, step_s)]


def test_rates_of_a_steady_stream() -> None:
    # 20 a second arrive and are processed; a quarter of the time is busy: one consumer could take 80.
    assert rates(steady(20.0, 60)) == Rates(20.0, 0.0, 20.0, 80.0)


def test_a_growing_stream_has_its_trend() -> None:
    # 0-30 s: 10 a second; 30-60 s: 40 a second. The halves' middles lie 30 s apart: trend (40 - 10) / 30 = 1 a second.
    samples = [Sample(float(t), 10 * t if t <= 30 else 300 + 40 * (t - 30), 0, 0.0) for t in range(0, 61, 10)]
    found = rates(samples)
    assert (found.arrivals, found.trend) == (25.0, 1.0)  # (300 + 1200) / 60
    # At the window's end 25 + 30 = 55 a second, in 60 s 115: 85 in the mean.
    assert arriving(found, 60.0) == pytest.approx(85.0)


def test_a_falling_stream_never_arrives_backwards() -> None:
    # 10 now at the window's end, -2 a second: none from 5 s on; the line's two ends, cut at 0, have the mean 5.
    assert arriving(Rates(70.0, -2.0, 0.0, 1.0), 60.0) == pytest.approx(5.0)


def test_expected_lag_is_what_arrives_beyond_what_can_be_taken() -> None:
    # 100 behind, 30 a second arrive, 20 can be taken: 100 + 10 * 60.
    assert expected(100, Rates(30.0, 0.0, 20.0, 20.0), 60.0) == 700
    # 50 can be taken: 100 - 20 * 60 is less than none.
    assert expected(100, Rates(30.0, 0.0, 20.0, 50.0), 60.0) == 0


@pytest.mark.parametrize(
    ("arrivals", "behind", "capacity", "consumers"),
    [
        (90.0, 0, 100.0, 1),
        (90.0, 1200, 100.0, 2),  # 90 + 1200 / 60 = 110
        (350.0, 0, 100.0, 4),
        (5000.0, 0, 100.0, 12),  # no more than partitions
        (0.0, 0, 100.0, 1),
        (90.0, 1200, 0.0, 1),  # nothing known
    ],
)
def test_consumers_wanted(arrivals: float, behind: int, capacity: float, consumers: int) -> None:
    assert wanted(arrivals, behind, capacity, drain_s=60.0, partitions=12) == consumers


def test_history_forgets_what_is_older_than_a_minute_and_begins_anew_with_other_partitions() -> None:
    history = History()
    for t in range(0, 61, 5):
        history.add(Sample(float(t), 0, 0, 0.0), ("a",))
    for t in range(65, 121, 5):
        found = history.add(Sample(float(t), 10 * (t - 60), 10 * (t - 60), (t - 60) / 2), ("a",))
    assert found == Rates(10.0, 0.0, 10.0, 20.0)
    # Another partition's end is a thousand further: no arrivals; the capacity is still known.
    assert history.add(Sample(125.0, 1600, 600, 30.0), ("a", "b")) == Rates(0.0, 0.0, 0.0, 20.0)


def test_batches_double_while_full_and_fall_to_what_comes() -> None:
    size = BatchSize(100)
    seen = []
    for count in (1, 2, 4, 8, 16, 32, 64, 100, 30, 1, 0):
        size.took(count)
        seen.append(size.now)
    assert seen == [2, 4, 8, 16, 32, 64, 100, 100, 30, 1, 1]
