"""Live brokers, gateway processes, and devices that resend what is not acknowledged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey import topics, wire
from covey.runtime import poll

if TYPE_CHECKING:
    from pathlib import Path

_RUN = (
    "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\n"
    "with one_line():\n    app(sys.argv[1:], standalone_mode=False)"
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Child:
    """A process of ours, ended by its pid."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(env or {})})

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def wait_port(port: int, child: Child, timeout_s: float = 40.0) -> None:
    def up() -> bool:
        assert child.process.poll() is None, child.text()[-3000:]
        with socket.socket() as sock:
            sock.settimeout(0.5)
            return sock.connect_ex(("127.0.0.1", port)) == 0

    assert poll(up, timeout_s), child.text()[-3000:]


class Mqtt:
    """iotcore or mosquitto on a port of its own; can be killed and started again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.port = kind, folder, free_port()
        self.start()

    def start(self) -> None:
        if self.kind == "embedded":
            command = [sys.executable, "-m", "covey.embedded.mqtt", "--port", str(self.port)]
        else:
            conf = self.folder / f"mosquitto-{self.port}.conf"
            conf.write_text(
                f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 2000\n"
                "max_queued_messages 100000\nset_tcp_nodelay true\n"
            )
            command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(conf)]
        self.child = Child(command, self.folder / f"mqtt-{self.port}.log")
        wait_port(self.port, self.child)


class Kafka:
    """Tansu or Apache Kafka (KRaft) on a port of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.port = kind, free_port()
        if kind == "embedded":
            command = [sys.executable, "-m", "covey.embedded.kafka", "--port", str(self.port)]
        else:
            command = self._apache(folder)
        self.child = Child(command, folder / f"kafka-{self.port}.log", {"LOG_DIR": str(folder)})
        wait_port(self.port, self.child)

    def _apache(self, folder: Path) -> list[str]:
        libs = os.environ.get("COVEY_KAFKA_LIBS", "")
        if not libs:
            pytest.skip("COVEY_KAFKA_LIBS names no folder with Apache Kafka's jars")
        controller, data = free_port(), folder / f"kafka-{self.port}"
        conf = folder / f"kafka-{self.port}.properties"
        conf.write_text(
            f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={data}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n"
            "transaction.state.log.min.isr=1\noffsets.topic.num.partitions=4\nauto.create.topics.enable=false\n"
        )
        java = ["java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*"]
        cluster = str(uuid.uuid4())
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(conf)],
            check=True,
            capture_output=True,
        )
        return [*java, "kafka.Kafka", str(conf)]


class Brokers:
    """One MQTT broker and one Kafka API broker of a kind."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.mqtt = Mqtt(kind, folder)
        self.kafka = Kafka(kind, folder)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.kafka.port}"

    def end(self) -> None:
        for child in (self.mqtt.child, self.kafka.child):
            child.signal(signal.SIGCONT)
            child.kill()

    def produce(self, topic: str, key: str, value: bytes | None) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        failed: list[Any] = []
        producer.produce(topic, value, key, on_delivery=lambda error, _m: error and failed.append(error))
        assert producer.flush(10) == 0
        assert not failed

    @contextmanager
    def reader(self, *names: str):
        """All records of some topics so far and from now on: call what is yielded for a growing list."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.auto.commit": False})
        have = consumer.list_topics(timeout=10).topics
        consumer.assign([TopicPartition(n, p, 0) for n in names for p in have[n].partitions])
        seen: list[Any] = []

        def read() -> list[Any]:
            for message in consumer.consume(1000, 0.1):
                assert message.error() is None, message.error()
                seen.append(message)
            return seen

        try:
            yield read
        finally:
            consumer.close()


class Gateway:
    """`covey gateway run` as a process, with its health port."""

    def __init__(self, brokers: Brokers, **options: str) -> None:
        self.brokers, self.options = brokers, options
        self.name = f"g-{uuid.uuid4().hex[:8]}"
        self.child: Child | None = None

    def start(self, *, wait: bool = True) -> None:
        self.health = free_port()
        arguments = {
            "mqtt": f"127.0.0.1:{self.brokers.mqtt.port}",
            "kafka": self.brokers.bootstrap,
            "kafka-kind": "embedded" if self.brokers.kind == "embedded" else "kafka",
            "name": self.name,
            "health-port": str(self.health),
        } | {key.replace("_", "-"): value for key, value in self.options.items()}
        words = [word for key, value in arguments.items() for word in (f"--{key}", value)]
        env = {"COVEY_GATEWAY_REPUBLISH_INTERVAL_S": "5", "COVEY_GATEWAY_PARTITIONS": "3"}
        log = self.brokers.folder / f"gateway-{self.name}.log"
        self.child = Child([sys.executable, "-c", _RUN, "run", "--die-with-parent", *words], log, env)
        if wait:
            assert poll(lambda: bool(self.status().get("ready")), 40.0), self.child.text()[-3000:]

    def status(self) -> dict[str, Any]:
        assert self.child.process.poll() is None, self.child.text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/healthz", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}


