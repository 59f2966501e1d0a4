"""Features over time: filters against recursions and by hand, padding, and rings that keep each row once."""

import msgspec
import numpy as np
import pytest

from covey.bundle import Branch, Features, Inputs, Model
from covey.ring import RingInfo, RingWriter, create_ring
from edge.commission import Ring
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.temporal import Channels, branch_of_feature, channel_of_feature, ewma_taps, temporal
from edge.scoring.windows import Cutter, Windows, cut
from edge.sources import Recording
from federated.branches import branch
from model_bundles import contents

UNIT = Channels(np.zeros(2, np.float32), np.ones(2, np.float32))


def inputs(*branches, window=4, hop=1):
    return Inputs(["x", "y"], 1.0, window, hop, Features("temporal", branches=list(branches)))


def seen(samples, told, channels=UNIT, end_s=0.0):
    """Features of windows that have nothing to do with one another."""
    n = len(samples)
    apart = Windows(samples, np.arange(n), np.arange(n), np.full(n, end_s - told.window + 1.0))
    return temporal(apart, told, channels)


def walk(rows, seed=0):
    return np.cumsum(np.random.default_rng(seed).standard_normal((rows, 2)), axis=0).astype(np.float32) / 8


def recording(rows, **extra):
    return Recording("r", ("x", "y"), 1.0, rows, **extra)


def test_a_filter_weighs_the_newest_row_first_and_every_channel_alike():
    told = inputs(Branch("a", [[1.0, -1.0], [0.5]]))
    samples = np.array([[[9, 9], [9, 9], [1, 10], [4, 14]]], np.float32)
    # Normalised by center (0, 2) and scale (1, 4): rows (1, 2) and (4, 3); difference (3, 1), half of the newest (2, 1.5).
    own = Channels(np.array([0, 2], np.float32), np.array([1, 4], np.float32))
    assert seen(samples, told, own).tolist() == [[3.0, 1.0, 2.0, 1.5]]
    assert channel_of_feature(told) == [0, 1, 0, 1]


def test_soft_and_hard_branches_keep_their_order():
    told = inputs(Branch("a", [[1.0]]), Branch("s", [[1.0]], soft=True), Branch("b", [[2.0]]))
    samples = np.array([[[0, 0], [0, 0], [0, 0], [np.e - 1, 1 - np.e]]], np.float32)
    assert seen(samples, told)[0] == pytest.approx(
        [np.e - 1, 1 - np.e, 1.0, -1.0, 2 * (np.e - 1), 2 * (1 - np.e)], rel=1e-6
    )
    assert branch_of_feature(told).tolist() == [0, 0, 1, 1, 2, 2]


def test_channels_are_clipped_before_they_are_filtered_and_no_number_counts_as_far_off():
    samples = np.array([[[0, 0], [0, 0], [100, np.nan], [0, 0]]], np.float32)
    assert seen(samples, inputs(Branch("d", [[0.0, 1.0]]))).tolist() == [[8.0, 8.0]]


def test_ewma_weights_are_the_recursion_that_began_with_the_oldest_row():
    x = np.random.default_rng(1).standard_normal(12)
    average = x[0]
    for value in x[1:]:
        average += 0.3 * (value - average)
    assert float(ewma_taps(0.3, 12) @ x[::-1]) == pytest.approx(average, abs=1e-12)


def test_a_flight_s_first_windows_reach_back_to_its_first_row():
    told = inputs(Branch("e", [ewma_taps(0.25, 6).tolist()]), window=6)
    rows = walk(30)
    windows = cut(recording(rows), told)
    assert windows.end_row.tolist() == list(range(30))
    assert np.array_equal(windows.samples[1], rows[[0, 0, 0, 0, 0, 1]])
    averages = [rows[0]]
    for row in rows[1:6]:
        averages.append(averages[-1] + 0.25 * (row - averages[-1]))
    assert temporal(windows, told, UNIT)[:6] == pytest.approx(np.array(averages), abs=1e-5)


