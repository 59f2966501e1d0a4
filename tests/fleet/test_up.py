"""`covey up`: a stack that stays, mends itself, learns, releases, and comes down in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from servers import free_port, wait_for

COVEY = [sys.executable, "-m", "covey"]


def covey(folder, *words, timeout_s=120):
    environ = {k: v for k, v in os.environ.items() if k != "COVEY_CLOUD_STORE"}
    done = subprocess.run(
        [*COVEY, *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return done.returncode, done.stdout, done.stderr


def ports():
    return [w for name in ("mqtt", "kafka", "serve", "health", "console") for w in (f"--{name}-port", str(free_port()))]


def asked(url):
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # our own console
        return json.loads(answer.read())


def fleet(folder):
    code, out, _ = covey(folder, "cloud", "devices", "--json")
    return json.loads(out) if code == 0 else []


@pytest.fixture
def up(tmp_path):
    code, _, err = covey(tmp_path, "up", "--detach", "--devices", "3", "--speed", "10", *ports())
    assert code == 0, err
    yield tmp_path
    covey(tmp_path, "down")


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_running_stack_mends_itself_learns_releases_and_comes_down(up):
    code, out, _ = covey(up, "status", "--json")
    state = json.loads(out)
    assert code == 0
    assert all(state["alive"].values()), state["alive"]
    assert "memory only" in state["embedded"]["kafka"]
    console = f"http://127.0.0.1:{state['ports']['console']}/api"
    wait_for(lambda: len([d for d in fleet(up) if d["windows"] > 0]) == 3, 60, "windows of three devices in the store")
    wait_for(lambda: len(asked(f"{console}/fleet")["devices"]) == 3, 30, "three devices in the console")
    assert any("keeps nothing" in notice for notice in asked(f"{console}/me")["notices"])

    os.kill(state["parts"]["kafka"], 9)  # the memory broker: what it held is gone, and its offsets

    def mended():
        now = json.loads(covey(up, "status", "--json")[1])
        return all(now["alive"].values()) and now["parts"]["kafka"] != state["parts"]["kafka"]

    wait_for(mended, 60, "a new broker")
    before = {d["device"]: d["windows"] for d in fleet(up)}
    wait_for(lambda: all(d["windows"] > before[d["device"]] for d in fleet(up)), 90, "more windows after the kill")

    code, out, err = covey(
        up, "federated", "train", "--engine", "local", "--stack", ".covey", "--initial", ".covey/release-1.covey",
        "--out", "better.covey", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["clients"] >= 2
    code, out, err = covey(up, "cloud", "releases", "add", "better.covey", "--stack", ".covey", "--json")
    assert code == 0, err
    assert json.loads(out)["number"] == 2
    wait_for(lambda: [d["release"] for d in fleet(up)] == [2, 2, 2], 90, "release 2 on every device")

    assert covey(up, "down")[0] == 0
    code, out, _ = covey(up, "status", "--json")
    assert code == 1
    assert not any(json.loads(out)["alive"].values())
    counts = json.loads(covey(up, "cloud", "status", "--json")[1])
    assert counts["missing"] == 0, "a killed memory broker lost what agents had written"
    assert counts["conflicts"] == 0


@pytest.mark.broker
@pytest.mark.timeout(120)
def test_a_port_already_taken_is_one_line_and_nothing_stays_behind(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ports()
        words[1] = str(taken.getsockname()[1])
        code, out, err = covey(tmp_path, "up", "--devices", "0", *words)
    assert code == 2
    assert out == ""
    assert f"mqtt: a free port expected, 127.0.0.1:{words[1]} is taken" in err
    assert "Traceback" not in err
    assert covey(tmp_path, "status")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_without_a_stack_down_and_status_say_so(tmp_path):
    for words in (("down",), ("status",), ("cloud", "releases", "add", "x", "--stack", ".covey")):
        code, _, err = covey(tmp_path, *words)
        assert code == 2
        assert "a stack expected, none was started there" in err
    assert not (Path(tmp_path) / ".covey").exists()
