"""Engine `local`: a process for every device and message, its own ring only, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from covey.bundle import Features, Inputs, read_bundle
from covey.errors import AggregationError, UsageError
from federated.config import Job, PcaOptions, Plan
from federated.engines.home import run_server
from federated.engines.local import LocalGrid
from federated.training import devices_of_rings, read_report, run
from federated_rigs import CHANNELS, walk, write_csv, write_ring

PLAN = Plan("pca", window=4, commission_windows=50, pca=PcaOptions(keep=4))
INPUTS = Inputs(list(CHANNELS), 1.0, 4, 1, Features("lag"))


@pytest.fixture
def stack(tmp_path):
    """The folder of a stack with three agents."""
    for number in range(3):
        log = write_csv(tmp_path / f"m{number}.csv", walk(300, seed=number))
        write_ring(tmp_path / "agents" / f"d{number}" / "ring.bin", INPUTS, [(log, False)])
    return tmp_path


def test_rings_of_a_stack_make_a_bundle_like_the_files_they_came_from(stack):
    stop = threading.Event()
    options = {"initial": None, "checkpoint": None, "resume": False, "stop": stop}
    report = run(PLAN, devices_of_rings([], stack), engine="local", out=stack / "local.zip", **options)
    assert (report.engine, report.clients, report.failed) == ("local", 3, {})
    run(PLAN, devices_of_rings([], stack), engine="simulation", out=stack / "simulated.zip", **options)
    one, other = (read_bundle(stack / name) for name in ("local.zip", "simulated.zip"))
    assert one.files == other.files


class Watched(LocalGrid):
    """The engine, doing harm to some of its processes."""

    def __init__(self, devices, harm):
        super().__init__(devices)
        self.harm = harm
        self.pids = []

    def _start(self, message):
        child = super()._start(message)
        self.pids.append(child.pid)
        self.harm(child, self.names[message.metadata.dst_node_id])
        return child


def train(grid, folder):
    run_server(grid, Job(PLAN, str(folder / "model.zip"), str(folder / "runs")))
    return read_report(folder / "runs")


def test_a_child_that_is_killed_is_a_device_that_failed(stack):
    def harm(child, device):
        if device == "d1":
            os.kill(child.pid, signal.SIGKILL)

    with Watched(devices_of_rings([], stack), harm) as grid:
        report = train(grid, stack)
    assert report.clients == 2
    assert report.failed.keys() == {"d1"}
    assert "ended before it answered" in report.failed["d1"]


def test_a_child_that_hangs_is_ended_when_the_time_is_up(stack):
    def harm(child, device):
        if device == "d1" and len(grid.pids) <= 3:  # in the first round of messages only
            os.kill(child.pid, signal.SIGSTOP)

    with Watched(devices_of_rings([], stack), harm) as grid:
        began = time.monotonic()
        run_server(
            grid,
            Job(Plan("pca", window=4, commission_windows=50, timeout_s=4.0), str(stack / "m.zip"), str(stack / "r")),
        )
        assert time.monotonic() - began < 40
        assert read_report(stack / "r").failed == {"d1": "no answer in time"}
        assert ends(grid.pids)


def ends(pids):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.02)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_a_stop_ends_the_run_and_its_processes(stack):
    def harm(child, device):
        os.kill(child.pid, signal.SIGSTOP)
        grid.stop.set()

    with Watched(devices_of_rings([], stack), harm) as grid, pytest.raises(AggregationError, match="stopped"):
        train(grid, stack)
    assert ends(grid.pids)
    assert not (stack / "model.zip").exists()


def test_a_child_knows_its_own_ring_only_and_nobody_else_opens_any(stack):
    """Stopped as soon as it has its question, a child has no file but its socket; the others' rings are unreadable."""
    rings = {name: Path(node["ring"]) for name, node in devices_of_rings([], stack).items()}
    told = {}

    def harm(child, device):
        process = psutil.Process(child.pid)
        told.setdefault(device, set()).update(arg for arg in process.cmdline() if "ring" in arg)
        parent = {Path(file.path) for file in psutil.Process().open_files()}
        nursery = {Path(file.path) for file in psutil.Process(grid._nursery.pid).open_files()}
        assert not (parent | nursery) & set(rings.values())
        assert not {Path(file.path) for file in process.open_files()} & (set(rings.values()) - {rings[device]})

    with Watched(devices_of_rings([], stack), harm) as grid:
        report = train(grid, stack)
    assert report.clients == 3
    assert told == {name: set() for name in rings}  # nothing on the command line either
    assert "ring" not in " ".join(psutil.Process().cmdline())


def test_children_are_at_most_two_at_a_time(stack):
    alive = []

    def is_alive(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended while we looked
            return False

    def harm(child, device):
        alive.append(sum(is_alive(p) for p in psutil.Process(grid._nursery.pid).children()))

    with Watched(devices_of_rings([], stack), harm) as grid:
        train(grid, stack)
    assert 1 <= max(alive) <= 3  # one that has answered may still be on its way out


@pytest.mark.parametrize(
    ("words", "told"),
    [(["d1"], "DEVICE=PATH expected, 'd1' came"), (["d1=/nowhere/ring.bin"], "d1: a ring expected, /nowhere/ring.bin")],
)
def test_rings_that_are_none_are_told(words, told):
    with pytest.raises(UsageError, match=told):
        devices_of_rings(words, None)


def test_files_are_no_devices_of_engine_local(stack):
    with pytest.raises(UsageError, match="--engine local: rings expected"):
        run(
            PLAN,
            {"m0": {"files": "[]"}},
            engine="local",
            out=stack / "m.zip",
            initial=None,
            checkpoint=None,
            resume=False,
            stop=threading.Event(),
        )


def test_the_nursery_does_not_outlive_its_parent():
    code = (
        "from federated.engines.local import LocalGrid\n"
        "with LocalGrid({}) as grid:\n    print(grid._nursery.pid, flush=True)\n    input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate()
    assert ends([pid])
