"""The tests' own servers do what every other test relies on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from covey.errors import ProcessError
from servers import KafkaApi, Mosquitto, Process, accepts, free_port, unique, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent


def produce(broker: KafkaApi, topic: str, values: list[bytes]) -> None:
    refused = []
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: refused.append(error) if error else None)
    assert producer.flush(20) == 0
    assert refused == []


def consume(broker: KafkaApi, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": unique("group")})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])  # joining a group takes Tansu 20 s
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                values.append(message.value())
        return values
    finally:
        consumer.close()


def echoed(port: int, payload: bytes) -> bytes:
    """What a subscriber receives when `payload` is published by the same client."""
    topic = unique("topic")
    received: list[bytes] = []
    arrived = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, unique("client"), protocol=mqtt.MQTTv5)
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: client.publish(topic, payload, qos=1)
    client.on_message = lambda _client, _data, message: (received.append(message.payload), arrived.set())
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        assert arrived.wait(10)
    finally:
        client.disconnect()
        client.loop_stop()
    return received[0]


@pytest.mark.broker
def test_mosquitto_passes_a_message(mosquitto):
    assert echoed(mosquitto.port, b"wind 7 m/s") == b"wind 7 m/s"


@pytest.mark.broker
def test_mosquitto_comes_back_on_its_port_after_kill9(mosquitto_factory):
    broker = mosquitto_factory()
    first = broker.process.pid
    broker.kill9()
    assert not accepts(broker.port)
    broker.restart()
    assert broker.process.pid != first
    assert echoed(broker.port, b"again") == b"again"


@pytest.mark.broker
def test_mosquitto_that_cannot_start_says_why(tmp_path):
    broker = Mosquitto(tmp_path, "no_such_option true\n")
    with pytest.raises(ProcessError, match="no_such_option"):
        broker.start()


@pytest.mark.broker
def test_paused_broker_answers_again_once_resumed(mosquitto_factory):
    broker = mosquitto_factory()
    broker.pause()
    with socket.create_connection(("127.0.0.1", broker.port)) as link:  # the kernel accepts, nobody answers
        link.settimeout(0.3)
        link.sendall(bytes.fromhex("101000044d5154540402003c0004636f7665"))  # CONNECT, MQTT 3.1.1, client id "cove"
        with pytest.raises(TimeoutError):
            link.recv(4)
        broker.resume()
        link.settimeout(5)
        assert link.recv(4) == bytes.fromhex("20020000")  # CONNACK, accepted


@pytest.mark.broker
def test_kafka_keeps_a_record_over_kill9(kafka_factory):
    broker = kafka_factory()
    topic = unique("kept")
    broker.create_topics([topic])
    produce(broker, topic, [b"one", b"two"])
    broker.kill9()
    assert not accepts(broker.port)
    broker.restart()
    produce(broker, topic, [b"three"])
    assert consume(broker, topic, 3) == [b"one", b"two", b"three"]


@pytest.mark.broker
def test_kafka_topics_have_the_partitions_and_settings_asked_for(kafka):
    topic = unique("compacted")
    kafka.create_topics([topic], partitions=3, config={"cleanup.policy": "compact"})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == 3
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    settings = admin.describe_configs([resource])[resource].result(10)
    assert settings["cleanup.policy"].value == "compact"


@pytest.mark.broker
def test_iotcore_passes_a_message(iotcore):
    assert echoed(iotcore.port, b"wind 7 m/s") == b"wind 7 m/s"


@pytest.mark.broker
def test_tansu_passes_a_record(tansu):
    topic = unique("passed")
    tansu.create_topics([topic])
    produce(tansu, topic, [b"one"])
    assert consume(tansu, topic, 1) == [b"one"]


def test_free_ports_are_unique_bindable_and_outside_the_kernels_range():
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert max(ports) < first_ephemeral
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", ports[0]))


def test_wait_for_gives_the_value_and_names_what_did_not_come():
    assert wait_for(lambda: "here", 1, "a word") == "here"
    with pytest.raises(AssertionError, match=r"the moon: not within 0\.05 s, last answer 0"):
        wait_for(lambda: 0, 0.05, "the moon")


def test_process_that_dies_before_it_is_ready_tells_its_code_and_its_log(tmp_path):
    command = [sys.executable, "-c", "print('no memory left'); raise SystemExit(3)"]
    process = Process("child", command, tmp_path / "log")
    with pytest.raises(ProcessError, match=r"ended with 3 before(.|\n)*no memory left"):
        process.start(lambda: False, 20)


def test_process_that_is_never_ready_is_killed(tmp_path):
    process = Process("child", ["sleep", "60"], tmp_path / "log")
    with pytest.raises(ProcessError, match=r"was not ready within 0\.2 s"):
        process.start(lambda: False, 0.2)
    assert not process.alive


def test_process_that_ignores_sigterm_is_killed_after_the_deadline(tmp_path):
    ready = tmp_path / "ready"
    script = (
        "import signal, sys, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path(sys.argv[1]).touch(); signal.pause()"
    )
    process = Process("stubborn", [sys.executable, "-c", script, str(ready)], tmp_path / "log").start(ready.exists)
    process.stop(0.3)
    assert process.wait(1) == -signal.SIGKILL


def test_children_die_with_the_process_that_started_them(tmp_path):
    script = textwrap.dedent("""
        import os, pathlib, signal, sys
        from processes import Process
        child = Process("child", ["sleep", "600"], pathlib.Path(sys.argv[1])).start()
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        timeout=30,
        check=False,
    )
    child = int(told.stdout)

    def gone() -> bool:
        try:
            return psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_for(gone, 5, f"the end of child {child}")


@pytest.mark.parametrize(("require", "outcome"), [("0", "1 skipped"), ("1", "1 failed")])
def test_missing_server_skips_a_test_and_fails_it_where_servers_are_required(tmp_path, require, outcome):
    (tmp_path / "test_absent.py").write_text(
        "from servers import absent\ndef test_it():\n    absent('emqx', 'not installed')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COVEY_REQUIRE_SERVERS": require},
        timeout=60,
        check=False,
    )
    assert outcome in ran.stdout
    assert "emqx: not installed" in ran.stdout
