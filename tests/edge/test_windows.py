"""Cutting samples into windows: counts by hand, portions, gaps, flights; features by a second method."""

import numpy as np
import pytest

from covey.bundle import Features, Inputs
from covey.errors import DataError
from edge.scoring.windows import DRONE_CHANNELS, Cutter, cut, pick_channels, plain_features
from edge.sources import Recording

LAG = Inputs(["a", "b"], 10.0, 4, 2, Features("lag"))
DRONE = Inputs(list(DRONE_CHANNELS), 10.0, 5, 5, Features("drone", airborne_above=100.0, settle_s=1.0))


def ramp(rows):
    return np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)


def flight(parts):
    """Rows of drone samples: (rows, airborne) parts."""
    rng = np.random.default_rng(0)
    rows = []
    for count, up in parts:
        part = rng.standard_normal((count, 7)).astype(np.float32)
        part[:, :4] = part[:, :4] + (1000.0 if up else 0.0)
        rows.append(part)
    return np.concatenate(rows)


def push_all(cutter, samples, portion, rate=10.0, start_s=0.0):
    out = [cutter.push(samples[i : i + portion], start_s + i / rate) for i in range(0, len(samples), portion)]
    return [np.concatenate([getattr(w, f) for w in out]) for f in ("samples", "end_row", "flight", "start_s")]


def test_windows_lie_where_they_should():
    samples = ramp(11)
    windows = Cutter(LAG).push(samples, 100.0)
    assert windows.end_row.tolist() == [3, 5, 7, 9]
    assert np.array_equal(windows.samples[1], samples[2:6])
    assert windows.start_s.tolist() == pytest.approx([100.0, 100.2, 100.4, 100.6])


@pytest.mark.parametrize("portion", [1, 2, 3, 7, 100])
def test_any_portions_give_the_same_windows(portion):
    for inputs, samples in ((LAG, ramp(53)), (DRONE, flight([(7, False), (60, True), (40, False), (60, True)]))):
        whole = push_all(Cutter(inputs), samples, len(samples))
        parts = push_all(Cutter(inputs), samples, portion)
        for one, two in zip(whole, parts, strict=True):
            assert np.allclose(one, two)


def test_no_window_spans_a_gap():
    cutter = Cutter(LAG)
    assert len(cutter.push(ramp(5), 0.0)) == 1
    cutter.gap()
    windows = cutter.push(ramp(5), 50.0)
    assert (windows.flight.tolist(), windows.start_s.tolist()) == ([1], [50.0])


def test_the_segments_of_a_recording_are_flights_of_their_own():
    recording = Recording("r", ("b", "a"), 10.0, ramp(20), ((0, 9), (10, 20)), 5.0)
    windows = cut(recording, LAG)
    assert windows.end_row.tolist() == [3, 5, 7, 13, 15, 17, 19]
    assert windows.flight.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert np.array_equal(windows.samples[0], ramp(4)[:, ::-1])  # columns by name
    assert windows.start_s[3] == pytest.approx(6.0)


def test_a_drone_counts_in_the_air_only_after_it_has_settled():
    windows = Cutter(DRONE).push(flight([(20, False), (40, True), (30, False)]), 0.0)
    # take-off at row 20, settled at 30, landed at 60: rows 30-34, ..., 55-59
    assert windows.end_row.tolist() == [34, 39, 44, 49, 54, 59]
    assert set(windows.flight.tolist()) == {0}


def test_a_short_landing_does_not_end_a_flight_and_a_gap_does():
    cutter = Cutter(DRONE)
    windows = cutter.push(flight([(30, True), (100, False), (30, True)]), 0.0)
    assert windows.flight.tolist() == [0] * 8
    cutter.gap()
    assert set(cutter.push(flight([(30, True)]), 0.0).flight.tolist()) == {1}


def test_a_take_off_after_a_rest_begins_a_new_flight():
    windows = Cutter(DRONE).push(flight([(30, True), (600, False), (30, True)]), 0.0)
    assert windows.flight.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_cutter_knows_whether_the_drone_is_in_the_air():
    cutter = Cutter(DRONE)
    samples = flight([(10, False), (10, True), (10, False)])
    seen = []
    for part in (samples[:10], samples[10:20], samples[20:]):
        cutter.push(part, 0.0)
        seen.append(cutter.airborne)
    assert seen == [False, True, False]
    assert not Cutter(LAG).airborne


def test_lag_features_are_the_rows_newest_first():
    assert plain_features(ramp(4)[None], LAG).tolist() == [[6, 7, 4, 5, 2, 3, 0, 1]]


def test_drone_features_by_a_second_method():
    samples = flight([(5, True)])[None]
    got = plain_features(samples, DRONE)[0]
    rows = samples[0].astype(np.float64)
    motors = [sum(rows[t][m] for t in range(5)) / 5 for m in range(4)]
    mean = sum(motors) / 4
    assert got[:4] == pytest.approx([m / mean - 1 for m in motors], abs=1e-6)
    assert got[4] == pytest.approx(np.log(mean / 65535), rel=1e-5)
    for i in range(3):
        column = rows[:, 4 + i]
        sd = (sum((v - column.sum() / 5) ** 2 for v in column) / 5) ** 0.5
        assert got[5 + i] == pytest.approx(np.log(sd + 1e-3), rel=1e-4, abs=1e-5)
        assert got[8 + i] == pytest.approx(column.sum() / 5, abs=1e-6)


def test_a_missing_channel_and_another_rate_are_named():
    recording = Recording("r", ("a", "c"), 10.0, ramp(20))
    with pytest.raises(DataError, match="b missing"):
        pick_channels(recording, ["a", "b"])
    with pytest.raises(DataError, match="10 samples/s expected, 20 found"):
        cut(Recording("r", ("a", "b"), 20.0, ramp(20)), LAG)


def test_a_recording_shorter_than_a_window_has_none():
    assert len(cut(Recording("r", ("a", "b"), 10.0, ramp(3)), LAG)) == 0
    assert len(cut(Recording("r", ("a", "b"), 10.0, np.empty((0, 2), np.float32)), LAG)) == 0
