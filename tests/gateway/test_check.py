"""`covey gateway check` finds what is wrong, ends in time whatever answers, and takes nothing from anyone."""

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from certificates import Authority
from covey import topics
from gateway.check import check
from gateway.check_kafka import check_kafka
from gateway.check_mqtt import check_mqtt
from gateway.config import GatewayConfig
from gateway.kafka import ensure_topics, wanted_topics
from gateway.link import client_id
from gateway.mapping import Mapping
from raw_broker import RawBroker
from secured import mosquitto_password, mosquitto_tls, write_secret
from servers import free_port, unique, wait_for

_ALLOW = AclPermissionType.ALLOW

pytestmark = pytest.mark.broker


def _by_name(found):
    return {f.what: f for f in found}


def _fails(found):
    return {f.what: f.detail for f in found if f.state == "FAIL"}


def _client(name, port, **login):
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
    if login:
        client.username_pw_set(login["user"], login["password"])
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3_600
    state = {"client": client, "got": [], "up": False, "subscribed": False, "down": False, "session": None}

    def on_connect(_c, _u, flags, reason, _p):
        state["up"], state["session"] = not reason.is_failure, flags.session_present

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: state.update(subscribed=True)
    client.on_disconnect = lambda *_: state.update(down=True)
    client.on_message = lambda _c, _u, m: state["got"].append((m.topic, m.payload, m.retain))
    client.connect("127.0.0.1", port, clean_start=False, properties=properties)
    client.loop_start()
    wait_for(lambda: state["up"], 10, "connection")
    return state


def _end(state):
    state["client"].disconnect()
    state["client"].loop_stop()


def _kept(port, config, filters, messages, **login):
    """A session under the gateway's own name with messages waiting in it, and a retained one beside."""
    mine = _client(client_id(config), port, **login)
    mine["client"].subscribe([(f, 1) for f in filters])
    wait_for(lambda: mine["subscribed"], 10, "subscription")
    _end(mine)
    other = _client(unique("device"), port, **({"user": "other", "password": "x"} if login else {}))
    for number in range(messages):
        other["client"].publish(f"covey/v1/00/d{number}/summary", b"%d" % number, qos=1).wait_for_publish(10)
    other["client"].publish("covey/v1/00/gateway", b"kept", qos=1, retain=True).wait_for_publish(10)
    _end(other)


def _delivered(port, config, messages, **login):
    again = _client(client_id(config), port, **login)
    assert again["session"] is True
    wait_for(lambda: len(again["got"]) >= messages, 10, "what waited in the session")
    _end(again)
    return [payload for _, payload, _ in again["got"]]


def test_nothing_is_consumed_and_nothing_made(mosquitto_factory, doors) -> None:
    broker = mosquitto_factory()
    mapped = (Mapping(filter="tele/#", topic=unique("tele"), key="{1}"),)
    config = GatewayConfig(mqtt=f"127.0.0.1:{broker.port}", name=unique("g"), mappings=mapped, **doors.keys("LOGIN"))
    admin = AdminClient({"bootstrap.servers": doors.kafka.bootstrap})
    ensure_topics(config)
    admin.delete_topics([topics.LEARNING])[topics.LEARNING].result(10)
    wait_for(lambda: topics.LEARNING not in admin.list_topics(timeout=5).topics, 10, "deletion")
    _kept(broker.port, config, topics.uplink_filters(), 30)
    topics_before = set(admin.list_topics(timeout=5).topics)
    sizes = sorted(
        {len(admin.list_topics(n, timeout=5).topics[n].partitions) for n in wanted_topics(config) if n in topics_before}
    )
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"  # other tests share this Kafka
    groups_before = {g.group_id for g in admin.list_consumer_groups().result(10).valid}

    found = check(config)
    assert _fails(found) == {}
    lines = _by_name(found)
    assert lines["topics"].detail == f"12 there ({shown} partitions), 1 to be created by run: covey.learning"
    assert "and 4 more" in lines["subscribe"].detail  # covey's four and the mapping's
    assert lines["mqtt"].detail.endswith("MQTT 5, accepted without a user")
    assert lines["receive maximum"].detail.startswith("1000 of ours")  # max_inflight_messages of the test's broker

    assert set(admin.list_topics(timeout=5).topics) == topics_before
    assert {g.group_id for g in admin.list_consumer_groups().result(10).valid} == groups_before
    assert _delivered(broker.port, config, 30) == [b"%d" % n for n in range(30)]
    watch = _client(unique("w"), broker.port)
    watch["client"].subscribe([("covey/v1/00/gateway", 1), ("$SYS/broker/clients/total", 0)])
    wait_for(lambda: len(watch["got"]) >= 2, 10, "retained messages")
    _end(watch)
    assert ("covey/v1/00/gateway", b"kept", True) in watch["got"]
    log = broker.process.log.read_text()
    assert log.count(f"{client_id(config)}-check-") >= 1
    ensure_topics(config)


