"""The cloud asks a device to learn: a request is left for its learner, or the reason why not is the answer."""

from __future__ import annotations

import json
import sys
import time

import msgspec
import pytest

from covey import wire
from covey.errors import UsageError
from edge.learn_request import REQUEST, Learner
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from federated.join import Request, take_request
from servers import unique, wait_for


def command(**changes):
    soon = time.time() + 60
    fields = {"superlink": "cloud.example.org:9092", "deadline_s": soon + 600, **changes}
    return wire.Command("c-1", "learn", soon, **fields)


def test_a_request_is_left_for_the_learner_and_taken_once(tmp_path):
    asked = command()
    done, detail = Learner(tmp_path, ()).ask(asked, "")
    assert (done, detail) == (True, "learn: the learner is asked to join")
    path = tmp_path / REQUEST
    assert path.stat().st_mode & 0o777 == 0o600
    assert take_request(path) == Request("cloud.example.org:9092", asked.deadline_s, "c-1")
    with pytest.raises(UsageError, match="none there"):
        take_request(path)


@pytest.mark.parametrize("held", ["armed", "battery 3.20 V, below 3.5 V", "metered link"])
def test_a_device_that_may_not_learn_says_why_and_leaves_nothing(tmp_path, held):
    assert Learner(tmp_path, ()).ask(command(), held) == (False, f"learn: {held}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"superlink": ""}, {"deadline_s": 1.0}])
def test_a_command_without_superlink_or_time_is_refused(tmp_path, changes):
    done, detail = Learner(tmp_path, ()).ask(command(**changes), "")
    assert not done
    assert "expected" in detail
    assert list(tmp_path.iterdir()) == []


def test_a_start_command_is_run_once_at_a_time(tmp_path):
    began = tmp_path / "began"
    script = f"import pathlib, sys; pathlib.Path({str(began)!r}).touch(); sys.stdin.read(); import time; time.sleep(60)"
    learner = Learner(tmp_path, (sys.executable, "-c", script))
    assert learner.ask(command(), "")[0]
    try:
        wait_for(began.exists, 20, "the learner")
        done, detail = learner.ask(command(), "")
        assert (done, "still at work" in detail) == (False, True)
    finally:
        learner._started.kill()
        learner._started.wait()
    assert learner.ask(command(), "")[0]
    learner._started.kill()
    learner._started.wait()


def test_a_start_command_that_is_missing_is_told(tmp_path):
    done, detail = Learner(tmp_path, (str(tmp_path / "nothing"),)).ask(command(), "")
    assert not done
    assert "No such file" in detail


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not json", "a request of the agent expected"),
        (b'{"superlink":"a:1"}', "a request of the agent expected"),
        (json.dumps({"superlink": "a:1", "deadline_s": 5.0}).encode(), "its time was over"),
        (b"[" * 5000, "a request of the agent expected"),
    ],
)
def test_a_request_that_cannot_be_used_is_taken_and_told(tmp_path, content, why):
    path = tmp_path / REQUEST
    path.write_bytes(content)
    with pytest.raises(UsageError, match=why):
        take_request(path)
    assert not path.exists()


@pytest.mark.broker
@pytest.mark.timeout(120)
def test_an_agent_asks_its_learner_only_when_it_may_learn(tmp_path, mosquitto):
    device = unique("d")
    make_bundle(tmp_path / "m.covey")
    write_flight(tmp_path / "calm.csv", 400, 1)
    metered = tmp_path / "metered.toml"
    metered.write_text('[links."*"]\nmetered = true\n')
    with Cloud(mosquitto.port) as cloud:

        def told(name):
            cloud.tell(device, "command", msgspec.structs.replace(command(), id=name))
            wait_for(lambda: name in [s.command for s in cloud.data("status")], 20, f"an answer to {name}")
            return next(s for s in cloud.data("status") if s.command == name)

        words = ("--bundle", str(tmp_path / "m.covey"), "--commission", str(tmp_path / "calm.csv"))
        words += ("--source", str(tmp_path / "calm.csv"), "--speed", "0")
        agent = start_agent(tmp_path, mosquitto.port, device, *words, "--config", str(metered))
        wait_status(tmp_path, device, state="done")
        answer = told("c-1")
        assert (answer.ok, answer.detail) == (False, "learn: metered link")
        assert not (tmp_path / device / REQUEST).exists()
        agent.stop()
        agent = start_agent(tmp_path, mosquitto.port, device, *words)
        wait_for(lambda: [s.kind for s in cloud.data("status")].count("start") == 2, 30, "the second start")
        answer = told("c-2")
        assert (answer.ok, answer.detail) == (True, "learn: the learner is asked to join")
        assert take_request(tmp_path / device / REQUEST).command == "c-2"
        agent.stop()
