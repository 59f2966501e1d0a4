"""Stop events, backoff, whole files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from covey.runtime import Backoff, start_logging, write_whole

WAITER = (
    "from covey.runtime import install_stop\n"
    "stop = install_stop(); print('ready', flush=True)\n"
    "stop.wait(30); print('stopping', flush=True)\n"
    "{after}\n"
)


def start(after):
    child = subprocess.Popen([sys.executable, "-c", WAITER.format(after=after)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_loop_in_order(signum):
    child = start("")
    child.send_signal(signum)
    assert child.communicate(timeout=10)[0] == "stopping\n"
    assert child.returncode == 0


def test_a_second_signal_ends_a_loop_that_hangs():
    child = start("import time; time.sleep(60)")
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "stopping\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 130
    child.stdout.close()


def test_a_child_that_asked_for_it_ends_with_its_parent():
    parent = (
        "import subprocess, sys\n"
        "c = subprocess.Popen([sys.executable, '-c', 'from covey.runtime import die_with_parent; die_with_parent();"
        "print(1, flush=True); import time; time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print(c.pid, flush=True); import time; time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    end = os.pidfd_open(pid)
    process.kill()
    process.wait(10)
    process.stdout.close()
    import select

    assert select.select([end], [], [], 10)[0], "the child outlived its parent"
    os.close(end)


def test_backoff_grows_to_its_cap_with_jitter_and_begins_again():
    backoff = Backoff(base_s=0.1, cap_s=2.0, rng=random.Random(3))
    delays = [backoff.next_s() for _ in range(200)]
    assert all(0.1 <= d <= 2.0 for d in delays)
    assert delays[0] == pytest.approx(0.1)
    assert max(delays[20:]) > 1.5
    assert len(set(delays[20:])) > 100
    backoff.reset()
    assert backoff.next_s() == pytest.approx(0.1)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "f"
    write_whole(path, b"old", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600

    class Bad:
        def __len__(self):
            return 1

    with pytest.raises(TypeError):
        write_whole(path, Bad())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_lines_carry_the_trace_and_the_device(capfd):
    log = start_logging("edge", json_lines=True)
    log.info("alarm %s", "begin", extra={"trace_id": "ab" * 16, "device": "d1"})
    log.warning("no link")
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert {name: first[name] for name in ("level", "role", "message", "trace_id", "device")} == {
        "level": "info",
        "role": "edge",
        "message": "alarm begin",
        "trace_id": "ab" * 16,
        "device": "d1",
    }
    assert sorted(second) == ["level", "message", "role", "time"]