def test_a_running_gateway_is_left_alone(mosquitto_factory, doors, start, tmp_path, name) -> None:
    from types import SimpleNamespace

    broker = mosquitto_factory()
    keys = doors.keys("CLEAR")
    file = tmp_path / "g.toml"
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    around = SimpleNamespace(kind="real", mqtt=broker, kafka=doors.kafka, bootstrap=keys["kafka"], folder=tmp_path)
    gateway = start(around, config=str(file))
    config = GatewayConfig(mqtt=f"127.0.0.1:{broker.port}", name=gateway.name, **keys)
    devices = start.devices(around, [name])
    devices.write(name, 200)
    devices.push()
    assert _fails(check(config)) == {}
    devices.push_until(200, 30.0)
    assert gateway.status()["mqtt_connects"] == 1


def test_a_broker_that_names_clients_by_their_user_keeps_the_gateways_queue(mosquitto_factory, tmp_path) -> None:
    passwords = mosquitto_password(tmp_path / "p", "me", "x")
    mosquitto_password(passwords, "other", "x")
    broker = mosquitto_factory(f"password_file {passwords}\nuse_username_as_clientid true\n")
    config = GatewayConfig(
        mqtt=f"127.0.0.1:{broker.port}",
        mqtt_user="me",
        mqtt_password_file=str(write_secret(tmp_path / "s", "x")),
    )
    login = {"user": "me", "password": "x"}
    _kept(broker.port, config, topics.uplink_filters(), 20, **login)
    line = _by_name(check_mqtt(config))["mqtt"]
    assert line.state == "warn"
    assert "another client's session" in line.detail
    assert sorted(_delivered(broker.port, config, 20, **login)) == sorted(b"%d" % n for n in range(20))


