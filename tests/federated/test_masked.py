"""Masked sums: the sum is right, also when devices drop out; a part of it is noise; what would undo the masks is refused."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from covey.bundle import STATE, read_bundle
from covey.errors import AggregationError, DataError
from federated import masking, moments
from federated.checkpoint import Checkpoints
from federated.config import Job, PcaOptions, Plan
from federated.engines.home import failure, run_server
from federated.engines.simulation import SimulationGrid
from federated.families import unpack_state
from federated.masked import COHORT, cohorts
from federated.masked_device import make_keys, make_shares, open_masks
from federated.records import arrays_of, question
from federated.training import devices_of_files, read_report
from federated_rigs import walk, write_csv

LAG = {"features": "lag", "window": 4, "commission_windows": 50, "pca": PcaOptions(keep=4)}
COUNT = 6


@pytest.fixture
def devices(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(COUNT):
        write_csv(folder / f"m{number}.csv", walk(200, seed=number))
    return devices_of_files([folder])


class Watched(SimulationGrid):
    """The engine; some devices fall silent at a kind of message, all answers are kept."""

    def __init__(self, devices, silent=()):
        super().__init__(devices)
        self.silent = set(silent)  # (kind, node)
        self.heard = []

    def answers(self, messages, deadline):
        for message in messages:
            where = message.metadata.message_type, message.metadata.dst_node_id
            if where in self.silent:
                continue
            for reply in super().answers([message], deadline):
                self.heard.append(reply)
                yield reply


def go(grid, plan, folder):
    run_server(grid, Job(plan, str(folder / "m.zip"), str(folder / "runs")))
    return unpack_state(read_bundle(folder / "m.zip").files[STATE], "state"), read_report(folder / "runs")


def test_the_sum_under_masks_is_the_sum_without(devices, tmp_path):
    plain, _ = go(SimulationGrid(devices), Plan("pca", **LAG), tmp_path / "plain")
    masked, report = go(SimulationGrid(devices), Plan("pca", masked=True, **LAG), tmp_path / "masked")
    assert masked["counts"].tolist() == plain["counts"].tolist()
    np.testing.assert_allclose(masked["within"], plain["within"], atol=COUNT * 2.0**-20)
    np.testing.assert_allclose(masked["between"], plain["between"], atol=COUNT * 2.0**-20)
    assert report.clients == COUNT


def test_the_groups_center_and_scale_are_means_under_masks(devices, tmp_path):
    grid = Watched(devices)
    go(grid, Plan("pca", **LAG), tmp_path / "plain")
    told = [arrays_of(reply) for reply in grid.heard if reply.metadata.message_type == "train"]
    centers, scales = (np.array([one[name] for one in told], np.float64) for name in ("center", "scale"))
    masked, _ = go(SimulationGrid(devices), Plan("pca", masked=True, **LAG), tmp_path / "masked")
    np.testing.assert_allclose(masked["center"], centers.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(masked["scale"] ** 2, (scales**2).mean(axis=0) + centers.var(axis=0), rtol=1e-4)


def test_what_a_device_sends_is_uniform_and_not_its_update(devices, tmp_path):
    grid = Watched(devices)
    go(grid, Plan("pca", masked=True, **LAG), tmp_path)
    vectors = [arrays_of(reply)["masked"] for reply in grid.heard if reply.metadata.message_type == "train.mask_update"]
    assert len(vectors) == COUNT
    d = 12
    for words in vectors:
        assert words.shape == (moments.Layout(d * (d + 1) // 2, d * (d + 1) // 2, d).size,)
        # Unmasked, the first four words are counts below a thousand and the scatters' high bytes are 0 or 255.
        assert (words[:4] > 2**20).all()
        counted = np.bincount(words.view(np.uint8), minlength=256)
        expected = counted.sum() / 256
        chi2 = float(((counted - expected) ** 2 / expected).sum())  # 255 degrees of freedom: mean 255, deviation 22.6
        assert 255 - 6 * 22.6 < chi2 < 255 + 6 * 22.6
    assert len({words.tobytes() for words in vectors}) == COUNT
    assert "train" not in {reply.metadata.message_type for reply in grid.heard}


def test_without_the_others_masks_one_device_is_noise_and_all_together_are_not(devices, tmp_path):
    grid = Watched(devices)
    go(grid, Plan("pca", masked=True, **LAG), tmp_path)
    vectors = [arrays_of(reply)["masked"] for reply in grid.heard if reply.metadata.message_type == "train.mask_update"]
    # Pairwise masks cancel in the sum, own masks do not: without opening, the number of devices is still hidden.
    assert int(np.add.reduce(vectors, dtype=np.uint64)[3]) != COUNT


@pytest.mark.parametrize("kind", ["query.mask_keys", "query.mask_shares", "train.mask_update"])
def test_a_device_that_drops_out_at_any_step_is_left_out_of_the_sum(devices, tmp_path, kind):
    (tmp_path / "others").mkdir()
    others = {name: node for name, node in devices.items() if not name.endswith("m2.csv")}
    expected, _ = go(SimulationGrid(others), Plan("pca", **LAG), tmp_path / "plain")
    grid = Watched(devices, {(kind, 3)})  # nodes count from 1
    masked, report = go(grid, Plan("pca", masked=True, **LAG), tmp_path / "masked")
    assert masked["counts"].tolist() == expected["counts"].tolist()
    np.testing.assert_allclose(masked["within"], expected["within"], atol=COUNT * 2.0**-20)
    assert [name.rsplit("/", 1)[1] for name in report.failed] == ["m2.csv"]


def test_a_device_that_is_silent_after_its_part_is_in_the_sum_all_the_same(devices, tmp_path):
    grid = Watched(devices, {("query.mask_open", 3)})
    masked, report = go(grid, Plan("pca", masked=True, **LAG), tmp_path)
    assert masked["counts"][2] == COUNT
    assert report.failed == {}


def test_below_the_threshold_there_is_no_sum(devices, tmp_path):
    # Of 6 devices 5 must stay: with two gone after the shares were made the masks of the others cannot be taken off.
    grid = Watched(devices, {("train.mask_update", 3), ("train.mask_update", 4)})
    with pytest.raises(AggregationError, match=r"round 1: answers of at least 3 devices expected, 0 of 6 can be used"):
        go(grid, Plan("pca", masked=True, **LAG), tmp_path)
    assert Checkpoints(tmp_path / "runs").rounds() == []


def test_a_device_that_says_why_it_fails_is_named(devices, tmp_path):
    class Fails(SimulationGrid):
        def answers(self, messages, deadline):
            for message in messages:
                if message.metadata.message_type == "train.mask_update" and message.metadata.dst_node_id == 1:
                    yield failure(message, "the battery is low")
                else:
                    yield from super().answers([message], deadline)

    _, report = go(Fails(devices), Plan("pca", masked=True, **LAG), tmp_path)
    assert list(report.failed.values()) == ["the battery is low"]


def test_a_share_that_is_wrong_spoils_its_cohort_and_is_told(devices, tmp_path):
    class Lies(SimulationGrid):
        def answers(self, messages, deadline):
            from flwr.app import Array

            for reply in super().answers(messages, deadline):
                if reply.metadata.message_type == "query.mask_open" and reply.metadata.src_node_id == 1:
                    shares = arrays_of(reply)["shares"].copy()
                    reply.content.array_records["arrays"]["shares"] = Array(shares ^ 1)
                yield reply

    with pytest.raises(AggregationError, match="the masks do not cancel"):
        go(Lies(devices), Plan("pca", masked=True, **LAG), tmp_path)


def test_large_fleets_are_summed_in_cohorts_of_nearly_one_size():
    groups = cohorts(list(range(1, 2 * COHORT + 2)))
    assert [len(group) for group in groups] == [22, 22, 21]
    assert sorted(node for group in groups for node in group) == list(range(1, 66))
    assert cohorts([1, 2, 3]) == [[1, 2, 3]]


def test_numbers_survive_the_fixed_point():
    values = np.array([0.0, 1e-9, -3.25, 65535.0**2, -1e12, 1 / 3])
    np.testing.assert_allclose(masking.wide_sum(masking.wide(values, "x")), values, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(masking.narrow_sum(masking.narrow(values[:4], "x")), values[:4], atol=2.0**-21)
    total = masking.narrow(np.array([-1.5]), "x") + masking.narrow(np.array([0.5]), "x")
    assert masking.narrow_sum(total).tolist() == [-1.0]
    for bad in (np.nan, np.inf, 1e16):
        with pytest.raises(DataError, match="masks: x of at most"):
            masking.wide(np.array([bad]), "x")


def test_a_seed_comes_back_from_enough_shares_and_not_from_fewer():
    secrets = masking.derive(bytes(range(32)))
    shares = masking.split(secrets, 3, 5)
    own = {position: share[: masking.SEED] for position, share in enumerate(shares)}
    assert masking.join({n: own[n] for n in (0, 2, 4)}, 3) == secrets.own_seed
    assert masking.join({n: own[n] for n in (1, 2, 3)}, 3) == secrets.own_seed
    assert masking.join({n: own[n] for n in (1, 2)}, 2) != secrets.own_seed


def test_pair_masks_cancel_and_depend_on_run_and_round():
    one, other = (masking.pair_key(bytes([n] * 16)) for n in (1, 2))
    here = masking.pair_mask(one, masking.public(other), (0, 1), 50, b"7/1")
    there = masking.pair_mask(other, masking.public(one), (1, 0), 50, b"7/1")
    assert not (here + there).any()
    assert (here != masking.pair_mask(one, masking.public(other), (0, 1), 50, b"7/2")).all()


def test_shares_are_opened_by_whom_they_are_sealed_for_and_nobody_else():
    keys = [masking.derive(bytes([n] * 32)).cipher for n in range(3)]
    publics = [masking.public(key) for key in keys]
    sealed = masking.seal(b"x" * 32, keys[0], publics[1], (0, 1), b"t")
    assert len(sealed) == masking.SEALED
    assert masking.unseal(sealed, keys[1], publics[0], (0, 1), b"t") == b"x" * 32
    for key, route, tag in ((keys[2], (0, 1), b"t"), (keys[1], (1, 0), b"t"), (keys[1], (0, 1), b"u")):
        with pytest.raises(DataError, match="sealed"):
            masking.unseal(sealed, key, publics[0], route, tag)


class Device:
    """One device's state and the messages it is sent."""

    def __init__(self):
        self.context = Context(1, 5, {}, RecordDict(), {})

    def ask(self, step, arrays=None, **config):
        message = Message(question(arrays or {}, {"run": 9, "round": 1, **config}), 5, "query")
        return arrays_of(step(message, self.context))


