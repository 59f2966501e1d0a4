"""Engine `simulation` in several processes: the answers of one process, to the bit, and what happens when one ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from msgspec.structs import replace

from covey.bundle import Features, Inputs, read_bundle
from covey.errors import AggregationError, ProcessError
from federated.config import DenseOptions, Gates, Job, PcaOptions, Plan, write_struct
from federated.engines import learners
from federated.engines.home import RUN_ID, run_server
from federated.engines.learners import LearnersGrid, simulation
from federated.engines.simulation import SimulationGrid
from federated.families import family_of
from federated.records import arrays_of, question
from federated.training import devices_of_files
from federated_rigs import CHANNELS, walk, write_csv

pytestmark = pytest.mark.timeout(240)

INPUTS = Inputs(list(CHANNELS), 1.0, 4, 1, Features("lag"))
PLANS = {
    "pca": Plan("pca", features="lag", window=4, commission_windows=50, pca=PcaOptions(keep=4)),
    "dense-ae": Plan(
        "dense-ae",
        window=4,
        rounds=6,
        commission_windows=50,
        compress="topk",
        keep=0.25,
        gates=Gates(int8_error=1, int8_bias=1, false_alarms=1),
        dense=DenseOptions([4, 2, 4], epochs=4, learning_rate=0.02),
    ),
}


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1


@pytest.fixture
def devices(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(7):
        write_csv(tmp_path / "data" / f"m{number}.csv", walk(100 + 23 * number, seed=number))
    return devices_of_files([tmp_path / "data"])


def round_of(grid, family, nodes=None):
    plan, kind = PLANS[family], family_of(family)
    config = {"plan": write_struct(plan), "inputs": write_struct(INPUTS), "round": 1, "run": 5}
    weights = {name: values.astype(np.float16) for name, values in kind.down(kind.begin(plan, 12)).items()}
    content = question(weights, config)
    return [Message(content, node, "train", ttl=60.0) for node in nodes or grid.nodes]


def told(grid, messages, timeout_s=60.0):
    """Node -> arrays, or the complaint."""
    return {
        reply.metadata.src_node_id: reply.error.reason if reply.has_error() else arrays_of(reply)
        for reply in grid.send_and_receive(messages, timeout=timeout_s)
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(values, other[name]) and values.dtype == other[name].dtype for name, values in one.items()
    )


@pytest.mark.parametrize("count", [2, 3])
def test_devices_answer_as_in_one_process_whatever_their_number(devices, count):
    alone = SimulationGrid(devices)
    with LearnersGrid(devices, count=count) as grid:
        for family in PLANS:
            expected, found = told(alone, round_of(alone, family)), told(grid, round_of(grid, family))
            assert expected.keys() == found.keys() == set(range(1, 8))
            assert all(same(expected[node], found[node]) for node in expected)
        assert (grid.bytes_down, grid.bytes_up) == (alone.bytes_down, alone.bytes_up)


def test_a_run_of_several_rounds_makes_the_same_bundle(devices, tmp_path):
    """From round 2 on the server sends differences: each device must find what it remembers of round 1."""
    bundles = []
    plan = replace(
        PLANS["dense-ae"], compress="int8", dense=DenseOptions([6, 4, 6], epochs=40)
    )  # good enough for the gates
    with LearnersGrid(devices, memory=tmp_path / "shared" / "devices") as grid:
        for folder, engine in (("shared", grid), ("alone", SimulationGrid(devices))):
            run_server(engine, Job(plan, str(tmp_path / f"{folder}.zip"), str(tmp_path / folder)))
            bundles.append(read_bundle(tmp_path / f"{folder}.zip").files)
    assert bundles[0] == bundles[1]
    kept = sorted(path.name for path in (tmp_path / "shared" / "devices").iterdir())
    assert kept == [f"{node}.npz" for node in range(1, 8)]


def test_a_device_that_fails_is_an_answer_and_the_others_learn(devices, tmp_path):
    (tmp_path / "data" / "m1.csv").write_text("a,b,c\n1,2,oops\n")
    with LearnersGrid(devices) as grid:
        found = told(grid, round_of(grid, "dense-ae"))
    assert [node for node, answer in found.items() if isinstance(answer, str)] == [2]
    assert "'oops' came" in found[2]
    assert len(found) == 7


def test_what_came_too_late_is_not_heard_in_the_next_round(devices):
    alone = SimulationGrid(devices)
    expected = told(alone, round_of(alone, "pca", [3, 4]))
    with LearnersGrid(devices) as grid:
        assert told(grid, round_of(grid, "dense-ae"), timeout_s=0.0) == {}
        found = told(grid, round_of(grid, "pca", [3, 4]))
        assert found.keys() == {3, 4}
        assert all(same(expected[node], found[node]) for node in found)
        left = grid.answers(round_of(grid, "dense-ae"), time.monotonic() + 60)
        next(iter(left))
        left.close()  # whoever asked is not interested any more
        assert told(grid, round_of(grid, "pca", [3, 4])).keys() == {3, 4}


def test_a_stop_ends_the_round(devices):
    stop = threading.Event()
    with LearnersGrid(devices, stop) as grid:
        answers = grid.answers(round_of(grid, "dense-ae"), time.monotonic() + 60)
        next(iter(answers))
        stop.set()
        assert list(answers) == []
        with pytest.raises(AggregationError, match="stopped"):
            grid.send_and_receive(round_of(grid, "dense-ae"), timeout=60)


def test_a_process_that_is_killed_ends_the_run_and_all_processes(devices):
    with ExitStack() as stack:
        grid = stack.enter_context(LearnersGrid(devices))
        pids = [process.pid for process in grid.processes]
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(ProcessError, match=f"process {pids[1]} ended with .* before it answered"):
            grid.send_and_receive(round_of(grid, "dense-ae"), timeout=60)
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_fleet_is_shared_when_it_is_large_and_there_are_processors(devices, monkeypatch):
    with ExitStack() as stack:
        assert isinstance(simulation(devices, threading.Event(), None, stack), SimulationGrid)
        monkeypatch.setattr(learners, "LEAST", 7)
        monkeypatch.setattr(learners, "processors", lambda: 1)
        assert isinstance(simulation(devices, threading.Event(), None, stack), SimulationGrid)
        monkeypatch.setattr(learners, "processors", lambda: 2)
        grid = simulation(devices, threading.Event(), None, stack)
        assert isinstance(grid, LearnersGrid)
        assert len(grid.processes) == 2
        assert told(grid, round_of(grid, "pca")).keys() == set(range(1, 8))
    assert all(process.returncode is not None for process in grid.processes)
