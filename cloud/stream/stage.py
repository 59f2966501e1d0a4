"""One loop for all stages: read a batch, have it processed, send what came of it with the offsets, again.

A batch grows while the stage is behind and is one message when it is not. While the store or the broker is out of reach
the batch at hand is kept and nothing more is fetched. What one message alone does to the store's refusal is a dead letter
and never blocks the one behind it. Anything else that goes wrong is a fault of ours and ends the process.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cloud.store.schema import StoreRefusesError
from cloud.stream.group import Alone, Member
from cloud.stream.sinks import Out, Plain, Transactions
from covey import topics, wire
from covey.errors import LinkError, StoreError
from covey.runtime import Backoff

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from cloud.config import CloudConfig
    from cloud.stream.kafka import Place, Record

_log = logging.getLogger("cloud.stage")

LOOK_S = 5.0  # how often a stage tells where it is


class Made(NamedTuple):
    """What became of a batch."""

    messages: list[Out]
    results: dict[str, int]  # word -> how many messages


class Stage(Protocol):
    """What differs between stages."""

    @property
    def name(self) -> str:
        """Of the stage; its consumer group is called so."""

    @property
    def topics(self) -> tuple[str, ...]:
        """What it reads."""

    @property
    def gather_s(self) -> float:
        """How long a batch may wait for more: 0 for what is decided message by message."""

    @property
    def sends(self) -> bool:
        """Whether its offsets go to the broker with its messages; else `begin` says where it is."""

    def begin(self, broker: str, places: Sequence[Place]) -> Mapping[Place, int]:
        """Where to begin in partitions that were given to us; only of stages that keep their own offsets."""

    def process(self, broker: str, records: Sequence[Record]) -> Made:
        """All of a batch, or nothing of it.

        Raises:
            StoreRefusesError: the store will never take one of these messages.
            StoreError: out of reach; the same batch is tried again.
        """

    def tick(self, *, leads: bool) -> None:
        """Whatever else is due; called every turn. `leads`: no other instance does it.

        Raises:
            StoreError: the store is out of reach.
        """


class Gauge(Protocol):
    """Who is told what a stage does: metrics and the row in `stages`."""

    def done(self, results: Mapping[str, int], seconds: float) -> None:
        """A batch was processed."""

    def look(self, behind: int, ends: int, places: Sequence[Place], unread: int, detail: str) -> None:
        """Where the stage is, every few seconds; `unread`: partitions that no instance has."""


class BatchSize:
    """How many messages to take at once: doubles while batches come full, falls to what comes otherwise. Pure."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = 1

    def took(self, count: int) -> None:
        """A batch of `count` came."""
        self.now = min(self._most, 2 * self.now) if count >= self.now else max(1, count)


