"""`covey gateway replay` against Apache Kafka: dead letters of a gateway and of the store, sent again once they may be."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from cloud.store import reader, schema, tables
from cloud_events import cloud_process
from covey import topics, wire
from covey.errors import LinkError
from gateway.admit import Refused, dead_letter
from gateway.config import GatewayConfig
from gateway.letters import Choice, Outcome
from gateway.mapping import Mapping
from gateway.replay import Plan, Replay, Result
from servers import Process, Tansu, free_port, unique, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Brokers

pytestmark = pytest.mark.broker
BOX = "0123456789abcdef"
T0 = 1_770_000_000.0
PARTITIONS = 2
PLAIN = "plain.sensors"


@pytest.fixture(scope="module")
def own(tmp_path_factory, brokers_of):
    """Mosquitto and Apache Kafka of these tests: covey.deadletter is one topic, and they count what is in it."""
    started = brokers_of("real", tmp_path_factory.mktemp("replay"))
    with started.mqtt, started.kafka:
        started.kafka.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        started.kafka.create_topics([PLAIN], PARTITIONS, {"max.message.bytes": "2000"})
        yield started


class Desk:
    """Letters in, records out, of one test."""

    def __init__(self, brokers: Brokers) -> None:
        self.brokers, self.config = brokers, GatewayConfig(kafka=brokers.bootstrap)
        self._consumer = Consumer(
            {"bootstrap.servers": brokers.bootstrap, "group.id": "desk", "isolation.level": "read_committed"}
        )
        self._from = {name: self.ends(name) for name in (topics.STATUS, PLAIN, topics.DEADLETTER)}

    def ends(self, topic: str) -> list[int]:
        def asked() -> list[int]:
            try:
                return [
                    self._consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1] for p in range(PARTITIONS)
                ]
            except KafkaException:  # a topic just made has no leader yet
                self._consumer.list_topics(timeout=10)
                return []

        return wait_for(asked, 30, f"ends of {topic}")

    def empty(self) -> None:
        """Take away what other tests have left: retention does the same, and committed offsets stay behind it."""
        admin = AdminClient({"bootstrap.servers": self.brokers.bootstrap})
        parts = [TopicPartition(topics.DEADLETTER, p, end) for p, end in enumerate(self.ends(topics.DEADLETTER)) if end]
        for future in admin.delete_records(parts).values() if parts else ():
            future.result(10)

    def put(self, *records: tuple[bytes | None, bytes], partition: int = -1) -> None:
        producer = Producer({"bootstrap.servers": self.brokers.bootstrap})
        failed: list[Any] = []
        for key, value in records:
            where = {"partition": partition} if partition >= 0 else {}
            producer.produce(
                topics.DEADLETTER, value, key, on_delivery=lambda error, _m: error and failed.append(error), **where
            )
            producer.poll(0)
        assert producer.flush(20) == 0
        assert not failed

    def records(self, topic: str = topics.STATUS) -> list[tuple[bytes, bytes]]:
        """(key, value) of all that came to a topic in this test."""
        begins, ends = self._from[topic], self.ends(topic)
        self._consumer.assign([TopicPartition(topic, p, begin) for p, begin in enumerate(begins)])
        found: list[tuple[bytes, bytes]] = []

        def all_there() -> bool:
            found.extend(
                (m.key() or b"", m.value() or b"") for m in self._consumer.consume(5_000, 0.1) if not m.error()
            )
            return len(found) >= sum(ends) - sum(begins)

        wait_for(all_there, 30, f"records of {topic}")
        return found

    def letters(self) -> int:
        return sum(self.ends(topics.DEADLETTER)) - sum(self._from[topics.DEADLETTER])

    def replay(self, config: GatewayConfig | None = None, **plan: Any) -> Result:
        return Replay(config or self.config, Plan(**plan), threading.Event()).run()

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def desk(own) -> Iterator[Desk]:
    made = Desk(own)
    made.empty()
    yield made
    made.close()


def event(device: str, seq: int, size: int = 0) -> bytes:
    """As a device writes it; a JSON writer would not write these bytes."""
    status = wire.Status("start", wire.Reported(0, "", "onnx"), detail=f"event {seq}")
    body = wire.make_event(wire.Identity(device, BOX, seq), "status", T0 + seq, status)
    return b" " + body[:-1] + b', "later" : [1.50] ' + b" " * size + b"}"


def letter(
    device: str, seq: int, reason: str = "too_large", payload: bytes = b"", at_s: float = T0
) -> tuple[bytes | None, bytes]:
    topic = topics.mqtt_topic(device, "status").encode()
    return device.encode(), dead_letter(
        Refused(reason, "", device, None, ""), topic, payload or event(device, seq), at_s
    )


def store_letter(device: str, seq: int, reason: str) -> tuple[bytes | None, bytes]:
    refused = Refused(reason, "", "", None, "")
    return None, dead_letter(refused, topics.STATUS.encode(), event(device, seq), T0)


def replay_process(folder: Path, bootstrap: str, *options: str) -> Process:
    command = [sys.executable, "-m", "covey", "gateway", "replay", "--kafka", bootstrap, *options]
    return Process(unique("replay"), command, folder / f"{unique('replay')}.log")


def test_refused_events_reach_the_store_once_and_byte_for_byte_when_the_limit_is_raised(
    desk, start, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("COVEY_GATEWAY_MAX_EVENT_BYTES", "300")
    gateway = start(desk.brokers)
    names = [unique("d"), unique("d")]
    devices = start.devices(desk.brokers, names)
    for name in names:
        devices.write(name, 20)
    devices.push_until(40, 60)  # refused is acknowledged: the devices delete their rows, the letters are all there is
    gateway.process.stop()
    letters = desk.letters()
    assert letters >= 40
    small = GatewayConfig(kafka=desk.brokers.bootstrap, max_event_bytes=300)
    still = desk.replay(small)
    assert (still.reasons, still.refused_now) == ({"too_large": {Outcome.REFUSED: letters}}, {"too_large": letters})
    assert not still.complete
    assert (desk.letters(), desk.records()) == (letters, [])  # refused again, and no letter more

    sent = desk.replay()
    assert sent.complete
    assert sent.reasons == {"too_large": {Outcome.SENT: letters}}
    again = desk.replay()
    assert (again.reasons, again.complete) == ({}, True)
    assert desk.replay(from_start=True).count(Outcome.SENT) == letters
    rows = {(name.encode(), row) for name in names for row in devices.rows[name].values()}
    assert set(desk.records()) == rows
    assert len(desk.records()) == 2 * letters

    url = str(tmp_path / "store.db")
    options = ["--kafka", desk.brokers.bootstrap, "--store", url, "--repository-dir", str(tmp_path / "repo")]
    with ExitStack() as stack:
        cloud = cloud_process(tmp_path, "cloud", "run", *options)
        stack.callback(cloud.stop)
        cloud.start(lambda: "reading" in cloud.tail(50), 40)
        engine = schema.open_store(url, create=False)
        stack.callback(engine.dispose)

        def stored() -> list[tuple[bytes, bytes]]:
            with schema.read(engine) as connection:
                table = tables.events
                found = connection.execute(table.select().where(table.c.device.in_(names)))
                return [(row.device.encode(), row.body) for row in found]

        wait_for(lambda: len(stored()) >= 40, 40, "events are stored")
        wait_for(lambda: reader.counts(engine)["duplicates_refused"] >= 2 * letters - 40, 40, "repeats are refused")
        assert sorted(stored()) == sorted(rows)


def test_a_replay_killed_midway_and_run_again_loses_nothing(desk, tmp_path) -> None:
    name = unique("d")
    count = 30_000
    desk.put(*(letter(name, seq) for seq in range(1, count + 1)))
    before = sum(desk.ends(topics.STATUS))
    first = replay_process(tmp_path, desk.brokers.bootstrap)
    first.start()
    try:
        wait_for(lambda: sum(desk.ends(topics.STATUS)) > before, 60, "the first letters are sent")
    finally:
        os.kill(first.pid, signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    assert 0 < len(desk.records()) < count
    second = replay_process(tmp_path, desk.brokers.bootstrap, "--json").start()
    assert second.wait(90) == 0, second.tail()
    assert {value for _, value in desk.records()} == {event(name, seq) for seq in range(1, count + 1)}
    assert {key for key, _ in desk.records()} == {name.encode()}
    assert desk.replay().count(Outcome.SENT) == 0


def test_what_a_filter_or_a_limit_leaves_out_is_sent_by_a_later_run_and_nothing_twice(desk) -> None:
    one, two = unique("d"), unique("d")
    kinds = ((one, "too_large", 0), (two, "too_fast", 0), (two, "bad_schema", 100))
    desk.put(  # 10 of each kind, interleaved in one partition
        *(
            letter(name, more + seq, reason, b"{}" if more else b"", T0 + seq)
            for seq in range(1, 11)
            for name, reason, more in kinds
        ),
        partition=1,
    )

    def sent(**plan: Any) -> int:
        return desk.replay(**plan).count(Outcome.SENT)

    assert sent(choice=Choice(devices=frozenset({two}), reasons=frozenset({"too_large"}))) == 0
    assert sent(choice=Choice(reasons=frozenset({"too_fast"}), since_s=T0 + 3, until_s=T0 + 5)) == 3
    assert sent(choice=Choice(topic=topics.mqtt_topic(one, "+")), limit=4) == 4
    assert sent(choice=Choice(devices=frozenset({one})), limit=3) == 3  # behind those just sent
    assert sorted(seq for seq in range(1, 11) if (one.encode(), event(one, seq)) in desk.records()) == [*range(1, 8)]
    rest = desk.replay()
    assert rest.reasons == {
        "too_large": {Outcome.SENT: 3},
        "too_fast": {Outcome.SENT: 7},
        "bad_schema": {Outcome.REFUSED: 10},
    }
    expected = [(name.encode(), event(name, seq)) for name in (one, two) for seq in range(1, 11)]
    assert sorted(desk.records()) == sorted(expected)
    assert desk.replay().reasons == {"bad_schema": {Outcome.REFUSED: 10}}  # they wait for another fix


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(desk) -> None:
    name = unique("d")
    desk.put(letter(name, 1), letter(name, 2), letter(name, 3, "not_json", b"hello"))
    for _ in range(2):
        dry = desk.replay(dry_run=True, forget=True)
        assert dry.reasons == {"too_large": {Outcome.SENT: 2}, "not_json": {Outcome.REFUSED: 1}}
        assert (desk.records(), desk.letters()) == ([], 3)
    assert desk.replay().reasons == dry.reasons
    assert len(desk.records()) == 2


def test_what_can_never_be_sent_is_named_crashes_nothing_and_can_be_forgotten(desk) -> None:
    name = unique("d")
    presence = topics.mqtt_topic(name, "presence").encode()
    letters = [
        letter(name, 7, payload=event(name, 7, size=20_000)),
        (name.encode(), b"\xff\x00garbage"),
        (None, b""),
        (b"\xff", dead_letter(Refused("bad_topic", "", "", None, ""), b"\xff\xfe/x", b"x", T0)),
        (name.encode(), dead_letter(Refused("too_fast", "", name, None, ""), presence, b"{}", T0)),
        letter(name, 8),
    ]
    desk.put(*letters)
    result = desk.replay()
    assert not result.complete
    assert {outcome: result.count(outcome) for outcome in Outcome} == {
        Outcome.SENT: 1,
        Outcome.REFUSED: 0,
        Outcome.TRUNCATED: 1,
        Outcome.UNSENDABLE: 4,
    }
    cut = [one for one in result.left if one.outcome is Outcome.TRUNCATED]
    assert [(one.event_id, one.size_bytes) for one in cut] == [(f"{name}/{BOX}/7", len(event(name, 7, 20_000)))]
    assert sorted(one.now for one in result.left) == ["bad_topic", "presence", "truncated", "unreadable", "unreadable"]
    assert desk.records() == [(name.encode(), event(name, 8))]
    assert len(desk.replay(forget=True).left) == 5
    assert desk.replay().complete
    assert desk.replay().done_before == 0  # passed over without being read
    assert len(desk.replay(from_start=True).left) == 5


def test_what_the_store_refused_is_sent_only_when_named_and_once_however_often_it_came_back(desk) -> None:
    name = unique("d")
    desk.put(*(store_letter(name, seq, "identity_conflict") for seq in (1, 2, 1, 1)))
    unnamed = desk.replay()
    assert (unnamed.waiting_for_store, unnamed.reasons) == ({"identity_conflict": 4}, {})
    assert (unnamed.complete, desk.records()) == (True, [])
    named = desk.replay(choice=Choice(reasons=frozenset({"identity_conflict"})))
    assert named.reasons == {"identity_conflict": {Outcome.SENT: 4}}
    assert sorted(desk.records()) == [(name.encode(), event(name, seq)) for seq in (1, 2)]
    assert desk.replay().waiting_for_store == {}


def test_letters_of_plain_devices_go_by_the_mappings_of_today(desk) -> None:
    topic = b"tele/plug-1/SENSOR"
    refused = Refused("bad_topic", "no mapping", "", None, "")
    # three in one batch, the middle one larger than Kafka's limit of that topic: it alone is refused
    payloads = [b"\x00 21.5", b"\xff" * 3_000, b"21.5"]
    desk.put(*((b"", dead_letter(refused, topic, payload, T0)) for payload in payloads), partition=0)
    assert desk.replay().refused_now == {"bad_topic": 3}
    mapping = Mapping(filter="tele/+/SENSOR", topic=PLAIN, key="{1}")
    config = GatewayConfig(kafka=desk.brokers.bootstrap, mappings=(mapping,))
    result = desk.replay(config)
    assert (result.count(Outcome.SENT), result.refused_now) == (2, {"too_large": 1})
    assert desk.replay(config).count(Outcome.SENT) == 0
    assert desk.records(PLAIN) == [(b"plug-1", b"\x00 21.5"), (b"plug-1", b"21.5")]
    assert desk.letters() == 3


def test_gaps_that_transactions_leave_in_the_topic_are_passed_over_for_good(desk) -> None:
    name = unique("d")
    producer = Producer({"bootstrap.servers": desk.brokers.bootstrap, "transactional.id": unique("t")})
    producer.init_transactions(30)
    for seq in (1, 2):
        producer.begin_transaction()
        key, value = letter(name, seq)
        producer.produce(topics.DEADLETTER, value, key, partition=0)
        producer.commit_transaction(30)
    ends = desk.ends(topics.DEADLETTER)
    assert desk.replay().count(Outcome.SENT) == 2
    group = Consumer({"bootstrap.servers": desk.brokers.bootstrap, "group.id": "covey-gateway-replay"})
    try:
        (kept,) = group.committed([TopicPartition(topics.DEADLETTER, 0)], timeout=10)
    finally:
        group.close()
    assert kept.offset >= ends[0] - 1  # the last one is a transaction's end, which nobody is shown
    assert desk.replay().read == 0


def test_an_empty_topic_is_nothing_to_do(desk, tmp_path) -> None:
    process = replay_process(tmp_path, desk.brokers.bootstrap, "--json").start()
    assert process.wait(60) == 0, process.tail()
    assert json.loads(process.log.read_text())["read"] == 0


def test_the_command_prints_a_table_and_names_what_is_left_and_exits_1(desk, tmp_path) -> None:
    name = unique("d")
    desk.put(letter(name, 1), letter(name, 2, "not_json", b"hello"))
    process = replay_process(tmp_path, desk.brokers.bootstrap).start()
    assert process.wait(60) == 1, process.tail()
    lines = [line.split() for line in process.log.read_text().splitlines()]
    assert ["not_json", "1", "0", "1", "0", "0"] in lines  # chosen, sent, still refused, truncated, unsendable
    assert ["too_large", "1", "1", "0", "0", "0"] in lines
    assert ["all", "2", "1", "1", "0", "0"] in lines
    assert [line[:4] for line in lines if line[:2] == ["not", "sent:"]] == [["not", "sent:", f"{name}:", "not_json:"]]


@pytest.mark.parametrize(
    "options",
    [("--since", "soon"), ("--topic", "a/#/b"), ("--since", "1h", "--until", "2h"), ("--limit", "0"), ("--nothing",)],
)
def test_wrong_usage_exits_2_before_anything_is_asked(options, tmp_path) -> None:
    process = replay_process(tmp_path, f"127.0.0.1:{free_port()}", *options).start()
    assert process.wait(60) == 2, process.tail()


def test_without_kafka_the_command_says_so_in_one_line_and_exits_1(tmp_path) -> None:
    port = free_port()
    process = replay_process(tmp_path, f"127.0.0.1:{port}").start()
    assert process.wait(60) == 1, process.tail()
    (line,) = process.log.read_text().splitlines()
    assert f"127.0.0.1:{port}" in line


def test_a_kafka_that_falls_silent_ends_the_run_and_what_it_confirmed_is_not_lost(desk) -> None:
    name = unique("d")
    desk.put(*(letter(name, seq) for seq in range(1, 1_501)))
    held = threading.Event()

    def hold(_result: Result) -> None:
        if not held.is_set():
            held.set()
            desk.brokers.kafka.pause()
            timer.start()

    timer = threading.Timer(9.0, desk.brokers.kafka.resume)  # longer than the run's patience
    try:
        with pytest.raises(LinkError, match=r"kafka 127.*letters sent before that"):
            Replay(desk.config, Plan(patience_s=4.0), threading.Event(), hold).run()
    finally:
        timer.join()
        desk.brokers.kafka.resume()
    assert desk.replay().complete
    assert {value for _, value in desk.records()} == {event(name, seq) for seq in range(1, 1_501)}


def test_what_kafka_does_not_confirm_is_not_done_and_goes_with_the_next_run(desk) -> None:
    sink = unique("sink")
    desk.brokers.kafka.create_topics([sink], PARTITIONS)
    desk.ends(sink)  # it has leaders
    refused = Refused("bad_topic", "no mapping", "", None, "")
    count = 2_000
    desk.put(*((b"", dead_letter(refused, b"tele/plug/SENSOR", b"%d" % n, T0)) for n in range(count)), partition=0)
    mapping = Mapping(filter="tele/+/SENSOR", topic=sink, key="{1}")
    config = GatewayConfig(kafka=desk.brokers.bootstrap, mappings=(mapping,))
    admin = AdminClient({"bootstrap.servers": desk.brokers.bootstrap})

    def gone() -> bool:
        return sink not in admin.list_topics(timeout=10).topics

    def take_away(_result: Result) -> None:
        if not gone():  # Kafka goes on: it keeps marks, and has no place for the records
            admin.delete_topics([sink], operation_timeout=10)[sink].result(20)
            wait_for(gone, 10, "the topic is gone")

    first = Replay(config, Plan(patience_s=8.0), threading.Event(), take_away)
    with pytest.raises(LinkError, match="letters sent before that"):
        first.run()
    assert 0 < first.result.count(Outcome.SENT) < count
    assert desk.replay(config).count(Outcome.SENT) == count - first.result.count(Outcome.SENT)
    assert desk.replay(config).count(Outcome.SENT) == 0


def test_a_stopped_run_says_so_and_the_next_one_goes_on(desk) -> None:
    name = unique("d")
    desk.put(*(letter(name, seq) for seq in range(1, 2_001)), partition=0)
    stop = threading.Event()
    first = Replay(desk.config, Plan(), stop, lambda _result: stop.set()).run()
    assert first.stopped
    assert not first.complete
    assert 0 < first.count(Outcome.SENT) < 2_000
    assert desk.replay().count(Outcome.SENT) == 2_000 - first.count(Outcome.SENT)
    assert len(desk.records()) == 2_000


def test_the_embedded_broker_is_replayed_too_and_a_broker_without_the_topic_is_named(tmp_path) -> None:
    with Tansu(tmp_path / "kafka") as tansu:
        config = GatewayConfig(kafka=tansu.bootstrap, kafka_kind="embedded")
        with pytest.raises(LinkError, match=r"no topic covey\.deadletter"):
            Replay(config, Plan(), threading.Event()).run()
        tansu.create_topics(topics.KAFKA_TOPICS)
        producer = Producer({"bootstrap.servers": tansu.bootstrap})
        for seq in (1, 2, 3):
            key, value = letter("d1", seq)
            producer.produce(topics.DEADLETTER, value, key)
        assert producer.flush(20) == 0
        assert Replay(config, Plan(), threading.Event()).run().count(Outcome.SENT) == 3
        assert Replay(config, Plan(), threading.Event()).run().count(Outcome.SENT) == 0
