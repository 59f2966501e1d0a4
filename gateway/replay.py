"""Send dead letters again: read covey.deadletter, judge by today's rules, deliver, and remember what was delivered.

A letter is done when Kafka has confirmed its record, never before; done letters are kept with the offsets of the group
`covey-gateway-replay` (gateway/marks.py). A run killed anywhere begins again with what it had not noted: repeats, no
loss. Nothing is written to covey.deadletter, or what is refused still would multiply.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from covey import topics
from covey.errors import LinkError
from gateway.book import Book
from gateway.deliver import Deliverer
from gateway.kafka import describe, ensure_topics, make_consumer, told
from gateway.letters import Choice, Judge, Left, Letter, Outcome, Send, open_letter

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from gateway.config import GatewayConfig
    from gateway.marks import Marks

NAME = "replay"  # of the client
GROUP = f"covey-gateway-{NAME}"
LETTERS_AT_ONCE = 500
NAMED_AT_MOST = 1_000  # of those left, in a result
_NOTE_EVERY_S = 1.0
_LAST_WORD_S = 5.0  # for the marks of a run that Kafka has failed

T = TypeVar("T")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked for."""

    choice: Choice = Choice()
    limit: int | None = None  # letters sent at most
    from_start: bool = False  # also those that an earlier run has sent
    forget: bool = False  # what was chosen and cannot be sent is done, too
    dry_run: bool = False
    patience_s: float = 30.0  # without any answer from Kafka


class Named(msgspec.Struct, frozen=True):
    """A letter that was chosen and is not sent."""

    partition: int
    offset: int
    reason: str  # why it became a letter
    outcome: Outcome
    now: str  # why it is not sent now
    device: str
    event_id: str
    topic: str
    size_bytes: int
    detail: str


class Result(msgspec.Struct):
    """What a run has done; `sent` of a dry run is what would be sent."""

    dry_run: bool = False
    read: int = 0
    done_before: int = 0  # sent, or forgotten, by an earlier run
    not_chosen: int = 0
    waiting_for_store: dict[str, int] = {}  # reason -> letters that the store wrote and nobody named
    reasons: dict[str, dict[Outcome, int]] = {}  # why it became a letter -> what became of it
    refused_now: dict[str, int] = {}  # why today's rules refuse -> letters
    left: list[Named] = []
    left_more: int = 0  # left, and not in the list
    not_remembered: int = 0  # done, but too scattered to be kept: a next run sends them again
    stopped: bool = False

    def count(self, outcome: Outcome) -> int:
        """Letters of all reasons with one outcome."""
        return sum(of_reason.get(outcome, 0) for of_reason in self.reasons.values())

    @property
    def complete(self) -> bool:
        """Whether all that was chosen was sent, and all was looked at."""
        return not self.stopped and all(self.count(o) == 0 for o in Outcome if o is not Outcome.SENT)


class _Chosen(msgspec.Struct, frozen=True):
    letter: Letter
    verdict: Send | Left


