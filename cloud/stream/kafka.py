"""Consumer and producer of the Kafka API, and their errors in one line; group.py adds consumer groups and transactions.

An unreachable broker is an ordinary state: what cannot be done now says so with a LinkError and is tried again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from covey.credentials import kafka_settings
from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud.kafka")

METADATA_TIMEOUT_S = 5.0

Place = tuple[str, int]  # topic, partition


class Record(NamedTuple):
    """One message read."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    received_s: float  # Kafka's timestamp; 0.0 where the broker keeps none
    trace: str = ""  # header `traceparent`: the span of whoever produced it


class Reader:
    """Reads chosen topics from given offsets; group membership and committed offsets are not used.

    A group join takes seconds, and offsets belong to the store's own transaction.
    """

    def __init__(self, config: CloudConfig, topics: Iterable[str], more: Mapping[str, Any] | None = None) -> None:
        # The library wants a group; nothing is committed to it.
        settings = {**client_settings(config), **consumer_settings(config, "covey-cloud-store"), **(more or {})}
        self._topics = tuple(topics)
        self._kafka = config.kafka
        self._consumer = Consumer(settings)
        self._assigned: set[Place] = set()

    def instance(self) -> str:
        """The cluster's own id.

        Raises:
            LinkError: no broker answers.
        """
        try:
            found = self._consumer.cluster_id(METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise LinkError(f"kafka {self._kafka}: {told(error)}") from error
        if not found:
            raise LinkError(f"kafka {self._kafka}: a cluster id expected, none received")
        return found

    def assign_new(self, offsets: Mapping[tuple[str, int], int]) -> int:
        """Begin to read partitions that have appeared, each at its offset or the beginning; returns how many.

        Raises:
            LinkError: no broker answers.
        """
        try:
            known = self._consumer.list_topics(timeout=METADATA_TIMEOUT_S).topics
        except KafkaException as error:
            raise LinkError(f"kafka {self._kafka}: {told(error)}") from error
        there = {(name, p) for name in self._topics if name in known for p in known[name].partitions}
        new = sorted(there - self._assigned)
        if new:
            self._consumer.incremental_assign(
                [TopicPartition(name, p, offsets.get((name, p), OFFSET_BEGINNING)) for name, p in new]
            )
            self._assigned |= set(new)
        return len(new)

    def ends(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the offset after its last message.

        Raises:
            LinkError: no broker answers, or a topic is not there.
        """
        found: dict[tuple[str, int], int] = {}
        try:
            known = self._consumer.list_topics(timeout=METADATA_TIMEOUT_S).topics
            for name in self._topics:
                if name not in known or known[name].error is not None:
                    raise LinkError(f"kafka {self._kafka}: topic {name} is not there: has a gateway ever run?")
                for partition in known[name].partitions:
                    place = TopicPartition(name, partition)
                    found[name, partition] = self._consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_S)[1]
        except KafkaException as error:
            raise LinkError(f"kafka {self._kafka}: {told(error)}") from error
        return found

    def batch(self, most: int, wait_s: float, gather_s: float = 0.01) -> list[Record]:
        """Up to `most` messages: waits at most `wait_s` for the first, then at most `gather_s` for what comes with it."""
        # Two steps: the library's batch call would hold the first message until the time is up.
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        records = [record for record in (self._record(first),) if record is not None]
        until = time.monotonic() + min(wait_s, gather_s)
        while len(records) < most:
            # What is no record (an end of a partition) takes a place in the library's answer, so it is asked until it has no more.
            more = self._consumer.consume(most - len(records), timeout=max(0.0, until - time.monotonic()))
            if not more:
                break
            records += [record for one in more if (record := self._record(one)) is not None]
        return records

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            return record_of(message)
        self._refused(message, error)
        return None

    def _refused(self, message: Message, error: KafkaError) -> None:
        _log.warning("%s: %s", message.topic(), error.str())


class Writer:
    """Produces, and tells each message's fate to its own callback, which `poll` runs on the caller's thread."""

    def __init__(self, config: CloudConfig) -> None:
        settings = client_settings(config)
        settings |= {"acks": "all", "linger.ms": 5, "message.timeout.ms": 30_000}
        if config.kafka_kind == "embedded":
            # Over its restart an idempotent producer fails for good; duplicates are the sink's business.
            settings |= {"enable.idempotence": False, "max.in.flight.requests.per.connection": 1}
        else:
            settings["enable.idempotence"] = True
        self._producer = Producer(settings)

    def produce(
        self,
        topic: str,
        key: str,
        value: bytes | None,
        on_delivery: Callable[[bool], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Hand over one message (None: a tombstone); False when the queue is full (nothing was taken)."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                _log.warning("%s: %s not delivered: %s", topic, key, error.str())
            if on_delivery is not None:
                on_delivery(error is None)

        try:
            self._producer.produce(
                topic, value, key or None, on_delivery=delivered, headers=list((headers or {}).items())
            )
        except BufferError:
            return False
        except KafkaException as error:
            raise LinkError(f"kafka: {topic}: {told(error)}") from error
        return True

    def poll(self) -> None:
        """Run the callbacks of what was delivered or given up."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> int:
        """Wait for what was handed over; returns how much is still on its way."""
        return self._producer.flush(timeout_s)


def told(error: KafkaException) -> str:
    """The library's error in its own words."""
    inner = error.args[0] if error.args else error
    return inner.str() if isinstance(inner, KafkaError) else str(inner)


def client_settings(config: CloudConfig) -> dict[str, Any]:
    """What every client of the Kafka API is told: where, who we are, and where to say what goes wrong."""
    return {
        "bootstrap.servers": config.kafka,
        "log_level": 0,  # what it would write to stderr by itself comes through the callback
        "error_cb": _told,
        **kafka_settings(config.kafka_credentials, config.kafka_mechanism),
    }


def consumer_settings(config: CloudConfig, group: str) -> dict[str, Any]:
    """What every consumer is told."""
    settings: dict[str, Any] = {
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",  # past retention: begin at what is left, repeats are refused
        "allow.auto.create.topics": False,
    }
    if config.kafka_kind == "embedded":
        settings["fetch.wait.max.ms"] = 25  # its fetch does not wake on new data
    return settings


def record_of(message: Message) -> Record:
    """A message that carries no error."""
    kind, timestamp_ms = message.timestamp()
    key = message.key() or b""
    value, headers = message.value(), message.headers()
    return Record(  # by place: a name for each costs a tenth of a batch's receipt
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        (key if isinstance(key, bytes) else key.encode()).decode("utf-8", "replace"),
        value if isinstance(value, bytes) else _bytes(value),
        timestamp_ms / 1000 if kind and timestamp_ms > 0 else 0.0,
        _trace(headers) if headers else "",
    )


def _trace(headers: Any) -> str:
    """The one header that is looked at; where it came more than once, none (W3C Trace Context, 3.2)."""
    found = [value for name, value in headers or () if name == "traceparent"]
    return _bytes(found[0]).decode("ascii", "replace") if len(found) == 1 else ""


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _told(error: KafkaError) -> None:
    _log.info("%s", error.str())
