"""Runs with every rule and every way for weights to travel: resumed to the same model, partial, private, hostile, forgetful."""

from __future__ import annotations

import stat
import threading

import numpy as np
import pytest

from covey.bundle import STATE, Features, Inputs, read_bundle
from covey.errors import AggregationError, UsageError
from federated.checkpoint import Checkpoints
from federated.config import DenseOptions, Gates, Job, PcaOptions, Plan, PrivacyOptions, ServerOptions
from federated.engines.home import run_server
from federated.engines.local import LocalGrid
from federated.engines.simulation import SimulationGrid
from federated.families import unpack_state
from federated.records import arrays_of
from federated.training import devices_of_files, devices_of_rings, read_report, run
from federated_rigs import CHANNELS, walk, write_csv, write_ring

DENSE = {
    "window": 2,
    "commission_windows": 50,
    "gates": Gates(int8_error=1, int8_bias=1, false_alarms=1),
    "dense": DenseOptions(hidden=[4, 2, 4], epochs=4, learning_rate=0.02, proximal=0.01),
}
COUNT = 7


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    for number in range(COUNT):
        write_csv(path / f"m{number}.csv", walk(160, seed=number))
    return path


class StopsAfter(SimulationGrid):
    """The engine with a Ctrl-C after so many answers to `train`."""

    def __init__(self, devices, memory, trained):
        super().__init__(devices, threading.Event(), memory)
        self.left = trained

    def answers(self, messages, deadline):
        for reply in super().answers(messages, deadline):
            self.left -= reply.metadata.message_type == "train"
            yield reply
            if self.left == 0:
                self.stop.set()


def go(grid, plan, folder, **changes):
    run_server(grid, Job(plan, str(folder / "m.zip"), str(folder / "runs"), **changes))
    return read_report(folder / "runs")


def state_of(folder):
    return unpack_state(read_bundle(folder / "m.zip").files[STATE], "state")


WAYS = [
    *[(rule, "float16") for rule in ("trimmed", "fedavg", "fedprox", "fedadam", "krum", "multikrum", "bulyan")],
    ("trimmed", "none"),
    ("trimmed", "int8"),
    ("trimmed", "topk"),
    ("fedadam", "topk"),
]


@pytest.mark.parametrize(("rule", "how"), WAYS)
def test_a_run_that_was_killed_in_a_round_goes_on_to_the_same_model(folder, tmp_path, rule, how):
    plan = Plan("dense-ae", rounds=4, strategy=rule, compress=how, server=ServerOptions(rate=0.1), **DENSE)
    devices = devices_of_files([folder])
    go(SimulationGrid(devices), plan, tmp_path / "whole")
    memory = tmp_path / "halved" / "runs" / "devices"
    with pytest.raises(AggregationError, match="stopped"):
        go(StopsAfter(devices, memory, 2 * COUNT + 3), plan, tmp_path / "halved")  # in the third round
    assert len(Checkpoints(tmp_path / "halved" / "runs").rounds()) == 2
    go(SimulationGrid(devices, memory=memory), plan, tmp_path / "halved", resume=True)
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "halved")
    assert one.keys() == other.keys() == {f"{kind}{n}" for kind in "wb" for n in range(4)} | {"center", "scale"}
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


@pytest.mark.parametrize("how", ["int8", "topk"])
def test_compressed_training_learns_as_much_for_less(folder, tmp_path, how):
    reports = {}
    for way in ("none", how):
        plan = Plan("dense-ae", rounds=12, compress=way, keep=0.25, **DENSE)
        reports[way] = go(SimulationGrid(devices_of_files([folder])), plan, tmp_path / way)
    left = {way: report.evidence["litert.unexplained"] for way, report in reports.items()}
    assert left["none"] < 0.9
    assert 1 - left[how] > 0.8 * (1 - left["none"])  # of the variance explained: other minima, none much worse


def test_a_part_of_the_fleet_is_asked_another_in_every_round(folder, tmp_path):
    plan = Plan("dense-ae", rounds=6, fraction=0.4, **DENSE)
    asked = []

    class Watched(SimulationGrid):
        def answers(self, messages, deadline):
            if messages[0].metadata.message_type == "train":
                asked.append(frozenset(message.metadata.dst_node_id for message in messages))
            return super().answers(messages, deadline)

    report = go(Watched(devices_of_files([folder])), plan, tmp_path)
    assert [len(nodes) for nodes in asked] == [3] * 6  # 0.4 of 7, rounded up
    assert len(set(asked)) > 1
    assert len(frozenset().union(*asked)) > 3
    assert report.failed == {}
    again = list(asked)
    asked.clear()
    go(Watched(devices_of_files([folder])), plan, tmp_path / "again")
    assert asked == again


