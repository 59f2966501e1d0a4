"""Engine `simulation`: what devices learn together is what each ClientApp answers alone, failures and stops included."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from covey.bundle import Features, Inputs, read_bundle
from covey.errors import AggregationError
from federated.client_app import app
from federated.config import DenseOptions, Job, PcaOptions, Plan, write_struct
from federated.engines import together
from federated.engines.home import RUN_ID, handed, run_server
from federated.engines.simulation import SimulationGrid
from federated.families import family_of
from federated.records import arrays_of, question
from federated.strategy import Crew
from federated.training import devices_of_files
from federated_rigs import CHANNELS, walk, write_csv

INPUTS = Inputs(list(CHANNELS), 1.0, 4, 1, Features("lag"))
PLANS = {
    "pca": Plan("pca", features="lag", window=4, commission_windows=50, pca=PcaOptions(keep=4)),
    "dense-ae": Plan("dense-ae", window=4, commission_windows=50, dense=DenseOptions(hidden=[4, 2, 4], epochs=3)),
}


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1


@pytest.fixture
def devices(tmp_path):
    for number in range(7):
        write_csv(tmp_path / f"m{number}.csv", walk(100 + 23 * number, seed=number))
    return devices_of_files([tmp_path])


def round_of(grid, family, nodes=None, states=None):
    """Messages of a training round; `states` by node, the family's first one for all others."""
    plan = PLANS[family]
    config = {"plan": write_struct(plan), "inputs": write_struct(INPUTS), "round": 1}
    kind = family_of(family)
    begun = kind.down(kind.begin(plan, 12))
    content = question(begun, config)
    return [
        Message(question((states or {})[node], config) if node in (states or {}) else content, node, "train", ttl=60.0)
        for node in nodes or grid.nodes
    ]


def answered(grid, messages, timeout_s=60.0):
    replies = grid.send_and_receive(messages, timeout=timeout_s)
    return {reply.metadata.src_node_id: reply for reply in replies}


def alone(grid, message):
    return app(copy.deepcopy(message), grid.context(message.metadata.dst_node_id))


def equal(one, other):
    told, expected = arrays_of(one), arrays_of(other)
    return told.keys() == expected.keys() and all(np.array_equal(told[name], expected[name]) for name in told)


@pytest.mark.parametrize("family", PLANS)
@pytest.mark.parametrize("most", [1, 3, 256])
def test_each_device_answers_what_its_client_app_answers_alone(devices, family, most, monkeypatch):
    monkeypatch.setattr(together, "MOST", most)
    grid = SimulationGrid(devices)
    messages = round_of(grid, family)
    replies = answered(grid, messages)
    assert replies.keys() == grid.nodes.keys()
    for message in messages:
        assert equal(replies[message.metadata.dst_node_id], alone(grid, message))


def test_an_answer_does_not_depend_on_who_is_asked_beside(devices):
    grid = SimulationGrid(devices)
    everyone = answered(grid, round_of(grid, "dense-ae"))
    few = answered(grid, round_of(grid, "dense-ae", [2, 5]))
    assert equal(everyone[2], few[2])
    assert equal(everyone[5], few[5])


def test_a_device_that_was_sent_another_state_learns_from_that_one(devices):
    grid = SimulationGrid(devices)
    family, plan = family_of("dense-ae"), PLANS["dense-ae"]
    other = {name: values * np.float32(0.5) for name, values in family.down(family.begin(plan, 12)).items()}
    messages = round_of(grid, "dense-ae", states={3: other, 4: other})
    replies = answered(grid, messages)
    assert all(equal(replies[message.metadata.dst_node_id], alone(grid, message)) for message in messages)


def test_a_device_that_fails_is_an_answer_and_the_others_learn(devices, tmp_path):
    (tmp_path / "m1.csv").write_text("a,b,c\n1,2,oops\n")
    write_csv(tmp_path / "m4.csv", walk(20, seed=9))
    grid = SimulationGrid(devices)
    replies = answered(grid, round_of(grid, "dense-ae"))
    failed = {node: reply.error.reason for node, reply in replies.items() if reply.has_error()}
    assert failed.keys() == {2, 5}
    assert "'oops' came" in failed[2]
    assert "at least 50 normal windows expected, 17 found" in failed[5]
    assert all(equal(replies[m.metadata.dst_node_id], alone(grid, m)) for m in round_of(grid, "dense-ae", [1, 3, 7]))


