"""Calibration by hand-worked cases: two channels, a network that is the identity, a ring of a few windows."""

import math

import msgspec
import numpy as np
import pytest

from covey.bundle import Features, Inputs, Model
from covey.errors import DataError
from covey.ring import RingInfo, RingWriter, create_ring
from covey.sketch import Sketch
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.scorer import Scorer
from edge.scoring.windows import DRONE_CHANNEL_OF_FEATURE, DRONE_CHANNELS, Windows
from model_bundles import contents

DIGEST = "0" * 64


class Identity:
    def run(self, x):
        return x


def manifest(window=2, hop=1, **scoring):
    """Lag features of channels x, y; the raw score of a window is the mean of z^2."""
    base, _ = contents()
    d = 2 * window
    rules = {"smoothing": 1.0, "quantile": 0.5, "factor": 2.0, "commission_windows": 2} | scoring
    return msgspec.structs.replace(
        base,
        inputs=msgspec.structs.replace(base.inputs, window=window, hop=hop),
        model=Model(kind="project", inputs=d, outputs=d),
        defaults=msgspec.structs.replace(base.defaults, center=[0.0] * d, scale=[1.0] * d, spread=[1.0] * d),
        scoring=msgspec.structs.replace(base.scoring, channel_of_feature=[0, 1] * window, **rules),
    )


def windows(samples, flights, window):
    samples = np.asarray(samples, np.float32)
    n = len(samples)
    return Windows(samples.reshape(n, window, -1), np.arange(n), np.asarray(flights), np.arange(n, dtype=float))


def test_lag_affine_is_mean_and_std_of_each_channel_over_the_lags():
    # x: 1, 3; y: 10, 10 in one window each (T = 1): mean (2, 10), std (1, 0 -> floor 1e-3 of scale 1).
    one = manifest(window=1)
    made = calibrate(one, DIGEST, windows([[1, 10], [3, 10]], [0, 0], 1), {"onnx": Identity()}, 0.0)
    assert made.center == [2.0, 10.0]
    assert made.scale == pytest.approx([1.0, 1e-3])
    # z = (-1, 0) and (1, 0): both score 1/2; threshold = 2 * median.
    assert made.thresholds == {"onnx": pytest.approx(1.0)}
    assert made.spread == pytest.approx([1.0, 1e-3])
    assert (made.windows, made.flights, made.bundle, made.made) == (2, 1, DIGEST, "1970-01-01T00:00:00.000Z")


def test_rows_that_overlapping_windows_share_count_once():
    # Rows 0, 0, 6 in windows (0, 0), (0, 6) with hop 1: mean 2, not 1.5; variance (4 + 4 + 16) / 3 = 8.
    samples = [[[0, 0], [0, 0]], [[0, 0], [6, 6]]]
    made = calibrate(manifest(window=2), DIGEST, windows(samples, [0, 0], 2), {"onnx": Identity()}, 0.0)
    assert made.center == [2.0] * 4
    assert made.scale == pytest.approx([math.sqrt(8)] * 4)


def test_first_window_of_each_flight_counts_whole():
    # Two flights of one window each: rows 0, 2 and 4, 6 -> mean 3, variance (9 + 1 + 1 + 9) / 4 = 5.
    samples = [[[0, 0], [2, 2]], [[4, 4], [6, 6]]]
    made = calibrate(manifest(window=2), DIGEST, windows(samples, [0, 1], 2), {"onnx": Identity()}, 0.0)
    assert made.center == [3.0] * 4
    assert made.scale == pytest.approx([math.sqrt(5)] * 4)
    assert made.flights == 2


