"""Principal components over time: sums against the pooled covariance, the network against its eigenvectors, by a second method."""

import msgspec
import numpy as np
import pytest

from federated.config import Plan
from federated.families import Lesson, family_for
from federated.families.pca_time import PcaOverTime, kept, sizes
from federated.streams import Stream, whole

PLAN = Plan(
    family="pca",
    features="temporal",
    temporal=whole(Stream(branches=["lag2", "now"], distrust=0.0, keep=0.8, within=0.1, own_scale=True), "process", 0),
)


def lesson(seed, count=300, channels=2):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, 3 * channels)) @ rng.standard_normal((3 * channels, 3 * channels)) / 3
    z -= z.mean(axis=0)
    return Lesson(z.astype(np.float32), np.zeros(count, np.int64), np.zeros(count, np.bool_), drone=False)


def merged(*lessons, plan=PLAN):
    family = family_for(plan)
    updates = [family.update(plan, {}, one, 0) for one in lessons]
    for update in updates:
        assert family.fault(update) is None
    return family, family.merge(plan, family.begin(plan, 6), updates, [len(one.z) for one in lessons])


def test_summed_scatters_are_the_pooled_covariance_of_each_branch():
    one, two = lesson(0), lesson(1, count=100)
    family, state = merged(one, two)
    assert isinstance(family, PcaOverTime)
    pooled = np.concatenate([one.z, two.z]).astype(np.float64)
    blocks = [np.cov(pooled[:, part].T, bias=True) for part in (slice(0, 4), slice(4, 6))]
    told = np.concatenate([block[np.triu_indices(len(block))] for block in blocks])
    assert state["within"] / 400 == pytest.approx(told, rel=2e-3, abs=2e-3)  # float16 on the way
    assert state["counts"].tolist() == [400, 2]


def test_the_network_s_outputs_are_the_principal_components_of_each_branch_shortened():
    one = lesson(2)
    family, state = merged(one)
    (layer,) = family.to_graph(PLAN, state, drone=False)
    assert not layer.weight[:4, 4:].any()
    assert not layer.weight[4:, :4].any()
    y = one.z @ layer.weight.T
    values = np.linalg.svd(one.z[:, :4].astype(np.float64), compute_uv=False) ** 2 / len(one.z)  # a second method
    inner = int(np.searchsorted(np.cumsum(values) / values.sum(), 0.8)) + 1
    expected = values / np.maximum(values / values[min(inner, 3)], 1.0)
    assert np.mean(y[:, :4] ** 2, axis=0) == pytest.approx(expected, rel=0.02)


def test_without_a_device_s_own_windows_the_fleet_s_score_one_in_the_mean():
    one = lesson(3)
    family, state = merged(one)
    (layer,) = family.to_graph(PLAN, state, drone=False)
    told = family.weigh(PLAN, state)
    scores = np.square(one.z @ layer.weight.T) @ told.weights
    assert scores.mean() == pytest.approx(1.0, rel=0.02)
    assert told.rule.branch == [0, 0, 0, 0, 1, 1]


def test_one_scale_for_all_devices_leaves_the_score_as_it_is():
    shared = msgspec.structs.replace(PLAN, temporal=msgspec.structs.replace(PLAN.temporal, own_scale=False))
    one = lesson(4)
    family, state = merged(one, plan=shared)
    told = family.weigh(shared, state)
    assert told.scale == pytest.approx(np.maximum(one.z.std(axis=0), 0.05), rel=2e-3)
    (scaled,), (plain,) = (family_for(plan).to_graph(plan, state, drone=False) for plan in (shared, PLAN))
    assert (one.z / told.scale) @ scaled.weight.T == pytest.approx(one.z @ plain.weight.T, abs=1e-3)


@pytest.mark.parametrize(("left", "least"), [(0.4, 0.2), (0.01, 0.05), (3.0, 0.5)])
def test_where_a_daily_course_is_known_the_least_scale_is_half_of_what_it_leaves(left, least):
    options = Stream(branches=["now", "prof"], distrust=0.0, keep=0.8, own_scale=False)
    plan = msgspec.structs.replace(PLAN, temporal=whole(options, "daily", 288))
    rng = np.random.default_rng(7)
    z = (
        rng.standard_normal((4000, 12)) * np.r_[1.0, 1.0, 0.001, [left, left, 5.0] * 3]
    )  # 3 channels: now, prof at lags 0 to 2
    family = family_for(plan)
    one = Lesson(z.astype(np.float32), np.zeros(len(z), np.int64), np.zeros(len(z), np.bool_), drone=False)
    state = family.merge(plan, family.begin(plan, 12), [family.update(plan, {}, one, 0)], [len(z)])
    assert family.weigh(plan, state).scale[2] == pytest.approx(least, rel=0.03)  # the median channel's, at lag 0


def test_where_no_daily_course_is_known_the_least_scale_is_half_of_a_channels_spread():
    shared = msgspec.structs.replace(PLAN, temporal=msgspec.structs.replace(PLAN.temporal, own_scale=False))
    one = lesson(4)
    one.z[:, 2] *= 0.001
    family, state = merged(one, plan=shared)
    assert family.weigh(shared, state).scale[2] == 0.5


def test_a_scatter_that_is_none_is_refused():
    family, _ = merged(lesson(5))
    update = family.update(PLAN, {}, lesson(5), 0)
    wrong = {**update, "within": update["within"].copy()}
    wrong["within"][0] = -3.0
    assert "no negative eigenvalue" in family.fault(wrong)
    assert "variance of at most 64" in family.fault({**update, "within": update["within"] * np.float16(400)})


def test_windows_a_device_disbelieves_are_not_taught():
    plan = msgspec.structs.replace(PLAN, temporal=msgspec.structs.replace(PLAN.temporal, distrust=0.02))
    one = lesson(6, count=100)
    one.z[7] = 8.0 * np.array([1, -1, 1, -1, 1, -1])
    update = family_for(plan).update(plan, {}, one, 0)
    assert int(update["counts"][0]) == 98
    assert family_for(plan).update(PLAN, {}, one, 0)["within"][0] > 1.2 * update["within"][0]


def test_kept_directions_hold_their_share_and_never_all():
    assert kept(np.array([6.0, 3.0, 1.0]), 0.85) == 2
    assert kept(np.array([6.0, 3.0, 1.0]), 0.99) == 2
    assert sizes(np.array([6.0, 3.0, 1.0]), 0.85) == pytest.approx([6.0, 3.0, 1.0])
    assert sizes(np.array([6.0, 3.0, 1.0]), 0.5) == pytest.approx([2.0, 1.0, 1.0])
