"""What Kafka has: topics read from their beginning to where they end now. Changes nothing, commits nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from chaos.order import Order
from covey import topics, wire
from covey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READ_S = 120.0  # without a record although there are more
_BATCH = 5_000
EVENT_TOPICS = (topics.SUMMARIES, topics.ALARMS, topics.STATUS)


class Record(NamedTuple):
    """One record; `time_s` is Kafka's own clock (LogAppendTime), to the millisecond."""

    topic: str
    partition: int
    offset: int
    time_s: float
    key: bytes
    value: bytes


class _OnlyId(msgspec.Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_OnlyId)


def read(bootstrap: str, names: Iterable[str]) -> Iterator[Record]:
    """All records of these topics; each partition's in the order of its offsets.

    Raises:
        AssertionError: nothing came for READ_S although there is more.
    """
    settings = {"group.id": "chaos", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": bootstrap, "queued.max.messages.kbytes": 65_536, **settings})
    try:
        ends = _ends(consumer, names)
        consumer.assign([TopicPartition(name, partition, 0) for name, partition in ends])
        quiet_at_s = time.monotonic() + READ_S
        while ends:
            messages = consumer.consume(_BATCH, 0.2)
            for message in messages:
                if message.error() is not None:
                    continue  # a state of the connection, which the library mends
                place = (str(message.topic()), int(message.partition() or 0))
                offset = int(message.offset() or 0)
                if place not in ends or offset >= ends[place]:
                    continue
                stamp_s = message.timestamp()[1] / 1000
                yield Record(*place, offset, stamp_s, message.key() or b"", message.value() or b"")
                if offset + 1 >= ends[place]:
                    del ends[place]
            if messages:
                quiet_at_s = time.monotonic() + READ_S
            elif time.monotonic() > quiet_at_s:
                raise AssertionError(f"kafka: {len(ends)} partitions not read to their end within {READ_S:g} s")
    finally:
        consumer.close()


def identity(record: Record) -> wire.Identity | None:
    """The event in a record; None for presence and for what is none of ours."""
    try:
        return wire.parse_identity(_id_decoder.decode(record.value).id)
    except (WireError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def order(bootstrap: str, prefix: str = "") -> Order:
    """The order of all events of devices whose names begin with `prefix`."""
    found = Order()
    for record in read(bootstrap, EVENT_TOPICS):
        one = identity(record)
        if one is not None and one.device.startswith(prefix):
            found.see(record.topic, record.partition, f"{one.device}/{one.outbox}", one.seq)
    return found


def _ends(consumer: Consumer, names: Iterable[str]) -> dict[tuple[str, int], int]:
    """(topic, partition) -> offset behind its last record, of partitions that have any."""
    ends: dict[tuple[str, int], int] = {}
    deadline_s = time.monotonic() + READ_S
    for name in names:
        while True:
            try:
                known = consumer.list_topics(name, timeout=5.0).topics[name]
                for partition in known.partitions:
                    low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=5.0)
                    if high > low:
                        ends[name, partition] = high
                break
            except KafkaException:  # it may have been killed a moment ago
                if time.monotonic() > deadline_s:
                    raise
    return ends