def test_smoothing_starts_anew_with_each_flight():
    # z of x: values -1, 1 (std 1) by flight (0, 0, 1, 1) with y constant -> raw 1/2 always. Make raw differ by size:
    # x = -3, 1, 1, 1: mean 0, var 3; z^2 = 3, 1/3, 1/3, 1/3; raw = z^2 / 2 = 1.5, 1/6, 1/6, 1/6.
    # alpha 1/2: flight 0: 1.5, 1.5 + (1/6 - 1.5)/2 = 5/6; flight 1: 1/6, 1/6. The maximum but one is 5/6.
    made = calibrate(
        manifest(window=1, smoothing=0.5, quantile=2 / 3, factor=1.0),
        DIGEST,
        windows([[-3, 5], [1, 5], [1, 5], [1, 5]], [0, 0, 1, 1], 1),
        {"onnx": Identity()},
        0.0,
    )
    assert made.thresholds["onnx"] == pytest.approx(5 / 6)
    sketch = Sketch.from_wire(made.reference["onnx"])
    assert sketch.count == 4
    assert sketch.quantile(1.0) == pytest.approx(1.5, rel=0.011)


def drone_manifest(scale):
    base = manifest(window=1)
    return msgspec.structs.replace(
        base,
        inputs=Inputs(list(DRONE_CHANNELS), 25.0, 2, 2, Features(kind="drone", airborne_above=1000.0)),
        model=Model(kind="project", inputs=11, outputs=11),
        defaults=msgspec.structs.replace(base.defaults, center=[0.0] * 11, scale=[scale] * 11, spread=[1.0] * 11),
        scoring=msgspec.structs.replace(base.scoring, channel_of_feature=list(DRONE_CHANNEL_OF_FEATURE)),
    )


def hover(ax, motors=(40_000, 40_000, 40_000, 40_000)):
    return [[*motors, ax, 0.0, 1.0]] * 2


def test_drone_flights_weigh_alike_and_scale_is_the_variance_within():
    # Mean acceleration x (feature 8): flight 0: 0, 2, 0, 2 -> mean 1, variance 1; flight 1: 6, 12 -> mean 9, variance 9.
    # Center (1 + 9) / 2 = 5, not the mean over windows 22/6; scale sqrt((1 + 9) / 2).
    samples = [hover(0), hover(2), hover(0), hover(2), hover(6), hover(12)]
    made = calibrate(drone_manifest(1.0), DIGEST, windows(samples, [0, 0, 0, 0, 1, 1], 2), {"onnx": Identity()}, 0.0)
    assert made.center[8] == pytest.approx(5.0)
    assert made.scale[8] == pytest.approx(math.sqrt(5))
    assert made.center[:4] == pytest.approx([0.0] * 4)
    assert made.scale[0] == pytest.approx(1e-3)


def test_a_drones_threshold_has_room_for_the_flight_to_come():
    # Feature 8 (mean ax): flight 0: 0, 2; flight 1: 8, 10 -> center 5, scale 1, flights' means 4 away from it. Two flights
    # stand for a third with sqrt(3/1) times that distance: z = -+(1 + 4 sqrt 3), -+(4 sqrt 3 - 1); eleven features a score.
    one = drone_manifest(1.0)
    one = msgspec.structs.replace(
        one, scoring=msgspec.structs.replace(one.scoring, smoothing=1.0, quantile=0.5, factor=1.0)
    )
    samples = [hover(0), hover(2), hover(8), hover(10)]
    made = calibrate(one, DIGEST, windows(samples, [0, 0, 1, 1], 2), {"onnx": Identity()}, 0.0)
    near, far = (4 * math.sqrt(3) - 1) ** 2 / 11, (4 * math.sqrt(3) + 1) ** 2 / 11
    assert made.thresholds["onnx"] == pytest.approx((near + far) / 2, rel=1e-5)


def test_a_flight_of_one_window_tells_no_variance():
    samples = [hover(0), hover(2), hover(7)]
    made = calibrate(drone_manifest(1.0), DIGEST, windows(samples, [0, 0, 1], 2), {"onnx": Identity()}, 0.0)
    assert made.center[8] == pytest.approx((1 + 7) / 2)
    assert made.scale[8] == pytest.approx(1.0)
    alone = calibrate(drone_manifest(0.7), DIGEST, windows([hover(0), hover(7)], [0, 1], 2), {"onnx": Identity()}, 0.0)
    assert alone.scale == [0.7] * 11


