"""The producing side alone, against a live Kafka API that comes late, refuses, or is lost."""

import json
import logging
import re
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from covey import topics, wire
from covey.runtime import poll
from firmware_sim.chaos import Conditions
from firmware_sim.net.proxy import Proxy
from gateway.acks import AckBook
from gateway.admit import Admission, RateLimit
from gateway.config import GatewayConfig
from gateway.counts import Counts
from gateway.receiver import Received, received
from gateway.uplink import Uplink
from servers import Tansu, free_port, unique

pytestmark = pytest.mark.broker
BOX = "0123456789abcdef"


def _uplink(bootstrap: str, **changes: object) -> tuple[Uplink, AckBook, Counts]:
    config = GatewayConfig(kafka=bootstrap, **({"kafka_kind": "embedded"} | changes))
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


def _stored(bootstrap: str, topic: str, count: int) -> list[tuple[int, list[tuple[str, bytes]]]]:
    """(sequence number, headers) of the records of a topic with one partition, in order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[tuple[int, list[tuple[str, bytes]]]] = []

    def read() -> bool:
        for message in consumer.consume(500, 0.1):
            assert message.error() is None
            found.append((int(json.loads(message.value())["id"].rsplit("/", 1)[1]), message.headers() or []))
        return len(found) >= count

    try:
        assert poll(read, 30.0), found
    finally:
        consumer.close()
    return found


def test_a_batch_that_kafka_finds_too_large_costs_its_large_message_alone_and_keeps_the_order(kafka_factory) -> None:
    small = kafka_factory({"message.max.bytes": "3000"})
    small.create_topics([topics.STATUS])
    small.create_topics([topics.DEADLETTER], config={"max.message.bytes": "200000"})
    uplink, _, counts = _uplink(small.bootstrap)
    events = _events(unique("d"), 1, 20)
    topic, payload, mid, user = events[9]
    events[9] = (topic, payload[:-1] + b" " * 4_000 + b"}", mid, user)
    uplink.submit(1, events, time.time())
    assert _drain(uplink, 20) == list(range(1, 21))
    assert counts.get("deadletter", "too_large") == 1
    assert [seq for seq, _ in _stored(small.bootstrap, topics.STATUS, 19)] == [n for n in range(1, 21) if n != 10]
    uplink.close()


def test_what_comes_later_does_not_overtake_what_kafka_refused(kafka_factory) -> None:
    kafka = kafka_factory({})
    # the library's 30 s for a topic to become known are a long time in a test
    uplink, _, counts = _uplink(kafka.bootstrap, kafka_options={"topic.metadata.propagation.max.ms": 500})
    device = unique("d")
    uplink.submit(1, _events(device, 1, 10), time.time())
    assert poll(lambda: not uplink.poll(0.05) and uplink.topics_missing, 30.0)  # no such topic yet
    assert uplink.blocked
    uplink.submit(1, _events(device, 11, 20), time.time())
    kafka.create_topics([topics.STATUS])
    assert _drain(uplink, 20) == list(range(1, 21))
    assert [seq for seq, _ in _stored(kafka.bootstrap, topics.STATUS, 20)] == list(range(1, 21))
    assert counts.get("retries") >= 1
    uplink.close()


def test_alarms_carry_their_trace_context_as_a_header_too(kafka_factory) -> None:
    kafka = kafka_factory({})
    kafka.create_topics([topics.ALARMS])
    uplink, acks, _ = _uplink(kafka.bootstrap)
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    found = re.search(r"```json alarm\n(.*?)\n```", page, re.DOTALL)
    assert found
    alarm = found.group(1).encode()
    plain = re.sub(rb'"traceparent":"[^"]*",', b"", alarm).replace(b'/41"', b'/42"')
    topic = topics.mqtt_topic("drone-07", "alarm").encode()
    uplink.submit(1, [received(topic, alarm, 1), received(topic, plain, 2)], time.time())
    assert _drain(uplink, 2) == [1, 2]
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert _stored(kafka.bootstrap, topics.ALARMS, 2) == [(41, [("traceparent", trace)]), (42, [])]
    assert len(acks) == 1
    uplink.close()


def test_more_bytes_than_the_bound_stop_reading_until_kafka_has_them(tmp_path) -> None:
    late = Tansu(tmp_path / "kafka")
    device = unique("d")
    uplink, _, _ = _uplink(late.bootstrap, queue_bytes=1_048_576)
    big = [(t, p[:-1] + b" " * 60_000 + b"}", mid, user) for t, p, mid, user in _events(device, 1, 18)]
    uplink.submit(1, big[:17], time.time())
    assert not uplink.blocked
    uplink.submit(1, big[17:], time.time())
    assert uplink.blocked
    with late:
        late.create_topics([topics.STATUS], exist_ok=True)
        assert _drain(uplink, 18) == list(range(1, 19))
        assert not uplink.blocked
        uplink.close()


def test_a_kafka_slower_than_the_messages_come_is_waited_for_and_all_is_acknowledged_meanwhile(kafka_factory) -> None:
    port = free_port()
    with Proxy("127.0.0.1", port) as far:
        slow = kafka_factory({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{far.port}"}, port)
        slow.create_topics([topics.STATUS])
        uplink, _, _ = _uplink(f"127.0.0.1:{far.port}", kafka_kind="kafka")
        device, given = unique("d"), 20
        uplink.submit(1, _events(device, 1, given), time.time())
        _drain(uplink, given)
        far.set(Conditions(delay_s=0.08))  # 160 ms there and back; something comes every few milliseconds
        mids: list[int] = []
        ages: list[float] = []
        ends_s = time.monotonic() + 6.0
        while time.monotonic() < ends_s:
            if not uplink.draining(time.monotonic()):
                uplink.submit(1, _events(device, given + 1, given + 5), time.time())
                given += 5
            for settled in uplink.poll(0.005):
                mids += settled.mids
            ages.append(uplink.oldest_s(time.monotonic()))
        assert len(mids) > (given - 20) / 2  # while it goes on, not after it
        assert mids == list(range(21, 21 + len(mids)))
        assert sorted(ages)[len(ages) * 9 // 10] < 3.0  # of 6 s
        far.set(Conditions())
        _drain(uplink, given - 20 - len(mids))
        assert uplink.pending == 0
        stored = _stored(f"127.0.0.1:{far.port}", topics.STATUS, given)
        assert [seq for seq, _ in stored] == list(range(1, given + 1))
        uplink.close()
