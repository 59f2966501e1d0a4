"""The gateway as a process between live brokers: nothing lost, nothing acknowledged early, nothing blocked."""

import base64
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey import topics, wire
from covey.runtime import poll
from servers import free_port, unique

pytestmark = pytest.mark.broker


def _identities(messages, device):
    """Sequence numbers of a device's events in order of arrival, repeats included."""
    out = []
    for message in messages:
        if message.key() == device.encode():
            event = json.loads(message.value())
            if event["type"] == "covey.status.v1":
                out.append(int(event["id"].rsplit("/", 1)[1]))
    return out


def _firsts(numbers):
    return list(dict.fromkeys(numbers))


@pytest.mark.slow
def test_a_gateway_killed_midway_loses_nothing_and_keeps_the_order(brokers, start) -> None:
    gateway = start(brokers)
    names = [f"k{n}-{gateway.name}" for n in range(20)]
    devices = start.devices(brokers, names)
    for name in names:
        devices.write(name, 250)
    devices.push_until(2_000, 40.0)
    gateway.process.kill9()
    devices.push()
    gateway.start()
    devices.push_until(5_000, 60.0)
    with brokers.reader(topics.STATUS) as read:
        wanted = list(range(1, 251))
        assert poll(lambda: sum(len(set(_identities(read(), n))) for n in names) == 5_000, 30.0)
        for name in names:
            assert _firsts(_identities(read(), name)) == wanted
        stored = {m.value() for m in read() if m.key() and m.key().decode() in names}
    sent = {row for name in names for row in devices.rows[name].values()}
    assert stored == sent  # byte for byte


def test_nothing_is_acknowledged_before_kafka_has_it(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name], resend_s=60.0)
    devices.write(name, 3)
    devices.push_until(3, 20.0)
    before = gateway.status()["pubacks"]
    brokers.kafka.pause()
    try:
        devices.write(name, 40)
        devices.push()
        assert poll(lambda: gateway.status()["received"].get("status", 0) >= 43, 10.0)
        assert not poll(lambda: devices.settled() > 3, 2.0)  # time enough for an early ack to show
        assert gateway.status()["pubacks"] == before
        assert gateway.status()["pending"] >= 40
    finally:
        brokers.kafka.resume()
    devices.push_until(43, 40.0)
    assert poll(lambda: gateway.status()["pubacks"] >= before + 40, 10.0)
    with brokers.reader(topics.STATUS) as read:
        assert poll(lambda: _firsts(_identities(read(), name)) == list(range(1, 44)), 20.0)


def test_bad_messages_are_put_aside_with_reason_topic_and_bytes_and_block_nothing(brokers, start, name) -> None:
    start(brokers)
    devices = start.devices(brokers, [name])
    broken = b'{"id": "\xff\x00 not json'
    devices.write(name, 2)
    wrong = devices.rows[name][1].replace(b"covey.status.v1", b"covey.nothing.v1")
    devices.raw(name, "status", broken)
    devices.raw(name, "status", wrong)
    devices.client.publish(f"covey/v1/00/{name}-elsewhere/status", b"{}", qos=1)
    devices.raw(name, "status", devices.rows[name][2])
    assert poll(lambda: devices.settled() == 2, 20.0)  # the refused identity too
    with brokers.reader(topics.DEADLETTER, topics.STATUS) as read:

        def letters():
            parsed = [json.loads(m.value()) for m in read() if m.topic() == topics.DEADLETTER]
            return [x for x in parsed if name in x["topic"]]

        assert poll(lambda: len(letters()) == 3, 20.0)
        found = {x["reason"]: x for x in letters()}
        assert set(found) == {"not_json", "unknown_type", "bad_topic"}
        assert base64.b64decode(found["not_json"]["payload"]) == broken
        assert found["not_json"]["topic"] == topics.mqtt_topic(name, "status")
        assert base64.b64decode(found["unknown_type"]["payload"]) == wrong
        assert abs(found["not_json"]["received_s"] - time.time()) < 60
        assert poll(lambda: _identities((m for m in read() if m.topic() == topics.STATUS), name) == [2], 20.0)


def _desired(device, revision):
    return b" " + wire.encode(wire.Desired(device, revision, "g", revision, "t", "0" * 64, 5, "http://x"))