class Loop:
    """One stage of this process, run by its own thread."""

    def __init__(
        self,
        stage: Stage,
        config: CloudConfig,
        instance: str,
        gauge: Gauge,
        stop: threading.Event,
        on_reading: Callable[[bool], None] = lambda _reading: None,
    ) -> None:
        self._stage, self._config, self._instance = stage, config, instance
        self._gauge, self._stop, self._on_reading = gauge, stop, on_reading
        self._size = BatchSize(config.batch_rows)
        self._backoff = Backoff(cap_s=5.0)
        self._look_at = 0.0

    def run(self) -> None:
        """Until stopped."""
        while not self._stop.is_set():
            try:
                with ExitStack() as stack:
                    self._session(stack)
            except (LinkError, StoreError) as error:
                _log.warning("%s: %s; trying again", self._stage.name, error)
                self._on_reading(False)
                self._patiently_tick(leads=False)
                self._stop.wait(self._backoff.next_s())

    def _session(self, stack: ExitStack) -> None:
        """With one source and one sink, until something goes wrong with either."""
        stage, config = self._stage, self._config
        embedded = config.kafka_kind == "embedded"
        sink: Plain | Transactions | None = None
        if stage.sends:
            sink = (
                Plain(config)
                if embedded
                else Transactions(config, f"{config.consumer_group}-{stage.name}-{self._instance}")
            )
        broker = ""

        def begin(places: Sequence[Place]) -> Mapping[Place, int]:
            backoff = Backoff(cap_s=5.0)
            while not self._stop.is_set():
                try:
                    return stage.begin(broker, places)
                except StoreError as error:
                    _log.warning("%s: %s; trying again", stage.name, error)
                    self._stop.wait(backoff.next_s())
            return {}

        source: Alone | Member
        if embedded:
            source = Alone(config, stage.name, stage.topics, None if stage.sends else begin)
        else:
            source = Member(config, stage.name, self._instance, stage.topics, None if stage.sends else begin)
        stack.callback(source.close)
        broker = config.broker_instance or source.instance()
        first = (stage.topics[0], 0)
        told = -1
        while not self._stop.is_set():
            records = source.batch(self._size.now, config.batch_ms / 1000, stage.gather_s)
            if len(source.places) != told:
                told = len(source.places)
                self._on_reading(told > 0)
                _log.info("%s: reading %d partitions of broker %s", stage.name, told, broker)
            if records:
                self._size.took(len(records))
                self._whole(broker, records, source, sink)
            self._patiently_tick(leads=first in source.places)
            self._look(source, "")
            if told:
                self._backoff.reset()

    def _whole(
        self, broker: str, records: Sequence[Record], source: Alone | Member, sink: Plain | Transactions | None
    ) -> None:
        """Process a batch, as often as it takes, and send what comes of it."""
        began, given_away = time.monotonic(), source.given_away
        backoff = Backoff(cap_s=5.0)
        while not self._stop.is_set():
            try:
                made = self._processed(broker, records)
            except StoreError as error:
                _log.warning("%s: %s; trying again", self._stage.name, error)
                source.hold(backoff.next_s())
                self._look(source, str(error))
                continue
            source.release()
            if sink is not None:
                if source.given_away != given_away:  # what is at hand may be another's by now
                    raise LinkError(f"{self._stage.name}: partitions were taken away in the middle of a batch")
                offsets = {(one.topic, one.partition): one.offset + 1 for one in records}
                sink.send(made.messages, offsets, source)  # type: ignore[arg-type]  # each with its own kind of source
            self._gauge.done(made.results, time.monotonic() - began)
            return

    def _processed(self, broker: str, records: Sequence[Record]) -> Made:
        try:
            return self._stage.process(broker, records)
        except StoreRefusesError as error:
            if not self._stage.sends:  # it has its own way with each of them
                raise
            _log.warning("%s: %s; trying the batch's messages one by one", self._stage.name, error)
        messages: list[Out] = []
        results: dict[str, int] = {}
        for one in records:
            try:
                made = self._stage.process(broker, [one])
            except StoreRefusesError as error:
                made = Made([dead_letter("store_refused", str(error), one)], {"refused": 1})
            messages += made.messages
            for word, count in made.results.items():
                results[word] = results.get(word, 0) + count
        return Made(messages, results)

    def _patiently_tick(self, *, leads: bool) -> None:
        try:
            self._stage.tick(leads=leads)
        except StoreError as error:
            _log.warning("%s: %s; trying again", self._stage.name, error)

    def _look(self, source: Alone | Member, detail: str) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            behind, ends = source.lag()
            self._gauge.look(behind, ends, sorted(source.places), source.unread, detail)


def dead_letter(reason: str, detail: str, record: Record) -> Out:
    """A message that a stage cannot take, for covey.deadletter."""
    limit = wire.MAX_DEADLETTER_PAYLOAD_BYTES
    letter = wire.DeadLetter(
        reason=reason,
        detail=detail[:1024],
        topic=record.topic[:1024],
        received_s=record.received_s or time.time(),
        size_bytes=len(record.value),
        payload=record.value[:limit],
        truncated=len(record.value) > limit,
    )
    return Out(topics.DEADLETTER, record.key[:64], wire.encode(letter))
