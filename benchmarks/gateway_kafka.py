"""The Kafka of the gateway benchmark: one node, run and warmed up as a server is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Producer, TopicPartition
from gateway_tail import consumer

from processes import free_port
from servers import Kafka

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway_jobs import Job

PARTITIONS = 6
KAFKA = {"log.segment.bytes": str(1 << 26), "log.retention.check.interval.ms": "10000", "log.delete.delay.ms": "1000"}


class ServerKafka(Kafka):
    """Kafka as one runs it for more than a test: both compilers and a heap of 1 GB."""

    def command(self) -> list[str]:
        """As the tests' broker, but for its flags."""
        flags = {"-Xmx512m": "-Xmx1g", "-XX:TieredStopAtLevel=1": "-XX:+TieredCompilation"}
        return [flags.get(word, word) for word in super().command()]


def start_kafka(place: Path, jobs: list[Job], warm_up: int) -> Iterator[Kafka]:
    """Kafka with the jobs' topics; records carry the broker's own time.

    Args:
        place: its folder.
        jobs: whose topics are made.
        warm_up: records written and read before the first run, so that it is compiled when the first candidate comes.
    """
    with ServerKafka(place / "kafka", free_port(), KAFKA) as kafka:
        kafka.create_topics(
            [*(job.topic for job in jobs), "warm"], PARTITIONS, {"message.timestamp.type": "LogAppendTime"}
        )
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,
                "log_level": 3,
            }
        )
        tail = consumer(kafka.bootstrap, **{"auto.offset.reset": "earliest", "fetch.wait.max.ms": 10})
        tail.assign([TopicPartition("warm", p, 0) for p in range(PARTITIONS)])
        for n in range(warm_up):
            producer.produce("warm", b"x" * 500, str(n))
            if n % 20 == 0:  # small requests: it is their number that compiles
                producer.flush(10.0)
                tail.consume(100, 0.0)
        producer.flush(10.0)
        tail.close()
        del producer, tail  # or they would say, for ever, that Kafka has gone
        yield kafka
