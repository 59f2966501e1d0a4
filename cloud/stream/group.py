"""How stages read: consumer groups and committed offsets; sinks.py writes.

`Member` shares partitions with the other members of its group; `Alone` takes all of them (the embedded broker, where a
join takes seconds and one process reads). Both say where they are, how far behind, and whether they still hold what they have read.
A source that has raised is given up and made anew: a new one begins at what is committed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from cloud.stream.kafka import METADATA_TIMEOUT_S, Place, Reader, Record, consumer_settings, told
from cloud.stream.unread import Watch
from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud.group")

NEW_PARTITIONS_S = 5.0  # how often to look for topics and partitions that have appeared
SESSION_MS = 10_000  # a member that is silent for so long has lost its partitions
QUEUED_KB = 65_536  # fetched and not yet processed


class Source(Reader):
    """What both kinds have in common: positions, lag, holding back."""

    def __init__(
        self,
        config: CloudConfig,
        topics: Iterable[str],
        settings: Mapping[str, Any],
        begin: Callable[[Sequence[Place]], Mapping[Place, int]] | None,
    ) -> None:
        more = {"enable.partition.eof": True, "queued.max.messages.kbytes": QUEUED_KB, **settings}
        super().__init__(config, topics, more)
        self._begin = begin
        self._next: dict[Place, int] = {}  # where we are in each partition that we have read from
        self._held = False
        self._early: list[Record] = []  # came while held back
        self.given_away = 0  # how often partitions were taken from us
        self.unread = 0  # partitions of our topics that no member of the group has

    @property
    def places(self) -> set[Place]:
        """Partitions that are ours."""
        return set(self._assigned)

    def batch(self, most: int, wait_s: float, gather_s: float = 0.01) -> list[Record]:
        """As `Reader.batch`; what came while held back comes first."""
        if self._early and not self._held:
            early, self._early = self._early[:most], self._early[most:]
            return early
        records = super().batch(most, wait_s, gather_s)
        for record in records:
            self._next[record.topic, record.partition] = record.offset + 1
        return records

    def hold(self, wait_s: float) -> None:
        """Fetch nothing, stay a member: for a sink that is out of reach. Waits `wait_s`."""
        if not self._held:
            self._held = True
            self._pause(self.places)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            self._early += Source.batch(self, 1, min(left, 0.2))

    def release(self) -> None:
        """Go on after `hold`."""
        if self._held:
            self._held = False
            self._consumer.resume([TopicPartition(*place) for place in self._assigned])

    def lag(self) -> tuple[int, int]:
        """(messages behind, sum of the partitions' ends); what cannot be told counts as nothing."""
        behind = total = 0
        for place in self._assigned:
            end = self._end(place)
            total += end
            behind += max(0, end - self._next.get(place, 0))
        return behind, total

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Tell the broker where the group is.

        Raises:
            LinkError: it does not take it.
        """
        places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        try:
            done = self._consumer.commit(offsets=places, asynchronous=False) or []
        except KafkaException as error:
            raise LinkError(f"kafka {self._kafka}: offsets: {told(error)}") from error
        for place in done:
            if place.error is not None:
                raise LinkError(f"kafka {self._kafka}: offsets of {place.topic}: {place.error.str()}")

    def _begins(self, places: Sequence[Place]) -> list[TopicPartition]:
        """Where to begin in each."""
        if self._begin is not None:
            known = self._begin(places)
            found = [TopicPartition(*place, known.get(place, OFFSET_BEGINNING)) for place in places]
        else:
            found = self._consumer.committed([TopicPartition(*place) for place in places], METADATA_TIMEOUT_S)
            for one in found:
                if one.offset < 0:
                    one.offset = OFFSET_BEGINNING
        for one in found:
            self._next[one.topic, one.partition] = max(0, one.offset)
        return found

    def _end(self, place: Place) -> int:
        one = TopicPartition(*place)
        try:
            known = self._consumer.get_watermark_offsets(one, cached=True)
            # What is fetched tells the end; nothing is fetched while held back.
            if self._held or known is None or known[1] < 0:
                known = self._consumer.get_watermark_offsets(one, timeout=1.0)
        except KafkaException:
            return 0
        return int(known[1]) if known else 0

    def _pause(self, places: Iterable[Place]) -> None:
        self._consumer.pause([TopicPartition(*place) for place in places])

    def _refused(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's own name
            # Marks of transactions take offsets, too: the end is where we are.
            place = (message.topic() or "", message.partition() or 0)
            self._next[place] = max(message.offset() or 0, self._next.get(place, 0))
        elif error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            raise LinkError(f"kafka {self._kafka}: {error.str()}")
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            _log.info("%s is not there yet", message.topic())
        else:
            super()._refused(message, error)


class Alone(Source):
    """Reads every partition there is: no group to join, offsets committed all the same where `begin` is None."""

    def __init__(
        self,
        config: CloudConfig,
        stage: str,
        topics: Iterable[str],
        begin: Callable[[Sequence[Place]], Mapping[Place, int]] | None,
    ) -> None:
        super().__init__(config, topics, consumer_settings(config, f"{config.consumer_group}-{stage}"), begin)
        self._look_again = 0.0

    def batch(self, most: int, wait_s: float, gather_s: float = 0.01) -> list[Record]:
        """As `Reader.batch`; looks for new partitions now and then.

        Raises:
            LinkError: no broker answers.
        """
        now = time.monotonic()
        if now >= self._look_again and not self._held:
            self._look_again = now + (NEW_PARTITIONS_S if self._look() else 0.5)
        return super().batch(most, wait_s, gather_s)

    def _look(self) -> bool:
        try:
            known = self._consumer.list_topics(timeout=METADATA_TIMEOUT_S).topics
            there = {(name, p) for name in self._topics if name in known for p in known[name].partitions}
            new = sorted(there - self._assigned)
            if new:
                self._consumer.incremental_assign(self._begins(new))
        except KafkaException as error:
            raise LinkError(f"kafka {self._kafka}: {told(error)}") from error
        self._assigned |= set(new)
        if new:
            _log.info("%s: reading %d partitions", self._topics[0], len(self._assigned))
        return bool(self._assigned)


class Member(Source):
    """A member of the stage's consumer group, under the same name over restarts: a killed one comes back at once.

    Where a partition is left to nobody, one member leaves and joins again, which has the group share anew.

    Source: KIP-345 (static membership), KIP-429 (cooperative rebalancing).
    """

    def __init__(
        self,
        config: CloudConfig,
        stage: str,
        instance: str,
        topics: Iterable[str],
        begin: Callable[[Sequence[Place]], Mapping[Place, int]] | None,
    ) -> None:
        group = f"{config.consumer_group}-{stage}"
        settings = consumer_settings(config, group) | {
            "group.instance.id": instance,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": 2_000,
            "isolation.level": "read_committed",
            "topic.metadata.refresh.interval.ms": int(NEW_PARTITIONS_S * 1000),
        }
        super().__init__(config, topics, settings, begin)
        self._watch = Watch(config, group, instance, self._topics)
        self._subscribe()

    def batch(self, most: int, wait_s: float, gather_s: float = 0.01) -> list[Record]:
        """As `Reader.batch`; joins anew where the group has left a partition to nobody and it is on us to mend that."""
        if not self._held:
            if self._watch.ours_to_mend():
                _log.warning("%s: a partition is read by nobody, joining anew", self._topics[0])
                self._consumer.unsubscribe()  # unlike `close`, this tells the group that we leave
                self._subscribe()
            self.unread = len(self._watch.unread)
        return super().batch(most, wait_s, gather_s)

    @property
    def metadata(self) -> object:
        """What a transaction needs to fence a member that has been replaced."""
        return self._consumer.consumer_group_metadata()

    def _subscribe(self) -> None:
        self._consumer.subscribe(list(self._topics), on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def _given(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        new = [(one.topic, one.partition) for one in places]
        if self._begin is not None:
            consumer.incremental_assign(self._begins(new))
        else:
            consumer.incremental_assign(places)
            # Where the group has committed is the library's business; here it is asked for to tell the lag only.
            self._next |= {(one.topic, one.partition): max(0, one.offset) for one in self._committed(places)}
        self._assigned |= set(new)
        if self._held:
            self._pause(new)
        _log.info("%s: reading %d partitions", self._topics[0], len(self._assigned))

    def _committed(self, places: list[TopicPartition]) -> list[TopicPartition]:
        try:
            return self._consumer.committed(places, METADATA_TIMEOUT_S)
        except KafkaException:
            return []

    def _taken(self, _consumer: Consumer, places: list[TopicPartition]) -> None:
        gone = {(one.topic, one.partition) for one in places}
        self._assigned -= gone
        for place in gone:
            self._next.pop(place, None)
        self._early = [one for one in self._early if (one.topic, one.partition) not in gone]
        self.given_away += 1
