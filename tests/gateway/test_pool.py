"""Several gateway processes over real brokers: killed, hung, stopped and orphaned; nothing lost, order kept."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from covey import topics
from covey.runtime import poll
from gateway.cli import app
from servers import free_port, unique

pytestmark = [pytest.mark.broker, pytest.mark.parametrize("brokers", ["real"], indirect=True)]


def _gone(pid: int) -> bool:
    """Ended; perhaps not yet reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _processes(gateway):
    return gateway.status().get("processes", [])


def _fleet(names):
    """One device in about every eighth shard: many in each process's range."""
    by_shard = {}
    for i in range(5000):
        by_shard.setdefault(int(topics.shard(f"{names}-{i}"), 16) // 12, f"{names}-{i}")
    return list(by_shard.values())


def _mine(devices, about):
    first, last = about["shards"].split("-")
    return [n for n in devices if first <= topics.shard(n) <= last]


def _first_seqs(records, names):
    """Per device: the sequence numbers in order of first arrival, as Kafka has them."""
    seen = defaultdict(list)
    for record in records:
        if (name := record.key().decode()) in names:
            seq = int(json.loads(record.value())["id"].rpartition("/")[2])
            if seq not in seen[name]:
                seen[name].append(seq)
    return seen


def test_a_killed_process_comes_back_while_others_go_on_and_every_device_keeps_its_order(brokers, start) -> None:
    gateway = start(brokers, processes="3")
    before = _processes(gateway)
    assert [p["shards"] for p in before] == ["00-54", "55-a9", "aa-ff"]
    names = _fleet(unique("p"))
    devices = start.devices(brokers, names)
    for name in names:
        devices.write(name, 40)
    devices.push_until(40 * len(names), 60.0)

    os.kill(before[1]["pid"], signal.SIGSTOP)  # what it serves stands still; nobody else's does
    others = [n for n in names if n not in _mine(names, before[1])]
    assert 0 < len(others) < len(names)
    for name in names:
        devices.write(name, 40)
    devices.push_until(40 * len(names) + 40 * len(others), 60.0)
    os.kill(before[1]["pid"], signal.SIGKILL)
    devices.push_until(80 * len(names), 60.0)

    assert poll(lambda: gateway.status().get("ready") is True, 30.0)
    after = _processes(gateway)
    assert [p["starts"] for p in after] == [1, 2, 1]
    assert [p["pid"] for p in after][::2] == [p["pid"] for p in before][::2]
    with brokers.reader(topics.STATUS) as read:
        assert poll(lambda: sum(map(len, _first_seqs(read(), names).values())) == 80 * len(names), 30.0)
        seen = _first_seqs(read(), names)
    assert {name: seen[name] for name in names} == {name: list(range(1, 81)) for name in names}

    said = gateway.process.log.read_text()
    assert said.count("was ended by signal 9: starting again") == 1
    pids = [p["pid"] for p in after]
    gateway.process.send(signal.SIGTERM)
    assert gateway.process.wait(30.0) == 0
    assert [pid for pid in pids if not _gone(pid)] == []
    assert gateway.process.log.read_text().count("]: stopped; ") == 3  # each said goodbye: none was killed
    with_presence = start.devices(brokers, names[:1]).received
    here = topics.gateway_topic(topics.shard(names[0]))
    assert poll(lambda: any(t == here and not json.loads(p)["online"] for t, p, _ in with_presence), 10.0)


def test_a_hung_process_is_killed_and_none_outlives_the_parent(brokers, start, tmp_path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('processes = 2\nhung_s = 2.0\nshards = ["00", "01", "02"]\n')
    gateway = start(brokers, config=str(config))
    before = _processes(gateway)
    assert [p["shards"] for p in before] == ["00", "01-02"]
    os.kill(before[0]["pid"], signal.SIGSTOP)
    assert poll(lambda: not gateway.status().get("ready"), 20.0)
    assert _processes(gateway)[1]["ready"]

    def back() -> bool:
        return bool(gateway.status().get("ready")) and _processes(gateway)[0]["pid"] != before[0]["pid"]

    assert poll(back, 60.0)
    after = _processes(gateway)
    assert [(p["starts"], p["kills"]) for p in after] == [(2, 1), (1, 0)]
    assert _gone(before[0]["pid"])

    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.health}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'covey_gateway_mqtt_connected{process="0"} 1\n' in text
    assert 'covey_gateway_mqtt_connected{process="1"} 1\n' in text
    assert 'covey_gateway_process_kills_total{process="0"} 1\n' in text
    assert text.count("# TYPE covey_gateway_mqtt_connected ") == 1

    page = CliRunner().invoke(app, ["status", "--health-port", str(gateway.health)])
    assert page.exit_code == 0, page.output
    assert "process 1    shards 01-02 ready" in page.output
    child = CliRunner().invoke(app, ["status", "--health-port", str(after[1]["health_port"]), "--json"])
    assert (child.exit_code, json.loads(child.output)["gateway"]) == (0, f"{gateway.name}-1")

    gateway.process.kill9()
    assert poll(lambda: all(_gone(p["pid"]) for p in after), 20.0)


def _run(*words):
    code = "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\nwith one_line():\n"
    code += "    app(sys.argv[1:], standalone_mode=False)"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_a_taken_port_and_a_refused_configuration_are_one_line_each(brokers) -> None:
    where = ("--mqtt", f"127.0.0.1:{brokers.mqtt.port}", "--kafka", brokers.bootstrap, "--log-level", "error")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, said = _run("run", *where, "--processes", "3", "--health-port", str(port))
    assert (code, len(said)) == (1, 1), said
    assert str(port) in said[0]
    file = brokers.folder / f"{unique('c')}.toml"
    file.write_text('mqtt_ca = "nowhere.pem"\n')
    code, _, said = _run("run", *where, "--processes", "3", "--config", str(file), "--health-port", str(free_port()))
    assert (code, len(said)) == (2, 1), said
    assert "mqtt_ca" in said[0]
    code, _, said = _run("run", *where, "--processes", "257")
    assert (code, len(said)) == (2, 1), said


def test_what_came_for_an_earlier_layout_is_moved_before_the_new_one_begins(brokers, start) -> None:
    first, then = 3, 2
    name = unique("m")
    gateway = start(brokers, processes=str(first), name=name)
    gateway.process.send(signal.SIGTERM)
    assert gateway.process.wait(30.0) == 0
    names = _fleet(unique("q"))
    devices = start.devices(brokers, names, resend_s=1e9)  # as a plain device: what is sent is sent
    for n in names:
        devices.write(n, 10)
    devices.push()
    assert poll(
        lambda: not devices.client.want_write() and not devices.client._out_messages, 20.0
    )  # the broker has all
    again = start(brokers, processes=str(then), name=name)
    with brokers.reader(topics.STATUS) as read:
        assert poll(lambda: sum(map(len, _first_seqs(read(), names).values())) == 10 * len(names), 30.0)
        seen = _first_seqs(read(), names)
    assert {n: seen[n] for n in names} == {n: list(range(1, 11)) for n in names}
    assert again.process.log.read_text().count("of an earlier layout ended") == first
    # and the old sessions are gone: nothing is moved twice
    where = ("--mqtt", f"127.0.0.1:{brokers.mqtt.port}", "--kafka", brokers.bootstrap)
    again.process.stop()
    code, out, _said = _run("move", *where, "--name", name, "--processes", str(then), "--json")
    assert (code, json.loads(out)) == (0, [])
