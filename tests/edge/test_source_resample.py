"""Readings to rows: zero-order hold, holes bridged or made gaps, nothing filled in. Expected rows are worked by hand."""

import math

import numpy as np
import pytest

from edge.sources.clock import SenderClock
from edge.sources.names import ChannelFrom, origins
from edge.sources.resample import Resampler


def rows_of(resampler):
    return [(round(p.t_s, 4), p.gap, p.rows.tolist()) for p in resampler.finish()]


def test_rows_stand_in_the_middle_between_readings_and_jitter_repeats_none():
    r = Resampler(1, 10.0, 0.5)
    # 10 Hz with up to 40 ms of jitter: rows at 0.05, 0.15, ...: each takes the reading just before it
    for k, t in enumerate([0.0, 0.13, 0.17, 0.34, 0.38, 0.52]):
        r.add(t, [(0, float(k))])
    assert rows_of(r) == [(0.05, False, [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])]


def test_a_slow_channel_is_held_and_a_fast_one_is_sampled_not_averaged():
    r = Resampler(2, 10.0, 0.5)
    for k in range(20):  # a at 20 Hz counts; b at 5 Hz says when
        pairs = [(0, float(k))] + ([(1, 100.0 + k)] if k % 4 == 0 else [])
        r.add(k * 0.05, pairs)
    [(t, gap, rows)] = rows_of(r)
    # rows at 0.05, 0.15, ...: the newest a is 1, 3, 5, ...; b changed at 0.0, 0.2, 0.4, ...
    assert (t, gap) == (0.05, False)
    assert [row[0] for row in rows][:5] == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert [row[1] for row in rows][:5] == [100.0, 100.0, 104.0, 104.0, 108.0]


def test_a_row_never_knows_a_later_reading():
    r = Resampler(2, 100.0, 0.5)
    rng = np.random.default_rng(4)
    times = np.cumsum(rng.uniform(0.001, 0.02, 400))
    for t in times:  # each channel says the time of its reading
        r.add(float(t), [(int(rng.integers(2)), float(t))])
    checked = 0
    for portion in r.finish():
        for k, row in enumerate(portion.rows.astype(float)):
            assert (row <= portion.t_s + k * 0.01 + 1e-5).all()
            checked += 1
    assert checked > 200


def test_a_short_hole_is_bridged_when_its_end_is_known_and_not_before():
    r = Resampler(1, 10.0, 0.5)
    for k in range(5):
        r.add(k * 0.1, [(0, float(k))])
    before = sum(len(p.rows) for p in r.take())
    # 0.05 to 0.25 are certain, and 0.35 too: readings are certain one slack (50 ms) behind the newest, 0.4
    assert before == 4
    assert r.take() == []
    r.add(0.8, [(0, 8.0)])  # 0.4 s later: within the hold time
    r.add(0.9, [(0, 9.0)])
    [(t, gap, rows)] = rows_of(r)
    assert (t, gap) == (0.45, False)
    assert rows == [[4.0], [4.0], [4.0], [4.0], [8.0], [9.0]]


def test_a_long_hole_is_a_gap_and_nothing_is_made_in_it():
    r = Resampler(1, 10.0, 0.5)
    for t in (0.0, 0.1, 0.2, 1.0, 1.1):
        r.add(t, [(0, 10 * t)])
    # the row 0.35 is 1.5 intervals behind 0.2: it would need a reading that never was
    assert rows_of(r) == [(0.05, False, [[0.0], [1.0], [2.0]]), (1.05, True, [[10.0], [11.0]])]


def test_one_silent_channel_stops_all_rows_until_it_is_back():
    r = Resampler(2, 10.0, 0.3)
    for k in range(30):
        r.add(k * 0.1, [(0, float(k))] + ([(1, float(k))] if k < 8 or k >= 20 else []))
    portions = rows_of(r)
    assert [(t, gap) for t, gap, _ in portions] == [(0.05, False), (2.05, True)]
    assert portions[0][2] == [[float(k), float(k)] for k in range(8)]
    assert portions[1][2] == [[float(k), float(k)] for k in range(20, 30)]


def test_what_is_no_number_is_no_reading():
    r = Resampler(1, 10.0, 0.3)
    for k in range(20):
        r.add(k * 0.1, [(0, float(k) if k < 5 or k > 15 else [math.nan, math.inf, -math.inf, 1e300][k % 4])])
    assert rows_of(r) == [(0.05, False, [[0], [1], [2], [3], [4]]), (1.65, True, [[16], [17], [18], [19]])]
    assert r.no_number == 11


def test_a_channel_slower_than_the_hold_time_has_three_of_its_own_intervals():
    r = Resampler(2, 10.0, 0.3)
    for k in range(61):  # b once a second
        r.add(k * 0.1, [(0, float(k))] + ([(1, float(k))] if k % 10 == 0 else []))
    portions = r.finish()
    # before its second reading nobody knows that it is slow; from 1.0 on there is no gap
    assert [p.gap for p in portions] == [False, True]
    assert portions[1].t_s == pytest.approx(1.05)
    assert len(portions[1].rows) == 51
    assert r.hold_of(1) == pytest.approx(3.0)


