"""covey.learning, both ends: a training process writes lines, the cloud produces them to Kafka, and a reader has the run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

from cloud.learn.learning_topic import runs
from covey import topics, wire
from federated.events import read
from federated_rigs import walk, write_csv
from processes import Process, unique, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

CLOUD = [sys.executable, "-P", "-m", "covey", "cloud", "rounds"]


@pytest.fixture(scope="module")
def there(kafka):
    """Bootstrap servers with the topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    if topics.LEARNING not in admin.list_topics(timeout=20).topics:
        admin.create_topics([NewTopic(topics.LEARNING, 3, 1)])[topics.LEARNING].result(20)
    return kafka.bootstrap


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        write_csv(folder / f"m{number}.csv", walk(400, seed=number))
    return folder


def records(bootstrap, run, count):
    """(key, value) of a run's records, read as any consumer would: one that comes twice counts once."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": unique("reader"), "auto.offset.reset": "earliest"})
    consumer.subscribe([topics.LEARNING])
    found = []

    def enough():
        message = consumer.poll(0.2)
        if message is not None and message.error() is None and message.key() == run.encode():
            record = (message.key().decode(), message.value())
            if record not in found:
                found.append(record)
        return len(found) >= count

    try:
        wait_for(enough, 60, f"{count} records of run {run}")
    finally:
        consumer.close()
    return found


def train(data, runs_folder, rounds="3"):
    words = ["--data", str(data), "--window", "4", "--family", "dense-ae", "--rounds", rounds, "--engine", "simulation"]
    return [*words, "--checkpoint", str(runs_folder), "--out", f"{runs_folder}.zip"]


def test_every_line_of_a_run_is_a_record_keyed_by_the_run(there, data, tmp_path):
    runs_folder = tmp_path / "runs"
    done = subprocess.run(
        [*CLOUD, "run", "--kafka", there, "--", *train(data, runs_folder)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = read(runs_folder / "events.jsonl")
    found = records(there, lines[0].run, len(lines))
    assert {key for key, _ in found} == {lines[0].run}
    assert [wire.decode_round_event(value) for _, value in found] == lines
    one = json.loads(found[0][1])
    assert (one["specversion"], one["type"], one["id"]) == ("1.0", "covey.round.v1", f"{lines[0].run}/1")
    listed = subprocess.run(
        [*CLOUD, "list", "--kafka", there, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert listed.returncode == 0, listed.stderr
    told = {one["run"]: one for one in json.loads(listed.stdout)}[lines[0].run]
    assert (len(told["rounds"]), told["wanted"], told["end"].split(":")[0]) == (3, 3, "released")


def test_a_run_that_fails_says_so_in_its_last_record_and_by_its_exit_code(there, data, tmp_path):
    runs_folder = tmp_path / "runs"
    words = [*train(data, runs_folder), "--min-clients", "4"]
    done = subprocess.run(
        [*CLOUD, "run", "--kafka", there, "--", *words], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    lines = read(runs_folder / "events.jsonl")
    assert lines[-1].kind == "failed"
    assert "at least 4 devices expected" in lines[-1].detail
    last = wire.decode_round_event(records(there, lines[0].run, len(lines))[-1][1])
    assert last == lines[-1]


def test_a_run_that_is_stopped_ends_its_process_and_goes_on_without_a_line_lost(there, data, tmp_path):
    runs_folder = tmp_path / "runs"
    words = [*CLOUD, "run", "--kafka", there, "--", *train(data, runs_folder, "400")]
    process = Process("rounds", words, tmp_path / "cloud.log").start()
    lines = runs_folder / "events.jsonl"
    wait_for(lambda: lines.exists() and '"kind":"round"' in lines.read_text(), 120, "the first round")
    process.stop(60)
    assert process.wait(1) == 1, process.tail()
    before = read(lines)
    assert before[-1].kind == "failed"
    assert "--resume goes on" in before[-1].detail
    more = len({one.round for one in before if one.kind == "round"}) + 1
    done = subprocess.run(
        [*CLOUD, "run", "--kafka", there, "--", *train(data, runs_folder, str(more)), "--resume"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole = read(lines)
    found = records(there, whole[0].run, len(whole))  # those of before come twice and count once
    told = runs(value for _, value in found)[whole[0].run]
    assert (len(told.rounds), told.over) == (more, True)
    assert {wire.decode_round_event(value).seq for _, value in found} == set(range(1, len(whole) + 1))


def test_kafka_out_of_reach_is_told_before_anything_is_trained(data, tmp_path):
    done = subprocess.run(
        [*CLOUD, "run", "--kafka", "127.0.0.1:9", "--", *train(data, tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "kafka 127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_reader_passes_over_learning_steps_and_counts_a_repeat_once():
    step = wire.encode(wire.Learning("round", 1.0))
    line = wire.make_round_event(wire.RoundEvent("0" * 16, 2, 2.0, "round", round=1, figures={"clients": 3.0}))
    first = wire.make_round_event(wire.RoundEvent("0" * 16, 1, 1.0, "started", figures={"rounds": 1.0}))
    told = runs([step, line, first, line, b"{}", b"not json"])
    assert list(told) == ["0" * 16]
    assert (told["0" * 16].wanted, told["0" * 16].rounds) == (1, {1: {"clients": 3.0}})


def test_lines_that_kafka_did_not_take_are_produced_again(kafka_factory, data, tmp_path):
    broker = kafka_factory()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(topics.LEARNING, 1, 1)])[topics.LEARNING].result(20)
    runs_folder = tmp_path / "runs"
    words = [*CLOUD, "run", "--kafka", broker.bootstrap, "--flush-s", "120", "--", *train(data, runs_folder, "40")]
    process = Process("rounds", words, tmp_path / "cloud.log").start()
    lines = runs_folder / "events.jsonl"
    wait_for(lambda: lines.exists() and '"kind":"round"' in lines.read_text(), 120, "the first round")
    broker.kill9()
    wait_for(lambda: '"kind":"released"' in lines.read_text(), 120, "its end, whatever Kafka does")
    broker.start()
    assert process.wait(150) == 0, process.tail()
    whole = read(lines)
    found = records(broker.bootstrap, whole[0].run, len(whole))
    assert {wire.decode_round_event(value).seq for _, value in found} == {event.seq for event in whole}
