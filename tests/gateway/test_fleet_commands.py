"""Commands and presence through real processes: agents, mosquitto, gateway, Apache Kafka, store, `covey cloud command`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter

import msgspec
import pytest
import sqlalchemy as sa
from confluent_kafka import Producer

from cloud.store import reader, schema, tables
from covey import topics, wire
from edge_bundles import make_bundle
from edge_cloud import start_agent, wait_status
from servers import Process, unique, wait_for

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.parametrize("brokers", ["real"], indirect=True),
]
COVEY = [sys.executable, "-m", "covey"]


class Fleet:
    """A gateway, a store and agents."""

    def __init__(self, brokers, folder, gateway, agents):
        self.brokers, self.folder, self.gateway, self.agents = brokers, folder, gateway, agents
        self.store = str(folder / "store.db")
        words = ["cloud", "run", "--kafka", brokers.bootstrap, "--store", self.store, "--die-with-parent"]
        self.cloud = Process("cloud", [*COVEY, *words], folder / "cloud.log").start()

    def online(self, device):
        try:
            with_store = schema.open_store(self.store, create=False)
        except Exception:  # noqa: BLE001  # not made yet
            return None
        try:
            row = reader.device(with_store, device)
            return row["online"] if row else None
        finally:
            with_store.dispose()

    def answers(self):
        """(device, command id, ok) of every stored answer."""
        engine = schema.open_store(self.store, create=False)
        try:
            with schema.read(engine) as connection:
                bodies = connection.execute(sa.select(tables.events.c.body).where(tables.events.c.kind == "status"))
                events = [wire.decode_event(body) for (body,) in bodies]
        finally:
            engine.dispose()
        said = [(identity.device, wire.decode_data(event)) for event, identity in events]
        # the broker is shared: a new store reads what other tests' devices have said
        return [(d, data.command, data.ok) for d, data in said if data.kind == "command" and d in self.agents]

    def group(self, name):
        """Put this fleet's devices into a group."""
        engine = schema.open_store(self.store, create=False)
        try:
            with engine.begin() as connection:
                table = tables.devices
                connection.execute(sa.update(table).where(table.c.device.in_(list(self.agents))).values(group=name))
        finally:
            engine.dispose()

    def command(self, *words, timeout_s=90):
        env = {k: v for k, v in os.environ.items() if k != "COVEY_CLOUD_STORE"}
        full = [*COVEY, "cloud", "command", *words, "--store", self.store, "--kafka", self.brokers.bootstrap]
        done = subprocess.run(full, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def fleet(brokers, start, tmp_path):
    make_bundle(tmp_path / "m.covey")
    names = [unique("a"), unique("a")]
    options = ("--bundle", str(tmp_path / "m.covey"), "--summary-interval-s", "600")
    agents = {n: start_agent(tmp_path, brokers.mqtt.port, n, *options, log=f"{n}.log") for n in names}
    made = Fleet(brokers, tmp_path, start(brokers), agents)
    for name in names:
        wait_status(tmp_path, name, connected=True)
        wait_for(lambda name=name: made.online(name), 60, f"{name} online in the store")
    yield made
    for process in (*agents.values(), made.cloud):
        process.kill9()


def test_an_operator_commands_devices_and_sees_what_they_answer(fleet, tmp_path):
    one, two = fleet.agents
    code, out, err = fleet.command(one, "ping", "--json")
    assert code == 0, err
    (answer,) = json.loads(out)
    assert (answer["device"], answer["kind"], answer["state"], answer["detail"]) == (one, "ping", "ok", "ping")
    assert 0.0 < answer["seconds"] < 60.0

    fleet.group("mine")  # the broker is shared: a new store reads of other tests' devices, dead by now
    code, out, _ = fleet.command("summarise", "--group", "mine")
    rows = [line.split()[:3] for line in out.splitlines()[1:]]
    assert (code, sorted(rows)) == (0, sorted([one, "summarise", "ok"] for one in fleet.agents))

    code, out, err = fleet.command("nobody", one, "ping")
    assert (code, out) == (2, "")
    assert err.splitlines() == ["covey: device: a device in the store expected, nobody received"]

    fleet.agents[two].kill9()
    wait_for(lambda: fleet.online(two) is False, 60, "the death of a killed agent in the store")
    assert fleet.online(one) is True
    code, out, _ = fleet.command(two, one, "ping", "--expires", "4", "--json")
    states = {answer["device"]: answer["state"] for answer in json.loads(out)}
    assert (code, states) == (1, {two: "expired", one: "ok"})

    code, out, _ = fleet.command(two, "ping", "--wait", "0", "--expires", "60", "--json")
    assert (code, json.loads(out)[0]["state"]) == (0, "sent")  # it comes back and answers by itself
    options = ("--bundle", str(tmp_path / "m.covey"), "--summary-interval-s", "600")
    fleet.agents[two] = start_agent(tmp_path, fleet.brokers.mqtt.port, two, *options, log="again.log")
    wait_for(
        lambda: (two, json.loads(out)[0]["id"], True) in fleet.answers(), 60, "the answer of a device that was away"
    )
    assert fleet.online(two) is True
    again = Counter(fleet.answers())
    assert set(again.values()) == {1}


def test_over_kills_of_the_gateway_each_command_is_answered_once_and_repeats_never(fleet, tmp_path):
    one, two = fleet.agents
    producer = Producer({"bootstrap.servers": fleet.brokers.bootstrap})
    sent = []

    def say(device, command):
        producer.produce(topics.COMMANDS, wire.encode(command), device)

    def give(count):
        for n in range(count):
            sent.append(((one, two)[n % 2], wire.Command(unique("c"), "ping", time.time() + 120.0)))
            say(*sent[-1])
        assert producer.flush(20) == 0

    def wanted():
        return {(device, command.id, True) for device, command in sent}

    for _ in range(2):
        before = fleet.gateway.status()["commands"]
        give(60)
        wait_for(lambda before=before: fleet.gateway.status()["commands"] > before, 30, "commands under way")
        fleet.gateway.process.kill9()
        give(60)
        fleet.gateway.start()
    wait_for(lambda: set(fleet.answers()) >= wanted(), 60, "an answer to every command")
    assert Counter(fleet.answers()) == dict.fromkeys(wanted(), 1)

    fleet.agents[two].kill9()
    options = ("--bundle", str(tmp_path / "m.covey"), "--summary-interval-s", "600")
    fleet.agents[two] = start_agent(tmp_path, fleet.brokers.mqtt.port, two, *options, log="again.log")
    for device, command in sent[:]:
        say(device, command)
    give(2)
    wait_for(lambda: set(fleet.answers()) >= wanted(), 60, "the answers to what is new")
    assert Counter(fleet.answers()) == dict.fromkeys(wanted(), 1)  # also by the agent that was started anew


def test_presence_survives_the_gateway_and_an_old_sessions_death_hides_no_new_birth(fleet, tmp_path):
    one, two = fleet.agents
    fleet.gateway.process.kill9()
    fleet.agents[one].kill9()  # its will is said while nobody listens: the broker keeps it for the gateway's session
    fleet.agents[two].kill9()
    options = ("--bundle", str(tmp_path / "m.covey"), "--summary-interval-s", "600")
    fleet.agents[two] = start_agent(tmp_path, fleet.brokers.mqtt.port, two, *options, log="again.log")
    wait_status(tmp_path, two, connected=True, pid=fleet.agents[two].pid)
    fleet.gateway.start()
    wait_for(lambda: fleet.online(one) is False, 60, "the death that was said while the gateway was down")
    wait_for(lambda: fleet.online(two) is True, 60, "a birth after a death")

    old = wire.PresenceEvent(online=False, session="00000000000000aa", gateway="g")
    event = wire.Event("1.0", f"{two}/presence/g/1", f"/covey/{two}", wire.PRESENCE_TYPE, wire.rfc3339(0.0), _raw(old))
    fleet.brokers.produce(topics.STATUS, two, wire.encode(event))  # a will that comes late
    code, out, err = fleet.command(two, "ping", "--json")  # behind it in the same partition
    assert code == 0, err
    wait_for(lambda: any(c == json.loads(out)[0]["id"] for _, c, _ in fleet.answers()), 60, "what came after the will")
    assert fleet.online(two) is True


def _raw(data):
    return msgspec.Raw(wire.encode(data))
