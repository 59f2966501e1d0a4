"""Where a group's marks are kept: with its offsets, in Kafka.

A synchronous commit has no time-out, and neither has closing after it: where the coordinator falls silent both wait for
ever (librdkafka issue 3740; seen here with a paused broker). The admin client has one, and aborts the process when the answer
comes late (librdkafka 2.16: rd_kafka_enq_once_del_source_return, `eonce->refcnt > 0`; seen here, too). So commits have
a consumer and a thread of their own, which is left behind when it does not come back.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from covey.errors import LinkError
from covey.runtime import Backoff
from gateway.kafka import make_consumer, told
from gateway.marks import METADATA_CHARS, Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import GatewayConfig

_ASK_S = 5.0
# The first question about a group makes the broker set up its book of offsets, and a topic just made has no leader yet.
# The library's own names begin with "_".
_PASSING = frozenset(
    getattr(KafkaError, name)
    for name in (
        "NOT_COORDINATOR",
        "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "REQUEST_TIMED_OUT",
        "_WAIT_COORD",
        "_TRANSPORT",
        "_TIMED_OUT",
        "_ALL_BROKERS_DOWN",
    )
)

T = TypeVar("T")


class Book:
    """The marks of one group in one topic.

    Args:
        config: brokers and logins.
        group: nobody else's; it has no members.
        topic: all its partitions.
        patience_s: how long a question may go without an answer.
    """

    def __init__(self, config: GatewayConfig, group: str, topic: str, patience_s: float) -> None:
        self._config, self._group, self._topic, self._patience_s = config, group, topic, patience_s
        self._consumer = make_consumer(config, group)
        self._left_behind = False  # the consumer belongs to a thread that does not come back
        self._scattered: dict[int, int] = {}

    @property
    def not_kept(self) -> int:
        """Done offsets that lie too scattered to be kept."""
        return sum(self._scattered.values())

    def load(self, consumer: Consumer, partitions: int) -> dict[int, tuple[Marks, int]]:
        """Partition -> its marks, and the first offset that the topic still has.

        Args:
            consumer: of this group.
            partitions: of the topic.

        Raises:
            LinkError: Kafka is away, or refuses.
        """
        wanted = [TopicPartition(self._topic, p) for p in range(partitions)]
        known: dict[int, tuple[Marks, int]] = {}
        for part in self._ask(partial(consumer.committed, wanted, timeout=_ASK_S), self._patience_s):
            if part.error is not None:
                raise self._refused(part.error)
            ends = partial(consumer.get_watermark_offsets, TopicPartition(self._topic, part.partition), timeout=_ASK_S)
            low, high = self._ask(ends, self._patience_s)
            marks = Marks.decode(max(0, part.offset), part.metadata or "")
            # A topic that ends before what is remembered is another one than that. The ends that Tansu tells are
            # not to be trusted; it forgets topic and offsets together.
            if marks.next_offset > high and self._config.kafka_kind == "kafka":
                marks = Marks()
            marks.add(0, low - 1)  # past retention
            known[part.partition] = marks, low
        return known

    def save(self, marks: Mapping[int, Marks], patience_s: float | None = None) -> None:
        """Have Kafka keep the marks of some partitions.

        Raises:
            LinkError: Kafka is away, or refuses.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        try:
            self._commit(marks, METADATA_CHARS, patience_s)
        except _MetadataTooLargeError:  # a broker may be set to keep less: then the offsets alone
            self._commit(marks, 0, patience_s)

    def _commit(self, marks: Mapping[int, Marks], most_chars: int, patience_s: float) -> None:
        if self._left_behind:
            raise LinkError(f"kafka {self._config.kafka}: group {self._group}: no answer")
        if not self._ask(lambda: self._in_time(partial(self._write, marks, most_chars), patience_s), patience_s):
            raise LinkError(f"kafka {self._config.kafka}: group {self._group}: no answer for {patience_s:g} s")

    def _write(self, marks: Mapping[int, Marks], most_chars: int) -> None:
        parts = []
        for partition, of_partition in marks.items():
            metadata, self._scattered[partition] = of_partition.encode(most_chars)
            parts.append(TopicPartition(self._topic, partition, of_partition.next_offset, metadata=metadata))
        self._consumer.commit(offsets=parts, asynchronous=False)

    def close(self) -> None:
        """Leave the broker, if it still answers."""
        if not self._left_behind:
            self._in_time(self._consumer.close, _ASK_S)

    def _in_time(self, work: Callable[[], None], timeout_s: float) -> bool:
        """Do it on a thread of its own; False when it is not done by then, and never touched again."""
        failed: list[KafkaException] = []

        def do() -> None:
            try:
                work()
            except KafkaException as error:
                failed.append(error)

        thread = threading.Thread(target=do, name="replay-commit", daemon=True)
        thread.start()
        thread.join(timeout_s)
        self._left_behind = thread.is_alive()
        if failed:
            raise failed[0]
        return not self._left_behind

    def _ask(self, question: Callable[[], T], patience_s: float) -> T:
        backoff, end_s = Backoff(0.05, 1.0), time.monotonic() + patience_s
        while True:
            try:
                return question()
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.OFFSET_METADATA_TOO_LARGE:
                    raise _MetadataTooLargeError from error
                if time.monotonic() >= end_s or code not in _PASSING:
                    raise self._refused(error) from error
            time.sleep(backoff.next_s())

    def _refused(self, error: KafkaException | KafkaError) -> LinkError:
        return LinkError(f"kafka {self._config.kafka}: group {self._group}: {told(error)}")


class _MetadataTooLargeError(LinkError):
    """The broker keeps less with an offset than we asked it to."""
