"""Stages killed under load on Apache Kafka and SQLite: nothing lost, nothing repeated (PostgreSQL: test_stages_postgres.py). The long form: benchmarks/bench_stages_kill.py."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from covey import topics
from servers import Kafka
from stages_rig import PARTITIONS, STAGES, Stages, wrong

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


def test_stages_killed_added_and_gone_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    with Kafka(tmp_path / "kafka") as broker:
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        with Stages(tmp_path / "stages", broker) as stages:
            stages.load(25)
            for stage in STAGES * 2:
                stages.kill(stage, rng)
            # A second instance of each takes its share of the partitions, and is gone for good.
            for process in [stages.add(stage) for stage in ("store", "enrich", "route")]:
                process.kill9()
            verdict = stages.finish(60)
    assert verdict["produced"] > 100
    assert wrong(verdict) == {}