class Devices:
    """Devices over one MQTT connection, each with an outbox: they resend, in order, what is not acknowledged."""

    def __init__(self, brokers: Brokers, names: list[str], window: int = 60, resend_s: float = 2.0) -> None:
        self.names, self.window, self.resend_s = names, window, resend_s
        self.outbox = uuid.uuid4().hex[:16]
        self.rows: dict[str, dict[int, bytes]] = {name: {} for name in names}
        self.acked: dict[str, set[int]] = {name: set() for name in names}
        self.sent: dict[str, dict[int, float]] = {name: {} for name in names}
        self.received: list[tuple[str, bytes, bool]] = []
        self.lock = threading.Lock()
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"devices-{self.outbox}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.max_inflight_messages_set(100)
        subscribed = threading.Event()
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_a: subscribed.set()
        self.client.on_connect = lambda client, *_a: client.subscribe(
            [(topics.mqtt_topic(n, kind), 1) for n in names for kind in topics.DOWN_KINDS]
            # no wildcard: iotcore gives at most 100 retained messages to one
            + [(topics.gateway_topic(topics.shard(n)), 1) for n in names]
        )
        self.client.connect("127.0.0.1", brokers.mqtt.port)
        self.client.loop_start()
        assert subscribed.wait(10)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        address = topics.parse(message.topic)
        with self.lock:
            self.received.append((message.topic, message.payload, message.retain))
            if address.kind == "ack":
                for part in wire.decode(wire.Ack, message.payload).acks:
                    if part.outbox != self.outbox:
                        continue  # of another run under this name
                    for first, last in part.ranges:
                        self.acked[address.device].update(range(first, last + 1))

    def of_kind(self, device: str, kind: str) -> list[tuple[str, bytes, bool]]:
        topic = topics.mqtt_topic(device, kind)
        with self.lock:
            return [r for r in self.received if r[0] == topic]

    def write(self, device: str, count: int) -> None:
        """More events of a device; bytes that JSON would not write again the same way."""
        rows = self.rows[device]
        for seq in range(len(rows) + 1, len(rows) + count + 1):
            data = wire.Status("start", wire.Reported(0, "", "onnx"), detail=f"event {seq}")
            event = wire.make_event(wire.Identity(device, self.outbox, seq), "status", 1_700_000_000.0 + seq, data)
            rows[seq] = b"  " + event[:-1] + b', "later" : [1.50, "\\u00e9"] }'

    def raw(self, device: str, kind: str, payload: bytes) -> None:
        self.client.publish(topics.mqtt_topic(device, kind), payload, qos=1)

    def push(self) -> None:
        """Send what is new within the window; send again, oldest first, what waited too long."""
        now_s = time.monotonic()
        for name in self.names:
            with self.lock:
                acked = set(self.acked[name])
            sent = self.sent[name]
            open_rows = [seq for seq in self.rows[name] if seq not in acked]
            if not open_rows:
                continue
            late = open_rows[0] in sent and now_s - sent[open_rows[0]] > self.resend_s
            for seq in open_rows[: self.window]:
                if late or seq not in sent:
                    self.client.publish(topics.mqtt_topic(name, "status"), self.rows[name][seq], qos=1)
                    sent[seq] = now_s

    def settled(self) -> int:
        with self.lock:
            return sum(len(seqs) for seqs in self.acked.values())

    def push_until(self, count: int, timeout_s: float) -> None:
        def done() -> bool:
            self.push()
            return self.settled() >= count

        assert poll(done, timeout_s, step_s=0.02), f"{self.settled()} of {count} acknowledged"

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="session", params=["embedded", "real"])
def brokers(request, tmp_path_factory):
    """iotcore and Tansu, or mosquitto and Apache Kafka."""
    started = Brokers(request.param, tmp_path_factory.mktemp(request.param))
    yield started
    started.end()


@pytest.fixture
def own_brokers(tmp_path):
    """iotcore and Tansu of this test alone, to be killed."""
    started = Brokers("embedded", tmp_path)
    yield started
    started.end()


@pytest.fixture
def start(request):
    """start(brokers, ...) a gateway; start.devices(brokers, names): devices. All end with the test."""
    children: list[Any] = []

    def gateway(brokers: Brokers, *, wait: bool = True, **options: str) -> Gateway:
        made = Gateway(brokers, **options)
        children.append(made)
        made.start(wait=wait)
        return made

    def devices(brokers: Brokers, names: list[str], **options: Any) -> Devices:
        made = Devices(brokers, names, **options)
        children.append(made)
        return made

    gateway.devices = devices  # type: ignore[attr-defined]
    yield gateway
    for made in reversed(children):
        if isinstance(made, Devices):
            made.end()
        elif made.child is not None:
            made.child.kill()


@pytest.fixture
def name():
    """A device name of this test alone: brokers are shared."""
    return f"d-{uuid.uuid4().hex[:8]}"
