"""The Kafka side: what arrived, when, and in which order.

`judge` reads a topic after a run and counts losses, duplicates and order violations by what each record says of itself.
As a process (`python gateway_tail.py ...`) it reads while a run goes on and tells how long each message took from its
publishing to its receipt here: one poll per record, and the broker answers a fetch as soon as there is one byte.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from gateway_jobs import JOBS, PHASE, Job, read

from gateway.kafka import settled

_QUIET_S = 20.0  # the tail gives up when nothing came for so long


class Verdict(NamedTuple):
    """What a run's records add up to; `order` is of first occurrences, per device."""

    distinct: int
    lost: int
    duplicates: int
    order: int
    not_keyed: int  # records whose key does not name their device
    first_ms: int  # the broker's own clock at the first and at the last record
    last_ms: int


def consumer(bootstrap: str, **settings: Any) -> Consumer:
    """A consumer that joins no group and commits nothing."""
    base = {"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False, "log_level": 3}
    return Consumer(base | {"enable.auto.offset.store": False, "check.crcs": False} | settings)


class Topic:
    """A topic's end offsets and what lies before them."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self._bootstrap = bootstrap
        self._consumer = consumer(bootstrap)
        self.name = name
        found = self._consumer.list_topics(name, 10.0).topics[name].partitions
        self._parts = [TopicPartition(name, p) for p in sorted(found)]

    def ends(self) -> dict[int, int]:
        """Offset behind the last record of each partition."""
        return {p.partition: settled(partial(self._consumer.get_watermark_offsets, p, 10.0))[1] for p in self._parts}

    def count(self) -> int:
        """Records ever written."""
        return sum(self.ends().values())

    def judge(self, job: Job, begin: dict[int, int], phase: int, expected: int) -> Verdict:
        """Read everything from `begin` on; only records of `phase` count."""
        ends = self.ends()
        reader = consumer(self._bootstrap, **{"queued.max.messages.kbytes": 65_536})
        reader.assign([TopicPartition(self.name, p, begin[p]) for p in ends if begin[p] < ends[p]])
        left = {p for p in ends if begin[p] < ends[p]}
        low, high = phase * PHASE, (phase + 1) * PHASE
        newest: dict[bytes, int] = {}
        seen: set[tuple[bytes, int]] = set()
        duplicates = order = not_keyed = 0
        times: list[int] = []
        while left:
            batch = reader.consume(5_000, 10.0)
            if not batch:
                raise TimeoutError(f"{self.name}: partitions {sorted(left)} end before their end offsets")
            for record in batch:
                if record.error():
                    raise KafkaException(record.error())
                if record.offset() >= ends[record.partition()] - 1:
                    left.discard(record.partition())
                device, number, _ = read(job, record.value())
                if not low < number < high:
                    continue
                times.append(record.timestamp()[1])
                not_keyed += device not in (record.key() or b"")
                if (device, number) in seen:
                    duplicates += 1
                    continue
                seen.add((device, number))
                if number < newest.get(device, 0):
                    order += 1
                else:
                    newest[device] = number
        reader.close()
        first, last = (min(times), max(times)) if times else (0, 0)
        return Verdict(len(seen), expected - len(seen), duplicates, order, not_keyed, first, last)

    def forget(self) -> None:
        """Delete the records, so that a long run does not fill the disk."""
        futures = AdminClient({"bootstrap.servers": self._bootstrap}).delete_records(
            [TopicPartition(self.name, p, end) for p, end in self.ends().items()]
        )
        for future in futures.values():
            future.result(10.0)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


def main() -> None:
    """Read `--messages` records of a phase and tell their delays; says `ready` when it reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--job", choices=sorted(JOBS), required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--phase", type=int, required=True)
    options = parser.parse_args()
    job = JOBS[options.job]
    tail = consumer(options.kafka, **{"fetch.wait.max.ms": 100, "fetch.min.bytes": 1, "fetch.queue.backoff.ms": 1})
    ends = Topic(options.kafka, job.topic).ends()
    tail.assign([TopicPartition(job.topic, p, end or OFFSET_BEGINNING) for p, end in ends.items()])
    tail.poll(0.5)  # fetching has begun when this returns
    print("ready", flush=True)
    gc.freeze()
    gc.disable()
    delays_ms: list[float] = []
    quiet_at = time.monotonic() + _QUIET_S
    while len(delays_ms) < options.messages and time.monotonic() < quiet_at:
        record = tail.poll(0.1)
        if record is None or record.error():
            continue
        now_ns = time.monotonic_ns()
        seen = read(job, record.value())
        if seen.number // PHASE == options.phase:
            delays_ms.append((now_ns - seen.sent_ns) / 1e6)
            quiet_at = time.monotonic() + _QUIET_S
    print(json.dumps(delays_ms), flush=True)


if __name__ == "__main__":
    main()
