"""FedBuff: who is asked when, what an old update weighs, and devices that come and go; engine `simulation` at a set pace."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import AggregationError
from federated.checkpoint import Checkpoints
from federated.config import DenseOptions, Gates, Job, Plan, ServerOptions
from federated.engines.home import failure, run_server
from federated.engines.simulation import SimulationGrid
from federated.fedbuff import buffered_step, staleness_weight
from federated.training import devices_of_files, read_report
from federated_rigs import walk, write_csv

LOOSE = Gates(int8_error=1, int8_bias=1, false_alarms=1)
DENSE = {
    "window": 2,
    "commission_windows": 50,
    "gates": LOOSE,
    "dense": DenseOptions(hidden=[4, 2, 4], epochs=2, learning_rate=0.02),
}


@pytest.fixture
def devices(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        write_csv(folder / f"m{number}.csv", walk(200, seed=number))
    return devices_of_files([folder])


class Paced(SimulationGrid):
    """Device n answers when it has been looked for `pace[n]` times; devices are there from `since` to `until` (looks)."""

    def __init__(self, devices, pace, since=None, until=None):
        super().__init__(devices)
        self.pace, self.since, self.until = pace, since or {}, until or {}
        self.looks = 0
        self.due = {}
        self.asked = []  # (node, round)

    def get_node_ids(self):
        return [n for n in self.nodes if self.since.get(n, 0) <= self.looks < self.until.get(n, 10**9)]

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for number, message in zip(ids, messages, strict=True):
            if message.metadata.message_type == "train":
                node = message.metadata.dst_node_id
                self.due[number] = self.looks + self.pace[node]
                self.asked.append((node, message.content.config_records["config"]["round"]))
        return ids

    def pull_messages(self, message_ids):
        due, number = min((self.due[number], int(number)) for number in message_ids)
        self.looks = max(self.looks + 1, due)
        return super().pull_messages([str(number)])


def go(grid, plan, tmp_path):
    run_server(grid, Job(plan, str(tmp_path / "m.zip"), str(tmp_path / "runs")))
    return read_report(tmp_path / "runs"), Checkpoints(tmp_path / "runs").rounds()


def test_an_old_update_counts_one_over_the_root_of_its_age_plus_one():
    assert [staleness_weight(tau) for tau in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]
    step = buffered_step([{"w": np.array([2.0])}, {"w": np.array([8.0])}], [0, 3])
    assert step["w"] == pytest.approx([(2.0 + 0.5 * 8.0) / 2])


def test_a_slow_device_is_not_waited_for_and_its_update_is_taken_when_it_comes(devices, tmp_path):
    plan = Plan("dense-ae", strategy="fedbuff", rounds=4, server=ServerOptions(buffer=3), **DENSE)
    grid = Paced(devices, {1: 1, 2: 1, 3: 1, 4: 7})
    report, rounds = go(grid, plan, tmp_path)
    assert [one.clients for one in rounds] == [3, 3, 3, 3]
    assert report.rounds == 4
    # Node 4 was asked in round 1 alone until it answered, in round 3: two rounds later. Node 3, asked in round 3, is the first of round 4.
    assert [number for node, number in grid.asked if node == 4][:1] == [1]
    assert [list(one.stale.values()) for one in rounds] == [[], [], [2], [1]]
    assert next(iter(rounds[2].stale)).endswith("m3.csv")
    assert all(one.missing == [] for one in rounds)


def test_one_device_has_one_voice_in_a_buffer_however_fast_it_is(devices, tmp_path):
    plan = Plan("dense-ae", strategy="fedbuff", rounds=2, server=ServerOptions(buffer=4), **DENSE)
    grid = Paced(devices, {1: 0, 2: 5, 3: 5, 4: 9})
    _, rounds = go(grid, plan, tmp_path)
    assert [one.clients for one in rounds] == [4, 4]
    assert sorted(grid.asked) == [(node, number) for node in (1, 2, 3, 4) for number in (1, 2)]


def test_devices_that_come_are_asked_and_devices_that_go_are_not_waited_for(devices, tmp_path):
    plan = Plan("dense-ae", strategy="fedbuff", rounds=4, server=ServerOptions(buffer=2), **DENSE)
    grid = Paced(devices, {1: 1, 2: 1, 3: 1, 4: 1}, since={4: 3}, until={1: 3})
    _, rounds = go(grid, plan, tmp_path)
    assert [one.clients for one in rounds] == [2, 2, 2, 2]
    late = [node for node, number in grid.asked if number >= 3]
    assert 4 in late
    assert 1 not in late


def test_no_more_devices_learn_at_once_than_the_plan_says(devices, tmp_path):
    plan = Plan("dense-ae", strategy="fedbuff", rounds=2, server=ServerOptions(buffer=2, busy=1), **DENSE)

    class Counted(Paced):
        under_way = most = 0

        def push_messages(self, messages):
            messages = list(messages)
            if messages[0].metadata.message_type == "train":
                self.under_way += len(messages)
                self.most = max(self.most, self.under_way)
            return super().push_messages(messages)

        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            self.under_way -= len(replies)
            return replies

    grid = Counted(devices, dict.fromkeys((1, 2, 3, 4), 1))
    go(grid, plan, tmp_path)
    assert grid.most == 1


def test_a_device_that_fails_is_told_and_too_few_end_the_run(devices, tmp_path):
    class Fails(SimulationGrid):
        def answers(self, messages, deadline):
            for message, reply in zip(messages, super().answers(messages, deadline), strict=True):
                bad = message.metadata.message_type == "train" and message.metadata.dst_node_id != 1
                yield failure(message, "out of memory") if bad else reply

    plan = Plan("dense-ae", strategy="fedbuff", rounds=2, server=ServerOptions(buffer=2), **DENSE)
    with pytest.raises(
        AggregationError, match=r"round 1: answers of at least 2 devices expected, 1 of 4 .*out of memory"
    ):
        go(Fails(devices), plan, tmp_path)


def test_updates_of_any_compression_arrive(devices, tmp_path):
    for how in ("none", "int8", "topk"):
        plan = Plan("dense-ae", strategy="fedbuff", rounds=3, compress=how, **DENSE)
        _, rounds = go(SimulationGrid(devices), plan, tmp_path / how)
        assert [one.clients for one in rounds] == [4, 4, 4]