def test_too_few_devices_for_a_rule_are_told_before_any_of_them_works(folder, tmp_path):
    plan = Plan("dense-ae", strategy="bulyan", server=ServerOptions(hostile=2), **DENSE)
    worked = []

    class Watched(SimulationGrid):
        def answers(self, messages, deadline):
            worked.extend(message.metadata.message_type for message in messages)
            return super().answers(messages, deadline)

    with pytest.raises(
        AggregationError, match="bulyan: at least 11 updates expected to bear 2 hostile ones, 7 can be used"
    ):
        go(Watched(devices_of_files([folder])), plan, tmp_path)
    assert set(worked) == {"query"}


def test_a_straggler_is_missing_and_the_round_goes_on(folder, tmp_path):
    class Slow(SimulationGrid):
        def answers(self, messages, deadline):
            for message in messages:
                late = message.metadata.message_type == "train" and message.metadata.dst_node_id == 2
                if not late:
                    yield from super().answers([message], deadline)

    report = go(Slow(devices_of_files([folder])), Plan("dense-ae", rounds=2, **DENSE), tmp_path)
    (record, _) = Checkpoints(tmp_path / "runs").rounds()
    assert record.clients == COUNT - 1
    assert [name.rsplit("/", 1)[1] for name in record.missing] == ["m1.csv"]
    assert list(report.failed.values()) == ["no answer in time"]


def test_a_private_run_says_epsilon_every_round_and_stops_at_the_budget(folder, tmp_path):
    private = PrivacyOptions(noise=8.0, clip=0.5, epsilon=1.5)
    plan = Plan("dense-ae", strategy="fedavg", rounds=50, compress="none", privacy=private, **DENSE)
    with pytest.raises(AggregationError, match="a model that explains"):  # so much noise for seven devices
        go(SimulationGrid(devices_of_files([folder])), plan, tmp_path)
    rounds = Checkpoints(tmp_path / "runs").rounds()
    spent = [one.epsilon for one in rounds]
    assert 1 < len(spent) < 50
    assert spent == sorted(spent)
    assert spent[-1] <= 1.5


def test_the_model_so_far_is_exported_when_the_budget_is_spent(folder, tmp_path):
    private = PrivacyOptions(noise=0.01, clip=5.0, epsilon=1e6)  # hardly any noise: the model is good
    plan = Plan("dense-ae", strategy="fedavg", rounds=40, compress="int8", privacy=private, **DENSE)
    report = go(SimulationGrid(devices_of_files([folder])), plan, tmp_path)
    assert report.epsilon is not None
    assert report.epsilon <= 1e6
    rounds = Checkpoints(tmp_path / "runs").rounds()
    assert report.rounds == len(rounds)
    assert (report.ended != "") == (len(rounds) < 40)
    assert (tmp_path / "m.zip").exists()


def test_a_budget_for_no_round_at_all_is_told(folder, tmp_path):
    private = PrivacyOptions(noise=1.0, epsilon=0.01)
    plan = Plan("dense-ae", strategy="fedavg", compress="none", privacy=private, **DENSE)
    with pytest.raises(UsageError, match=r"at least one round expected: epsilon 0\.000 of 0\.01 spent before round 1"):
        go(SimulationGrid(devices_of_files([folder])), plan, tmp_path)


def test_devices_that_clip_for_themselves_are_held_to_it(folder, tmp_path):
    private = PrivacyOptions(noise=1e-3, clip=0.05, epsilon=1e9, side="client")
    plan = Plan("dense-ae", strategy="fedavg", rounds=1, compress="none", privacy=private, **DENSE)

    class Lies(SimulationGrid):
        def answers(self, messages, deadline):
            from flwr.app import Array

            for reply in super().answers(messages, deadline):
                if reply.metadata.message_type == "train":
                    told = arrays_of(reply)
                    length = np.sqrt(
                        sum(
                            float(np.square(told[name], dtype=np.float64).sum())
                            for name in told
                            if name[0] in "wb" and name != "windows"
                        )
                    )
                    assert length <= 0.05 * (1 + 1e-6)
                    if reply.metadata.src_node_id == 1:
                        reply.content.array_records["arrays"]["w0"] = Array(told["w0"] * 3)
                yield reply

    with pytest.raises(AggregationError, match="model that explains"):  # one short step is no model
        go(Lies(devices_of_files([folder])), plan, tmp_path)
    (record,) = Checkpoints(tmp_path / "runs").rounds()
    assert "norm of at most 0.05 expected of a device that clips" in next(iter(record.refused.values()))