def test_what_a_locked_mqtt_broker_refuses_is_told_with_a_fix(mosquitto_factory, tmp_path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    port, plain = free_port(), free_port()
    passwords = mosquitto_password(tmp_path / "p", "me", "right")
    config = "max_packet_size 3000\nretain_available false\n"
    config += mosquitto_tls(port, authority, authority.issue("server"), more="require_certificate true\n")
    config += f"password_file {passwords}\nallow_anonymous false\n"
    mosquitto_factory(config, port)
    cert, key = authority.issue("client")
    other_cert, other_key = stranger.issue("client")
    good = {
        "mqtt": f"127.0.0.1:{port}",
        "mqtt_ca": str(authority.ca),
        "mqtt_cert": str(cert),
        "mqtt_key": str(key),
        "mqtt_user": "me",
        "mqtt_password_file": str(write_secret(tmp_path / "right", "right")),
    }
    lines = _by_name(check_mqtt(GatewayConfig(**good)))
    assert lines["mqtt tls"].detail.startswith("TLSv1.3, CN=server, issued by CN=test ca, expires ")
    assert (lines["packet size"].state, lines["retain"].state, lines["subscribe"].state) == ("warn", "FAIL", "ok")
    wrong = str(write_secret(tmp_path / "wrong", "wrong"))
    cases = [
        ({"mqtt_password_file": wrong}, "mqtt", "refused: not authorized"),
        ({"mqtt_cert": "", "mqtt_key": ""}, "mqtt", "asks for a client certificate"),
        ({"mqtt_cert": str(other_cert), "mqtt_key": str(other_key)}, "mqtt", "does not know the CA of mqtt_cert"),
        ({"mqtt_ca": str(stranger.ca)}, "mqtt tls", "it is CN=server, issued by CN=test ca"),
        ({"mqtt": f"localhost:{port}"}, "mqtt tls", "of another host"),
        ({"mqtt_ca": "", "mqtt_cert": "", "mqtt_key": ""}, "mqtt", "closes the connection at CONNECT"),
        ({"mqtt": f"127.0.0.1:{plain}"}, "mqtt tcp", "connection refused"),
    ]
    for other, what, part in cases:
        found = check_mqtt(GatewayConfig(**good | other))
        assert part in _fails(found)[what]
        assert _by_name(found)[what].fix


def _say(data):
    def serve(sock):
        sock.recv(4096)
        sock.sendall(data)
        while sock.recv(4096):
            pass

    return serve


def test_an_mqtt_broker_that_refuses_or_is_no_mqtt_5_is_told() -> None:
    suback = bytes([0x90, 7, 0, 1, 0, 1, 0x87, 0x87, 1])  # for four filters: QoS 1, not authorized twice, QoS 1
    cases = [
        (b"\x20\x02\x00\x01", "mqtt", "speaks MQTT 3.1.1 only"),
        (b"\x20\x03\x00\x97\x00", "mqtt", "refused: quota exceeded"),
        (b"\x20\x05\x00\x00\x02\x28\x00" + suback, "wildcards", "not available"),
        (b"\x20\x03\x00\x00\x00" + suback, "subscribe", "not authorized and 1 more"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "mqtt", "answers in HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "mqtt", "speaks TLS"),
        (b"\x20\xff\xff\xff\xff\xff", "mqtt", "answers no MQTT"),
        (b"+OK hello", "mqtt", "answers no MQTT: b'+OK hello'"),
    ]
    for data, what, part in cases:
        with RawBroker(_say(data)) as broker:
            assert part in _fails(check_mqtt(GatewayConfig(mqtt=f"127.0.0.1:{broker.port}")))[what]


def test_a_kafka_port_that_is_none_is_told() -> None:
    def close(sock):
        sock.recv(4096)

    for serve, part in (
        (_say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "answers in HTTP"),
        (_say(b"\x15\x03\x03\x00\x02\x02\x0a"), "speaks TLS"),
        (_say(b"SSH-2.0-server\r\n"), "nothing of Kafka's"),
        (close, "closes the connection"),
    ):
        with RawBroker(serve) as broker:
            assert part in _fails(check_kafka(GatewayConfig(kafka=f"127.0.0.1:{broker.port}")))["kafka"]


def test_silence_and_black_holes_end_in_time() -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16)).getsockname()
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)).getsockname()
        for _ in range(4):  # fill the queue of connections: the kernel drops further ones, as a firewall does
            hold = stack.enter_context(socket.socket())
            hold.setblocking(False)
            hold.connect_ex(full)
        began_s = time.monotonic()
        hole = check(GatewayConfig(mqtt=f"127.0.0.1:{full[1]}", kafka=f"127.0.0.1:{silent[1]}"))
        took_s = time.monotonic() - began_s
        other = check(GatewayConfig(mqtt=f"127.0.0.1:{silent[1]}", kafka=f"127.0.0.1:{full[1]}"))
    assert took_s < 20.0  # 5 s to connect, or 5 s of silence and 1 s for a web server's answer
    assert "no answer in time" in _fails(hole)["mqtt tcp"]
    assert "says nothing" in _fails(hole)["kafka"]
    assert "says nothing" in _fails(other)["mqtt"]
    assert "no answer in time" in _fails(other)["kafka tcp"]


def _when_three_fail(config):
    found = check_kafka(config)
    return found if len(_fails(found)) >= 3 else None


