"""Whether Kafka has each device's events in the order in which the device wrote them. Pure.

What is promised: within one kind (one Kafka topic), the *first* record of each event comes in ascending seq of its outbox, all
in one partition. A record that repeats one seen before says nothing about order (at least once). Between kinds there is no
order to keep, and presence stands outside the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 20  # identities in a report


@dataclass
class _Stream:
    """One outbox's events of one kind."""

    partition: int
    highest: int = 0
    seen: bytearray = field(default_factory=bytearray)  # by seq

    def first(self, seq: int) -> bool:
        """Whether this is the first record of event `seq`."""
        if seq >= len(self.seen):
            self.seen.extend(bytes(max(seq + 1, 2 * len(self.seen)) - len(self.seen)))
        new = not self.seen[seq]
        self.seen[seq] = 1
        return new


@dataclass
class Order:
    """Records told one by one, each partition's in the order of its offsets.

    Attributes:
        records: told so far.
        repeats: of them records of an event that was told before.
        disordered: first records behind one with a higher seq, or in another partition than the stream's first one.
        bad: the first of those.
    """

    records: int = 0
    repeats: int = 0
    disordered: int = 0
    bad: list[str] = field(default_factory=list)
    _streams: dict[tuple[str, str], _Stream] = field(default_factory=dict)

    def see(self, topic: str, partition: int, source: str, seq: int) -> None:
        """One record.

        Args:
            topic: in Kafka.
            partition: of the topic.
            source: whose sequence this is: device and outbox.
            seq: of the event, from 1.
        """
        stream = self._streams.get((topic, source))
        if stream is None:
            stream = self._streams[topic, source] = _Stream(partition)
        self.records += 1
        if not stream.first(seq):
            self.repeats += 1
        elif partition != stream.partition:
            self._found(f"{topic}: {source}/{seq} in partition {partition}, others in {stream.partition}")
        elif seq < stream.highest:
            self._found(f"{topic}: {source}/{seq} after {stream.highest}")
        stream.highest = max(stream.highest, seq)

    def _found(self, what: str) -> None:
        self.disordered += 1
        if len(self.bad) < SHOWN:
            self.bad.append(f"disordered: {what}")
