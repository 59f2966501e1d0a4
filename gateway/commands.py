"""Commands on their way from Kafka to MQTT, and how far each partition is settled: what may be committed.

A command is settled when the broker has it for a device that is there, or when its time is over. The position of a partition is
its lowest offset that is not settled, so a gateway that is killed reads the rest again: at least once, and nothing on disk.
Pure: no socket, no clock (times are arguments). Order is kept within the queue; what is tried again later loses its place.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

MAX_WAITING = 10_000  # then reading stops: Kafka keeps the rest
MAX_LATER = 10_000  # for devices that are away; then the one tried most often is given up
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
    __slots__ = ("committed", "next", "open")

    def __init__(self, first: int) -> None:
        self.next = first  # offset that will be read next
        self.open: dict[int, None] = {}  # not settled, ascending
        self.committed = -1

    @property
    def position(self) -> int:
        return next(iter(self.open), self.next)


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

    def begin(self, first: dict[int, int]) -> None:
        """Forget everything: reading begins (again) at these offsets by partition."""
        self._epoch += 1
        self._partitions = {partition: _Partition(offset) for partition, offset in first.items()}
        self._waiting.clear()
        self._later.clear()
        self._tries.clear()

    def read(self, partition: int, offset: int) -> None:
        """A record was read; it is settled unless `put` follows."""
        found = self._partitions.setdefault(partition, _Partition(offset))
        if offset < found.next:  # the topic was made anew, or what we had was past its end
            found.open.clear()
        found.next = offset + 1

    def put(self, partition: int, offset: int, device: str, payload: bytes, expires_s: float) -> None:
        """The record just `read` is a command of ours."""
        self._partitions[partition].open[offset] = None
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

    def to_commit(self) -> dict[int, int]:
        """Partition -> offset, for the partitions that have moved since `committed`."""
        return {n: p.position for n, p in self._partitions.items() if p.position != p.committed}

    def committed(self, offsets: dict[int, int]) -> None:
        """Kafka has these."""
        for partition, offset in offsets.items():
            if partition in self._partitions:
                self._partitions[partition].committed = offset
