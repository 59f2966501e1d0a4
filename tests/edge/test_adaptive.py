"""Scores that follow a drifting level: how far, how fast, and what is never learned. Numbers worked by hand."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from covey.bundle import Adapt
from covey.errors import DataError
from edge.scoring.adaptive import Level

HOLD = 200
FLIGHT = np.zeros(100_000, np.int64)


def level(outputs=2, bound=25.0, rate=1 / 2048, threshold=1.0, usual=0.1, smoothing=1.0, known=0, hold=HOLD, share=0.0):
    adapt = Adapt(hold_windows=hold, hold_share=share, rate=rate, bound=bound)
    return Level(adapt, outputs, threshold=threshold, usual=usual, smoothing=smoothing, known_windows=known)


def push(one, rows):
    rows = np.asarray(rows, float)
    return one.push(rows, FLIGHT[: len(rows)])


def test_scores_about_the_calibrations_level_are_the_sum_of_squares():
    assert push(level(), [[3.0, 4.0], [0.0, 2.0]]).tolist() == [25.0, 4.0]


def test_smoothing_restarts_with_a_flight_and_the_level_does_not():
    one = level(rate=0.1, smoothing=0.5)
    # raw .25; the offset goes to .05, so raw is .45^2 = .2025 and the mean of both .22625; anew in the second flight
    found = one.push(np.array([[0.5, 0.0], [0.5, 0.0], [0.5, 0.0]]), np.array([0, 0, 1]))
    # second step: offset .05 + .1 * .45 = .095, third raw .405^2
    assert found.tolist() == pytest.approx([0.25, 0.22625, 0.164025])


def test_a_calm_window_moves_the_level_by_the_rate():
    one = level(rate=0.01)
    push(one, [[0.5, -0.25]])
    assert one.offset.tolist() == pytest.approx([0.005, -0.0025])


def test_a_steady_new_level_becomes_normal_when_the_hold_is_over_and_not_before():
    one = level()
    found = push(one, np.tile([3.0, 0.0], (600, 1)))
    # the count rises by 1 - LEAK = .95 a window: 199.5 after 210, full after the 211th, which still scores 3^2
    assert (found[:211] == 9.0).all()
    # memory 200 / 4 = 50: the mean lacks .98^211 = .01408 of the way, so the next window scores (3 * .01408)^2
    assert found[211] == pytest.approx((3 * 0.98**211) ** 2)
    assert (found[211:] < 0.01).all()


def test_a_fresh_alarm_moves_nothing():
    one = level()
    push(one, np.tile([3.0, 0.0], (HOLD, 1)))
    assert one.offset.tolist() == [0.0, 0.0]


def test_after_an_alarm_the_level_stands_still_until_a_memory_of_windows_was_calm():
    one = level(rate=0.01)  # memory 200 / 4 = 50
    push(one, np.tile([3.0, 0.0], (100, 1)))
    push(one, np.tile([0.5, 0.0], (49, 1)))
    assert one.offset.tolist() == [0.0, 0.0]
    push(one, [[0.5, 0.0]])
    assert one.offset.tolist() == pytest.approx([0.005, 0.0])


def test_a_fault_that_comes_and_goes_is_never_learned():
    rows = np.tile([0.9, 0.0], (20_000, 1))  # calm, at .81 thresholds, but never for a memory of 50
    rows[::40] = [3.0, 0.0]  # 2.5 % of the windows: too few to fill the count
    one = level(rate=0.01)
    push(one, rows)
    assert one.offset.tolist() == [0.0, 0.0]


def test_a_level_moved_to_becomes_the_mean_of_the_windows_after_it_until_that_is_slower_than_the_rate():
    one = level(rate=1 / 60)  # memory 50: known of the new level when it moves there
    push(one, np.tile([3.0, 0.0], (211, 1)))
    moved = one.offset[0]
    assert moved == pytest.approx(3.0 * (1 - 0.98**211))
    push(one, np.tile([2.5, 0.0], (10, 1)))  # calm: (2.5 - 2.96)^2 = .21; the 51st to the 60th window of the mean
    assert one.offset[0] == pytest.approx((50 * moved + 10 * 2.5) / 60)
    before = one.offset[0]
    push(one, [[2.5, 0.0]])
    assert one.offset[0] == pytest.approx(before + (2.5 - before) / 60)


def test_a_fault_that_keeps_changing_is_never_learned():
    wave = 3.0 * np.sin(np.arange(5000) / 5.0)
    one = level(smoothing=0.05)
    found = push(one, np.stack([wave, 3.0 * np.cos(np.arange(5000) / 5.0)], axis=1))  # |e|^2 = 9 all the time
    assert found == pytest.approx(np.full(5000, 9.0))
    assert one.offset.tolist() == [0.0, 0.0]


def test_the_level_takes_away_no_more_than_the_bound():
    one = level(bound=4.0)
    push(one, np.tile([10.0, 0.0], (20_000, 1)))
    assert float(np.linalg.norm(one.offset)) == pytest.approx(2.0)  # sqrt(4 * threshold 1)
    assert push(one, [[10.0, 0.0]])[0] == pytest.approx(64.0)  # (10 - 2)^2


def test_a_creeping_fault_alarms_at_the_latest_at_its_bound():
    one = level(bound=4.0, rate=0.1)
    creep = np.arange(100_000) * 1e-4  # up to 10, far slower than the rate
    found = one.push(np.stack([creep, np.zeros_like(creep)], axis=1), FLIGHT)
    assert (found[creep**2 > (1 + 2.0) ** 2] > 1.0).all()  # (1 + sqrt(bound))^2 thresholds without offset
    assert not (found[creep < 2.9] > 1.0).any()  # and what is within it is followed


def test_one_window_moves_a_calm_level_by_the_root_of_the_threshold_at_most():
    one = level(threshold=4.0, rate=0.01, smoothing=0.0001, bound=1000.0)
    push(one, [[1.9, 0.0], [90.0, 0.0]])  # above, smoothed as well: 3.6 + .0001 * 8096
    before = one.offset.tolist()
    one = level(threshold=4.0, rate=0.01, smoothing=0.0001, bound=1000.0)
    push(one, [[1.0, 0.0], [90.0, 0.0]])  # 1 + .0001 * 8099 = 1.8: calm, but that window is not
    assert one.offset.tolist() == pytest.approx([0.01, 0.0])
    assert before == pytest.approx([0.019, 0.0])


def test_rare_false_alarms_never_fill_the_count():
    rows = np.zeros((40_000, 2))
    rows[::25] = [3.0, 0.0]  # 4 % of the windows, fewer than LEAK
    one = level()
    push(one, rows)
    assert one.state().count < 2.0


def test_any_batching_gives_the_same():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(3000, 3)) * 0.3
    rows[500:1800, 0] += 2.0
    flight = np.repeat([0, 1, 2], 1000)
    whole = level(outputs=3, usual=0.3).push(rows, flight)
    one = level(outputs=3, usual=0.3)
    parts = [one.push(rows[start : start + 7], flight[start : start + 7]) for start in range(0, 3000, 7)]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_a_level_goes_on_from_its_state():
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(1200, 2)) * 0.2
    rows[200:] += [2.0, 0.0]
    one = level()
    push(one, rows[:700])
    told = msgspec.json.decode(msgspec.json.encode(one.state()), type=type(one.state()))
    other = level()
    other.restore(told)
    new = np.ones(500, np.int64)  # a restart begins a flight
    assert other.push(rows[700:], new).tolist() == one.push(rows[700:], new).tolist()


def test_a_restored_level_keeps_its_own_bound():
    one = level(bound=4.0)
    one.restore(msgspec.structs.replace(one.state(), offset=[30.0, 40.0], count=1e9))
    assert one.offset.tolist() == pytest.approx([1.2, 1.6])  # 2 long
    assert one.state().count == HOLD


@pytest.mark.parametrize(
    "bad", [{"offset": [1.0]}, {"mean": [0.0, math.nan]}, {"variation": math.inf}, {"known": math.nan}]
)
def test_a_state_that_does_not_fit_is_refused(bad):
    one = level()
    with pytest.raises(DataError, match="level: "):
        one.restore(msgspec.structs.replace(one.state(), **bad))


def test_a_broken_models_scores_teach_nothing():
    one = level()
    before = one.state()
    found = push(one, [[math.nan, 0.0]] * 500)
    assert np.isnan(found).all()
    assert one.state() == before


def test_the_hold_is_a_share_of_what_the_calibration_knows_but_not_less_than_the_least():
    assert level(known=1600, share=0.5).hold_windows == 800
    assert level(known=100, share=0.5).hold_windows == HOLD
