"""Kafka to MQTT: desired (retained, newest revision), commands, acks. Consumes by assignment, joins no group.

`desired` is read from the beginning into memory; commands and acks from the end. Records that cannot be read are
counted and told, and the next one is taken: nothing blocks.
"""

from __future__ import annotations

import time
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from covey import topics, wire
from covey.errors import LinkError, WireError
from gateway.desired import DesiredBook
from gateway.kafka import ensure_topics, make_consumer, told

if TYPE_CHECKING:
    import logging

    from confluent_kafka import Message

    from gateway.acks import AckBook
    from gateway.config import GatewayConfig
    from gateway.counts import Counts
    from gateway.link import Link

_ASK_S = 5.0
_CONSUME = 500  # records per poll
_MAX_COMMANDS = 10_000  # waiting for MQTT; the oldest goes first, all expire
_ACKS_PER_STEP = 500


@lru_cache(maxsize=131_072)  # a hash per message otherwise
def _ack_topic(device: str) -> bytes:
    return topics.mqtt_topic(device, "ack").encode()


class _Command(NamedTuple):
    device: str
    payload: bytes
    expires_s: float


class Downlink:
    """The consuming side of a gateway, and what it has still to publish."""

    def __init__(self, config: GatewayConfig, acks: AckBook, counts: Counts, log: logging.Logger) -> None:
        self._config = config
        self._acks = acks
        self._counts = counts
        self._log = log
        self._consumer: Consumer | None = None
        self._commands: deque[_Command] = deque()
        self.desired = DesiredBook()

    @property
    def started(self) -> bool:
        """Topics exist and the consumer reads."""
        return self._consumer is not None

    @property
    def busy(self) -> bool:
        """Something waits to be published."""
        return bool(self._commands or self.desired.waiting)

    def start(self) -> None:
        """Create the topics that are missing and begin to read.

        Raises:
            LinkError: Kafka is out of reach or refuses.
        """
        created = ensure_topics(self._config)
        if created:
            self._log.info("kafka %s: created %s", self._config.kafka, ", ".join(created))
        consumer = make_consumer(self._config)
        try:
            consumer.assign(self._places(consumer))
        except KafkaException as error:
            consumer.close()
            raise LinkError(f"kafka {self._config.kafka}: {told(error)}") from error
        except LinkError:
            consumer.close()
            raise
        self.close()
        self._consumer = consumer
        self._counts.add("kafka_starts")

    def poll(self) -> int:
        """Take what Kafka has, without waiting; returns how many records came."""
        if self._consumer is None:
            return 0
        try:
            messages = self._consumer.consume(_CONSUME, 0)
        except KafkaException as error:
            self._log.warning("kafka %s: reading: %s", self._config.kafka, told(error))
            return 0
        for message in messages:
            failed = message.error()
            if failed is not None:
                self._log.debug("kafka %s: reading: %s", self._config.kafka, told(failed))
                continue
            try:
                self._take(message)
            except (WireError, UnicodeDecodeError) as bad:
                self._counts.add("bad_downlink", label=str(message.topic()))
                where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
                self._log.warning("%s: cannot be read: %s", where, bad)
        return len(messages)

    def publish(self, link: Link, now_s: float, *, everything: bool = False) -> None:
        """Send what is due over MQTT; `now_s` is monotonic."""
        if not link.connected:
            return
        while self._commands and link.room:
            self._send_command(link, self._commands.popleft())
        while link.room:
            taken = self.desired.take()
            if taken is None:
                break
            device, payload = taken
            if link.publish(topics.mqtt_topic(device, "desired"), payload, qos=1, retain=True):
                self._counts.add("desired")
        # QoS 0: a lost ack is mended, the agent sends its rows again and is acknowledged again
        due = self._acks.due(now_s, everything=everything)
        if due and link.publish_many([(_ack_topic(one.device), one.payload) for one in due]):
            self._counts.add("acks", len(due))
            self._counts.add("ack_events", sum(one.events for one in due))

    def on_connected(self) -> None:
        """A new MQTT connection: the broker may have forgotten every retained message."""
        self.desired.again()

    def give_back(self, lost: list[object]) -> None:
        """Commands whose connection ended before the broker had them."""
        self._commands.extendleft(token for token in reversed(lost) if isinstance(token, _Command))

    def close(self) -> None:
        """Stop reading."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _places(self, consumer: Consumer) -> list[TopicPartition]:
        """Where reading begins: desired at the beginning, the rest at its end as of now."""
        wanted = [topics.DESIRED, topics.COMMANDS]
        if self._config.ack_after == "store":
            wanted.append(topics.ACKS)
        have = consumer.list_topics(timeout=_ASK_S).topics
        places: list[TopicPartition] = []
        for topic in wanted:
            if topic not in have or have[topic].error is not None:
                raise LinkError(f"kafka {self._config.kafka}: topic {topic} is not there yet")
            for partition in have[topic].partitions:
                place = TopicPartition(topic, partition)
                low, high = consumer.get_watermark_offsets(place, timeout=_ASK_S)
                # an offset, not "latest": what comes after this moment is read, also before the first fetch
                place.offset = low if topic == topics.DESIRED else high
                places.append(place)
        return places

    def _take(self, message: Message) -> None:
        device = (message.key() or b"").decode()
        if not topics.is_device(device):
            raise WireError("bad_schema", f"key: device name expected, {device[:80]!r} received")
        if not self._config.serves(topics.shard(device)):
            return
        topic, value = message.topic(), message.value()
        if topic == topics.DESIRED:
            self.desired.put(device, value)
        elif value is None:
            raise WireError("bad_schema", f"a value expected for {device}, none received")
        elif topic == topics.ACKS:
            self._acks.add_ack(device, wire.decode(wire.Ack, value), time.monotonic())
        elif topic == topics.COMMANDS:
            command = wire.decode(wire.Command, value)
            self._commands.append(_Command(device, value, command.expires_s))
            if len(self._commands) > _MAX_COMMANDS:
                self._commands.popleft()
                self._counts.add("commands_expired")

    def _send_command(self, link: Link, command: _Command) -> None:
        if command.expires_s <= time.time():
            self._counts.add("commands_expired")
        elif link.publish(
            topics.mqtt_topic(command.device, "command"), command.payload, qos=1, retain=False, token=command
        ):
            self._counts.add("commands")
        else:
            self._commands.appendleft(command)