def test_a_device_that_forgot_fails_one_round_and_is_sent_everything_in_the_next(folder, tmp_path):
    class Forgets(SimulationGrid):
        trained = 0

        def answers(self, messages, deadline):
            if messages[0].metadata.message_type == "train":
                self.trained += 1
                if self.trained == 2:
                    self._states.pop(3)
            return super().answers(messages, deadline)

    plan = Plan("dense-ae", rounds=4, compress="int8", **DENSE)
    go(Forgets(devices_of_files([folder])), plan, tmp_path)
    rounds = Checkpoints(tmp_path / "runs").rounds()
    assert [one.clients for one in rounds] == [COUNT, COUNT - 1, COUNT, COUNT]
    assert "weights of round 1 expected to add the change to" in next(iter(rounds[1].refused.values()))


def test_engine_local_keeps_a_devices_memory_beside_its_ring_for_nobody_else(tmp_path):
    inputs = Inputs(list(CHANNELS), 1.0, 2, 1, Features("lag"))
    for number in range(3):
        log = write_csv(tmp_path / f"m{number}.csv", walk(160, seed=number))
        write_ring(tmp_path / "agents" / f"d{number}" / "ring.bin", inputs, [(log, False)])
    devices = devices_of_rings([], tmp_path)
    plan = Plan("dense-ae", rounds=3, compress="topk", **DENSE)
    with LocalGrid(devices) as grid:
        go(grid, plan, tmp_path / "local")
    files = sorted(tmp_path.glob("agents/*/ring.learned"))
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    go(SimulationGrid(devices), plan, tmp_path / "simulated")
    one, other = state_of(tmp_path / "local"), state_of(tmp_path / "simulated")
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])
    # Kept for what it is: no window is in it, only weights' numbers and marks.
    kept = unpack_state(files[0].read_bytes(), "memory")
    assert {name.split(".")[0] for name in kept} == {"view", "view_round", "view_run", "rest", "round", "run"}


def test_a_hostile_device_of_ten_is_kept_out_whatever_it_sends(folder, tmp_path):
    rng = np.random.default_rng(1)
    lies = {
        "noise": lambda x: rng.standard_normal(x.shape) * np.linalg.norm(x.astype(np.float64)) * 3,
        "flip": lambda x: -x,
        "nan": lambda x: np.full_like(x, np.nan),
    }

    class Hostile(SimulationGrid):
        kind = None

        def answers(self, messages, deadline):
            from flwr.app import Array

            for reply in super().answers(messages, deadline):
                if self.kind and reply.metadata.message_type == "train" and reply.metadata.src_node_id == 1:
                    told = arrays_of(reply)
                    for name in told:
                        if name[0] in "wb" and name != "windows":
                            lie = lies[self.kind](told[name]).astype(told[name].dtype)
                            reply.content.array_records["arrays"][name] = Array(lie)
                yield reply

    for number in range(COUNT, 10):
        write_csv(folder / f"m{number}.csv", walk(160, seed=number))
    plan = Plan("dense-ae", rounds=3, **DENSE)
    honest = go(SimulationGrid(devices_of_files([folder])), plan, tmp_path / "honest").evidence["litert.unexplained"]
    for kind in lies:
        grid = Hostile(devices_of_files([folder]))
        grid.kind = kind
        report = go(grid, plan, tmp_path / kind)
        assert report.evidence["litert.unexplained"] < 1.05 * honest
        assert any("m0.csv" in name for name in report.failed)


def test_one_shot_sums_with_a_part_of_the_fleet_are_the_same_when_asked_again(folder, tmp_path):
    plan = Plan("pca", features="lag", window=4, commission_windows=50, fraction=0.5, pca=PcaOptions(keep=4))
    for name in ("one", "two"):
        report = run(
            plan,
            devices_of_files([folder]),
            engine="simulation",
            out=tmp_path / f"{name}.zip",
            initial=None,
            checkpoint=None,
            resume=False,
            stop=threading.Event(),
        )
        assert report.clients == 4
    one, two = (read_bundle(tmp_path / f"{name}.zip").files[STATE] for name in ("one", "two"))
    assert one == two
