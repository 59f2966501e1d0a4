"""Kafka to MQTT: desired (retained, newest), commands, acks. Consumes by assignment, joins no group.

`desired` is read from the beginning into memory, and published once all of it was read: a revision that is no longer the newest is
never seen. `commands` go on where the last life of this gateway was sure of them (offsets committed after the broker's
PUBACK); `acks` from their end: devices resend what a lost one would have acknowledged. Records that cannot be read, and
messages that the MQTT broker would not take, are counted and told, and the next one is taken: nothing blocks.
"""

from __future__ import annotations

import threading
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from covey import topics, wire
from covey.errors import LinkError, WireError
from gateway.commands import Command, CommandBook
from gateway.desired import DesiredBook
from gateway.kafka import ensure_topics, make_consumer, settled, told
from gateway.link import client_id

if TYPE_CHECKING:
    import logging

    from confluent_kafka import Message

    from gateway.acks import AckBook
    from gateway.config import GatewayConfig
    from gateway.counts import Counts
    from gateway.link import Link

# A gateway that never committed (or whose offsets Kafka has forgotten) looks so far back for commands that still
# hold: the longest expiry that `covey cloud command` gives, and an hour for clocks that differ.
COMMAND_LOOKBACK_S = wire.MAX_COMMAND_LIFE_S + 3_600.0

_ASK_S = 5.0
_CONSUME = 500  # records per poll
_COMMIT_S = 1.0
_LEAVE_S = 3.0  # for the last commit, at a stop
_DESIRED_PER_TURN = 20  # about 2 ms of a turn: uplink and its acknowledgements go on between
_CATCH_UP_S = 30.0  # then desired is published as far as it is known
_RECENT_S = 3_600.0  # a broker that kept our session may have forgotten so much (mosquitto's autosave_interval: 1800 s)
_OVERHEAD_BYTES = 32  # of a PUBLISH beside topic and payload (MQTT 5, 3.3; ours carries no properties)


@lru_cache(maxsize=131_072)  # a hash per message otherwise
def _ack_topic(device: str) -> bytes:
    return topics.mqtt_topic(device, "ack").encode()


# More than an ack's packet has beside its payload: a topic of at most 84 bytes, lengths, properties.
_ACK_AROUND_BYTES = 128


class _Wanted(NamedTuple):
    device: str


