"""Two instances of all stages beside each other, on Apache Kafka and PostgreSQL, killed under load: each works, nothing is lost or repeated."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from covey import topics
from processes import wait_for
from servers import Kafka, Postgres
from stages_rig import PARTITIONS, STAGES, Stages, wrong

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

BOTH = ("one", "two")


def test_two_instances_killed_in_turn_share_the_work_and_lose_and_repeat_nothing(tmp_path: Path) -> None:
    rng = random.Random(11)
    with Postgres(tmp_path / "postgres") as server, Kafka(tmp_path / "kafka") as broker:
        broker.create_topics(topics.KAFKA_TOPICS, PARTITIONS)
        plan = dict.fromkeys(BOTH, ",".join(STAGES))
        with Stages(tmp_path / "stages", broker, server.database(), plan) as stages:
            stages.load(25, summaries=True)
            for name in BOTH * 3:
                stages.kill(name, rng)
            server.kill9()  # the store, too, goes and comes again under them
            server.start()
            stages.engine.dispose()  # ours, whose connections went with it
            before = {name: stages.processed(name) for name in BOTH}

            def worked() -> bool:
                """Every stage of both, since the last kill: three partitions for two."""
                now = {name: stages.processed(name) for name in BOTH}
                return all(
                    now[name].get(stage, 0) > before[name].get(stage, 0)
                    for name in BOTH
                    for stage in ("store", "enrich", "route")
                )

            wait_for(worked, 60, "both instances work")
            verdict = stages.finish(60)
            delivered = sum(stages.processed(name).get("deliver", 0) for name in BOTH)
    assert verdict["produced"] > 100
    assert wrong(verdict) == {}
    assert delivered > 0
