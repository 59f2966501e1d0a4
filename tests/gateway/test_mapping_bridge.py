"""Plain MQTT fleets through a live gateway, mosquitto and Apache Kafka: nothing of theirs is changed, lost or reordered."""

import base64
import json
import random
import threading
from collections import defaultdict

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from covey import topics
from covey.config import load
from covey.runtime import poll
from gateway.config import GatewayConfig
from gateway.kafka import describe
from servers import unique

pytestmark = [pytest.mark.broker, pytest.mark.parametrize("brokers", ["real"], indirect=True)]


class Fleet:
    """Plain devices over one MQTT 5 connection; the Kafka and MQTT topics are of one test alone."""

    def __init__(self, brokers, tmp_path, start) -> None:
        self.brokers, self.file, self.start = brokers, tmp_path / "gateway.toml", start
        self.root = unique("f")
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"plain-{self.root}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.max_inflight_messages_set(100)
        connected = threading.Event()
        self.client.on_connect = lambda *_a: connected.set()
        self.client.connect("127.0.0.1", brokers.mqtt.port)
        self.client.loop_start()
        assert connected.wait(10)

    def kafka(self, name: str) -> str:
        return f"{self.root}.{name}"

    def gateway(self, text: str):
        """A gateway whose mappings' topics are below this test's own: ROOT in the text."""
        self.file.write_text(text.replace("ROOT", self.root))
        return self.start(self.brokers, config=str(self.file))

    def send(self, topic: str, payload: bytes, user: tuple[tuple[str, str], ...] = ()):
        properties = Properties(PacketTypes.PUBLISH)
        if user:
            properties.UserProperty = list(user)
        return self.client.publish(f"{self.root}/{topic}", payload, qos=1, properties=properties)


@pytest.fixture
def fleet(brokers, tmp_path, start):
    made = Fleet(brokers, tmp_path, start)
    yield made
    made.client.disconnect()
    made.client.loop_stop()


THREE = """
[[mappings]]
filter = "ROOT/tele/+/SENSOR"
topic = "ROOT.tasmota"
key = "{2}"
headers = true

[[mappings]]
filter = "ROOT/zigbee2mqtt/bridge/#"
topic = "ROOT.bridge"
key = "bridge"
payload = "envelope"

[[mappings]]
filter = "ROOT/zigbee2mqtt/#"
topic = "ROOT.zigbee"
key = "{2:}"
payload = "envelope"
headers = true

[[mappings]]
filter = "ROOT/spBv1.0/+/+/+/#"
topic = "ROOT.sparkplug"
key = "{2}/{4}"
"""


def _traceparent(n: int) -> str:
    return f"00-{n:032x}-{n:016x}-01"


def _of(messages, topic):
    return [m for m in messages if m.topic() == topic]