def test_desired_reaches_a_late_joiner_retained_newest_and_unchanged(brokers, start, name) -> None:
    gateway = start(brokers)
    for revision in (1, 3, 2):
        brokers.produce(topics.DESIRED, name, _desired(name, revision))
    assert poll(lambda: gateway.status()["desired_known"] >= 1 and gateway.status()["desired"] >= 1, 20.0)

    def joined():
        late = start.devices(brokers, [name])
        poll(lambda: bool(late.of_kind(name, "desired")), 3.0)
        return late.of_kind(name, "desired")[:1] == [(topics.mqtt_topic(name, "desired"), _desired(name, 3), True)]

    assert poll(joined, 20.0)
    restarted = start(brokers)  # reads them from the beginning
    assert poll(lambda: restarted.status()["desired"] >= 1, 20.0)
    assert joined()


def test_commands_arrive_once_unretained_and_not_after_their_time(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    late = wire.encode(wire.Command("c-late", "ping", time.time() - 1.0))
    good = wire.encode(wire.Command("c-good", "ping", time.time() + 60.0))
    brokers.produce(topics.COMMANDS, name, late)
    brokers.produce(topics.COMMANDS, name, b"{")
    brokers.produce(topics.COMMANDS, name, good)
    assert poll(lambda: bool(devices.of_kind(name, "command")), 20.0)
    assert devices.of_kind(name, "command") == [(topics.mqtt_topic(name, "command"), good, False)]
    status = gateway.status()
    # at least: a new gateway looks a day back, and the broker holds what other tests have sent
    assert (status["commands_expired"] >= 1, status["bad_downlink"]["covey.commands"] >= 1) == (True, True)


def test_with_ack_after_store_only_the_store_or_a_refusal_acknowledges(brokers, start, name) -> None:
    gateway = start(brokers, ack_after="store")
    devices = start.devices(brokers, [name], resend_s=60.0)
    devices.write(name, 4)
    for seq in (1, 2, 3):
        devices.raw(name, "status", devices.rows[name][seq])
    devices.raw(name, "status", devices.rows[name][4].replace(b"covey.status.v1", b"covey.nothing.v1"))
    assert poll(lambda: devices.acked[name] == {4}, 20.0)
    assert poll(lambda: gateway.status()["pubacks"] == 4, 10.0)  # Kafka has them all the same
    assert devices.acked[name] == {4}
    stored = wire.Ack([wire.AckRanges(devices.outbox, [(1, 1), (2, 3)])])
    brokers.produce(topics.ACKS, name, wire.encode(stored))
    assert poll(lambda: devices.acked[name] == {1, 2, 3, 4}, 20.0)


def test_presence_of_the_gateway_is_true_and_ends_with_an_orderly_stop(brokers, start, name) -> None:
    gateway = start(brokers)
    topic = topics.gateway_topic(topics.shard(name))
    devices = start.devices(brokers, [name])

    def last():
        seen = [json.loads(p) for t, p, _ in devices.received if t == topic]
        seen = [p for p in seen if p["gateway"] == gateway.name]
        return seen[-1]["online"] if seen else None

    assert poll(lambda: last() is True, 20.0)
    devices.write(name, 100)
    devices.push()
    gateway.process.send(signal.SIGTERM)
    assert gateway.process.wait(20) == 0, gateway.process.tail()
    assert poll(lambda: last() is False, 10.0)


def test_device_presence_becomes_an_event_with_the_will_of_a_dropped_device(brokers, start, name) -> None:
    start(brokers)
    topic, session = topics.mqtt_topic(name, "presence"), "00000000000000aa"
    device = Client(CallbackAPIVersion.VERSION2, client_id=f"device-{name}", protocol=MQTTProtocolVersion.MQTTv5)
    device.will_set(topic, wire.encode(wire.Presence(online=False, session=session)), qos=1)
    device.connect("127.0.0.1", brokers.mqtt.port)
    device.loop_start()
    device.publish(topic, wire.encode(wire.Presence(online=True, session=session)), qos=1).wait_for_publish(10)
    device.loop_stop()
    device.socket().shutdown(socket.SHUT_RDWR)  # gone without a DISCONNECT: the broker speaks its will
    with brokers.reader(topics.STATUS) as read:

        def events():
            mine = [json.loads(m.value()) for m in read() if m.key() == name.encode()]
            return [e["data"]["online"] for e in mine if e["type"] == "covey.presence.v1"]

        assert poll(lambda: events() == [True, False], 20.0)


def _command(*words):
    code = "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\nwith one_line():\n"
    code += "    sys.exit(app(sys.argv[1:], standalone_mode=False))"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_status_and_check_say_what_is_there(brokers, start) -> None:
    gateway = start(brokers)
    code, out, _ = _command("status", "--health-port", str(gateway.health), "--json")
    assert (code, json.loads(out)["gateway"]) == (0, gateway.name)
    where = ("--mqtt", f"127.0.0.1:{brokers.mqtt.port}", "--kafka", brokers.bootstrap)
    code, out, _ = _command("check", *where, "--json")
    found = {f["what"]: f for f in json.loads(out)}
    assert code == 0
    assert found["receiver"]["detail"] == "in batches"
    assert found["topics"]["detail"].startswith("12 there")
    code, out, _ = _command("check", "--mqtt", f"127.0.0.1:{free_port()}", "--kafka", brokers.bootstrap)
    assert code == 1
    assert "FAIL mqtt" in out
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.health}/metrics", timeout=5) as answer:
        assert b"covey_gateway_mqtt_connected 1\n" in answer.read()
    code, _, err = _command("status", "--health-port", str(free_port()))
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = _command("run", "--mqtt", "nohost", "--ack-after", "never")
    assert code == 2
    assert "--ack-after" in err