def test_time_that_runs_back_begins_anew_and_a_repeated_reading_is_left_out():
    r = Resampler(1, 10.0, 0.5)
    for t in (100.0, 100.1, 100.2, 100.2, 100.15, 5.0, 5.1, 5.2):
        r.add(t, [(0, t)])
    portions = r.finish()
    assert [(round(p.t_s, 3), p.gap, len(p.rows)) for p in portions] == [(100.05, False, 3), (5.05, True, 3)]
    assert (r.late, r.jumps) == (2, 1)


def test_a_jump_of_a_million_years_makes_no_rows():
    r = Resampler(1, 1000.0, 0.5)
    for t in (0.0, 0.001, 3e13, 3e13 + 1, 0.0, 0.001):
        r.add(t, [(0, 1.0)])
    assert sum(len(p.rows) for p in r.finish()) < 10


def test_memory_is_bounded_while_a_channel_is_waited_for():
    r = Resampler(2, 100.0, 1e9)
    r.add(0.0, [(0, 0.0), (1, 0.0)])
    for k in range(1, 70_000):
        r.add(k * 1e-5, [(0, 1.0)])
    assert len(r._waiting) == 65_536
    assert r.late == 70_000 - 1 - 65_536


def test_exact_readings_are_rows_at_once():
    r = Resampler(1, 3.0, 0.5, exact=True)
    got = []
    for k in range(1000):
        r.add(1e5 + k / 3.0, [(0, float(k))])
        got += [row[0] for p in r.take() for row in p.rows.tolist()]
        assert got[-1] == k
    assert got == list(range(1000))


def test_an_extra_channel_stops_nothing():
    r = Resampler(1, 10.0, 0.3, extras=1)
    for k in range(6):
        r.add(k * 0.1, [(0, float(k))] + ([(1, 7.0)] if k == 2 else []))
    [(_, _, rows)] = rows_of(r)
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert math.isnan(rows[0][1])
    assert [row[1] for row in rows][2:] == [7.0] * 4


def test_the_smallest_delay_is_the_links_and_intervals_stay_the_senders():
    clock = SenderClock()
    assert clock.stamp(50.0, 1000.2) == 1000.2  # 0.2 s late
    assert clock.stamp(50.1, 1000.12) == pytest.approx(1000.3)  # 0.02 s late: the interval is the sender's
    assert clock.delay_s == pytest.approx(-0.18)  # a label is 0.18 s earlier: 1000.12 for 50.1
    assert clock.stamp(50.2, 1000.9) == pytest.approx(1000.4)
    assert clock.delay_s == pytest.approx(-0.18)


def test_the_label_follows_the_drift_of_a_clock_over_minutes():
    clock = SenderClock()
    for k in range(6000):  # ours runs 1e-4 faster: 60 ms in 10 min
        clock.stamp(k * 0.1, 500.0 + k * 0.1 * 1.0001 + (0.05 if k % 7 else 0.0))
    # the smallest of the last 30 to 60 s: at most 6 ms behind
    assert clock.delay_s == pytest.approx(0.06, abs=0.0061)
    assert clock.sets == 0


def test_a_restarted_sender_is_told_and_one_odd_stamp_is_no_time():
    clock = SenderClock()
    for k in range(10):
        clock.stamp(100.0 + k, 10.0 + k)
    assert clock.stamp(3.0, 20.0) is None
    assert clock.stamp(900.0, 20.0) is None
    assert clock.stamp(110.0, 20.0) == pytest.approx(20.0)
    assert clock.sets == 0
    got = [clock.stamp(k * 0.1, 30.0 + k * 0.1) for k in range(6)]
    assert got[:4] == [None] * 4
    assert clock.sets == 1
    assert got[4:] == [pytest.approx(30.4), pytest.approx(30.5)]


def test_a_stalled_link_is_no_set_clock():
    clock = SenderClock()
    clock.stamp(0.0, 10.0)
    for k in range(200):  # all that was sent in 20 s comes at once
        assert clock.stamp(0.1 + k * 0.1, 30.0) is not None
    assert clock.sets == 0


def test_a_channel_comes_from_where_the_map_says_or_from_its_own_name():
    pulse = ChannelFrom("SERVO_OUTPUT_RAW.servo1_raw", 65.535, -65535.0)
    assert origins(["motor.m1", "x"], {"motor.m1": pulse}) == [pulse, ChannelFrom("x")]
    for wrong in ({"source": ""}, {"source": "x", "scale": 0.0}, {"source": "x", "offset": math.nan}):
        with pytest.raises(ValueError, match="expected"):
            ChannelFrom(**wrong)