def test_training_that_diverges_fails_each_device_by_itself(devices):
    grid = SimulationGrid(devices)
    plan = Plan("dense-ae", window=4, commission_windows=50, dense=DenseOptions(hidden=[4], learning_rate=1e30))
    family = family_of("dense-ae")
    config = {"plan": write_struct(plan), "inputs": write_struct(INPUTS), "round": 1}
    content = question(family.begin(plan, 12), config)
    replies = answered(grid, [Message(content, node, "train", ttl=60.0) for node in grid.nodes])
    assert all("diverged" in reply.error.reason for reply in replies.values())
    assert len(replies) == 7


def test_a_message_that_is_none_of_ours_fails_for_its_device_alone(devices):
    grid = SimulationGrid(devices)
    broken = Message(question({"w0": np.zeros(3)}, {"plan": "{}"}), 4, "train", ttl=60.0)
    replies = answered(grid, [*round_of(grid, "dense-ae", [1, 2]), broken, *round_of(grid, "dense-ae", [6])])
    assert [node for node, reply in replies.items() if reply.has_error()] == [4]
    assert replies.keys() == {1, 2, 4, 6}


def test_a_stop_ends_the_round_between_classes(devices, monkeypatch):
    monkeypatch.setattr(together, "MOST", 2)
    stop = threading.Event()
    grid = SimulationGrid(devices, stop)
    seen = []
    for reply in grid.answers(round_of(grid, "dense-ae"), time.monotonic() + 60):
        seen.append(reply)
        stop.set()
    assert len(seen) == 2  # the class that was learning; no other began
    with pytest.raises(AggregationError, match="stopped"):
        grid.send_and_receive(round_of(grid, "dense-ae"), timeout=60)


def test_what_was_gathered_before_a_stop_is_not_learned(devices):
    class StopsAtTheLast(SimulationGrid):
        def context(self, node):
            if node == 7:
                self.stop.set()
            return super().context(node)

    grid = StopsAtTheLast(devices)
    assert list(grid.answers(round_of(grid, "dense-ae"), time.monotonic() + 60)) == []


def test_a_round_that_is_out_of_time_learns_nothing_more(devices):
    grid = SimulationGrid(devices)
    assert answered(grid, round_of(grid, "dense-ae"), timeout_s=0.0) == {}


def test_bytes_are_those_of_the_serialised_messages(devices):
    grid = SimulationGrid(devices)
    messages = round_of(grid, "dense-ae", states={3: {"w0": np.zeros(2, np.float32)}})
    replies = answered(grid, messages)
    assert grid.bytes_down == sum(message_to_proto(message).ByteSize() for message in messages)
    assert grid.bytes_up == sum(message_to_proto(reply).ByteSize() for reply in replies.values())


def test_what_a_device_changes_in_its_message_does_not_reach_the_next_one(devices):
    grid = SimulationGrid(devices)
    messages = round_of(grid, "dense-ae")
    first, second = list(handed(messages))[:2]
    before = arrays_of(second)["w0"].copy()
    del first.content.array_records["arrays"]["w0"]
    first.content.config_records["config"]["round"] = 9
    first.metadata.ttl = 1.0
    with pytest.raises(ValueError, match="read-only"):
        arrays_of(second)["w0"] += 1
    assert np.array_equal(arrays_of(second)["w0"], before)
    assert second.content.config_records["config"]["round"] == 1
    assert second.metadata.ttl == messages[1].metadata.ttl == 60.0
    assert arrays_of(messages[0]).keys() == arrays_of(second).keys()


def test_a_candidate_is_judged_by_so_many_devices_and_by_the_same_again(devices):
    asked = []
    for _ in range(2):
        crew = Crew(SimulationGrid(devices), Plan("pca", evaluators=3, seed=5), str)
        asked.append(crew.judges())
    assert asked[0] == asked[1] == sorted(set(asked[0]))
    assert len(asked[0]) == 3
    everyone = Crew(SimulationGrid(devices), Plan("pca"), str).judges()
    assert everyone == [1, 2, 3, 4, 5, 6, 7]
    assert len(Crew(SimulationGrid(devices), Plan("pca", evaluators=1, min_clients=4), str).judges()) == 4


def test_a_run_asks_its_judges_alone(devices, tmp_path):
    grid = SimulationGrid(devices)
    plan = Plan("pca", evaluators=3, window=4, commission_windows=50, pca=PcaOptions(keep=4))
    run_server(grid, Job(plan, str(tmp_path / "model.zip"), str(tmp_path / "runs")))
    evidence = read_bundle(tmp_path / "model.zip").manifest.evidence
    assert (evidence["devices"], evidence["clients"]) == (3.0, 7.0)
