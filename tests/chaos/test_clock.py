"""Whose clock a record in Kafka goes by: the broker's, whatever the gateway's says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Producer, TopicPartition

from covey import topics
from gateway.config import GatewayConfig
from gateway.kafka import ensure_topics
from processes import unique

if TYPE_CHECKING:
    from servers import Kafka

WEEK_S = 7 * 86_400


@pytest.mark.broker
def test_a_gateway_whose_clock_is_wrong_is_heard_and_its_records_stamped_with_the_time_of_receipt(kafka: Kafka) -> None:
    """Kafka 4 refuses what is an hour ahead, and deletes at once what is a week behind, by the producer's clock."""
    ensure_topics(GatewayConfig(kafka=kafka.bootstrap))
    key, now_s = unique("clock").encode(), time.time()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    refused: list[str] = []
    for ahead_s in (-2 * WEEK_S, -7_200, 7_200, 2 * WEEK_S):
        producer.produce(
            topics.STATUS,
            str(ahead_s),
            key,
            partition=0,
            timestamp=round((now_s + ahead_s) * 1000),
            on_delivery=lambda error, _message: refused.append(str(error)) if error else None,
        )
    assert producer.flush(30) == 0
    assert refused == []
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "clock", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topics.STATUS, 0, 0)])
        read: list[tuple[int, float]] = []
        deadline = time.monotonic() + 30
        while len(read) < 4 and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None and message.key() == key:
                kind, stamp_ms = message.timestamp()
                read.append((kind, stamp_ms / 1000))
    finally:
        consumer.close()
    assert [kind for kind, _ in read] == [TIMESTAMP_LOG_APPEND_TIME] * 4
    assert all(abs(stamp_s - now_s) < 120 for _, stamp_s in read)