@pytest.mark.parametrize("hop", [1, 2, 3])
@pytest.mark.parametrize("portion", [1, 2, 5, 40])
def test_any_portions_give_the_same_padded_windows(hop, portion):
    told = inputs(Branch("d", [[1.0]]), window=5, hop=hop)
    rows = walk(40)
    whole = cut(recording(rows), told)
    cutter = Cutter(told)
    parts = [cutter.push(rows[i : i + portion], float(i)) for i in range(0, 40, portion)]
    assert np.array_equal(np.concatenate([p.samples for p in parts]), whole.samples)
    assert np.concatenate([p.end_row for p in parts]).tolist() == whole.end_row.tolist() == list(range(0, 40, hop))
    assert np.concatenate([p.start_s for p in parts]) == pytest.approx(whole.start_s)


def test_padding_begins_anew_after_a_gap():
    told = inputs(Branch("d", [[1.0]]), window=3)
    rows = walk(10)
    windows = cut(recording(rows, segments=((0, 4), (6, 10))), told)
    assert windows.end_row.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert np.array_equal(windows.samples[4], rows[[6, 6, 6]])
    assert windows.flight.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("hop", [1, 2])
def test_a_ring_of_new_rows_gives_back_the_windows_that_were_scored(tmp_path, hop):
    told = inputs(Branch("d", [[1.0]]), window=7, hop=hop)
    rows = walk(21)
    whole = cut(recording(rows), told)
    path = tmp_path / "ring.bin"
    create_ring(path, RingInfo(("x", "y"), 1.0, hop, 64))
    with RingWriter(path) as ring:
        ring.begin_flight()
        for n, window in enumerate(whole.samples):
            ring.append(window[-hop:].astype("<f4").tobytes(), float(whole.start_s[n]) + 7 - hop, n)
    found = ring_windows(path, told)
    assert np.array_equal(found.samples, whole.samples)
    assert found.end_row.tolist() == whole.end_row.tolist()
    assert found.start_s.tolist() == whole.start_s.tolist()
    assert path.stat().st_size < 4096 + 64 * (40 + 8 * hop) + 1


def test_a_ring_with_a_hole_reaches_back_to_the_hole_only(tmp_path):
    told = inputs(Branch("d", [[1.0]]), window=3)
    path = tmp_path / "ring.bin"
    create_ring(path, RingInfo(("x", "y"), 1.0, 1, 16))
    with RingWriter(path) as ring:
        ring.begin_flight()
        for index in (0, 1, 5):
            ring.append(np.full(2, index, "<f4").tobytes(), float(index), index)
    found = ring_windows(path, told)
    assert found.samples[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 1], [5, 5, 5]]
    assert found.flight.tolist() == [0, 0, 1]


def test_a_commissioned_ring_holds_a_row_a_window(tmp_path):
    import logging
    import threading

    told = inputs(Branch("d", [[1.0]]), window=50)
    file = tmp_path / "flight.csv"
    rows = walk(40)
    file.write_text("x;y\n" + "".join(f"{x:.9g};{y:.9g}\n" for x, y in rows))
    ring = Ring(tmp_path / "ring.bin", told, 64, logging.getLogger("t"))
    ring.commission([str(file)], [], threading.Event(), logging.getLogger("t"))
    ring.close()
    found = ring_windows(tmp_path / "ring.bin", told)
    assert found.samples == pytest.approx(cut(recording(rows), told).samples)
    assert (tmp_path / "ring.bin").stat().st_size <= 4096 + 64 * (40 + 8)


def test_a_device_normalises_channels_by_every_row_once():
    told = inputs(Branch("d", [[1.0, -1.0]]), window=2)
    base, _ = contents()
    manifest = msgspec.structs.replace(
        base,
        inputs=told,
        model=Model("project", 2, 2),
        defaults=msgspec.structs.replace(
            base.defaults, center=[0.0] * 2, scale=[1.0] * 2, spread=[1.0] * 2, channel_center=[0.0] * 2,
            channel_scale=[1.0] * 2,
        ),
        scoring=msgspec.structs.replace(base.scoring, channel_of_feature=[0, 1], commission_windows=2, smoothing=1.0),
    )  # fmt: skip
    rows = np.array([[1, 10], [3, 10], [5, 10]], np.float32)

    class Identity:
        def run(self, x):
            return x

    made = calibrate(manifest, "0" * 64, cut(recording(rows), told), {"onnx": Identity()}, 0.0)
    assert made.channel_center == [3.0, 10.0]
    assert made.channel_scale == pytest.approx([np.sqrt(8 / 3), 1e-3])
    # Differences of u: 0 (padded), 2 / s, 2 / s: their mean is the center, the scale is the bundle's.
    assert made.center == pytest.approx([4 / 3 / np.sqrt(8 / 3), 0.0])
    assert made.scale == [1.0, 1.0]


