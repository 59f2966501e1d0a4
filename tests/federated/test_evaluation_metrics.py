"""Figures of the evaluation against numbers worked by hand, and against libraries where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import DataError
from federated.evaluation.metrics import (
    NO_PERIOD,
    Counts,
    auc_pr,
    count,
    filled,
    period,
    vus_here,
    vus_pr,
)


def truth(text):
    return np.array([letter == "1" for letter in text])


def test_counts_and_rates_are_those_of_the_leaderboard():
    found = count(truth("1110000011"), truth("1100010010"))
    assert found == Counts(tp=3, fp=2, fn=1, tn=4)
    assert found.f1 == pytest.approx(3 / (3 + (2 + 1) / 2))
    assert found.far == pytest.approx(2 / 6)
    assert found.mar == pytest.approx(1 / 4)


def test_counts_of_devices_add_up_before_the_rates_are_taken():
    total = Counts(8, 0, 2, 10) + Counts(0, 5, 0, 5)
    assert (total.f1, total.far, total.mar) == (8 / 11.5, 5 / 20, 2 / 10)


def test_rates_without_rows_to_rest_on_are_none():
    healthy = Counts(tn=5)
    assert (healthy.f1, healthy.far, healthy.mar) == (None, 0.0, None)
    assert Counts(tp=1).far is None


def test_one_hit_in_a_long_anomaly_stays_one_hit():
    # With point adjustment it would count as five.
    assert count(truth("0000100"), truth("0111110")).tp == 1


def test_average_precision_is_the_area_under_the_steps():
    # Ranked 1 0 1 1 0: precision 1, 2/3, 3/4 at the three hits.
    score = np.array([0.1, 0.9, 0.5, 0.8, 0.6])
    label = truth("01101")
    assert auc_pr(label, score) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_equal_scores_share_a_threshold():
    # Two of four rows above the rest, one of them right; then all: 1/2 * 1/2 + 1/2 * 2/4.
    assert auc_pr(truth("1010"), np.array([2.0, 2.0, 1.0, 1.0])) == pytest.approx(0.5)
    assert auc_pr(truth("1000"), np.ones(4)) == pytest.approx(0.25)


def test_areas_need_both_classes():
    for label in (truth("0000"), truth("1111")):
        assert auc_pr(label, np.arange(4.0)) is None
        assert vus_pr(label, np.arange(4.0), 2) is None


def test_rows_without_a_score_are_the_least_suspicious():
    assert filled(np.array([np.nan, 3.0, 2.0])).tolist() == [2.0, 3.0, 2.0]
    assert filled(np.array([np.nan, np.nan])).tolist() == [0.0, 0.0]


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="finite scores expected"):
        auc_pr(truth("10"), np.array([np.nan, 1.0]))
    with pytest.raises(DataError, match="one length"):
        auc_pr(truth("10"), np.arange(3.0))


def test_the_period_of_a_swing_is_found_and_noise_of_none_is_told():
    rows = np.arange(5000)
    assert abs(period(np.sin(2 * np.pi * rows / 48)) - 48) <= 1
    assert period(np.zeros(1000)) == NO_PERIOD
    assert period(rows.astype(float)[:10]) == NO_PERIOD


def test_areas_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for digits in (1, 6):
        score = rng.standard_normal(400).round(digits)
        label = rng.random(400) < 0.2 + 0.3 * (score > 0.5)
        assert auc_pr(label, score) == pytest.approx(metrics.average_precision_score(label, score))


@pytest.mark.skipif(not vus_here(), reason="extra evaluate (aeon) is not installed")
def test_vus_over_some_buffers_is_close_to_the_library_over_all():
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_vus_score

    rng = np.random.default_rng(5)
    label = np.zeros(2000, bool)
    for start in (200, 700, 1500):
        label[start : start + 60] = True
    score = rng.random(2000) + 0.7 * np.roll(label, 10)
    whole = range_pr_vus_score(label.astype(int), score, max_buffer_size=60)
    assert vus_pr(label, score, 60) == pytest.approx(whole, abs=2e-3)
    assert vus_pr(label, score, 10) == pytest.approx(range_pr_vus_score(label.astype(int), score, 10), abs=1e-12)
    assert vus_pr(label, np.ones(2000), 60) == 0.0
