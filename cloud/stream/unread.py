"""Partitions that no member of a consumer group reads, and whose it is to mend that.

A static member that comes back while partitions are being taken from it gets the assignment that the broker has of it, without
a rebalance: what it has given up already and no other has been given yet is left to nobody, with the group stable (measured on Apache
Kafka 4; KIP-345 and KIP-429 do not say). So each member looks, and one of them leaves and joins anew.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import ConsumerGroupState, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from cloud.stream.kafka import METADATA_TIMEOUT_S, Place, client_settings, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet
    from concurrent.futures import Future

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud.unread")

LOOK_S = 3.0  # between two looks; one costs the broker two small answers
MOST_LOOKS = 100  # between two tries to mend what a new joining does not mend


class Rule:
    """Two looks at a stable group with the same partitions of nobody: the member with the fewest joins anew. Pure.

    One look may fall between the two halves of a cooperative rebalance (KIP-429). Each try doubles the looks before the next.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._before: frozenset[Place] = frozenset()
        self._wait = 0  # looks before the next try
        self._next_wait = 2

    def look(self, members: Mapping[str, AbstractSet[Place]], there: Iterable[Place]) -> tuple[frozenset[Place], bool]:
        """(partitions of nobody, whether it is on us to mend that).

        Args:
            members: instance -> its partitions, of a stable group.
            there: all partitions of its topics.
        """
        unread = frozenset(there).difference(*members.values())
        again, self._before = unread & self._before, unread
        if not unread:
            self._wait, self._next_wait = 0, 2
        if self._wait:
            self._wait -= 1
            return unread, False
        first = min(members, key=lambda one: (len(members[one]), one), default="")
        if not again or first != self._instance:
            return unread, False
        self._before = frozenset()
        self._wait, self._next_wait = self._next_wait, min(MOST_LOOKS, 2 * self._next_wait)
        return unread, True


class _Asked(NamedTuple):
    group: Future[Any]
    topics: list[Future[Any]]


class Watch:
    """Looks at a group every `LOOK_S`, without waiting for answers.

    A group or topic that cannot be described (no broker, no right to) is not judged.
    """

    def __init__(self, config: CloudConfig, group: str, instance: str, topics: Iterable[str]) -> None:
        settings = client_settings(config)
        del settings["error_cb"]  # nobody polls this client; the consumer tells of the same broker
        self._admin = AdminClient(settings)
        self._group, self._topics = group, list(topics)
        self._rule = Rule(instance)
        self._asked: _Asked | None = None
        self._look_at = time.monotonic() + LOOK_S
        self.unread: frozenset[Place] = frozenset()

    def ours_to_mend(self) -> bool:
        """Whether to leave and join anew; called every turn, tells so once a try."""
        if self._asked is not None and self._asked.group.done() and all(one.done() for one in self._asked.topics):
            asked, self._asked = self._asked, None
            return self._judge(asked)
        now = time.monotonic()
        if self._asked is None and now >= self._look_at:
            self._look_at = now + LOOK_S
            wait: dict[str, Any] = {"request_timeout": METADATA_TIMEOUT_S}
            try:
                group = self._admin.describe_consumer_groups([self._group], **wait)[self._group]
                topics = self._admin.describe_topics(TopicCollection(self._topics), **wait).values()
            except KafkaException as error:
                _log.debug("%s: %s", self._group, told(error))
            else:
                self._asked = _Asked(group, list(topics))
        return False

    def _judge(self, asked: _Asked) -> bool:
        try:
            group = asked.group.result(0)
            if group.state != ConsumerGroupState.STABLE:
                return False
            topics = [one.result(0) for one in asked.topics if one.exception(0) is None]
        except KafkaException as error:
            _log.debug("%s: %s", self._group, told(error))
            return False
        members = {
            one.group_instance_id or one.member_id: {
                (place.topic, place.partition) for place in one.assignment.topic_partitions
            }
            for one in group.members
        }
        there = [(topic.name, partition.id) for topic in topics for partition in topic.partitions]
        self.unread, ours = self._rule.look(members, there)
        return ours
