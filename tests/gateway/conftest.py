"""Live brokers, gateway processes, and devices that resend what is not acknowledged."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey import topics, wire
from covey.runtime import poll
from secured import Doors
from servers import Iotcore, Kafka, KafkaApi, Mosquitto, Process, Server, Tansu, free_port, unique

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RUN = (
    "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\n"
    "with one_line():\n    app(sys.argv[1:], standalone_mode=False)"
)


class Brokers:
    """One MQTT broker and one Kafka API broker of a kind."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.mqtt: Server = (Iotcore if kind == "embedded" else Mosquitto)(folder / "mqtt")
        self.kafka: KafkaApi = (Tansu if kind == "embedded" else Kafka)(folder / "kafka")

    @property
    def bootstrap(self) -> str:
        return self.kafka.bootstrap

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


@contextmanager
def _started(kind: str, folder: Path) -> Iterator[Brokers]:
    brokers = Brokers(kind, folder)
    with brokers.mqtt, brokers.kafka:
        yield brokers


class Gateway:
    """`covey gateway run` as a process, with its health port."""

    def __init__(self, brokers: Brokers, **options: str) -> None:
        self.brokers, self.name, self.health = brokers, unique("g"), free_port()
        arguments = {
            "mqtt": f"127.0.0.1:{brokers.mqtt.port}",
            "kafka": brokers.bootstrap,
            "kafka-kind": "embedded" if brokers.kind == "embedded" else "kafka",
            "name": self.name,
            "health-port": str(self.health),
        } | {key.replace("_", "-"): value for key, value in options.items()}
        words = [word for key, value in arguments.items() for word in (f"--{key}", value)]
        env = {**os.environ, "COVEY_GATEWAY_REPUBLISH_INTERVAL_S": "5", "COVEY_GATEWAY_PARTITIONS": "3"}
        command = [sys.executable, "-c", _RUN, "run", "--die-with-parent", *words]
        self.process = Process(self.name, command, brokers.folder / f"{self.name}.log", env=env)

    def start(self, *, wait: bool = True) -> Gateway:
        self.process.start((lambda: bool(self.status().get("ready"))) if wait else (lambda: bool(self.status())), 40.0)
        return self

    def status(self) -> dict[str, Any]:
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
            data = wire.Status("start", wire.Reported(0, "", "onnx"), detail=f"event {seq:064d}")
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


@pytest.fixture(scope="session")
def embedded_brokers(tmp_path_factory):
    """iotcore and Tansu."""
    with _started("embedded", tmp_path_factory.mktemp("embedded")) as brokers:
        yield brokers


@pytest.fixture(scope="session")
def real_brokers(tmp_path_factory):
    """Mosquitto and Apache Kafka."""
    with _started("real", tmp_path_factory.mktemp("real")) as brokers:
        yield brokers


@pytest.fixture(scope="session", params=["embedded", "real"])
def brokers(request):
    """iotcore and Tansu, or mosquitto and Apache Kafka; our own, because tests pause them.

    A fixture of its own for each: this one ends whenever the parameter changes, and every file has both.
    """
    return request.getfixturevalue(f"{request.param}_brokers")


@pytest.fixture(scope="session")
def doors(tmp_path_factory):
    """Apache Kafka with TLS, certificates, logins and ACLs, shared by every test of them (tests/secured.py)."""
    made = Doors(tmp_path_factory.mktemp("doors"))
    with made.kafka:
        yield made


@pytest.fixture(scope="session")
def brokers_of():
    """brokers_of(kind, folder): brokers of one file alone, where what is in covey's own topics is counted."""
    return Brokers


@pytest.fixture
def own_brokers(tmp_path):
    """iotcore and Tansu of this test alone, to be killed."""
    with _started("embedded", tmp_path) as brokers:
        yield brokers


@pytest.fixture
def start():
    """start(brokers, ...): a gateway; start.devices(brokers, names): devices. All end with the test."""
    with ExitStack() as stack:

        def gateway(brokers: Brokers, *, wait: bool = True, **options: str) -> Gateway:
            made = Gateway(brokers, **options)
            stack.callback(made.process.kill9)
            return made.start(wait=wait)

        def devices(brokers: Brokers, names: list[str], **options: Any) -> Devices:
            made = Devices(brokers, names, **options)
            stack.callback(made.end)
            return made

        gateway.devices = devices  # type: ignore[attr-defined]
        yield gateway


@pytest.fixture
def name():
    """A device name of this test alone: brokers are shared."""
    return unique("d")
