"""Differential privacy: what epsilon is, when it stops, how large the noise is, what one device can add."""

from __future__ import annotations

import math

import numpy as np
import pytest

from covey.errors import AggregationError, UsageError
from federated.config import Plan, PrivacyOptions
from federated.privacy import Budget, average, bounded, drawn, fault


def plan(fraction=1.0, **options):
    return Plan("dense-ae", strategy="fedavg", fraction=fraction, compress="none", privacy=PrivacyOptions(**options))


def gaussian_epsilon(noise, rounds, delta):
    """The Gaussian mechanism composed: exact curve of Balle and Wang (ICML 2018), theorem 8, solved by bisection."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    mu = math.sqrt(rounds) / noise
    low, high = 0.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        value = phi(mu / 2 - middle / mu) - math.exp(middle) * phi(-mu / 2 - middle / mu)
        low, high = (low, middle) if value <= delta else (middle, high)
    return high


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (1.0, 10), (4.0, 20)])
def test_epsilon_is_an_upper_bound_close_to_the_exact_one(noise, rounds):
    made = plan(noise=noise, epsilon=1000.0)
    spent = Budget(made, made.privacy, rounds).epsilon
    exact = gaussian_epsilon(noise, rounds, 1e-5)
    assert exact <= spent <= 1.15 * exact + 0.1


def test_drawing_a_part_of_the_fleet_costs_less():
    whole, tenth = plan(epsilon=1000.0), plan(0.1, epsilon=1000.0)
    assert Budget(tenth, tenth.privacy, 10).epsilon < 0.5 * Budget(whole, whole.privacy, 10).epsilon


def test_a_budget_that_goes_on_knows_what_was_spent():
    made = plan(epsilon=1000.0)
    budget = Budget(made, made.privacy, 0)
    assert budget.epsilon == 0.0
    spent = [budget.spend() for _ in range(3)]
    assert spent == sorted(spent)
    assert Budget(made, made.privacy, 3).epsilon == pytest.approx(spent[-1])


def test_no_round_is_allowed_that_would_exceed_the_budget():
    exact = gaussian_epsilon(1.0, 3, 1e-5)
    made = plan(noise=1.0, epsilon=1.1 * exact)
    budget = Budget(made, made.privacy, 0)
    rounds = 0
    while budget.allows():
        budget.spend()
        rounds += 1
    assert rounds == 3
    assert budget.epsilon <= made.privacy.epsilon


def test_the_noise_has_the_size_that_was_accounted_for():
    size = 20_000
    made = plan(noise=2.0, clip=0.5, epsilon=1000.0)
    steps = [{"w": np.full(size, 1e-9)} for _ in range(4)]
    noisy = average(made, made.privacy, 1, steps, 4)["w"]
    # deviation of the mean: noise * clip / devices; of an estimate of it: 1 / sqrt(2 n)
    assert noisy.std() == pytest.approx(2.0 * 0.5 / 4, rel=5 / math.sqrt(2 * size))
    assert abs(noisy.mean()) < 5 * 0.25 / math.sqrt(size)


def test_the_divisor_is_the_number_of_devices_expected_not_that_which_came():
    size = 20_000
    made = plan(0.5, noise=2.0, clip=0.5, epsilon=1000.0)
    noisy = average(made, made.privacy, 1, [{"w": np.full(size, 1e-9)}] * 3, 20)["w"]
    assert noisy.std() == pytest.approx(2.0 * 0.5 / 10, rel=5 / math.sqrt(2 * size))


@pytest.mark.parametrize("side", ["server", "client"])
def test_no_device_adds_more_than_the_clip(side):
    made = plan(noise=1e-6, clip=1.0, epsilon=1e18, side=side)
    small, large = {"w": np.array([0.3, 0.4])}, {"w": np.array([0.0, 5.0])}
    if side == "client":
        assert "norm of at most 1 expected of a device that clips" in fault(made.privacy, large)
        small, large = bounded(small, 1.0), bounded(large, 1.0)
        assert fault(made.privacy, large) is None
    mean = average(made, made.privacy, 1, [small, large], 2)["w"]
    np.testing.assert_allclose(mean, [0.15, 0.7], atol=1e-4)


def test_windows_do_not_weigh_in_a_private_mean():
    made = plan(noise=1e-6, clip=10.0, epsilon=1e18)
    mean = average(made, made.privacy, 1, [{"w": np.array([1.0])}, {"w": np.array([3.0])}], 2)["w"]
    np.testing.assert_allclose(mean, [2.0], atol=1e-3)


def test_noise_is_never_the_same_whatever_was_seeded():
    made = plan(epsilon=1000.0)
    told = []
    for _ in range(2):
        np.random.seed(1)  # noqa: NPY002
        told.append(average(made, made.privacy, 1, [{"w": np.ones(3)}], 1)["w"])
    assert (told[0] != told[1]).all()


def test_an_update_of_nothing_is_refused():
    assert "not zero expected" in fault(PrivacyOptions(), {"w": np.zeros(2)})
    with pytest.raises(AggregationError, match="at least one update"):
        average(plan(), PrivacyOptions(), 1, [], 2)


def test_devices_are_drawn_each_by_itself():
    assert drawn([1, 2, 3], 1.0) == [1, 2, 3]
    counts = [len(drawn(range(1000), 0.2)) for _ in range(20)]
    assert len(set(counts)) > 1
    assert all(200 - 6 * 12.7 < count < 200 + 6 * 12.7 for count in counts)  # deviation sqrt(1000 * .2 * .8) = 12.65


def test_without_the_accountant_nothing_is_trained(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UsageError, match="dp-accounting expected, not installed"):
        Budget(plan(), PrivacyOptions(), 0)
