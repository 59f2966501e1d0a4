"""The schedule of disturbances: pure, repeatable, and what holds when."""

from __future__ import annotations

import pytest

from covey.errors import UsageError
from firmware_sim.chaos import (
    CALM,
    KINDS,
    SIZES,
    Conditions,
    Disturbance,
    conditions_at,
    drops_between,
    next_change_s,
    schedule,
)


def test_the_same_arguments_give_the_same_schedule_and_another_seed_another() -> None:
    assert schedule(7, 600.0) == schedule(7, 600.0)
    assert schedule(7, 600.0) != schedule(8, 600.0)


def test_a_longer_run_only_adds_to_a_shorter_one() -> None:
    short = schedule(3, 300.0)
    assert schedule(3, 900.0)[: len(short)] == short
    assert all(one.at_s < 300.0 for one in short)


def test_beginnings_come_as_often_as_asked_and_sizes_lie_in_their_ranges() -> None:
    drawn = schedule(1, 100_000.0, every_s=20.0, for_s=(1.0, 10.0))
    assert abs(len(drawn) - 5_000) < 5 * 5_000**0.5  # Poisson: standard deviation sqrt(5000)
    assert {one.kind for one in drawn} == set(KINDS)
    for one in drawn:
        low, high = SIZES.get(one.kind, (0.0, 0.0))
        assert low <= one.size <= high * (1 + 1e-12)
        assert one.for_s == 0.0 if one.kind == "drop" else 1.0 <= one.for_s <= 10.0


def test_what_holds_is_the_sum_of_delays_the_least_rate_and_independent_losses() -> None:
    all_of_it = (
        Disturbance("delay", 10.0, 10.0, 0.5),
        Disturbance("delay", 15.0, 10.0, 0.25),
        Disturbance("rate", 10.0, 10.0, 9_000.0),
        Disturbance("rate", 15.0, 10.0, 4_000.0),
        Disturbance("loss", 10.0, 10.0, 0.5),
        Disturbance("loss", 15.0, 10.0, 0.2),
        Disturbance("stall", 19.0, 1.0),
    )
    assert conditions_at(all_of_it, 9.999) == CALM
    assert conditions_at(all_of_it, 10.0) == Conditions(delay_s=0.5, rate_bytes_s=9_000.0, loss=0.5)
    assert conditions_at(all_of_it, 16.0) == Conditions(delay_s=0.75, rate_bytes_s=4_000.0, loss=0.6)
    assert conditions_at(all_of_it, 19.5).stalled
    later = conditions_at(all_of_it, 20.0)
    assert (later.delay_s, later.rate_bytes_s, later.stalled) == (0.25, 4_000.0, False)
    assert later.loss == pytest.approx(0.2)
    assert conditions_at(all_of_it, 25.0) == CALM
    assert next_change_s(all_of_it, 0.0) == 10.0
    assert next_change_s(all_of_it, 15.0) == 19.0
    assert next_change_s(all_of_it, 25.0) is None


def test_each_drop_falls_into_one_interval() -> None:
    drops = (Disturbance("drop", 1.0), Disturbance("drop", 2.0))
    assert [drops_between(drops, a, b) for a, b in ((-1, 1), (1, 2), (2, 3), (0, 9))] == [1, 1, 0, 2]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Disturbance("flood", 1.0), "flood"),
        (lambda: Disturbance("delay", 1.0, 1.0), "size"),
        (lambda: Disturbance("loss", 1.0, 1.0, 1.0), "loss"),
        (lambda: Disturbance("stall", -1.0), "at_s"),
        (lambda: Conditions(delay_s=-1.0), "delay_s"),
        (lambda: schedule(1, 10.0, kinds=("quake",)), "quake"),
        (lambda: schedule(1, 10.0, for_s=(5.0, 1.0)), "for_s"),
        (lambda: schedule(1, 100.0, kinds=("rate",), sizes={"rate": (5.0, 1.0)}), "rate"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make()  # type: ignore[operator]  # each one raises