class Replay:
    """One run over the topic.

    Args:
        config: the gateway's: brokers, logins, limits.
        plan: what to choose, and whether to change anything.
        stop: ends the run after a batch.
        progress: called after each batch.
    """

    def __init__(
        self,
        config: GatewayConfig,
        plan: Plan,
        stop: threading.Event,
        progress: Callable[[Result], None] = lambda _result: None,
    ) -> None:
        self._config = msgspec.structs.replace(config, name=NAME)
        self._plan = plan
        self._judge = Judge(config)
        self._stop = stop
        self._progress = progress
        self._marks: dict[int, Marks] = {}
        self._expected: dict[int, int] = {}  # partition -> the offset that should come next
        self._open: set[int] = set()  # partitions not read to their end
        self._changed: set[int] = set()  # partitions whose marks are not kept yet
        self._sent_for_store: set[bytes] = set()  # a store that refuses again writes a new letter: once in a run
        self._scattered: dict[int, int] = {}  # partition -> done letters that its offset could not keep
        self._error = ""
        self.result = Result(dry_run=plan.dry_run)

    def run(self) -> Result:
        """Read every partition to its end.

        Raises:
            LinkError: Kafka is away, or refuses; what was delivered before is remembered where that is possible.
        """
        partitions = describe(self._config).get(topics.DEADLETTER)
        if partitions is None:
            raise LinkError(f"kafka {self._config.kafka}: no topic {topics.DEADLETTER}: has a gateway run with it?")
        with ExitStack() as stack:
            consumer = make_consumer(self._config, GROUP)
            stack.callback(consumer.close)
            deliverer = None
            if not self._plan.dry_run:
                ensure_topics(self._config)
                deliverer = Deliverer(self._config, self._plan.patience_s)
                stack.callback(deliverer.close)
            book = Book(self._config, GROUP, topics.DEADLETTER, self._plan.patience_s)
            stack.callback(book.close)
            self._begin(consumer, book, partitions)
            try:
                self._read(consumer, book, deliverer)
            except LinkError as error:
                with suppress(LinkError):
                    self._note(book, min(_LAST_WORD_S, self._plan.patience_s))
                sent = self.result.count(Outcome.SENT)
                raise LinkError(f"{error}; {sent} letters sent before that") from error
            self._note(book)
        return self.result

    def _begin(self, consumer: Consumer, book: Book, partitions: int) -> None:
        """Start each partition at its first letter that is not done."""
        begins: list[TopicPartition] = []
        for partition, (marks, low) in book.load(consumer, partitions).items():
            begin = low if self._plan.from_start else marks.next_offset
            self._marks[partition], self._expected[partition] = marks, begin
            begins.append(TopicPartition(topics.DEADLETTER, partition, begin or OFFSET_BEGINNING))
        self._open = set(self._marks)
        consumer.assign(begins)

    def _read(self, consumer: Consumer, book: Book, deliverer: Deliverer | None) -> None:
        heard_s = noted_s = time.monotonic()
        while self._open and not self._stop.is_set() and not self._full(0):
            messages = _some(consumer)
            batch: list[_Chosen] = []
            for message in messages:
                if self._full(sum(isinstance(one.verdict, Send) for one in batch)):
                    break
                if self._hear(message, batch):
                    heard_s = time.monotonic()
            self._settle(batch, deliverer)
            if messages:
                self._progress(self.result)
            if time.monotonic() - noted_s >= _NOTE_EVERY_S:
                self._note(book)
                noted_s = time.monotonic()
            if time.monotonic() - heard_s > self._plan.patience_s:
                raise self._away()
        self.result.stopped = self._stop.is_set() and bool(self._open)

    def _full(self, more: int) -> bool:
        return self._plan.limit is not None and self.result.count(Outcome.SENT) + more >= self._plan.limit

    def _hear(self, message: Message, batch: list[_Chosen]) -> bool:
        """Take a letter, or a partition's end; False for any other news."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001  # the library's name
            self._error = told(error)
            if error.fatal() or error.code() in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.GROUP_AUTHORIZATION_FAILED,
            ):
                raise self._away()
            return False
        if partition is None or offset is None:
            return False
        if offset > self._expected[partition]:  # control records, and what compaction took: nothing to send
            self._marks[partition].add(self._expected[partition], offset - 1)
        self._expected[partition] = max(offset, self._expected[partition])
        if error is not None:
            self._open.discard(partition)
            return True
        self._expected[partition] = offset + 1
        self._take(partition, offset, message, batch)
        return True

    def _take(self, partition: int, offset: int, message: Message, batch: list[_Chosen]) -> None:
        self.result.read += 1
        if self._marks[partition].done(offset) and not self._plan.from_start:
            self.result.done_before += 1
            return
        _, time_ms = message.timestamp()
        letter = open_letter(partition, offset, _bytes(message.key()), _bytes(message.value()) or b"", time_ms / 1000)
        if not self._plan.choice.takes(letter):
            self.result.not_chosen += 1
        elif self._plan.choice.waits(letter):
            _add(self.result.waiting_for_store, letter.reason)
        else:
            batch.append(_Chosen(letter, self._judge.judge(letter)))

    def _settle(self, batch: list[_Chosen], deliverer: Deliverer | None) -> None:
        """Deliver what can be sent; count and mark each letter for what became of it."""
        sends: list[tuple[_Chosen, Send]] = []
        for one in batch:
            if isinstance(one.verdict, Left):
                self._leave(one, one.verdict)
            elif one.letter.by_store and self._again(one.verdict):
                self._sent(one)  # its twin has just been: done as well
            else:
                sends.append((one, one.verdict))
        if deliverer is None:
            for one, _ in sends:
                self._sent(one)
            return
        refused = deliverer.deliver([send for _, send in sends], lambda index: self._sent(sends[index][0]))
        for index, detail in refused.items():
            self._leave(sends[index][0], Left(Outcome.REFUSED, "too_large", f"kafka: {detail}"))

    def _again(self, send: Send) -> bool:
        digest = hashlib.sha256(send.topic.encode() + b"\0" + send.value).digest()
        known = digest in self._sent_for_store
        self._sent_for_store.add(digest)
        return known

    def _sent(self, one: _Chosen) -> None:
        _add(self.result.reasons.setdefault(one.letter.reason, {}), Outcome.SENT)
        self._done(one)

    def _leave(self, one: _Chosen, why: Left) -> None:
        letter = one.letter
        _add(self.result.reasons.setdefault(letter.reason, {}), why.outcome)
        if why.outcome is Outcome.REFUSED:
            _add(self.result.refused_now, why.reason)
        if len(self.result.left) < NAMED_AT_MOST:
            place = (letter.partition, letter.offset, letter.reason, why.outcome, why.reason)
            named = (letter.device, letter.event_id, letter.topic, letter.size_bytes, why.detail)
            self.result.left.append(Named(*place, *named))
        else:
            self.result.left_more += 1
        if self._plan.forget:
            self._done(one)

    def _done(self, one: _Chosen) -> None:
        if not self._plan.dry_run:
            letter = one.letter
            self._marks[letter.partition].add(letter.offset, letter.offset)
            self._changed.add(letter.partition)

    def _note(self, book: Book, patience_s: float | None = None) -> None:
        """Have Kafka keep the marks that changed."""
        if self._changed:
            book.save({partition: self._marks[partition] for partition in self._changed}, patience_s)
            self._changed.clear()
            self.result.not_remembered = book.not_kept

    def _away(self) -> LinkError:
        why = f": {self._error}" if self._error else f" for {self._plan.patience_s:g} s"
        return LinkError(f"kafka {self._config.kafka}: {topics.DEADLETTER}: no answer{why}")


def _some(consumer: Consumer) -> list[Message]:
    """What is there, and what comes with it: the library's batch call alone would hold it until its time is up."""
    first = consumer.poll(0.2)
    return [] if first is None else [first, *consumer.consume(LETTERS_AT_ONCE - 1, 0.01)]


def _add(counts: dict[T, int], name: T) -> None:
    counts[name] = counts.get(name, 0) + 1


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
