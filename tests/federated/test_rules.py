"""What each rule makes of updates (by hand), and what is refused before one runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from covey.errors import AggregationError
from federated.config import DenseOptions, Plan, ServerOptions
from federated.plans import fewest
from federated.rules import average, bearable, bounded_steps, hostile_of, moved, trimmed_share

FIVE = [0.0, 0.1, 0.25, 0.3, 9.0]


def steps(values):
    return [{"w0": np.array([[value]]), "b0": np.array([0.0])} for value in values]


def step(rule, values, hostile=0, windows=None, number=1, moments=None, **options):
    options.setdefault("clip", "none")
    plan = Plan("dense-ae", strategy=rule, **options)
    made, kept = average(plan, number, steps(values), windows or [7] * len(values), hostile, moments or {})
    assert made["b0"].tolist() == [0.0]
    return float(made["w0"][0, 0]), kept


def test_fedavg_weighs_by_windows():
    assert step("fedavg", [1.0, 5.0], windows=[30, 10])[0] == pytest.approx(2.0)


def test_fedprox_averages_alike():
    prox = DenseOptions(proximal=0.1)
    assert step("fedprox", [1.0, 5.0], windows=[30, 10], dense=prox)[0] == pytest.approx(2.0)


def test_trimmed_mean_drops_one_of_five_from_each_end():
    assert step("trimmed", FIVE)[0] == pytest.approx((0.1 + 0.25 + 0.3) / 3)


def test_trimmed_mean_of_two_is_their_mean():
    assert step("trimmed", [0.0, 4.0], windows=[1, 3])[0] == pytest.approx(3.0)


def test_krum_takes_the_one_with_the_nearest_two():
    # n - f - 2 = 2 nearest; sums of squares: .0725, .0325, .0250, .0425, and far
    assert step("krum", FIVE, hostile=1)[0] == pytest.approx(0.25)


def test_multikrum_is_the_mean_of_all_but_the_farthest():
    assert step("multikrum", FIVE, hostile=1)[0] == pytest.approx((0.0 + 0.1 + 0.25 + 0.3) / 4)


def test_bulyan_is_the_mean_of_the_middle_of_those_that_krum_chose():
    # 7 = 4 f + 3. Krum keeps .1 to .5 (five); the three nearest to their median .3 are .2, .3, .4.
    assert step("bulyan", [-0.5, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0], hostile=1)[0] == pytest.approx(0.3)


def test_fedadam_moves_by_its_moments_and_keeps_them():
    server = ServerOptions(rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    first, moments = step("fedadam", [2.0, 4.0], server=server)  # mean 3
    m, v = 0.1 * 3.0, 0.01 * 9.0
    rate = 0.1 * math.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    assert first == pytest.approx(rate * m / (math.sqrt(v) + 1e-3))
    assert moments["m.w0"][0, 0] == pytest.approx(m)
    second, moments = step("fedadam", [-1.0, -1.0], number=2, moments=moments, server=server)
    m, v = 0.9 * m - 0.1, 0.99 * v + 0.01
    rate = 0.1 * math.sqrt(1 - 0.99**3) / (1 - 0.9**3)
    assert second == pytest.approx(rate * m / (math.sqrt(v) + 1e-3))
    assert moments["v.w0"][0, 0] == pytest.approx(v)


def test_a_step_is_added_to_the_weights():
    merged = moved({"w0": np.ones((1, 1), np.float32), "view.w0": np.zeros(1)}, {"w0": np.array([[0.5]])}, 0.5)
    assert merged["w0"].dtype == np.float32
    assert merged["w0"].tolist() == [[1.25]]
    assert merged.keys() == {"w0"}


def test_long_updates_are_shortened_to_the_median_length():
    plan = Plan("dense-ae")
    three = [{"w": np.array([3.0, 4.0])}, {"w": np.array([0.0, 1.0])}, {"w": np.array([6.0, 8.0])}]  # lengths 5, 1, 10
    np.testing.assert_allclose([one["w"] for one in bounded_steps(plan, three)], [[3, 4], [0, 1], [3, 4]])
    np.testing.assert_allclose([one["w"] for one in bounded_steps(plan, three[1:])], [[0, 1], [6, 8]])
    fixed = Plan("dense-ae", clip=2.5)
    np.testing.assert_allclose([one["w"] for one in bounded_steps(fixed, three[:1])], [[1.5, 2.0]])


@pytest.mark.parametrize("count", range(3, 200))
def test_trimming_cuts_as_many_as_it_says_whatever_floats_do(count):
    beta = trimmed_share(1 / count, count)
    assert int(beta * count) == 1  # as Flower rounds it
    assert beta < 0.5
    beta = trimmed_share(0.49, count)
    assert 1 <= int(beta * count) <= (count - 1) // 2


def test_trimming_nothing_is_the_mean():
    assert step("trimmed", [0.0, 1.0, 5.0], dense=DenseOptions(trim=0.0))[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("rule", "hostile", "needed"),
    [("krum", 1, 5), ("multikrum", 4, 11), ("bulyan", 1, 7), ("bulyan", 4, 19), ("fedavg", 0, 1)],
)
def test_how_many_updates_a_rule_needs(rule, hostile, needed):
    assert fewest(rule, hostile) == needed


def test_a_fifth_of_those_asked_may_be_hostile_unless_said():
    krum = Plan("dense-ae", strategy="krum")
    assert [hostile_of(krum, asked) for asked in (5, 9, 20)] == [1, 1, 4]
    assert hostile_of(Plan("dense-ae", strategy="krum", server=ServerOptions(hostile=2)), 20) == 2
    assert hostile_of(Plan("dense-ae"), 20) == 0


def test_too_few_updates_for_a_rule_are_refused_in_one_line():
    krum = Plan("dense-ae", strategy="krum")
    with pytest.raises(
        AggregationError, match=r"krum: at least 5 updates expected to bear 1 hostile ones, 4 can be used"
    ):
        bearable(krum, 5, 4, 0)
    assert bearable(krum, 5, 5, 0) == 1


def test_hostile_updates_that_the_gate_found_are_counted_off_when_the_rule_needs_it():
    bulyan = Plan("dense-ae", strategy="bulyan")
    assert bearable(bulyan, 20, 19, 1) == 4  # 4 f + 3 = 19: still enough for four
    assert bearable(bulyan, 20, 16, 4) == 3  # 15 needed for three; four were found
    with pytest.raises(AggregationError, match="bulyan: at least 19 updates expected to bear 4"):
        bearable(bulyan, 20, 16, 0)  # four devices failed, and said so: all hostile ones may be left


def test_a_hostile_count_of_windows_does_not_outweigh_the_others():
    # weights 10, 10, 10, and at most four times their median
    assert step("fedavg", [0.0, 0.0, 0.0, 7.0], windows=[10, 10, 10, 1_000_000])[0] == pytest.approx(7 * 40 / 70)


def test_a_rule_that_gives_numbers_that_are_not_finite_ends_the_round():
    with pytest.raises(AggregationError, match="finite numbers expected"):
        step("fedavg", [1.0, math.nan])


@pytest.mark.parametrize(("rule", "a", "b"), [("fedavg", 4 / 3, 3.0), ("fedprox", 4 / 3, 3.0), ("trimmed", 0.0, 3.0)])
def test_the_length_of_an_update_is_that_of_all_its_arrays(rule, a, b):
    """Lengths 5, 1 and 10 again, over two arrays: 10 becomes 5 though each array is merged by itself."""
    three = [{"a": np.array([x]), "b": np.array([y])} for x, y in ((4.0, 3.0), (0.0, 1.0), (0.0, 10.0))]
    made, _ = average(Plan("dense-ae", strategy=rule), 1, three, [7] * 3, 0, {})
    assert (made["a"], made["b"]) == (pytest.approx([a]), pytest.approx([b]))