def test_every_runtime_gets_its_own_threshold():
    class Half:
        def run(self, x):
            return x / 2

    made = calibrate(
        manifest(window=1), DIGEST, windows([[1, 10], [3, 12]], [0, 0], 1), {"onnx": Identity(), "litert": Half()}, 0.0
    )
    assert made.thresholds["onnx"] == pytest.approx(4 * made.thresholds["litert"])
    assert set(made.reference) == {"onnx", "litert"}


def test_calibrated_scores_do_not_depend_on_batches():
    rng = np.random.default_rng(3)
    many = windows(rng.normal(size=(700, 2)), [0] * 400 + [1] * 300, 1)
    one = manifest(window=1, smoothing=0.1, quantile=0.9, factor=1.0)
    made = calibrate(one, DIGEST, many, {"onnx": Identity()}, 0.0)
    scored = Scorer(one, Identity(), "onnx", made).score(many)
    assert made.thresholds["onnx"] == pytest.approx(np.quantile(scored.score, 0.9))
    assert made.spread == pytest.approx(np.sqrt(np.mean(scored.error**2, axis=0)))


def test_constant_data_give_a_threshold_above_zero():
    made = calibrate(manifest(window=1), DIGEST, windows([[1, 1]] * 4, [0] * 4, 1), {"onnx": Identity()}, 0.0)
    assert made.thresholds["onnx"] > 0


def test_too_few_windows_are_refused_with_both_numbers():
    with pytest.raises(DataError, match="at least 5 normal windows expected, 2 found"):
        calibrate(
            manifest(window=1, commission_windows=5),
            DIGEST,
            windows([[1, 1]] * 2, [0, 0], 1),
            {"onnx": Identity()},
            0.0,
        )


def test_samples_that_are_not_finite_are_named():
    with pytest.raises(DataError, match="nan found in window 1, channel y"):
        calibrate(manifest(window=1), DIGEST, windows([[1, 1], [1, math.nan]], [0, 0], 1), {"onnx": Identity()}, 0.0)


def ring(path, channels=("x", "y"), window=2):
    create_ring(path, RingInfo(channels, 1.0, window, 16))
    return path


def test_a_jump_in_a_rings_flight_begins_a_new_flight(tmp_path):
    with RingWriter(ring(tmp_path / "ring.bin")) as writer:
        for flight, indexes in ((1, (0, 1, 3)), (2, (4, 5))):
            assert writer.begin_flight() == flight
            for index in indexes:
                sample = np.full((2, 2), 10 * flight + index, "<f4")
                writer.append(sample.tobytes(), 100.0 + index, index, flags=1)
    found = ring_windows(tmp_path / "ring.bin", manifest(window=2).inputs)
    assert found.flight.tolist() == [0, 0, 1, 2, 2]
    assert found.samples[:, 0, 0].tolist() == [10, 11, 13, 24, 25]
    assert found.start_s.tolist() == [100, 101, 103, 104, 105]
    assert found.end_row.tolist() == [1, 2, 4, 5, 6]


def test_an_empty_ring_gives_no_windows(tmp_path):
    found = ring_windows(ring(tmp_path / "ring.bin"), manifest(window=2).inputs)
    assert len(found) == 0
    assert found.samples.shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("channels", "window", "told"),
    [(("y", "x"), 2, "channels x, y expected, y, x found"), (("x", "y"), 3, "windows of 2 samples expected, 3 found")],
)
def test_a_ring_of_another_kind_is_refused(tmp_path, channels, window, told):
    path = ring(tmp_path / "ring.bin", channels, window)
    with pytest.raises(DataError, match=told):
        ring_windows(path, manifest(window=2).inputs)


def test_a_threshold_is_wider_the_more_of_the_model_is_the_device_s_own():
    from edge.scoring.calibration import factor_of

    scoring = msgspec.structs.replace(manifest().scoring, factor=1.1, alone=0.2, known_windows=400)
    assert factor_of(scoring, 100) == pytest.approx(1.15)
    assert factor_of(scoring, 400) == factor_of(scoring, 4000) == pytest.approx(1.3)
    assert factor_of(msgspec.structs.replace(scoring, known_windows=0), 100) == pytest.approx(1.1)
