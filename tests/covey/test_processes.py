"""Children: started, watched, killed by pid, ended in order, and their failures told with the end of their log."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from covey.errors import ProcessError
from covey.processes import Children, free_port

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def children(tmp_path):
    group = Children(tmp_path / "logs")
    yield group
    group.stop(timeout_s=2)


def test_a_part_that_fails_is_named_with_the_end_of_its_log(children):
    children.start("bad", [sys.executable, "-c", "import sys; sys.exit('no port for me')"]).process.wait(10)
    with pytest.raises(ProcessError) as caught:
        children.check()
    assert str(caught.value).startswith("bad: ended with exit code 1")
    assert "no port for me" in str(caught.value)


def test_a_command_gives_its_stdout_and_its_failure_is_an_error(children):
    stop = threading.Event()
    assert children.run("say", [sys.executable, "-c", "print('hello')"], 10, stop) == "hello\n"
    with pytest.raises(ProcessError, match="worse"):
        children.run("fail", [sys.executable, "-c", "import sys; sys.exit('worse')"], 10, stop)


def test_waiting_ends_when_a_child_ends(children):
    children.start("brief", [sys.executable, "-c", "pass"])
    with pytest.raises(ProcessError, match="brief: ended with exit code 0"):
        children.wait_until(lambda: False, 20, "never", threading.Event())


def test_waiting_ends_at_its_time_and_at_a_stop(children):
    stop = threading.Event()
    with pytest.raises(ProcessError, match="the moon: not there after 0 s"):
        children.wait_until(lambda: False, 0.2, "the moon", stop)
    stop.set()
    with pytest.raises(ProcessError, match="interrupted"):
        children.wait_until(lambda: False, 20, "the moon", stop)
    with pytest.raises(ProcessError, match="interrupted"):
        children.run("late", SLEEP, 20, stop)


def test_stop_ends_every_child_also_one_that_will_not(children):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    child = children.start("stubborn", [sys.executable, "-c", stubborn])
    while not child.tail():
        assert child.alive
    pids = [child.process.pid, children.start("kind", SLEEP).process.pid]
    assert children.stop(timeout_s=1) == ["stubborn"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_killed_child_can_be_started_again_under_its_name(children):
    first = children.start("part", SLEEP)
    children.kill("part")
    assert first.process.returncode == -9
    again = children.start("part", SLEEP)
    assert again.starts == 2
    assert again.alive
    with pytest.raises(ProcessError, match="runs already"):
        children.start("part", SLEEP)


def test_free_ports_can_be_bound():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