def test_named_branches_are_what_they_say():
    assert branch("lag3").taps == [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0]]
    ms = branch("ms").taps
    assert sum(ms[1]) == pytest.approx(0, abs=1e-6)
    assert ms[1][:2] == pytest.approx([1 - 2 / 7, -2 / 7 * 5 / 7])
    assert ms[2][0] == pytest.approx(2 / 7 - 2 / 37)
    cosine, sine = branch("bands1").taps
    assert np.linalg.norm(cosine) == pytest.approx(1)
    assert abs(np.dot(cosine, sine)) < 1e-6
    spectrum = np.abs(np.fft.rfft(cosine))
    assert int(spectrum.argmax()) == 2


@pytest.mark.parametrize("hop", [1, 3])
def test_consecutive_windows_have_the_features_that_each_has_alone(hop):
    told = Inputs(
        ["x", "y"], 1.0, 40, hop,
        Features(
            "temporal", branches=[Branch("e", [ewma_taps(0.1, 40).tolist(), [1.0, -1.0]]),
            Branch("s", [[0.0, 0.0, 1.0]], soft=True), Branch("d", [[1.0], [0.0, 1.0]], daily=True)],
            channel_clip=3.0, trend_rows=16, day_rows=24,
        ),
    )  # fmt: skip
    rows = walk(90, seed=3) * 4
    windows = cut(recording(rows, segments=((0, 60), (63, 90))), told)
    course = np.random.default_rng(5).standard_normal((13, 2)).astype(np.float32)
    for wanders in ([], [1], [0, 1]):
        own = Channels(rows.mean(axis=0), rows.std(axis=0), np.array(wanders, np.int64), course)
        whole = temporal(windows, told, own)
        alone = [
            temporal(
                Windows(windows.samples[n : n + 1], windows.end_row[n : n + 1], windows.flight[n : n + 1],
                        windows.start_s[n : n + 1]), told, own)[0]
            for n in range(len(windows))
        ]  # fmt: skip
        assert whole == pytest.approx(np.array(alone), abs=1e-5)


def test_a_wandering_channel_is_taken_from_its_slow_average():
    told = Inputs(["x", "y"], 1.0, 6, 1, Features("temporal", branches=[Branch("n", [[1.0]])], trend_rows=2))
    rows = np.array([[0, 0], [4, 4], [8, 8]], np.float32)
    windows = cut(recording(rows), told)
    own = Channels(np.array([2, 2], np.float32), np.array([2, 2], np.float32), np.array([1]))
    # Averages of weight 1/2 begun with the first row: 0, 2, 5; what is left of y: 0, 2, 3, in spreads of 2.
    assert temporal(windows, told, own) == pytest.approx(np.array([[-1, 0], [1, 1], [3, 1.5]]), abs=0.02)


def test_padding_begins_anew_after_a_live_gap():
    told = inputs(Branch("d", [[1.0]]), window=3)
    cutter = Cutter(told)
    cutter.push(walk(4), 0.0)
    cutter.gap()
    rows = walk(2, seed=1)
    windows = cutter.push(rows, 50.0)
    assert np.array_equal(windows.samples[0], rows[[0, 0, 0]])
    assert windows.end_row.tolist() == [4, 5]
    assert windows.end_s(told) == pytest.approx([50.0, 51.0])


def test_windows_with_a_hole_between_them_are_not_taken_for_consecutive_ones():
    told = inputs(Branch("d", [[0.0, 1.0]]), window=4)
    rows = walk(60)
    windows = cut(recording(rows), told)
    some = np.r_[0:20, 30:60]
    left = Windows(windows.samples[some], windows.end_row[some], windows.flight[some], windows.start_s[some])
    assert temporal(left, told, UNIT) == pytest.approx(temporal(windows, told, UNIT)[some])
