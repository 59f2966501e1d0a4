"""Many autoencoders in lockstep against each one trained alone by `dense.train`, to the last bit."""

import numpy as np
import pytest

from covey.errors import AggregationError, DataError
from federated.families import dense, dense_batch
from federated.families.dense_batch import Pupil, train_many

WIDTH = 12
START = dense.init(WIDTH, (8, 3, 8), seed=4)


def windows(count, seed):
    plane = np.random.default_rng(7).standard_normal((3, WIDTH))
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 3)) @ plane + 0.1 * rng.standard_normal((count, WIDTH))).astype(np.float32)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# Full and unfull last minibatches of 16 (of one window as well), one window, less than a minibatch, the same count twice
# and the same last minibatch of other counts.
COUNTS = (64, 1, 37, 16, 129, 7, 64, 15, 7, 130, 37, 129, 21, 17)
PUPILS = [Pupil(windows(count, seed), seed + 100) for seed, count in enumerate(COUNTS)]


@pytest.mark.parametrize("proximal", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [16, 1, 500])
def test_each_client_gets_what_training_alone_gives(batch_size, proximal):
    options = {"batch_size": batch_size, "proximal": proximal}
    together = train_many(START, PUPILS, 3, 2e-3, **options)
    for pupil, trained in zip(PUPILS, together, strict=True):
        alone, _ = dense.train(START, pupil.x, 3, 2e-3, pupil.seed, **options)
        assert all(a == pytest.approx(b, rel=1e-5, abs=1e-6) for a, b in zip(alone, trained, strict=True))
        assert same(alone, trained)


def test_who_trains_beside_a_client_changes_nothing_for_it(monkeypatch):
    whole = train_many(START, PUPILS, 2, 2e-3, batch_size=16)
    for most, threads in ((1, 1), (3, 1), (3, 4)):
        monkeypatch.setattr(dense_batch, "MOST", most)
        monkeypatch.setattr(dense_batch, "THREADS", threads)
        part = train_many(START, PUPILS[2:7], 2, 2e-3, batch_size=16)
        assert all(same(a, b) for a, b in zip(whole[2:7], part, strict=True))


def test_seeds_order_the_windows_of_their_own_client():
    x = windows(60, 1)
    one, other, again = train_many(START, [Pupil(x, 1), Pupil(x, 2), Pupil(x, 1)], 2, 2e-3, batch_size=16)
    assert same(one, again)
    assert not same(one, other)


def test_double_precision_stays_double_precision():
    start = [values.astype(np.float64) for values in START]
    (trained,) = train_many(start, PUPILS[:1], 2, 2e-3, batch_size=16)
    alone, _ = dense.train(start, PUPILS[0].x, 2, 2e-3, PUPILS[0].seed, batch_size=16)
    assert all(values.dtype == np.float64 for values in trained)
    assert same(alone, trained)


def test_a_client_whose_windows_cannot_be_used_costs_the_others_nothing():
    bad = [
        Pupil(windows(5, 0)[:, :4], 1),
        Pupil(np.full((9, WIDTH), np.nan, np.float32), 2),
        Pupil(np.empty((0, WIDTH), np.float32), 3),
    ]
    results = train_many(START, [PUPILS[0], *bad, PUPILS[1]], 2, 2e-3, batch_size=16)
    expected = train_many(START, PUPILS[:2], 2, 2e-3, batch_size=16)
    assert [type(one) for one in results[1:4]] == [DataError] * 3
    assert ["(N, 12)" in str(results[1]), "not finite" in str(results[2]), "N >= 1" in str(results[3])] == [True] * 3
    assert same(results[0], expected[0])
    assert same(results[4], expected[1])


def test_a_diverged_client_is_told_and_the_start_is_left_alone():
    kept = [values.copy() for values in START]
    results = train_many(START, PUPILS[:3], 5, 1e30, batch_size=16)
    assert [type(one) for one in results] == [AggregationError] * 3
    assert "diverged at learning rate 1e+30 on 64 windows" in str(results[0])
    assert same(START, kept)


def test_no_client_and_no_epoch_and_bad_options():
    assert train_many(START, [], 1, 1e-3) == []
    (untouched,) = train_many(START, PUPILS[:1], 0, 1e-3)
    assert same(untouched, START)
    with pytest.raises(DataError, match="lr > 0"):
        train_many(START, PUPILS, 1, 0.0)
