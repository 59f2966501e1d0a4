"""A partition that a cooperative rebalance on Apache Kafka has left to nobody is read again, without anybody's help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient

from cloud.config import CloudConfig
from cloud.stream.group import Member
from covey import topics
from processes import wait_for
from servers import Kafka

if TYPE_CHECKING:
    from pathlib import Path

    from cloud.stream.kafka import Place

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

PLACES = {(topics.ALARMS, partition) for partition in range(3)}


def assigned(admin: AdminClient, group: str) -> dict[str, set[Place]]:
    """Instance -> what the broker has given it."""
    found = admin.describe_consumer_groups([group])[group].result(10)
    return {
        one.group_instance_id: {(place.topic, place.partition) for place in one.assignment.topic_partitions}
        for one in found.members
    }


def test_a_member_that_came_back_in_the_middle_of_a_rebalance_leaves_no_partition_to_nobody(tmp_path: Path) -> None:
    with Kafka(tmp_path / "kafka") as broker:
        broker.create_topics([topics.ALARMS], 3)
        config = CloudConfig(kafka=broker.bootstrap, consumer_group="g")
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        members: list[Member] = []

        def member(name: str) -> Member:
            members.append(Member(config, "enrich", name, [topics.ALARMS], None))
            return members[-1]

        def turn(*which: Member) -> bool:
            for one in which:
                one.batch(1, 0.05)
            return True

        try:
            old = member("a")
            wait_for(lambda: turn(old) and old.places == PLACES, 30, "a has all")
            # A newcomer: the broker has taken one from a, which has not let it go yet, so nobody is given it.
            b = member("b")
            wait_for(
                lambda: turn(b) and {name: len(had) for name, had in assigned(admin, "g-enrich").items()} == {"a": 2, "b": 0},
                30,
                "one is being taken from a",
            )  # fmt: skip
            old.close()
            members.remove(old)
            a = member("a")
            # This is the fault that is to be mended: without it, the test would show nothing.
            wait_for(lambda: turn(a, b) and a.unread == b.unread == 1, 30, "one is left to nobody, and both see it")
            wait_for(lambda: turn(a, b) and a.places | b.places == PLACES, 30, "each is read again")
            assert not a.places & b.places
            assert a.places
            assert b.places
            wait_for(lambda: turn(a, b) and a.unread == b.unread == 0, 30, "both see that all are read")
        finally:
            for one in members:
                one.close()
