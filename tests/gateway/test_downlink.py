"""Down, between live brokers: commands at least once over every outage, desired newest only, and neither holds up the rest."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer

from covey import topics, wire
from covey.runtime import poll
from servers import Mosquitto, unique

pytestmark = pytest.mark.broker

DESIRED_COUNT = 40_000
real = pytest.mark.parametrize("brokers", ["real"], indirect=True)  # what the embedded ones cannot: see the docs


def _command(brokers, device, number, expires_s=120.0):
    name = f"{device}-{number}"
    brokers.produce(topics.COMMANDS, device, wire.encode(wire.Command(name, "ping", time.time() + expires_s)))
    return name


def _with(brokers, mqtt):
    """The same Kafka beside another MQTT broker."""
    return SimpleNamespace(
        kind="real", folder=brokers.folder, mqtt=mqtt, bootstrap=brokers.bootstrap, produce=brokers.produce
    )


def _came(devices, device):
    return [json.loads(payload)["id"] for _, payload, _ in devices.of_kind(device, "command")]


def _nothing_comes_again(brokers, gateway, devices, name):
    """After an orderly stop and a start, only what is sent then: everything before it was settled and committed."""
    before = _came(devices, name)
    gateway.process.stop()
    gateway.start()
    last = _command(brokers, name, "last")
    assert poll(lambda: last in _came(devices, name), 20.0)
    assert _came(devices, name) == [*before, last]


def _desired(device, revision, more=b""):
    body = wire.encode(wire.Desired(device, revision, "g", revision, "t", "0" * 64, 5, "http://x"))
    return body[:-1] + b', "more": "' + more + b'"}'


def test_commands_sent_while_the_gateway_was_down_arrive_and_expired_ones_do_not(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    first = _command(brokers, name, 1)
    assert poll(lambda: _came(devices, name) == [first], 20.0)
    gateway.process.stop()
    late = _command(brokers, name, 2, expires_s=0.2)
    sent = [_command(brokers, name, n) for n in (3, 4)]
    until_s = time.time() + 0.2
    assert poll(lambda: time.time() > until_s, 5.0)
    gateway.start()
    assert poll(lambda: _came(devices, name) == [first, *sent], 20.0), (late, _came(devices, name))
    _nothing_comes_again(brokers, gateway, devices, name)


def test_a_gateway_that_never_committed_looks_back_for_commands_that_still_hold(brokers, start, name) -> None:
    start(brokers).process.kill9()
    sent = [_command(brokers, name, n) for n in range(3)]
    devices = start.devices(brokers, [name])
    start(brokers)  # another name, another group
    assert poll(lambda: _came(devices, name) == sent, 20.0)


@real
def test_killed_between_kafka_and_mqtt_it_loses_no_command(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    sent = [_command(brokers, name, n) for n in range(50)]
    assert poll(lambda: len(_came(devices, name)) == 50, 20.0)
    brokers.mqtt.pause()
    try:
        sent += [_command(brokers, name, n) for n in range(50, 300)]
        # A window of 100 without an answer, and what had one: of the first 50 all, or none that the pause came before.
        assert poll(lambda: gateway.status()["commands"] >= 100, 20.0)
        gateway.process.kill9()
    finally:
        brokers.mqtt.resume()
    sent += [_command(brokers, name, n) for n in range(300, 320)]
    gateway.start()
    assert poll(lambda: set(_came(devices, name)) == set(sent), 30.0), len(_came(devices, name))
    assert list(dict.fromkeys(_came(devices, name))) == sent  # in order, repeats aside
    _nothing_comes_again(brokers, gateway, devices, name)


@real
def test_commands_wait_out_a_lost_mqtt_connection_and_a_held_kafka(brokers, start, mosquitto_factory, name) -> None:
    mqtt = mosquitto_factory()
    mine = _with(brokers, mqtt)
    gateway = start(mine)
    mqtt.kill9()
    sent = [_command(brokers, name, n) for n in range(5)]
    assert poll(lambda: gateway.status()["mqtt_connected"] == 0, 10.0)
    mqtt.start()
    devices = start.devices(mine, [name])  # came while the device was away, too
    assert poll(lambda: sorted(_came(devices, name)) == sent, 30.0)
    brokers.kafka.pause()
    brokers.kafka.resume()
    sent.append(_command(brokers, name, 5))
    assert poll(lambda: sorted(_came(devices, name)) == sent, 30.0)


@real
def test_a_stop_with_kafka_held_and_a_commit_under_way_is_bounded(brokers, start, name) -> None:
    gateway = start(brokers)
    devices = start.devices(brokers, [name])
    brokers.mqtt.pause()  # read, not settled
    sent = _command(brokers, name, 1)
    assert poll(lambda: gateway.status()["commands"] >= 1, 20.0)
    brokers.kafka.pause()
    brokers.mqtt.resume()  # settled now, and the commit is never answered
    try:
        assert poll(lambda: _came(devices, name) == [sent], 20.0)
        gateway.process.stop(timeout_s=20.0)
        assert gateway.process.wait(0.1) == 0, gateway.process.tail()
    finally:
        brokers.kafka.resume()


@real
def test_a_device_that_was_away_gets_its_command_when_it_comes_and_holds_up_nobody(brokers, start, name) -> None:
    gateway = start(brokers)
    waits = _command(brokers, name, 1)
    gone = _command(brokers, unique("gone"), 1, expires_s=3.0)
    assert poll(lambda: gateway.status()["commands_away"] >= 2, 20.0)
    there = start.devices(brokers, [unique("d")])
    other = _command(brokers, there.names[0], 1)
    assert poll(lambda: _came(there, there.names[0]) == [other], 20.0)
    _nothing_comes_again(brokers, gateway, there, there.names[0])  # though one before it is not settled
    gateway.process.kill9()  # that one: the next life goes on trying
    gateway.start()
    devices = start.devices(brokers, [name])
    assert poll(lambda: _came(devices, name) == [waits], 20.0)
    assert poll(lambda: gateway.status()["commands_expired"] >= 1, 20.0), gone
    _nothing_comes_again(brokers, gateway, devices, name)


def test_records_that_cannot_be_read_block_nothing_on_any_topic(brokers, start, name) -> None:
    gateway = start(brokers, ack_after="store")
    devices = start.devices(brokers, [name], resend_s=60.0)
    for topic in (topics.COMMANDS, topics.DESIRED, topics.ACKS):
        for key, value in ((name, b"\xff{"), (name, b"{}"), ("a b", b"{}"), (name, b'{"id":"' + b"x" * 70_000 + b'"}')):
            brokers.produce(topic, key, value)
    brokers.produce(topics.COMMANDS, name, None)
    sent = _command(brokers, name, 1)
    brokers.produce(topics.DESIRED, name, _desired(name, 1))
    brokers.produce(topics.ACKS, name, wire.encode(wire.Ack([wire.AckRanges(devices.outbox, [(7, 7)])])))
    assert poll(lambda: _came(devices, name) == [sent], 20.0)
    assert poll(lambda: len(devices.of_kind(name, "desired")) == 1, 20.0)
    assert poll(lambda: devices.acked[name] == {7}, 20.0)
    bad = gateway.status()["bad_downlink"]
    assert bad[topics.COMMANDS] >= 5
    assert (bad[topics.DESIRED] >= 4, bad[topics.ACKS]) == (True, 4)


def test_at_its_start_a_gateway_never_publishes_a_revision_that_is_not_the_newest(brokers, start) -> None:
    start(brokers).process.kill9()  # the topics are there
    names = [unique("r") for _ in range(20)]
    producer = Producer({"bootstrap.servers": brokers.bootstrap})
    for revision in range(1, 101):
        for name in names:
            producer.produce(topics.DESIRED, _desired(name, revision, b"x" * 500), name)
    assert producer.flush(30) == 0
    devices = start.devices(brokers, names)
    start(brokers)
    assert poll(lambda: all(devices.of_kind(n, "desired") for n in names), 30.0)
    came = {json.loads(payload)["revision"] for n in names for _, payload, _ in devices.of_kind(n, "desired")}
    assert came == {100}


@real
def test_a_tombstone_clears_what_the_broker_retains_also_for_a_gateway_that_never_knew_it(brokers, start, name) -> None:
    gateway = start(brokers)
    brokers.produce(topics.DESIRED, name, _desired(name, 1))
    devices = start.devices(brokers, [name])
    assert poll(lambda: len(devices.of_kind(name, "desired")) == 1, 20.0)
    brokers.produce(topics.DESIRED, name, None)
    assert poll(lambda: [p for _, p, _ in devices.of_kind(name, "desired")] == [_desired(name, 1), b""], 20.0)
    gateway.process.kill9()

    other = unique("d")  # retained by an earlier life; only its tombstone is left in Kafka
    topic = topics.mqtt_topic(other, "desired")
    devices.client.publish(topic, _desired(other, 1), qos=1, retain=True).wait_for_publish(10)
    brokers.produce(topics.DESIRED, other, None)
    gateway.start()

    def nothing_retained():
        late = start.devices(brokers, [other])
        return not poll(lambda: bool(late.of_kind(other, "desired")), 0.5)

    assert poll(nothing_retained, 20.0)


@real
def test_a_message_larger_than_the_broker_takes_is_dropped_told_and_counted_and_the_connection_lives(
    brokers, start, mosquitto_factory, name
) -> None:
    mqtt = mosquitto_factory(Mosquitto.DEFAULT + "max_packet_size 2000\n")
    mine = _with(brokers, mqtt)
    gateway, other = start(mine), unique("d")
    devices = start.devices(mine, [name, other])
    brokers.produce(topics.DESIRED, name, _desired(name, 1, b"x" * 2_000))
    long = wire.encode(wire.Command(f"{name}-long", "ping", time.time() + 60))[:-1] + b', "m": "' + b"x" * 2_000 + b'"}'
    brokers.produce(topics.COMMANDS, name, long)
    brokers.produce(topics.DESIRED, other, _desired(other, 1))
    sent = _command(brokers, name, 2)
    assert poll(lambda: _came(devices, name) == [sent], 20.0)
    assert poll(lambda: len(devices.of_kind(other, "desired")) == 1, 20.0)
    status = gateway.status()
    assert (status["too_large_down"]["command"], status["mqtt_connects"]) == (1, 1)
    assert status["too_large_down"]["desired"] >= 1
    assert f"{topics.mqtt_topic(name, 'desired')}: at most 2000 bytes expected" in gateway.process.log.read_text()
    _nothing_comes_again(mine, gateway, devices, name)
    assert "command" not in gateway.status()["too_large_down"]


@real
def test_publishing_forty_thousand_desired_holds_up_no_acknowledgement(brokers, start, name, tmp_path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("ack_interval_s = 0.05\n")  # waits are of the publishing, then
    gateway = start(brokers, config=str(config))
    producer, prefix = Producer({"bootstrap.servers": brokers.bootstrap}), unique("m")
    for n in range(DESIRED_COUNT):
        producer.produce(topics.DESIRED, _desired(f"{prefix}-{n}", 1), f"{prefix}-{n}")
        producer.poll(0)
    assert producer.flush(60) == 0
    assert poll(lambda: gateway.status()["desired_known"] >= DESIRED_COUNT, 60.0)
    gateway.process.kill9()
    devices = start.devices(brokers, [name], resend_s=60.0)
    gateway.start()
    began_s, waits = time.monotonic(), []
    while gateway.status()["desired"] < DESIRED_COUNT and time.monotonic() - began_s < 120.0:
        devices.write(name, 1)
        sent_s = time.monotonic()
        devices.push_until(len(devices.rows[name]), 20.0)
        waits.append(time.monotonic() - sent_s)
    assert gateway.status()["desired"] >= DESIRED_COUNT
    assert len(waits) >= 3
    assert sorted(waits)[len(waits) // 2] < 1.0, waits  # all of it takes a second or many
    print(
        f"{DESIRED_COUNT:,} desired in {time.monotonic() - began_s:.1f} s, "
        f"{len(waits)} acks in {min(waits):.2f}-{max(waits):.2f} s"
    )


@real
def test_acks_lost_while_the_gateway_was_down_are_mended_by_resending(brokers, start, name) -> None:
    gateway = start(brokers, ack_after="store")
    devices = start.devices(brokers, [name], resend_s=1.0)
    devices.write(name, 3)
    devices.push()
    assert poll(lambda: gateway.status()["pubacks"] == 3, 20.0)
    gateway.process.kill9()
    stored = wire.encode(wire.Ack([wire.AckRanges(devices.outbox, [(1, 3)])]))
    brokers.produce(topics.ACKS, name, stored)  # said while nobody listened
    gateway.start()
    seen = set()

    def store_again():  # the store's rule: what is stored already is acknowledged again when it comes again
        devices.push()
        with brokers.reader(topics.STATUS) as read:
            poll(lambda: len([m for m in read() if m.key() == name.encode()]) > 3, 2.0)
            again = [m.value() for m in read() if m.key() == name.encode()][3:]
        for value in again:
            seen.add(wire.decode_event(value)[1].seq)
        if seen:
            rows = [(seq, seq) for seq in sorted(seen)]
            brokers.produce(topics.ACKS, name, wire.encode(wire.Ack([wire.AckRanges(devices.outbox, rows)])))
        return devices.acked[name] == {1, 2, 3}

    assert poll(store_again, 40.0), (seen, devices.acked)
