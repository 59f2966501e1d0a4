"""The cloud at the Kafka API: exactly-once effect over kills, acknowledgements after the commit, dead letters.

On Apache Kafka and on Tansu, with `covey cloud run` in a process of its own.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from cloud.store import reader, schema
from cloud_events import DIGEST, OUTBOX, body, cloud_process, presence, reported, small_bundle, summary
from covey import topics, wire
from processes import wait_for
from servers import Kafka, KafkaApi, Tansu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from processes import Process

pytestmark = pytest.mark.broker

# Partitions of every topic: more than one, so that offsets are kept apart.
PARTITIONS = 3


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KafkaApi]:
    """Tansu, which starts in a second; Apache Kafka too where a test asks for both."""
    kind = Kafka if getattr(request, "param", "embedded") == "kafka" else Tansu
    with kind(tmp_path / "broker") as broker:
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        yield broker


class Cloud:
    """`covey cloud run` that can be killed and started again on the same store."""

    def __init__(self, folder: Path, broker: KafkaApi, stack: ExitStack) -> None:
        self.folder, self.broker, self.stack = folder, broker, stack
        self.store = folder / "store.db"
        self.runs = 0

    def start(self, instance: str = "one") -> Process:
        kind = "embedded" if isinstance(self.broker, Tansu) else "kafka"
        options = ["--kafka", self.broker.bootstrap, "--kafka-kind", kind, "--store", str(self.store)]
        options += ["--repository-dir", str(self.folder / "repo"), "--ack-after", "store"]
        options += ["--broker-instance", instance] if kind == "embedded" else []
        self.runs += 1
        process = cloud_process(self.folder, f"cloud-{self.runs}", "run", *options)
        self.stack.callback(process.stop)
        return process.start(lambda: "reading" in process.tail(50), 30)

    def engine(self) -> Engine:
        engine = schema.open_store(str(self.store), create=False)
        self.stack.callback(engine.dispose)
        return engine


@pytest.fixture
def cloud(broker: KafkaApi, tmp_path: Path) -> Iterator[Cloud]:
    with ExitStack() as stack:
        yield Cloud(tmp_path, broker, stack)


def produce(broker: KafkaApi, *messages: tuple[str, str, bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": False, "linger.ms": 5})
    failed: list[str] = []
    for topic, key, value in messages:
        producer.produce(
            topic, value, key, on_delivery=lambda error, _: failed.append(str(error)) if error is not None else None
        )
        producer.poll(0)
    assert producer.flush(20) == 0
    assert failed == []


class Tail:
    """Reads a topic from its beginning."""

    def __init__(self, broker: KafkaApi, topic: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": "test",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 25,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])

    def read(self) -> list[tuple[str, bytes]]:
        for message in self._consumer.consume(500, 0.05):
            if message.error() is None:
                self.messages.append(((message.key() or b"").decode(), message.value() or b""))
        return self.messages

    def acked(self) -> set[wire.Identity]:
        return {
            wire.Identity(device, part.outbox, seq)
            for device, value in self.read()
            for part in wire.decode(wire.Ack, value).acks
            for first, last in part.ranges
            for seq in range(first, last + 1)
        }

    def close(self) -> None:
        self._consumer.close()


def tail(cloud: Cloud, topic: str) -> Tail:
    one = Tail(cloud.broker, topic)
    cloud.stack.callback(one.close)
    return one


def summaries(devices: int, first: int, last: int) -> list[tuple[str, str, bytes]]:
    return [
        (topics.SUMMARIES, f"d{d}", body(seq, device=f"d{d}")) for seq in range(first, last + 1) for d in range(devices)
    ]


both = pytest.mark.parametrize("broker", ["kafka", "embedded"], indirect=True)


@both
def test_killed_midway_the_effect_is_exactly_once_and_all_is_acknowledged(cloud: Cloud) -> None:
    process = cloud.start()
    engine = cloud.engine()
    total = 0
    for n in range(3):
        produce(cloud.broker, *summaries(5, 1 + 400 * n, 400 * (n + 1)))
        total += 2000
        wait_for(lambda: reader.counts(engine)["events"] > total - 1900, 30, "some are stored")  # noqa: B023
        process.kill9()
        process = cloud.start()
    wait_for(lambda: reader.counts(engine)["events"] == total, 30, "all are stored")
    counts = reader.counts(engine)
    assert counts["windows"] == 10 * total
    assert (counts["missing"], counts["conflicts"], counts["duplicates_refused"]) == (0, 0, 0)
    # What a kill took between commit and acknowledgement, the agent sends again: refused and acknowledged.
    acks = tail(cloud, topics.ACKS)
    everything = {wire.Identity(f"d{d}", OUTBOX, seq) for d in range(5) for seq in range(1, 1201)}
    acks.acked()
    again = sorted(everything - acks.acked())
    produce(cloud.broker, *[(topics.SUMMARIES, one.device, body(one.seq, device=one.device)) for one in again])
    wait_for(lambda: acks.acked() == everything, 30, "every row is acknowledged")
    assert reader.counts(engine)["windows"] == 10 * total
    process.stop()
    assert process.wait(5) == 0


def test_nothing_is_acknowledged_before_the_commit(cloud: Cloud) -> None:
    cloud.start()
    engine = cloud.engine()
    acks = tail(cloud, topics.ACKS)
    produce(cloud.broker, (topics.SUMMARIES, "d1", body(1)))
    wait_for(lambda: len(acks.acked()) == 1, 20, "the way is open")
    with sqlite3.connect(cloud.store, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can commit now
        produce(cloud.broker, *[(topics.SUMMARIES, "d1", body(seq)) for seq in range(2, 50)])
        log = cloud.folder / "cloud-1.log"
        wait_for(lambda: "locked; trying again" in log.read_text(), 20, "the consumer has tried")
        assert len(acks.acked()) == 1
        other.execute("ROLLBACK")
    wait_for(lambda: len(acks.acked()) == 49, 20, "acknowledged after the commit")
    assert reader.counts(engine)["events"] == 49


def test_conflicts_and_bad_messages_are_dead_letters_acknowledged_and_block_nobody(cloud: Cloud) -> None:
    cloud.start()
    engine = cloud.engine()
    acks, letters = tail(cloud, topics.ACKS), tail(cloud, topics.DEADLETTER)
    raw = json.loads(body(2))
    raw["data"]["windows"] = -1
    produce(
        cloud.broker,
        (topics.SUMMARIES, "d1", body(1)),
        (topics.SUMMARIES, "d1", body(1, summary(1, windows=99))),  # a cloned card
        (topics.SUMMARIES, "d1", json.dumps(raw).encode()),  # readable identity
        (topics.SUMMARIES, "d1", b"\xff no json"),
        (topics.SUMMARIES, "d1", body(9, device="d9")),  # on another's word
        (topics.STATUS, "d1", presence(True, "a" * 16)),
        (topics.SUMMARIES, "d1", body(3)),
    )
    wait_for(lambda: len(letters.read()) >= 4, 30, "dead letters arrive")
    told = sorted(wire.decode(wire.DeadLetter, value).reason for _, value in letters.read())
    assert told == ["bad_schema", "identity_conflict", "not_json", "source_mismatch"]
    expected = {wire.Identity("d1", OUTBOX, seq) for seq in (1, 2, 3)}
    wait_for(lambda: acks.acked() == expected, 20, "the readable ones are acknowledged")
    counts = reader.counts(engine)
    assert (counts["events"], counts["conflicts"], counts["undecodable"], counts["online"]) == (2, 1, 3, 1)
    wait_for(lambda: reader.counts(engine)["waiting_to_publish"] == 0, 20, "nothing waits")


@both
def test_a_release_reaches_devices_known_and_new_and_its_first_report_is_told(cloud: Cloud) -> None:
    cloud.start()
    engine = cloud.engine()
    wanted, learning = tail(cloud, topics.DESIRED), tail(cloud, topics.LEARNING)
    produce(cloud.broker, (topics.SUMMARIES, "d1", body(1)))
    wait_for(lambda: reader.fleet(engine), 20, "the device is known")
    (cloud.folder / "m.covey").write_bytes(small_bundle())
    kind = "embedded" if isinstance(cloud.broker, Tansu) else "kafka"
    options = ["--store", str(cloud.store), "--repository-dir", str(cloud.folder / "repo")]
    options += ["--kafka", cloud.broker.bootstrap, "--kafka-kind", kind, "--note", "first", "--json"]
    add = cloud_process(cloud.folder, "add", "releases", "add", str(cloud.folder / "m.covey"), *options).start()
    assert add.wait(30) == 0
    answer = json.loads(add.log.read_text())
    assert (answer["number"], answer["devices"], answer["published"]) == (1, ["d1"], True)
    produce(cloud.broker, (topics.SUMMARIES, "d2", body(1, device="d2")))

    def devices() -> set[str]:
        return {key for key, _ in wanted.read()}

    wait_for(lambda: devices() == {"d1", "d2"}, 20, "both are told")
    message = wire.decode(wire.Desired, wanted.read()[0][1])
    assert (message.release, message.digest, message.url) == (1, answer["digest"], "http://127.0.0.1:8200")
    runs = summary(2, reported=reported(release=1, digest=answer["digest"], revision=1))
    produce(cloud.broker, (topics.SUMMARIES, "d1", body(2, runs)))

    def steps() -> list[tuple[str, str]]:
        read = [wire.decode(wire.Learning, value) for _, value in learning.read()]
        return sorted({(one.kind, one.device) for one in read})

    expected = [("desired", "d1"), ("desired", "d2"), ("release", ""), ("reported", "d1")]
    wait_for(lambda: steps() == expected, 20, "the steps are told")
    assert answer["digest"] != DIGEST


def test_a_forgetful_broker_is_told_all_desired_again_and_offsets_begin_anew(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(Tansu(tmp_path / "tansu"))
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        cloud = Cloud(tmp_path, broker, stack)
        process = cloud.start("one")
        engine = cloud.engine()
        produce(broker, *summaries(1, 1, 200))
        wait_for(lambda: reader.counts(engine)["events"] == 200, 20, "stored")
        from cloud.learn import desired
        from cloud.learn.releases import Release

        desired.assign(engine, Release("default", 1, DIGEST, "default/1.covey", 9, 0.0, ""), "http://127.0.0.1:8200")
        process.kill9()
        broker.kill9()
        broker.start()
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS, exist_ok=True)
        cloud.start("two")
        produce(broker, *summaries(1, 150, 260))  # the agent sends again what was not acknowledged
        wait_for(lambda: reader.counts(engine)["events"] == 260, 20, "stored, none skipped")
        counts = reader.counts(engine)
        assert (counts["windows"], counts["duplicates_refused"], counts["missing"]) == (2600, 51, 0)
        wanted = tail(cloud, topics.DESIRED)
        wait_for(wanted.read, 20, "desired is told again")
        assert wire.decode(wire.Desired, wanted.messages[0][1]).release == 1


def test_run_starts_before_its_broker_and_ends_on_request(tmp_path: Path) -> None:
    from processes import free_port

    with ExitStack() as stack:
        port = free_port()
        options = ["--kafka", f"127.0.0.1:{port}", "--kafka-kind", "embedded", "--broker-instance", "x"]
        options += ["--store", str(tmp_path / "store.db"), "--repository-dir", str(tmp_path / "repo")]
        process = cloud_process(tmp_path, "early", "run", *options)
        stack.callback(process.stop)
        process.start(lambda: "trying again" in process.tail(50), 30)
        broker = stack.enter_context(Tansu(tmp_path / "tansu", port))
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS, exist_ok=True)
        produce(broker, *summaries(1, 1, 5))
        engine = schema.open_store(str(tmp_path / "store.db"), create=False)
        stack.callback(engine.dispose)
        wait_for(lambda: reader.counts(engine)["events"] == 5, 30, "stored once the broker is there")
        process.stop()
        assert process.wait(5) == 0


def test_export_lines_are_what_was_produced(cloud: Cloud) -> None:
    import hashlib

    cloud.start()
    engine = cloud.engine()
    produce(cloud.broker, *summaries(2, 1, 20))
    wait_for(lambda: reader.counts(engine)["events"] == 40, 20, "stored")
    out = cloud.folder / "events.jsonl"
    export = cloud_process(cloud.folder, "export", "export", "--store", str(cloud.store), "--out", str(out)).start()
    assert export.wait(30) == 0
    lines = [msgspec.json.decode(line) for line in out.read_bytes().splitlines()]
    expected = [
        (f"d{d}", seq, hashlib.sha256(body(seq, device=f"d{d}")).hexdigest()) for d in range(2) for seq in range(1, 21)
    ]
    assert [(line["device"], line["seq"], line["sha256"]) for line in lines] == expected