def test_topics_that_break_a_promise_fail(doors) -> None:
    config = GatewayConfig(**doors.keys("LOGIN"))
    ensure_topics(config)
    admin = AdminClient({"bootstrap.servers": doors.kafka.bootstrap})

    def alter(topic, how, **values):
        entries = [ConfigEntry(k.replace("_", "."), v, incremental_operation=how) for k, v in values.items()]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(10)

    wrong = {
        topics.SUMMARIES: {"max_message_bytes": "1000", "cleanup_policy": "compact", "retention_ms": "3600000"},
        topics.ALARMS: {"min_insync_replicas": "3"},
        topics.DESIRED: {"cleanup_policy": "delete", "message_timestamp_type": "CreateTime"},
    }
    good = {
        topics.SUMMARIES: {"max_message_bytes": "1048588", "cleanup_policy": "delete", "retention_ms": "604800000"},
        topics.ALARMS: {"min_insync_replicas": "1"},
        topics.DESIRED: {"cleanup_policy": "compact", "message_timestamp_type": "LogAppendTime"},
    }
    try:
        for topic, values in wrong.items():
            alter(topic, AlterConfigOpType.SET, **values)
        lines = _by_name(wait_for(lambda: _when_three_fail(config), 15, "the settings"))
    finally:
        for topic, values in good.items():
            alter(topic, AlterConfigOpType.SET, **values)
    assert lines["message size"].detail == "max.message.bytes of covey.summaries 1000, 66560 expected"
    assert "covey.desired must be compact" in lines["cleanup"].detail
    assert "covey.summaries must not compact" in lines["cleanup"].detail
    assert lines["replication"].detail.endswith("nothing can be written: covey.alarms")
    assert (lines["retention"].state, lines["retention"].detail) == ("warn", "1 h at least (covey.summaries)")
    assert (lines["timestamps"].state, lines["timestamps"].detail) == ("warn", "by the sender's clock: covey.desired")


def test_a_kafka_user_without_rights_is_told_without_producing(doors) -> None:
    config = GatewayConfig(**doors.keys("LOGIN"))
    ensure_topics(config)
    assert _by_name(check_kafka(config))["permissions"].detail == "may write events and read what goes to devices"
    lines = _by_name(check_kafka(GatewayConfig(**doors.keys("LOGIN", kafka_user="nobody", kafka_mechanism="PLAIN"))))
    assert lines["topics"].state == "warn"
    assert lines["topics"].detail.startswith("0 there, 12 to be created by run, and nobody tells whether")
    admin = AdminClient({"bootstrap.servers": doors.kafka.bootstrap})
    may = [AclOperation.READ, AclOperation.DESCRIBE_CONFIGS]  # READ brings DESCRIBE with it
    rules = [
        AclBinding(ResourceType.TOPIC, "covey.", ResourcePatternType.PREFIXED, "User:nobody", "*", o, _ALLOW)
        for o in may
    ]
    for future in admin.create_acls(rules).values():
        future.result(10)
    config = GatewayConfig(**doors.keys("LOGIN", kafka_user="nobody", kafka_mechanism="PLAIN"))
    refused = wait_for(lambda: _fails(check_kafka(config)), 15, "the ACLs")
    assert refused == {
        "permissions": "refused: write covey.summaries, write covey.alarms, write covey.status, write covey.deadletter"
    }


def _command(*words):
    code = "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\nwith one_line():\n"
    code += "    sys.exit(app(sys.argv[1:], standalone_mode=False))"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_exit_codes_and_json(mosquitto, doors, tmp_path) -> None:
    file = tmp_path / "g.toml"
    keys = doors.keys("LOGIN") | {"mqtt": f"127.0.0.1:{mosquitto.port}"}
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    code, out, _ = _command("check", "--config", str(file))
    assert code == 0
    assert out.startswith("ok   config")
    code, out, _ = _command("check", "--config", str(file), "--mqtt", f"127.0.0.1:{free_port()}", "--json")
    assert code == 1
    failed = [line for line in json.loads(out) if not line["ok"]]
    assert [(line["what"], line["state"]) for line in failed] == [("mqtt tcp", "fail")]
    assert failed[0]["fix"]
    file.write_text('mqtt_ca = "no-such-file"\nmqtt = "x"\n')
    code, out, err = _command("check", "--config", str(file), "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
