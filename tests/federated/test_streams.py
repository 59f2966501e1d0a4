"""Kinds of streams from made data whose course is known."""

import numpy as np
import pytest

from edge.scoring.temporal import daily_course, day_terms
from federated.streams import DAYS, Stream, daily_shares, kind_of, whole


def course(days, rows, noise, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(days * rows)
    wave = np.sin(2 * np.pi * t / rows) + 0.5 * np.cos(4 * np.pi * t / rows)
    return wave[:, None] * [1.0, 2.0, -1.0] + noise * rng.standard_normal((len(t), 3))


@pytest.mark.parametrize("rows", [288, 144, 96])
def test_a_daily_course_is_found_with_its_day(rows):
    assert kind_of(daily_shares(course(12, rows, noise=0.3)), 12 * rows) == ("daily", rows)


def test_what_a_course_explains_is_its_share_of_the_variance():
    # A wave of variance .5 + .125 beside noise of variance .625: half.
    rows = course(20, 288, noise=0.0)[:, :1] + np.sqrt(0.625) * np.random.default_rng(1).standard_normal((5760, 1))
    assert daily_shares(rows)[DAYS.index(288)] == pytest.approx(0.5, abs=0.03)


def test_a_long_stream_without_a_day_is_metrics_and_a_short_one_a_process():
    assert kind_of(daily_shares(np.random.default_rng(3).standard_normal((3000, 4))), 3000) == ("metrics", 0)
    assert kind_of(np.zeros(len(DAYS)), 400) == ("process", 0)


def test_a_channel_that_stands_still_has_no_say():
    rows = course(8, 288, noise=0.2)
    still = np.concatenate([rows, np.full((len(rows), 5), 7.0)], axis=1)
    assert kind_of(daily_shares(still), len(rows))[0] == "daily"


def test_the_course_is_least_squares_of_its_terms():
    u = course(3, 96, noise=0.0)
    at = np.arange(len(u), dtype=float)
    told = daily_course(u, at, 96)
    # The ridge of .001 beside terms whose squares average .5 takes two thousandths off.
    assert day_terms(at, 96) @ told == pytest.approx(u, abs=0.0021 * np.abs(u).max())
    assert told[7, 0] == pytest.approx(1.0, abs=5e-3)  # first sine
    assert told[2, 1] == pytest.approx(1.0, abs=5e-3)  # second cosine, .5 * 2


def test_what_a_plan_says_goes_before_the_kind_s_word():
    told = whole(Stream(keep=0.5), "daily", 288)
    assert (told.keep, told.day_rows, told.smoothing_rows, told.branches) == (0.5, 288, 6.0, ["ms", "ar", "prof"])
    assert whole(Stream(), "metrics", 0).smoothing_rows == 15.0
