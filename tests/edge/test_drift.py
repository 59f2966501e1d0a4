"""Drift on the device against hand-worked distributions."""

import math

import numpy as np
import pytest

from covey.sketch import Sketch
from edge.scoring.drift import HALF_LIFE_WINDOWS, DriftWatch


def reference(n=10_000):
    sketch = Sketch()
    sketch.extend(float(v) for v in np.linspace(0.01, 10, n))  # even: each decile is 1 wide
    return sketch


def test_a_stream_like_the_reference_shows_no_drift():
    watch = DriftWatch(reference(), 2)
    rng = np.random.default_rng(1)
    for score in rng.uniform(0, 10, 2000):
        watch.add([float(score)], np.zeros((1, 2), np.float32))
    assert watch.now().psi < 0.03


def test_ten_windows_of_a_sound_device_are_no_drift_on_average():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(200):
        watch = DriftWatch(reference(), 1)
        for score in rng.uniform(0, 10, 100):
            watch.add([float(score)], np.zeros((1, 1), np.float32))
        found.append(watch.now().psi)
    assert np.mean(found) < 0.06  # uncorrected it is 9/100 and more


def test_the_index_of_a_shifted_stream_is_the_textbooks():
    # All scores in the upper half: five deciles hold .2 each, five hold nothing (1e-4):
    # 5 (.2 - .1) ln 2 + 5 (1e-4 - .1) ln 1e-3 = .347 + 3.450
    expected = 5 * 0.1 * math.log(2) + 5 * (1e-4 - 0.1) * math.log(1e-3)
    watch = DriftWatch(reference(), 1)
    n = 20 * HALF_LIFE_WINDOWS
    for score in np.tile([5.5, 6.5, 7.5, 8.5, 9.5], n // 5):
        watch.add([float(score)], np.zeros((1, 1), np.float32))
    effective = (1 + 0.5 ** (1 / HALF_LIFE_WINDOWS)) / (1 - 0.5 ** (1 / HALF_LIFE_WINDOWS))
    assert watch.now().psi == pytest.approx(expected - 9 / effective, rel=0.02)


def test_the_feature_that_moved_most_is_named_with_its_shift():
    watch = DriftWatch(reference(), 3)
    for _ in range(50):
        watch.add([1.0], np.array([[0.1, -2.0, 0.5]], np.float32))
    assert watch.now()[1:] == (pytest.approx(2.0), 1)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_how_many_windows_come_at_once_does_not_matter(at_once):
    rng = np.random.default_rng(3)
    scores, z = rng.uniform(0, 12, 700), rng.standard_normal((700, 4)).astype(np.float32)
    one, many = DriftWatch(reference(), 4), DriftWatch(reference(), 4)
    one.add(scores.tolist(), z)
    for start in range(0, 700, at_once):
        many.add(scores[start : start + at_once].tolist(), z[start : start + at_once])
    assert many.now() == pytest.approx(one.now(), rel=1e-6)


def test_it_forgets_with_its_half_life():
    watch = DriftWatch(reference(), 1)
    for _ in range(40 * HALF_LIFE_WINDOWS):
        watch.add([1.0], np.ones((1, 1), np.float32))
    for _ in range(HALF_LIFE_WINDOWS):
        watch.add([1.0], np.zeros((1, 1), np.float32))
    assert watch.now().shift == pytest.approx(0.5, abs=0.001)


def test_numbers_stay_finite_over_a_million_windows_of_one_score():
    watch = DriftWatch(reference(), 1)
    for _ in range(1_000_000 // 4):
        watch.add([3.0], np.ones((1, 1), np.float32))
    assert np.isfinite(watch.now()[:2]).all()
