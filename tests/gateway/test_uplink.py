"""The producing side alone, against a live Kafka API that comes late, refuses, or is lost."""

import logging
import time

import pytest
from confluent_kafka import KafkaError

from covey import topics, wire
from covey.runtime import poll
from gateway.acks import AckBook
from gateway.admit import Admission, RateLimit
from gateway.config import GatewayConfig
from gateway.counts import Counts
from gateway.receiver import Received, received
from gateway.uplink import Uplink
from servers import Tansu, unique

pytestmark = pytest.mark.broker
BOX = "0123456789abcdef"


def _uplink(bootstrap: str, **changes: object) -> tuple[Uplink, AckBook, Counts]:
    config = GatewayConfig(kafka=bootstrap, kafka_kind="embedded", **changes)
    acks, counts = AckBook(0.5), Counts()
    admission = Admission("g", config.max_event_bytes, RateLimit(1e9, 1_000_000), 1)
    return Uplink(config, admission, acks, counts, logging.getLogger("gateway")), acks, counts


def _events(device: str, first: int, last: int) -> list[Received]:
    topic = topics.mqtt_topic(device, "status").encode()
    status = wire.Status("start", wire.Reported(0, "", "onnx"))
    return [
        received(topic, wire.make_event(wire.Identity(device, BOX, n), "status", 0.0, status), n)
        for n in range(first, last + 1)
    ]


def _drain(uplink: Uplink, count: int, timeout_s: float = 30.0) -> list[int]:
    mids: list[int] = []

    def done() -> bool:
        for settled in uplink.poll(0.05):
            mids.extend(settled.mids)
        if uplink.topics_missing:
            uplink.topics_missing = False
        return len(mids) >= count

    assert poll(done, timeout_s, step_s=0.001), len(mids)
    return mids


def test_a_full_queue_stops_reading_and_loses_nothing_when_kafka_comes(tmp_path) -> None:
    late = Tansu(tmp_path / "kafka")
    device = unique("d")
    uplink, acks, _ = _uplink(late.bootstrap, queue_messages=50, receive_maximum=50)
    uplink.submit(1, _events(device, 1, 40), time.time())
    assert not uplink.blocked
    uplink.submit(1, _events(device, 41, 120), time.time())
    uplink.submit(2, _events(device, 121, 130), time.time())
    assert uplink.blocked
    assert uplink.pending == 130
    assert not poll(lambda: bool(uplink.poll(0.05)), 1.0)
    assert acks.due(time.monotonic(), everything=True) == []
    with late:
        late.create_topics([topics.STATUS], partitions=2, exist_ok=True)
        assert _drain(uplink, 130) == list(range(1, 131))
        assert not uplink.blocked
        ((who, payload, events),) = acks.due(time.monotonic(), everything=True)
        ack = wire.decode(wire.Ack, payload)
        assert (who, ack.acks[0].ranges, events) == (device, [(1, 130)], 130)
        uplink.close()


def test_a_fatal_producer_error_is_mended_by_a_new_producer(tmp_path) -> None:
    late = Tansu(tmp_path / "kafka")
    device = unique("d")
    uplink, acks, counts = _uplink(late.bootstrap)
    uplink.submit(1, _events(device, 1, 30), time.time())
    # what librdkafka tells its error callback after Tansu has forgotten the producer
    uplink._on_error(KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "unknown producer id", True))
    assert uplink.poll(0.0) == []
    assert counts.get("producer_rebuilds") == 1
    assert uplink.pending == 30
    with late:
        late.create_topics([topics.STATUS], exist_ok=True)
        assert _drain(uplink, 30) == list(range(1, 31))
        assert uplink.pending == 0
        ((_, payload, _),) = acks.due(time.monotonic(), everything=True)
        ack = wire.decode(wire.Ack, payload)
        assert ack.acks[0].ranges == [(1, 30)]
        uplink.close()


def test_what_kafka_finds_too_large_is_put_aside_and_blocks_nothing(kafka_factory) -> None:
    small = kafka_factory({"message.max.bytes": "3000"})
    small.create_topics([topics.STATUS])
    small.create_topics([topics.DEADLETTER], config={"max.message.bytes": "200000"})
    device = unique("d")
    uplink, acks, counts = _uplink(small.bootstrap, ack_after="store")
    one, two, three = _events(device, 1, 3)
    big = (two[0], two[1][:-1] + b" " * 4_000 + b"}", two[2], ())
    for message in (one, big, three):  # alone: Kafka judges whole batches
        uplink.submit(1, [message], time.time())
        _drain(uplink, 1)
    assert counts.get("deadletter", "too_large") == 1
    assert counts.get("delivered", topics.DEADLETTER) == 1
    ((_, payload, _),) = acks.due(time.monotonic(), everything=True)
    ack = wire.decode(wire.Ack, payload)
    assert ack.acks[0].ranges == [(2, 2)]  # what the store will never see is ours to acknowledge
    uplink.close()