class Downlink:
    """The consuming side of a gateway, and what it has still to publish."""

    def __init__(self, config: GatewayConfig, acks: AckBook, counts: Counts, log: logging.Logger) -> None:
        self._config = config
        self._acks = acks
        self._counts = counts
        self._log = log
        self._consumer: Consumer | None = None
        self._partitions: list[TopicPartition] = []  # of commands
        self._paused = False
        self._unread: set[int] = set()  # partitions of desired whose end was not reached yet
        self._catch_up_until_s = 0.0
        self._committing = False
        self._asked: dict[int, tuple[int, str]] = {}
        self._commit_at_s = 0.0
        self._commit_told = ""
        self._connected_before = False
        self.commands = CommandBook()
        self.desired = DesiredBook()

    @property
    def started(self) -> bool:
        """Topics exist and the consumer reads."""
        return self._consumer is not None

    @property
    def busy(self) -> bool:
        """Something waits to be published."""
        return bool(self.commands.waiting or (self.desired.waiting and not self._unread))

    def start(self) -> None:
        """Create the topics that are missing and begin to read.

        Raises:
            LinkError: Kafka is out of reach or refuses.
        """
        created = ensure_topics(self._config)
        if created:
            self._log.info("kafka %s: created %s", self._config.kafka, ", ".join(created))
        consumer = make_consumer(self._config, client_id(self._config), self._on_commit)
        try:
            places = self._places(consumer)
            consumer.assign(places)
        except KafkaException as error:
            consumer.close()
            raise LinkError(f"kafka {self._config.kafka}: {told(error)}") from error
        except LinkError:
            consumer.close()
            raise
        self.close()
        self._consumer, self._paused, self._committing = consumer, False, False
        self._partitions = [place for place in places if place.topic == topics.COMMANDS]
        self.commands.begin({place.partition: (place.offset, place.metadata or "") for place in self._partitions})
        self._catch_up_until_s = time.monotonic() + _CATCH_UP_S
        self._counts.add("kafka_starts")

    def poll(self) -> int:
        """Take what Kafka has, without waiting; returns how many records came."""
        if self._consumer is None:
            return 0
        try:
            self._hold_or_go_on(self._consumer)
            messages = self._consumer.consume(_CONSUME, 0)
        except KafkaException as error:
            self._log.warning("kafka %s: reading: %s", self._config.kafka, told(error))
            return 0
        for message in messages:
            failed = message.error()
            if failed is None:
                self._take(message)
            elif failed.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's name
                if message.topic() == topics.DESIRED:
                    self._unread.discard(message.partition() or 0)
            else:
                self._log.debug("kafka %s: reading: %s", self._config.kafka, told(failed))
        now_s = time.monotonic()
        if self._unread and now_s >= self._catch_up_until_s:
            self._log.warning(
                "%s: not read to its end within %g s: publishing what is known", topics.DESIRED, _CATCH_UP_S
            )
            self._unread.clear()
        self._commit(self._consumer, now_s)
        return len(messages)

    def publish(self, link: Link, now_s: float, *, everything: bool = False) -> None:
        """Send what is due over MQTT: acks first, then commands, then a little of desired; `now_s` is monotonic."""
        self.take_confirmed(link, now_s)
        if not link.connected:
            return
        self._send_acks(link, now_s, everything=everything)
        self._send_commands(link, now_s)
        self._send_desired(link, now_s)

    def on_connected(self, now_s: float, *, resumed: bool) -> None:
        """A new MQTT connection: publish again what the broker may have forgotten.

        Args:
            now_s: monotonic.
            resumed: the broker kept our session, so it kept its retained messages, too, but for what came after its
                last save. Else, and at the first connection of this process, it is told everything.
        """
        self.desired.again(now_s - _RECENT_S if resumed and self._connected_before else None)
        self._connected_before = True

    def give_back(self, lost: list[object]) -> None:
        """What the broker had not answered when its connection ended."""
        self.commands.give_back([token for token in lost if isinstance(token, Command)])
        for token in lost:
            if isinstance(token, _Wanted):
                self.desired.reopen(token.device)

    def close(self) -> None:
        """Stop reading; what is settled is committed if Kafka answers at once."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        deadline_s = time.monotonic() + _LEAVE_S
        self._commit_at_s = 0.0
        while time.monotonic() < deadline_s and (self._committing or self.commands.to_commit()):
            try:
                self._commit(consumer, time.monotonic())
                consumer.consume(1, 0.02)  # serves the answer; records are of no use any more
            except KafkaException:
                break
        if self._committing:
            # The library waits for the answer without end (measured: minutes, with Kafka held).
            threading.Thread(target=consumer.close, name="kafka-close", daemon=True).start()
        else:
            consumer.close()

    # -- from Kafka ---------------------------------------------------------------------------------------------------

    def _places(self, consumer: Consumer) -> list[TopicPartition]:
        """Where reading begins."""
        wanted = [topics.DESIRED, topics.COMMANDS]
        if self._config.ack_after == "store":
            wanted.append(topics.ACKS)
        have = consumer.list_topics(timeout=_ASK_S).topics
        places: list[TopicPartition] = []
        self._unread.clear()
        for topic in wanted:
            if topic not in have or have[topic].error is not None:
                raise LinkError(f"kafka {self._config.kafka}: topic {topic} is not there yet")
            partitions = sorted(have[topic].partitions)
            if topic == topics.COMMANDS:
                places += self._where_commands_go_on(consumer, partitions)
                continue
            for partition in partitions:
                place = TopicPartition(topic, partition)
                low, high = settled(partial(consumer.get_watermark_offsets, place, timeout=_ASK_S))
                # an offset, not "latest": what comes after this moment is read, also before the first fetch
                place.offset = low if topic == topics.DESIRED else high
                places.append(place)
                if topic == topics.DESIRED:
                    self._unread.add(partition)  # until its end is told: Tansu's watermarks cannot say
        return places

    def _where_commands_go_on(self, consumer: Consumer, partitions: list[int]) -> list[TopicPartition]:
        """The committed offset; without one, the first record young enough to hold a command that still counts."""
        since_ms = int((time.time() - COMMAND_LOOKBACK_S) * 1000)
        places = consumer.committed([TopicPartition(topics.COMMANDS, p) for p in partitions], timeout=_ASK_S)
        for place in places:
            if place.error is not None:
                raise LinkError(f"kafka {self._config.kafka}: group {client_id(self._config)}: {told(place.error)}")
            if place.offset < 0:
                asked = TopicPartition(topics.COMMANDS, place.partition, since_ms)
                found = settled(partial(consumer.offsets_for_times, [asked], timeout=_ASK_S))[0]
                place.offset = found.offset
            if place.offset < 0:  # nothing so young
                _, place.offset = settled(partial(consumer.get_watermark_offsets, place, timeout=_ASK_S))
        return [TopicPartition(p.topic, p.partition, p.offset, p.metadata or "") for p in places]

    def _hold_or_go_on(self, consumer: Consumer) -> None:
        if self.commands.full != self._paused:
            self._paused = self.commands.full
            (consumer.pause if self._paused else consumer.resume)(self._partitions)

    def _take(self, message: Message) -> None:
        topic, partition, offset = str(message.topic()), message.partition() or 0, message.offset() or 0
        if topic == topics.COMMANDS:
            self.commands.read(partition, offset)
        try:
            self._read(topic, partition, offset, message)
        except (WireError, UnicodeDecodeError) as bad:
            self._counts.add("bad_downlink", label=topic)
            self._log.warning("%s[%d]@%d: cannot be read: %s", topic, partition, offset, bad)

    def _read(self, topic: str, partition: int, offset: int, message: Message) -> None:
        device = _bytes(message.key()).decode()
        if not topics.is_device(device):
            raise WireError("bad_schema", f"key: device name expected, {device[:80]!r} received")
        if not self._config.serves(topics.shard(device)):
            return
        value = message.value()
        if value is None and topic != topics.DESIRED:
            raise WireError("bad_schema", f"a value expected for {device}, none received")
        payload = _bytes(value)
        if len(payload) > wire.MAX_EVENT_BYTES:
            raise WireError("too_large", f"at most {wire.MAX_EVENT_BYTES} bytes expected, {len(payload)} received")
        if topic == topics.DESIRED:
            self.desired.put(device, None if value is None else payload, partition, message.timestamp()[1])
        elif topic == topics.ACKS:
            self._acks.add_ack(device, wire.decode(wire.Ack, payload), time.monotonic())
        else:
            command = wire.decode(wire.Command, payload)
            self.commands.put(partition, offset, device, payload, command.expires_s)

    def _commit(self, consumer: Consumer, now_s: float) -> None:
        """Ask Kafka to keep how far commands are settled, at most once a second; the answer comes in `_on_commit`."""
        if self._committing or now_s < self._commit_at_s:
            return
        self._commit_at_s = now_s + _COMMIT_S
        moved = self.commands.to_commit()
        if not moved:
            return
        places = [TopicPartition(topics.COMMANDS, p, offset, note) for p, (offset, note) in moved.items()]
        self._committing, self._asked = True, moved
        try:
            consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], places)

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self._committing = False
        problem = error or next((place.error for place in places if place.error is not None), None)
        if problem is None:
            self._commit_told = ""
            self.commands.committed(self._asked)  # the answer tells no metadata
        elif told(problem) != self._commit_told:  # once, not every second
            self._commit_told = told(problem)
            self._log.warning("kafka %s: offsets of commands not kept: %s", self._config.kafka, self._commit_told)

    # -- to MQTT ------------------------------------------------------------------------------------------------------

    def take_confirmed(self, link: Link, now_s: float) -> None:
        """Settle what the broker has answered; also after the connection's end."""
        for token, reason in link.confirmed():
            if not isinstance(token, Command):
                continue
            if reason == 0:
                self.commands.settle(token)
            else:  # refused, or accepted with 0x10: no matching subscribers (MQTT 5, 3.4.2.1): the device is away
                self._counts.add("commands_away")
                given_up = self.commands.given_up
                self.commands.try_later(token, now_s)
                self._counts.add("commands_given_up", self.commands.given_up - given_up)

    def _send_acks(self, link: Link, now_s: float, *, everything: bool) -> None:
        due = self._acks.due(now_s, everything=everything)
        most = link.max_packet_bytes
        if most and any(len(one.payload) > most - _ACK_AROUND_BYTES for one in due):
            due = [one for one in due if self._fits(link, _ack_topic(one.device).decode(), one.payload, "ack")]
        # QoS 0: a lost ack is mended, the agent sends its rows again and is acknowledged again
        if due and link.publish_many([(_ack_topic(one.device), one.payload) for one in due]):
            self._counts.add("acks", len(due))
            self._counts.add("ack_events", sum(one.events for one in due))

    def _send_commands(self, link: Link, now_s: float) -> None:
        expired = self.commands.expired
        while link.room:
            command = self.commands.take(now_s, time.time())
            if command is None:
                break
            topic = topics.mqtt_topic(command.device, "command")
            if not self._fits(link, topic, command.payload, "command"):
                self.commands.settle(command)
            elif link.publish(topic, command.payload, qos=1, retain=False, token=command):
                self._counts.add("commands")
            else:
                self.commands.give_back([command])
                break
        if self.commands.expired > expired:
            self._counts.add("commands_expired", self.commands.expired - expired)
        self._counts.gauges["commands_waiting"] = len(self.commands)

    def _send_desired(self, link: Link, now_s: float) -> None:
        if self._unread:  # a record that is still to come may be newer
            return
        self.desired.trickle(now_s, self._config.republish_interval_s)
        for _ in range(min(_DESIRED_PER_TURN, link.room)):
            taken = self.desired.take(now_s)
            if taken is None:
                return
            device, payload = taken
            topic = topics.mqtt_topic(device, "desired")
            if not self._fits(link, topic, payload, "desired"):
                continue
            if not link.publish(topic, payload, qos=1, retain=True, token=_Wanted(device)):
                self.desired.reopen(device)
                return
            self._counts.add("desired")

    def _fits(self, link: Link, topic: str, payload: bytes, kind: str) -> bool:
        """Whether the broker takes it; paho does not look, and one too large would end every connection anew."""
        size = len(topic) + len(payload) + _OVERHEAD_BYTES
        if not link.max_packet_bytes or size <= link.max_packet_bytes:
            return True
        self._counts.add("too_large_down", label=kind)
        limit = link.max_packet_bytes
        self._log.warning("%s: at most %d bytes expected by the MQTT broker, %d given: dropped", topic, limit, size)
        return False


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
