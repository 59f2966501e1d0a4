"""The stream's way into the store: read a batch, decode it, write it with its offsets, then acknowledge.

Nothing is acknowledged that the store has not committed. A message that cannot be decoded, or that the store refuses
by itself, becomes a dead letter and never blocks the one behind it. Outages are waited out.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated

import msgspec

from cloud.store.schema import StoreRefusesError
from cloud.store.writer import Received, Refused, load_offsets, write_batch
from cloud.stream.spans import Spans
from cloud.stream.stage import Made
from covey import topics, wire
from covey.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.store.writer import Applied
    from cloud.stream.kafka import Place, Record, Writer
    from covey.tracing import Tracing

_log = logging.getLogger("cloud.consume")

TOPICS = (topics.SUMMARIES, topics.ALARMS, topics.STATUS)
PUBLISH_S = 0.2  # how often the store is asked for messages to produce and for devices that have appeared
MAX_RANGES, MAX_OUTBOXES = 256, 16  # of one ack, docs/protocol.md


class _Id(msgspec.Struct):
    """The one field that an acknowledgement of a refused message needs."""

    id: Annotated[str, msgspec.Meta(max_length=160)]


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
        decoded = [decode(record) for record in records]
        offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
        try:
            applied = self._write(broker, offsets, decoded)
        except StoreRefusesError as error:
            _log.warning("%s; trying the batch's messages one by one", error)
            applied = self._write(broker, offsets, [self._try_alone(broker, one) for one in decoded])
        if self._spans is not None:
            self._tell(self._spans, records, decoded)
        if self._config.ack_after == "store":
            for device, ack in acks(applied.safe):
                if not self._writer.produce(topics.ACKS, device, wire.encode(ack)):
                    _log.warning("acks of %s dropped: the producer's queue is full; the device will resend", device)
        counts = {"stored": applied.stored, "repeated": applied.repeated, "conflict": applied.conflicts}
        return Made([], {word: n for word, n in (counts | {"refused": applied.refused}).items() if n})

    def tick(self, *, leads: bool) -> None:
        """Run delivery reports, and the chores where no other instance does them."""
        self._writer.poll()
        now = time.monotonic()
        if leads and now >= self._chores_at:
            self._chores_at = now + PUBLISH_S
            self._chores()

    @staticmethod
    def _tell(spans: Spans, records: Sequence[Record], decoded: Sequence[Received | Refused]) -> None:
        for record, one in zip(records, decoded, strict=True):
            trace = one.event.traceparent if isinstance(one, Received) else ""
            if record.trace or trace:
                spans.passed(record, trace, {})

    def _write(self, broker: str, offsets: dict[Place, int], decoded: Sequence[Received | Refused]) -> Applied:
        received = [one for one in decoded if isinstance(one, Received)]
        refused = [one for one in decoded if isinstance(one, Refused)]
        return write_batch(self._engine, broker, offsets, received, refused)

    def _try_alone(self, broker: str, one: Received | Refused) -> Received | Refused:
        """Put one message in without its offset (the batch will find it stored), or refuse it."""
        if isinstance(one, Received):
            try:
                write_batch(self._engine, broker, {}, [one])
            except StoreRefusesError as error:
                _log.warning("%s: %s", one.identity, error)
                return Refused("store_refused", str(error), one.topic, one.body, one.received_s, one.identity)
        return one


def decode(record: Record) -> Received | Refused:
    """One message as an event, or the reason why it is none."""
    received_s = record.received_s or time.time()

    def refuse(reason: str, detail: str) -> Refused:
        return Refused(reason, detail, record.topic, record.value, received_s, _readable(record))

    try:
        event, identity = wire.decode_event(record.value)
        data = wire.decode_data(event)
    except WireError as error:
        return _presence(record, received_s) or refuse(error.reason, error.detail)
    if record.key != identity.device:
        # Acknowledging on another device's word would delete that device's own row.
        return refuse("source_mismatch", f"key {identity.device} expected, {record.key[:80]!r} received")
    return Received(identity, event, data, record.value, received_s, record.topic)


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


def _presence(record: Record, received_s: float) -> Received | None:
    """A presence event, which the gateway makes and numbers itself, outside the outbox's sequence."""
    try:
        event = wire.decode(wire.Event, record.value)
        if (
            event.type != wire.PRESENCE_TYPE
            or event.source != f"/covey/{record.key}"
            or not topics.is_device(record.key)
        ):
            return None
        data = wire.decode_data(event)
    except WireError:
        return None
    return Received(wire.Identity(record.key, "", 0), event, data, record.value, received_s, record.topic)


def _readable(record: Record) -> wire.Identity | None:
    """Whose row a refused message was, where it can be told and the key agrees."""
    try:
        identity = wire.parse_identity(wire.decode(_Id, record.value).id)
    except WireError:
        return None
    return identity if identity.device == record.key else None
