"""The meters and counters of the gateway benchmark: packets, payloads, verdicts and the goals they are held against."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from covey import wire
from servers import ROOT, Kafka, unique


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_publish_is_what_mqtt_5_says() -> None:
    from gateway_mqtt import publish_head, split, varint

    assert varint(321) == bytes([0xC1, 0x02])  # 65 + 2 * 128, section 1.5.5
    packet = publish_head("a/b", 3) + b"\x00\x07\x00" + b"xyz"
    assert packet == b"\x32\x0b\x00\x03a/b\x00\x07\x00xyz"
    assert split(packet + packet[:4]) == ([(0x32, packet[2:])], packet[:4])


@pytest.mark.parametrize("job", ["raw", "covey"])
def test_a_payload_says_who_sent_it_which_number_it_has_and_when(job: str) -> None:
    from gateway_jobs import JOBS, line, read

    value = line(JOBS[job], 42).body % (3_000_017, 1_234_567_890_123)
    assert read(JOBS[job], value) == (b"dev-00042", 3_000_017, 1_234_567_890_123)


def test_a_summary_of_the_load_is_valid_and_about_a_kilobyte_and_a_raw_message_is_250_bytes() -> None:
    from gateway_jobs import COVEY, RAW, line

    assert len(line(RAW, 1).body % (1_000_001, 7)) == 250
    value = line(COVEY, 1).body % (1_000_001, 7)
    event, identity = wire.decode_event(value)
    assert identity == ("dev-00001", "00112233aabbccdd", 1_000_001)
    assert isinstance(wire.decode_data(event), wire.Summary)
    assert 950 <= len(value) <= 1_150


@pytest.mark.broker
def test_the_verdict_tells_losses_duplicates_and_disorder_apart(kafka: Kafka) -> None:
    from confluent_kafka import Producer
    from gateway_jobs import RAW, line
    from gateway_tail import Topic

    name = unique("verdict")
    kafka.create_topics([name], 2)
    topic = Topic(kafka.bootstrap, name)
    begin = topic.ends()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    one, two = line(RAW, 1).body, line(RAW, 2).body
    sent = [
        (one, 1),
        (one, 3),
        (one, 2),
        (one, 3),
        (two, 1),
        (two, 2),
        (two, 2),
    ]  # 4 of device 1 and 3 of device 2: lost
    for body, number in sent:
        key = b"dev-00001" if body is one else b"another"
        producer.produce(name, body % (3_000_000 + number, 0), key, partition=0 if body is one else 1)
    producer.produce(name, one % (2_000_001, 0), b"dev-00001", partition=0)  # of the warm-up
    assert producer.flush(20.0) == 0
    verdict = topic.judge(RAW, begin, 3, 7)
    topic.close()
    assert (verdict.distinct, verdict.lost, verdict.duplicates, verdict.order, verdict.not_keyed) == (5, 2, 2, 1, 3)


def test_cpu_is_counted_over_a_process_and_its_children() -> None:
    from gateway_rig import cpu_s, family

    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        pids = family(process.pid)
        assert len(pids) == 2
        assert cpu_s(pids) >= 0.3 + cpu_s(pids[:1])
        process.communicate(b"\n", timeout=30)
    before, spun = cpu_s([os.getpid()]), time.process_time()
    assert before == pytest.approx(spun, abs=0.1)


def test_ratios_are_of_messages_per_cpu_second_and_what_misses_its_goal_says_so() -> None:
    from gateway_table import figures

    def run(per_cpu_s: float, lost: int) -> dict[str, float]:
        return {"per_cpu_s": per_cpu_s, "cpu_s": 1e5 / per_cpu_s, "lost": lost}

    results = {
        ("raw", "ours"): [run(100_000, 0), run(160_000, 1), run(200_000, 0)],
        ("raw", "mq-bridge"): [run(16_000, 5), run(20_000, 5), run(40_000, 5)],
    }
    found = figures(results)
    assert found["raw_ours_per_cpu_s"]["value"] == 160_000  # the median
    assert (found["raw_ours_per_cpu_s"]["low"], found["raw_ours_per_cpu_s"]["high"]) == (100_000, 200_000)
    assert found["raw_ours_per_cpu_s"]["met"] is True
    assert found["raw_times_mq-bridge"] == {
        "value": 8.0,
        "unit": "times its messages per CPU-second",
        "goal": 8.0,
        "met": True,
    }
    assert (found["raw_ours_lost"]["value"], found["raw_ours_lost"]["met"]) == (1, False)  # summed, none allowed
    assert found["raw_mq-bridge_lost"]["met"] is None
    assert found["raw_ours_cpu_s"]["goal"] is None