def test_a_gateway_of_some_shards_leaves_the_others_alone(brokers, start) -> None:
    names = [unique("s") for _ in range(40)]
    mine = {topics.shard(n) for n in names[:20]}
    inside = [n for n in names if topics.shard(n) in mine]
    outside = [n for n in names if topics.shard(n) not in mine]
    config = brokers.folder / f"{names[0]}.toml"
    config.write_text(f"shards = {json.dumps(sorted(mine))}\n")
    gateway = start(brokers, config=str(config))
    devices = start.devices(brokers, names)
    for n in names:
        devices.write(n, 1)
        brokers.produce(topics.DESIRED, n, _desired(n, 1))
    devices.push_until(len(inside), 20.0)
    assert poll(lambda: all(devices.of_kind(n, "desired") for n in inside), 20.0)
    assert not any(devices.acked[n] or devices.of_kind(n, "desired") for n in outside)
    assert gateway.status()["desired_known"] >= len(inside)  # the broker is shared: other tests' devices count too


@pytest.mark.slow
def test_outages_of_either_broker_are_waited_out(own_brokers, start, name) -> None:
    brokers = own_brokers
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    brokers.produce(topics.DESIRED, name, _desired(name, 1))
    devices.write(name, 10)
    devices.push_until(10, 20.0)
    assert poll(lambda: bool(devices.of_kind(name, "desired")), 10.0)

    brokers.mqtt.kill9()  # everything it retained is gone
    assert poll(lambda: gateway.status()["mqtt_connected"] == 0, 10.0)
    brokers.mqtt.start()
    assert poll(lambda: gateway.status()["mqtt_connected"] == 1, 30.0)
    late = start.devices(brokers, [name])
    assert poll(lambda: bool(late.of_kind(name, "desired")), 20.0)
    devices.write(name, 10)
    devices.push_until(20, 40.0)
    assert gateway.status()["mqtt_connects"] == 2


@pytest.mark.slow
def test_acknowledgements_of_a_lost_connection_are_void_and_the_events_safe(own_brokers, start, name) -> None:
    brokers = own_brokers
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    devices.write(name, 10)
    brokers.kafka.pause()
    devices.push()
    assert poll(lambda: gateway.status()["pending"] == 10, 10.0)
    brokers.mqtt.kill9()
    brokers.mqtt.start()
    assert poll(lambda: gateway.status()["mqtt_connects"] == 2, 30.0)
    brokers.kafka.resume()
    assert poll(lambda: gateway.status()["pubacks_dropped"] == 10, 30.0)
    assert gateway.status()["pubacks"] == 0
    assert gateway.status()["mqtt_connects"] == 2  # no packet id of the old connection disturbed the new one
    devices.push_until(10, 20.0)  # by resending, if the ack came before the device was back


@pytest.mark.slow
@pytest.mark.parametrize(
    "brokers", ["real"], indirect=True
)  # Tansu keeps nothing over a kill: ack_after = store is for that
def test_a_killed_kafka_that_comes_back_has_everything(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name], resend_s=60.0)
    devices.write(name, 20)
    devices.push_until(20, 20.0)
    brokers.kafka.kill9()
    devices.write(name, 30)
    devices.push()
    assert poll(lambda: gateway.status()["pending"] == 30, 10.0)
    brokers.kafka.start()
    devices.push_until(50, 60.0)
    with brokers.reader(topics.STATUS) as read:
        assert poll(lambda: _firsts(_identities(read(), name)) == list(range(1, 51)), 20.0)
    assert gateway.status()["producer_rebuilds"] == 0


def test_a_gateway_that_starts_before_its_brokers_waits_for_them(own_brokers, start, name) -> None:
    own_brokers.mqtt.kill9()
    gateway = start(own_brokers, wait=False)
    assert poll(lambda: bool(gateway.status()), 20.0)
    assert gateway.status()["ready"] is False
    own_brokers.mqtt.start()
    assert poll(lambda: bool(gateway.status().get("ready")), 40.0)
