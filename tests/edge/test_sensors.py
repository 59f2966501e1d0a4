"""Standing and missing sensors, by hand-worked cases."""

import math

import msgspec
import numpy as np
import pytest

from covey.bundle import Calibration, read_bundle
from edge.core import AgentCore
from edge.loading import choose_runtime, open_model
from edge.scoring.sensors import SensorWatch, still, usually_still
from edge_bundles import CHANNELS, WINDOW, make_bundle


def windows(n, t=4, c=2, seed=0):
    return np.random.default_rng(seed).standard_normal((n, t, c)).astype(np.float32)


def flights(n, number=0):
    return np.full(n, number, np.int64)


def test_a_channel_is_still_only_when_every_sample_of_the_window_is_the_same():
    samples = windows(3)
    samples[1, :, 0] = 7.0
    samples[2, :, 1] = 7.0
    samples[2, 2, 1] = 7.5  # first and last agree, one between them does not
    assert still(samples, flights(3)).tolist() == [[False, False], [True, False], [False, False]]


def test_windows_of_one_sample_look_at_the_one_before_in_the_same_flight():
    samples = np.array([1, 1, 1, 2], np.float32).reshape(4, 1, 1)
    assert still(samples, np.array([0, 0, 1, 1]))[:, 0].tolist() == [False, True, False, False]


def test_the_usual_share_follows_laplace():
    samples = windows(18)
    samples[:4, :, 1] = 0.0
    assert usually_still(samples, flights(18)) == [pytest.approx(1 / 20), pytest.approx(5 / 20)]


def test_the_limit_is_where_chance_would_take_a_million_devices():
    # .02^n <= 1e-6: n = 13.8/3.9 = 3.5 -> 4 windows; .3 is too usual to judge
    watch = SensorWatch([0.02, 0.3], 4, 4, 2)
    assert (watch.limit(0), watch.limit(1)) == (4, 0)
    assert watch.confidence(0, 4) == pytest.approx(1 - 0.02**4)
    # overlapping by half, each sample is told twice: 3 disjoint windows more are 6 steps
    assert SensorWatch([0.02], 4, 2, 2).limit(0) == 7


@pytest.mark.parametrize("portion", [1, 3, 20])
def test_a_standing_channel_is_told_once_and_its_end_after_two_moving_windows(portion):
    samples = windows(20)
    samples[5:12, :, 1] = 3.0
    watch = SensorWatch([0.02, 0.02], 4, 4, 2)
    told = []
    for i in range(0, 20, portion):
        told += [(i + s.window, s.channel, s.began) for s in watch.push(samples[i : i + portion], flights(20)[i : i + portion])]  # fmt: skip
    assert told == [(8, 1, True), (13, 1, False)]  # windows 5, 6, 7, 8 stand still; 12 and 13 move


def test_a_run_does_not_go_on_over_a_gap():
    samples = windows(8)
    samples[:, :, 0] = 1.0
    watch = SensorWatch([0.02, 0.02], 4, 4, 2)
    assert [s.window for s in watch.push(samples[:3], flights(3, 0))] == []
    assert [s.window for s in watch.push(samples[3:], flights(5, 1))] == [3]


def test_a_channel_that_usually_stands_still_raises_nothing():
    samples = windows(50)
    samples[:, :, 0] = 12.6
    assert SensorWatch([0.4, 0.02], 4, 4, 2).push(samples, flights(50)) == []


def test_nothing_is_judged_without_a_calibration():
    samples = np.zeros((50, 4, 2), np.float32)
    assert SensorWatch([], 4, 4, 2).push(samples, flights(50)) == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "m.covey"
    make_bundle(path)
    return read_bundle(path)


def core(bundle, share=0.02):
    d = bundle.manifest.defaults
    made = Calibration(
        "covey-calibration/1", bundle.digest, "2026-01-01T00:00:00Z", 20, 1, d.center, d.scale, d.spread,
        dict.fromkeys(d.thresholds, 4.0), d.reference, [share] * 2,
    )  # fmt: skip
    return AgentCore("d1", open_model(bundle, 1, choose_runtime(bundle, ()), made))


def noise(rows):
    return np.random.default_rng(0).standard_normal((rows, 2)).astype(np.float32) * 0.5


def test_a_stuck_sensor_is_an_alarm_of_its_own_kind_and_its_windows_are_not_learned(bundle):
    one = core(bundle)
    one.begin_flight("f", CHANNELS)
    samples = noise(80)
    samples[20:60, 0] = samples[19, 0]  # windows 5 to 14
    out = one.push(samples, 1000.0)
    begin, end = [r.alarm for r in out.alarms]
    assert (begin.kind, begin.state, begin.top_channel, begin.score, begin.threshold) == ("sensor", "begin", "ax", 4, 4)
    assert begin.window.start_s == 1000.0 + 8 * WINDOW  # the fourth window
    assert begin.detail.startswith("ax stands still at ")
    assert begin.confidence == pytest.approx(1 - 0.02**4)
    assert (end.state, end.alarm_id, end.window.start_s) == ("end", begin.alarm_id, 1000.0 + 16 * WINDOW)
    assert one.open_alarms == []
    assert msgspec.json.decode(msgspec.json.encode(begin), type=type(begin)) == begin


def test_windows_after_a_sensor_died_are_not_kept_in_live_portions(bundle):
    one = core(bundle)
    one.begin_flight("f", CHANNELS)
    samples = noise(80)
    samples[20:60, 0] = samples[19, 0]
    kept = [k.index for i in range(0, 80, WINDOW) for k in one.push(samples[i : i + WINDOW], 1000.0 + i).kept]
    assert kept == [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19]  # 8 raised it, 15 and 16 ended it; 5-7 are the quarantine's


def test_a_missing_channel_is_an_alarm_until_it_is_back_and_others_channels_are_nobodys_business(bundle):
    one = core(bundle)
    one.begin_flight("f", CHANNELS)
    assert one.missing("battery", 5.0, 6.0, 0.5, back=False) == []
    [begin] = one.missing("ay", 5.0, 6.0, 0.5, back=False)
    assert one.missing("ay", 5.0, 7.0, 0.5, back=False) == []  # said once
    alarm = begin.alarm
    assert (alarm.kind, alarm.top_channel, alarm.score, alarm.threshold) == ("sensor", "ay", 1.0, 0.5)
    assert (alarm.window.start_s, alarm.window.end_s, alarm.window.sha256) == (5.0, 6.0, "")
    assert one.open_alarms == [alarm.alarm_id]
    [end] = one.missing("ay", 5.0, 9.0, 0.5, back=True)
    assert (end.alarm.alarm_id, end.alarm.state, end.alarm.score) == (alarm.alarm_id, "end", 4.0)
    assert one.missing("ay", 5.0, 9.0, 0.5, back=True) == []


def test_the_end_of_a_flight_ends_sensor_alarms_too(bundle):
    one = core(bundle)
    one.begin_flight("f", CHANNELS)
    samples = noise(40)
    samples[:, 1] = 2.0
    [begin] = one.push(samples, 1000.0).alarms
    [gone] = one.missing("ax", 1.0, 2.0, 0.5, back=False)
    ended = {r.alarm.alarm_id for r in one.end_flight()}
    assert ended == {begin.alarm.alarm_id, gone.alarm.alarm_id}
    assert one.open_alarms == []


def test_a_calm_flight_of_a_calibrated_device_raises_no_sensor_alarm(bundle):
    one = core(bundle, share=math.nextafter(0.05, 0))
    one.begin_flight("f", CHANNELS)
    assert one.push(noise(4000), 0.0).alarms == []
