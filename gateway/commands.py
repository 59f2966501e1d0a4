"""Commands on their way from Kafka to MQTT, and how far each partition is settled: what may be committed.

A command is settled when the broker has it for a device that is there, or when its time is over. The position of a partition is
its lowest offset that is not settled, so a gateway that is killed reads the rest again: at least once, and nothing on disk. What is settled
above it (one device that is away for a day must not have a day's commands said again) goes into the commit's own metadata.
Pure: no socket, no clock (times are arguments). Order is kept within the queue; what is tried again later loses its place.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

MAX_WAITING = 10_000  # then reading stops: Kafka keeps the rest
MAX_LATER = 10_000  # for devices that are away; then the one tried most often is given up
MAX_NOTE_BYTES = 4_000  # Kafka: offset.metadata.max.bytes is 4096
_FIRST_RETRY_S = 1.0
_RETRY_CAP_S = 15.0


class Command(NamedTuple):
    """One command, and where in Kafka it stands."""

    epoch: int  # of the book: what was read before the consumer was made anew settles nothing
    partition: int
    offset: int
    device: str
    payload: bytes
    expires_s: float  # wall clock


class _Partition:
    __slots__ = ("committed", "next", "open", "settled_until", "still_open")

    def __init__(self, first: int, note: str = "") -> None:
        self.next = first  # offset that will be read next
        self.open: dict[int, None] = {}  # not settled, ascending
        self.committed: tuple[int, str] = (-1, "")
        self.settled_until, self.still_open = _read_note(first, note)

    @property
    def position(self) -> int:
        return next(iter(self.open), self.next)

    @property
    def note(self) -> str:
        """`<n> <n> ...`, counted from the position: the offsets that are open, and last the first that nothing is told of."""
        first, end = self.position, max(self.next, self.settled_until)
        words: list[str] = []
        size = 0
        # what an earlier life left open and was not read again yet is open, too
        for offset in [*self.open, *(offset for offset in self.still_open if offset >= self.next)]:
            word = str(offset - first)
            size += len(word) + 1
            words.append(word)
            if size > MAX_NOTE_BYTES - 24:
                return " ".join(words)  # the last one stands for itself and all that follow
        return " ".join([*words, str(end - first)]) if end > first else ""


class CommandBook:
    """What waits to be published, what is tried again later, and what may be committed.

    Attributes:
        expired: commands whose time was over before a device had them.
        given_up: commands dropped because too many devices were away.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._partitions: dict[int, _Partition] = {}
        self._waiting: deque[Command] = deque()
        self._later: list[tuple[float, int, Command]] = []  # heap by due time, in monotonic seconds
        self._tries: dict[tuple[int, int], int] = {}
        self._number = 0
        self.expired = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._later)

    @property
    def waiting(self) -> int:
        """Commands that could be published now."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Nothing more should be read."""
        return len(self._waiting) >= MAX_WAITING

    def begin(self, first: dict[int, tuple[int, str]]) -> None:
        """Forget everything: reading begins (again) at these offsets by partition, with the note of the commit."""
        self._epoch += 1
        self._partitions = {partition: _Partition(offset, note) for partition, (offset, note) in first.items()}
        self._waiting.clear()
        self._later.clear()
        self._tries.clear()

    def read(self, partition: int, offset: int) -> None:
        """A record was read; it is settled unless `put` follows."""
        found = self._partitions.setdefault(partition, _Partition(offset))
        if offset < found.next:  # the topic was made anew, or what we had was past its end
            found.open.clear()
            found.settled_until, found.still_open = 0, []
        found.next = offset + 1

    def put(self, partition: int, offset: int, device: str, payload: bytes, expires_s: float) -> None:
        """The record just `read` is a command of ours; one that an earlier life has settled is not taken."""
        found = self._partitions[partition]
        if offset < found.settled_until and offset not in found.still_open:  # at most 2,000 of them
            return
        found.open[offset] = None
        self._waiting.append(Command(self._epoch, partition, offset, device, payload, expires_s))

    def take(self, now_s: float, wall_s: float) -> Command | None:
        """The next command to publish; expired ones are settled and counted on the way.

        Args:
            now_s: monotonic, for those that are tried again.
            wall_s: seconds since the epoch, for the expiry.
        """
        while self._later and self._later[0][0] <= now_s:
            self._waiting.append(heapq.heappop(self._later)[2])
        while self._waiting:
            command = self._waiting.popleft()
            if command.expires_s > wall_s:
                return command
            self.expired += 1
            self.settle(command)
        return None

    def settle(self, command: Command) -> None:
        """A command needs nothing more."""
        if command.epoch == self._epoch:
            self._partitions[command.partition].open.pop(command.offset, None)
            self._tries.pop((command.partition, command.offset), None)

    def give_back(self, commands: list[Command]) -> None:
        """These could not be published: they come first, in this order."""
        self._waiting.extendleft(c for c in reversed(commands) if c.epoch == self._epoch)

    def try_later(self, command: Command, now_s: float) -> None:
        """Nobody was there to take it, or the broker refused: again after a growing while, until it expires."""
        if command.epoch != self._epoch:
            return
        place = (command.partition, command.offset)
        tries = self._tries[place] = self._tries.get(place, 0) + 1
        self._number += 1
        due_s = now_s + min(_RETRY_CAP_S, _FIRST_RETRY_S * 2.0 ** min(tries - 1, 10))
        heapq.heappush(self._later, (due_s, self._number, command))
        if len(self._later) > MAX_LATER:
            worst = max(self._later, key=lambda entry: self._tries[entry[2].partition, entry[2].offset])
            self._later.remove(worst)
            heapq.heapify(self._later)
            self.given_up += 1
            self.settle(worst[2])

    def to_commit(self) -> dict[int, tuple[int, str]]:
        """Partition -> (offset, note), for the partitions that have moved since `committed`."""
        now = {n: (p.position, p.note) for n, p in self._partitions.items()}
        return {n: place for n, place in now.items() if place != self._partitions[n].committed}

    def committed(self, offsets: dict[int, tuple[int, str]]) -> None:
        """Kafka has these."""
        for partition, offset in offsets.items():
            if partition in self._partitions:
                self._partitions[partition].committed = offset


def _read_note(first: int, note: str) -> tuple[int, list[int]]:
    """(offset below which everything else is settled, open offsets, ascending) of a commit; without a note nothing is."""
    try:
        words = [first + int(word) for word in note.split()]
    except ValueError:  # not ours: read everything
        words = []
    return (words[-1], words[:-1]) if words else (first, [])
