"""The stream's way into the store: read a batch, decode it, write it with its offsets, then acknowledge.

Nothing is acknowledged that the store has not committed. A message that cannot be decoded, or that the store refuses
by itself, becomes a dead letter and never blocks the one behind it. Outages are waited out.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from cloud.store.schema import StoreRefusesError
from cloud.store.told import Letter
from cloud.store.writer import KIND_OF_DEVICE, Received, Refused, load_offsets, write_batch
from cloud.stream.decode import decode_record
from cloud.stream.spans import Spans
from cloud.stream.stage import Made
from covey import topics, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.store.writer import Applied
    from cloud.stream.kafka import Place, Record, Writer
    from covey.tracing import Tracing

_log = logging.getLogger("cloud.consume")

Decoded = Received | Refused | Letter

TOPICS = (
    topics.SUMMARIES,
    topics.ALARMS,
    topics.STATUS,
    topics.ALARMS_ENRICHED,
    topics.ALARMS_HIGH,
    topics.ALARMS_LOW,
    topics.LEARNING,
    topics.DEADLETTER,
)
PUBLISH_S = 0.2  # how often the store is asked for messages to produce and for devices that have appeared
MAX_RANGES, MAX_OUTBOXES = 256, 16  # of one ack, docs/protocol.md


class StoreStage:
    """The stage `store`: events with their offsets into the store, then acknowledgements; whatever the store has to say."""

    name = "store"
    topics = TOPICS
    gather_s = 0.01  # a commit is a write to the disk
    sends = False  # offsets belong to the store's own transaction

    def __init__(
        self,
        config: CloudConfig,
        engine: Engine,
        writer: Writer,
        chores: Callable[[], None],
        tracing: Tracing | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: of the process.
            engine: an open store.
            writer: for acknowledgements.
            chores: what one instance of this stage does for all, every `PUBLISH_S`.
            tracing: where spans are told, if anywhere.
        """
        self._spans = None if tracing is None else Spans(tracing, self.name)
        self._config, self._engine, self._writer, self._chores = config, engine, writer, chores
        self._chores_at = 0.0

    def begin(self, broker: str, _places: Sequence[Place]) -> Mapping[Place, int]:
        """Where the store's last transaction ended."""
        return load_offsets(self._engine, broker)

    def process(self, broker: str, records: Sequence[Record]) -> Made:
        """Write a batch and acknowledge what is safe.

        Raises:
            StoreError: nothing of it was written.
        """
        both = [(record, one) for record in records if (one := decode_record(record)) is not None]
        decoded = [one for _, one in both]
        offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
        try:
            applied = self._write(broker, offsets, decoded)
        except StoreRefusesError as error:
            _log.warning("%s; trying the batch's messages one by one", error)
            alone = [self._try_alone(broker, one) for one in decoded]
            applied = self._write(broker, offsets, [one for one in alone if one is not None])
        if self._spans is not None:
            self._tell(self._spans, both)
        if self._config.ack_after == "store":
            for device, ack in acks(applied.safe):
                if not self._writer.produce(topics.ACKS, device, wire.encode(ack)):
                    _log.warning("acks of %s dropped: the producer's queue is full; the device will resend", device)
        counts = {"stored": applied.stored, "repeated": applied.repeated, "conflict": applied.conflicts}
        counts["refused"] = applied.refused
        counts["told"] = len(records) - sum(counts.values())  # by the cloud itself, and presence
        return Made([], {word: n for word, n in counts.items() if n > 0})

    def tick(self, *, leads: bool) -> None:
        """Run delivery reports, and the chores where no other instance does them."""
        self._writer.poll()
        now = time.monotonic()
        if leads and now >= self._chores_at:
            self._chores_at = now + PUBLISH_S
            self._chores()

    @staticmethod
    def _tell(spans: Spans, both: Sequence[tuple[Record, Decoded]]) -> None:
        for record, one in both:
            trace = one.event.traceparent if isinstance(one, Received) else ""
            if record.trace or trace:
                spans.passed(record, trace, {})

    def _write(self, broker: str, offsets: dict[Place, int], decoded: Sequence[Decoded]) -> Applied:
        received = [one for one in decoded if isinstance(one, Received)]
        refused = [one for one in decoded if isinstance(one, Refused)]
        letters = [one for one in decoded if isinstance(one, Letter)]
        safe = self._config.ack_after == "store"
        return write_batch(self._engine, broker, offsets, received, refused, letters, tell_safe=safe)

    def _try_alone(self, broker: str, one: Decoded) -> Decoded | None:
        """Put one message in without its offset (the batch will find it stored), or refuse it."""
        if isinstance(one, Refused):
            return one
        try:
            self._write(broker, {}, [one])
        except StoreRefusesError as error:
            if isinstance(one, Letter):  # a dead letter of a dead letter would never end
                _log.warning("dead letter %d of partition %d: %s", one.offset, one.partition, error)
                return None
            _log.warning("%s: %s", one.identity, error)
            return Refused("store_refused", str(error), one.topic, one.body, one.received_s, _owner(one))
        return one


def _owner(one: Received) -> wire.Identity | None:
    """Whose row it is: a device's own event only is acknowledged."""
    return one.identity if one.event.type in KIND_OF_DEVICE else None


def acks(safe: Iterable[wire.Identity]) -> list[tuple[str, wire.Ack]]:
    """(device, ack) messages that say these identities are safe, within the protocol's bounds."""
    rows: dict[str, dict[str, list[int]]] = {}
    for device, outbox, seq in safe:
        rows.setdefault(device, {}).setdefault(outbox, []).append(seq)
    result: list[tuple[str, wire.Ack]] = []
    for device, of_outbox in rows.items():
        parts = [
            wire.AckRanges(outbox=outbox, ranges=ranges[start : start + MAX_RANGES])
            for outbox, seqs in of_outbox.items()
            for ranges in [_ranges(seqs)]
            for start in range(0, len(ranges), MAX_RANGES)
        ]
        result += [(device, wire.Ack(parts[at : at + MAX_OUTBOXES])) for at in range(0, len(parts), MAX_OUTBOXES)]
    return result


def _ranges(seqs: list[int]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for seq in sorted(set(seqs)):
        if result and seq == result[-1][1] + 1:
            result[-1] = (result[-1][0], seq)
        else:
            result.append((seq, seq))
    return result
