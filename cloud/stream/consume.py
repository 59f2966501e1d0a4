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
from cloud.store.writer import Applied, Received, Refused, load_offsets, write_batch
from cloud.stream.kafka import Reader
from covey import topics, wire
from covey.errors import LinkError, StoreError, WireError
from covey.runtime import Backoff

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.stream.kafka import Record, Writer

_log = logging.getLogger("cloud.consume")

TOPICS = (topics.SUMMARIES, topics.ALARMS, topics.STATUS)
NEW_PARTITIONS_S = 5.0  # how often to look for topics and partitions that have appeared
MAX_RANGES, MAX_OUTBOXES = 256, 16  # of one ack, docs/protocol.md


class _Id(msgspec.Struct):
    """The one field that an acknowledgement of a refused message needs."""

    id: Annotated[str, msgspec.Meta(max_length=160)]


class Intake:
    """One consumer: its reader, its offsets, its acknowledgements."""

    def __init__(self, config: CloudConfig, engine: Engine, writer: Writer, stop: threading.Event) -> None:
        self._config = config
        self._engine = engine
        self._writer = writer
        self._stop = stop
        self._reader: Reader | None = None
        self._broker = ""
        self._offsets: dict[tuple[str, int], int] = {}
        self._look_again = 0.0
        self._backoff = Backoff(cap_s=5.0)
        self._partitions = 0

    def step(self) -> Applied | None:
        """Read and store one batch; None when nothing came. Waits at most a batch's time, or a backoff."""
        try:
            reader = self._connected()
        except (LinkError, StoreError) as error:
            _log.warning("%s; trying again", error)
            self._stop.wait(self._backoff.next_s())
            return None
        records = reader.batch(self._config.batch_rows, self._config.batch_ms / 1000)
        if not records:
            return None
        return self._store(records)

    def close(self) -> None:
        """Leave the broker."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connected(self) -> Reader:
        now = time.monotonic()
        if self._reader is None:
            reader = Reader(self._config, TOPICS)
            try:
                self._broker = self._config.broker_instance or reader.instance()
                self._offsets = load_offsets(self._engine, self._broker)
            except BaseException:
                reader.close()
                raise
            self._reader = reader
            self._look_again = now
        if now >= self._look_again:
            new = self._reader.assign_new(self._offsets)
            if new:
                self._partitions += new
                _log.info("reading %d partitions of broker %s", self._partitions, self._broker)
            self._look_again = now + (NEW_PARTITIONS_S if self._partitions else self._backoff.next_s())
            if self._partitions:
                self._backoff.reset()
        return self._reader

    def _store(self, records: Sequence[Record]) -> Applied | None:
        decoded = [decode(record) for record in records]
        offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
        applied = self._write(offsets, decoded)
        if applied is None:
            return None
        self._offsets |= offsets
        if self._config.ack_after == "store":
            for device, ack in acks(applied.safe):
                if not self._writer.produce(topics.ACKS, device, wire.encode(ack)):
                    _log.warning("acks of %s dropped: the producer's queue is full; the device will resend", device)
        return applied

    def _write(self, offsets: dict[tuple[str, int], int], decoded: Sequence[Received | Refused]) -> Applied | None:
        """Write the batch, as often as it takes; None when stopped before."""
        backoff = Backoff(cap_s=5.0)
        single = False
        while not self._stop.is_set():
            try:
                if single:
                    decoded = [self._try_alone(one) for one in decoded]
                received = [one for one in decoded if isinstance(one, Received)]
                refused = [one for one in decoded if isinstance(one, Refused)]
                return write_batch(self._engine, self._broker, offsets, received, refused)
            except StoreRefusesError as error:
                _log.warning("%s; trying the batch's messages one by one", error)
                if single:  # another process wrote the same rows between our two tries
                    self._stop.wait(backoff.next_s())
                single = True
            except StoreError as error:
                _log.warning("%s; trying again", error)
                self._stop.wait(backoff.next_s())
        return None

    def _try_alone(self, one: Received | Refused) -> Received | Refused:
        """Put one message in without its offset (the batch will find it stored), or refuse it."""
        if isinstance(one, Received):
            try:
                write_batch(self._engine, self._broker, {}, [one])
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