def roster(*keys):
    return {name: np.stack([key[name] for key in keys]) for name in ("cipher", "pair")}


@pytest.fixture
def three():
    devices = [Device() for _ in range(3)]
    return devices, [device.ask(make_keys) for device in devices]


def place(position):
    return {"position": np.array([position])}


def test_a_device_takes_part_only_in_a_roster_that_hides_it(three):
    devices, keys = three
    with pytest.raises(DataError, match="3 devices or more expected"):
        devices[0].ask(make_shares, {**roster(*keys[:2]), **place(0)}, threshold=2)
    with pytest.raises(DataError, match="more than two thirds stay, 2 of 3 came"):
        devices[0].ask(make_shares, {**roster(*keys), **place(0)}, threshold=2)
    with pytest.raises(DataError, match="with this device's keys expected"):
        devices[0].ask(make_shares, {**roster(*keys), **place(1)}, threshold=3)
    with pytest.raises(DataError, match="different devices expected"):
        devices[0].ask(make_shares, {**roster(keys[0], keys[1], keys[1]), **place(0)}, threshold=3)
    with pytest.raises(DataError, match="whose keys this device made expected"):
        devices[0].ask(make_shares, {**roster(*keys), **place(0)}, threshold=3, round=2)


def test_a_device_opens_a_round_once_and_never_two_ways(three):
    devices, keys = three
    sealed = [
        device.ask(make_shares, {**roster(*keys), **place(n)}, threshold=3)["sealed"]
        for n, device in enumerate(devices)
    ]
    box = np.stack([sealed[sender][0] for sender in range(3)])
    first = devices[0]
    everyone = np.ones(3, np.uint8)
    with pytest.raises(DataError, match="a step was left out"):
        first.ask(open_masks, {"survivors": everyone})
    from federated.memory import recall, remember

    remember(first.context, {**recall(first.context), "sealed": box, "present": everyone})  # as step 3 leaves it
    with pytest.raises(DataError, match="at least 3 devices survivors expected, 2 are"):
        first.ask(open_masks, {"survivors": np.array([1, 1, 0], np.uint8)})
    shares = first.ask(open_masks, {"survivors": everyone})["shares"]
    assert shares.shape == (3, masking.SEED)
    with pytest.raises(DataError, match="asked again"):
        first.ask(open_masks, {"survivors": everyone})
    assert recall(first.context).keys() == {"tag", "opened"}