def test_three_plain_fleets_arrive_byte_for_byte_keyed_in_order_with_their_headers(fleet) -> None:
    gateway = fleet.gateway(THREE)
    chance = random.Random(3)
    sent = defaultdict(list)  # (Kafka topic, key) -> [(MQTT topic, payload, user properties)]
    for n in range(1, 301):
        plug, lamp, node = f"plug{n % 7}", f"hall/lamp {n % 5}", f"node{n % 3}"
        user = (("traceparent", _traceparent(n)), ("tracestate", f"t={n}"), ("site", "é"), ("site", "b"))
        kind = ("NBIRTH", "NDATA", "DDATA")[n % 9 // 3]
        device = "/pump" if kind == "DDATA" else ""
        for kafka, key, topic, payload, props in (
            ("tasmota", plug, f"tele/{plug}/SENSOR", b' {"Time":"x","ENERGY":{"Total":%d.50}}' % n, user),
            ("zigbee", lamp, f"zigbee2mqtt/{lamp}", b'{"n":%d,"state":"ON","linkquality":1.0}' % n, user[:1]),
            ("bridge", "bridge", "zigbee2mqtt/bridge/state", b"online" if n % 2 else b'{"state":"%d"}' % n, ()),
            ("sparkplug", f"G/{node}", f"spBv1.0/G/{kind}/{node}{device}", chance.randbytes(n), ()),
        ):
            sent[fleet.kafka(kafka), key].append((f"{fleet.root}/{topic}", payload, props))
            fleet.send(topic, payload, props)
    names = {topic for topic, _ in sent}
    with fleet.brokers.reader(*names) as read:
        assert poll(lambda: len(read()) >= 1_200, 40.0), len(read())
        assert poll(lambda: gateway.status()["pubacks"] >= 1_200, 10.0)
        seen = read()
    came = defaultdict(list)
    for message in seen:
        came[message.topic(), message.key().decode()].append(message)
    assert len(seen) == 1_200  # once each: the bridge's topics match two filters
    assert came.keys() == sent.keys()
    identities = set()
    for (kafka, key), messages in came.items():
        assert len({m.partition() for m in messages}) == 1
        for message, (topic, payload, user) in zip(messages, sent[kafka, key], strict=True):
            carried = [(name, value.decode()) for name, value in message.headers() or []]
            assert carried == list(user)
            assert message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME
            if kafka in (fleet.kafka("tasmota"), fleet.kafka("sparkplug")):
                assert message.value() == payload
                continue
            event = json.loads(message.value())
            identities.add(event["id"])
            assert event["subject"] == topic
            assert event.get("traceparent") == dict(user).get("traceparent")
            if payload == b"online":
                assert base64.b64decode(event["data_base64"]) == payload
            else:
                assert payload in message.value()
                assert event["data"] == json.loads(payload)
    assert len(identities) == 600
    there = describe(load(GatewayConfig, "gateway", fleet.file, {"kafka": fleet.brokers.bootstrap}, {}))
    assert {there[name] for name in names} == {3}  # made by the gateway, with its `partitions`


def test_a_plain_message_is_acknowledged_only_when_kafka_has_it_and_survives_a_killed_gateway(fleet) -> None:
    gateway = fleet.gateway(THREE)
    fleet.send("spBv1.0/G/NBIRTH/n", b"0")
    fleet.send("tele/p/SENSOR", b"0")
    assert poll(lambda: gateway.status()["pubacks"] == 2, 20.0)
    fleet.brokers.kafka.pause()
    try:
        for n in range(1, 41):
            fleet.send("spBv1.0/G/NDATA/n", b"%d" % n).wait_for_publish(10)
            fleet.send("tele/p/SENSOR", b"%d" % n, (("n", str(n)),)).wait_for_publish(10)
        assert poll(lambda: gateway.status()["pending"] == 80, 20.0)
        assert gateway.status()["pubacks"] == 2
        gateway.process.kill9()
    finally:
        fleet.brokers.kafka.resume()
    gateway.start()
    with fleet.brokers.reader(fleet.kafka("sparkplug"), fleet.kafka("tasmota")) as read:
        wanted = [b"%d" % n for n in range(41)]

        def firsts(name: str) -> list[bytes]:
            return list(dict.fromkeys(m.value() for m in _of(read(), fleet.kafka(name))))

        assert poll(lambda: firsts("sparkplug") == wanted and firsts("tasmota") == wanted, 40.0), firsts("tasmota")
        for message in _of(read(), fleet.kafka("tasmota")):
            n = message.value()
            assert message.headers() == ([("n", n)] if n != b"0" else None)
    assert poll(lambda: gateway.status()["pubacks"] == 80, 20.0)


def test_retained_messages_come_with_the_subscription_and_not_again_with_each_connection(fleet) -> None:
    topic = f"{fleet.root}/spBv1.0/G/NBIRTH/n"
    fleet.client.publish(topic, b"birth", qos=1, retain=True).wait_for_publish(10)
    gateway = fleet.gateway(THREE)
    with fleet.brokers.reader(fleet.kafka("sparkplug")) as read:
        assert poll(lambda: [m.value() for m in read()] == [b"birth"], 20.0)
        assert poll(lambda: gateway.status()["pubacks"] == 1, 10.0)
        gateway.process.stop()
        gateway.start()
        fleet.send("spBv1.0/G/NDATA/n", b"data")
        assert poll(lambda: read()[-1].value() == b"data", 20.0)
        assert [m.value() for m in read()] == [b"birth", b"data"]
    fleet.client.publish(topic, b"", qos=1, retain=True).wait_for_publish(10)


STRICT = """
rate_events_s = 0.001
rate_burst = 5

[[mappings]]
filter = "ROOT/small/+"
topic = "ROOT.small"
key = "{2}"
max_bytes = 100

[[mappings]]
filter = "ROOT/wrapped/+"
topic = "ROOT.wrapped"
key = "{2}"
payload = "envelope"
max_bytes = 1000

[[mappings]]
filter = "ROOT/deep/#"
topic = "ROOT.deep"
key = "{3}"
"""


def test_refused_plain_messages_are_put_aside_with_reason_and_block_nothing(fleet) -> None:
    gateway = fleet.gateway(STRICT)
    fleet.send("small/a", b"x" * 101)
    fleet.send("small/a", b"x" * 100)
    fleet.send("wrapped/a", b"\xff" * 700)  # base64 of it does not fit
    fleet.send("wrapped/a", b"\xff" * 100)
    fleet.send("deep/one", b"no such level")
    fleet.send("deep//", b"an empty key")
    fleet.send("deep/one/two", b"deep enough")
    for n in range(8):
        fleet.send("small/flood", b"%d" % n)
    fleet.send("small/other", b"next")
    names = [fleet.kafka(n) for n in ("small", "wrapped", "deep")]
    with fleet.brokers.reader(topics.DEADLETTER, *names) as read:

        def letters():
            found = [json.loads(m.value()) for m in _of(read(), topics.DEADLETTER)]
            return [x for x in found if x["topic"].startswith(f"{fleet.root}/")]

        def good():
            return sorted(m.value() for m in read() if m.topic() in (names[0], names[2]))

        wanted = sorted([b"x" * 100, b"deep enough", b"next", *(b"%d" % n for n in range(5))])
        assert poll(lambda: len(letters()) == 7 and good() == wanted, 30.0), (letters(), good())
        found = sorted(
            (x["reason"], x["topic"].removeprefix(fleet.root), base64.b64decode(x["payload"])) for x in letters()
        )
        assert found == [
            ("bad_topic", "/deep//", b"an empty key"),
            ("bad_topic", "/deep/one", b"no such level"),
            *(("too_fast", "/small/flood", b"%d" % n) for n in (5, 6, 7)),
            ("too_large", "/small/a", b"x" * 101),
            ("too_large", "/wrapped/a", b"\xff" * 700),
        ]
        assert poll(lambda: len(_of(read(), names[1])) == 1, 10.0)
    assert poll(lambda: gateway.status()["pubacks"] == 16, 10.0)  # the refused ones too
    assert gateway.status()["deadletter"] == {"bad_topic": 2, "too_fast": 3, "too_large": 2}
