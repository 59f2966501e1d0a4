"""What a good engineer writes with stock paho-mqtt and confluent-kafka, by their documentation: nothing private, nothing clever.

One thread: `client.loop`, one `produce` per message with its own delivery callback, `poll(0)` after each turn, no flush.
MQTT packets are acknowledged by hand, in order of receipt, once their delivery report is there. For the job covey the
envelope is decoded with msgspec and checked against the topic, and what Kafka has is acknowledged to each device, at most
once in half a second, as ranges.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import Any

import msgspec
from confluent_kafka import KafkaError, Message, Producer
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

RECEIVE_MAXIMUM = 2_000
ACK_INTERVAL_S = 0.5
DEAD = "covey.deadletter"


class Envelope(msgspec.Struct):
    """A CloudEvents 1.0 event; the rest is the consumer's business."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: msgspec.Raw


_decode = msgspec.json.Decoder(Envelope).decode


class Bridge:
    """MQTT to Kafka."""

    def __init__(self) -> None:
        told = os.environ
        self._topic = told["BENCH_TOPIC"]
        self._filter = told["BENCH_FILTER"]
        self._level = int(told["BENCH_KEY_LEVEL"])
        self._covey = told["BENCH_JOB"] == "covey"
        self._waiting: deque[list[Any]] = deque()  # [packet id, done]
        self._safe: dict[str, dict[str, list[list[int]]]] = {}  # topic of the ack -> outbox -> ranges
        self._connection = 0
        self.stop = False
        self.producer = Producer(
            {
                "bootstrap.servers": told["BENCH_KAFKA"],
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,
            }
        )
        self.client = Client(
            CallbackAPIVersion.VERSION2, told["BENCH_CLIENT_ID"], protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self.client.max_inflight_messages_set(100)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 604_800
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        host, port = told["BENCH_MQTT"].rsplit(":", 1)
        self.client.connect(host, int(port), 60, clean_start=False, properties=properties)

    def run(self) -> None:
        """Bridge until told to stop."""
        ack_at_s = 0.0
        while not self.stop:
            if self.client.loop(0.005):
                time.sleep(0.5)
                self.client.reconnect()
            self.producer.poll(0)
            if self._safe and time.monotonic() >= ack_at_s:
                self._tell_devices()
                ack_at_s = time.monotonic() + ACK_INTERVAL_S
        self.producer.flush(10)
        self._acknowledge()
        self.client.loop(0.1)
        self.client.disconnect()

    def _on_connect(self, client: Client, *_: Any) -> None:
        self._connection += 1
        self._waiting.clear()  # packet ids die with their connection
        client.subscribe(self._filter, qos=1)

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        device = message.topic.split("/")[self._level]
        kafka, identity = self._topic, None
        if self._covey:
            identity = _identity(message.payload, device)
            kafka = kafka if identity else DEAD
        entry = [message.mid, False]
        self._waiting.append(entry)
        self._produce(kafka, device, message.payload, (self._connection, entry, message.topic, identity))

    def _produce(self, kafka: str, key: str, value: bytes, what: tuple[Any, ...]) -> None:
        while True:
            try:
                self.producer.produce(
                    kafka, value, key, on_delivery=lambda error, record: self._delivered(error, record, what)
                )
                return
            except BufferError:
                self.producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, record: Message, what: tuple[Any, ...]) -> None:
        connection, entry, topic, identity = what
        if error is not None:
            self._produce(record.topic(), record.key(), record.value(), what)
            return
        if identity:
            ranges = self._safe.setdefault(topic.rsplit("/", 1)[0] + "/ack", {}).setdefault(identity[0], [])
            if ranges and ranges[-1][1] + 1 == identity[1]:
                ranges[-1][1] = identity[1]
            else:
                ranges.append([identity[1], identity[1]])
        if connection == self._connection:
            entry[1] = True
            self._acknowledge()

    def _acknowledge(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][1]:
            self.client.ack(waiting.popleft()[0], 1)

    def _tell_devices(self) -> None:
        safe, self._safe = self._safe, {}
        for topic, outboxes in safe.items():
            acks = [{"outbox": outbox, "ranges": ranges} for outbox, ranges in outboxes.items()]
            self.client.publish(topic, msgspec.json.encode({"acks": acks}), qos=0)


def _identity(payload: bytes, device: str) -> tuple[str, int] | None:
    """Outbox and number of a valid event of this device."""
    try:
        event = _decode(payload)
        name, outbox, number = event.id.split("/")
        if name == device and event.source == f"/covey/{device}" and event.specversion == "1.0":
            return outbox, int(number)
    except (msgspec.MsgspecError, ValueError):
        pass
    return None


def main() -> None:
    """Bridge until SIGTERM."""
    bridge = Bridge()
    signal.signal(signal.SIGTERM, lambda *_: setattr(bridge, "stop", True))
    bridge.run()


if __name__ == "__main__":
    main()
