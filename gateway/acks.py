"""Which events are safe, as inclusive ranges per outbox; at most one ack message a device per interval.

Pure: identities in, payloads of `ack` messages out, the time is an argument. What is added gathers for one interval, so
that ten thousand devices that say something now and then cost one message each, not one for each event. Forgets nothing
until it is handed out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from covey import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_RANGES = 256  # of wire.AckRanges
MAX_OUTBOXES = 16  # of wire.Ack


def coalesce(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending, disjoint, non-adjacent inclusive ranges that cover the same numbers."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


class DueAck(NamedTuple):
    """One ack message to publish."""

    device: str
    payload: bytes  # a wire.Ack
    events: int


class _Open:
    """What may be acknowledged to one device: nearly always one range of one outbox, so that has its own place."""

    __slots__ = ("first", "last", "more", "outbox")

    def __init__(self, outbox: str, first: int, last: int) -> None:
        self.outbox, self.first, self.last = outbox, first, last
        self.more: list[tuple[str, int, int]] | None = None  # other ranges as they came

    def add(self, outbox: str, first: int, last: int) -> None:
        if outbox == self.outbox and first == self.last + 1:
            self.last = last
        elif self.more is None:
            self.more = [(outbox, first, last)]
        else:
            box, begun, ended = self.more[-1]
            if box == outbox and ended + 1 == first:
                self.more[-1] = (box, begun, last)
            else:
                self.more.append((outbox, first, last))


class AckBook:
    """What may be acknowledged to each device, and when.

    Args:
        interval_s: an ack is due so long after the first event that it tells of.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._open: dict[str, _Open] = {}
        self._due: deque[tuple[float, str]] = deque()  # ascending: the interval is the same for all

    def __len__(self) -> int:
        return len(self._open)

    def add(self, identity: wire.Identity, now_s: float) -> None:
        """One event is safe, or refused for good; `now_s` is monotonic and never goes back between calls."""
        self.add_all((identity,), now_s)

    def add_all(self, identities: Iterable[tuple[str, str, int]], now_s: float) -> None:
        """Many (device, outbox, seq), in order."""
        known, due_s = self._open, now_s + self._interval_s
        for device, outbox, seq in identities:
            one = known.get(device)
            if one is None:
                known[device] = _Open(outbox, seq, seq)
                self._due.append((due_s, device))
            elif one.last + 1 == seq and one.outbox == outbox:
                one.last = seq
            else:
                one.add(outbox, seq, seq)

    def add_ack(self, device: str, ack: wire.Ack, now_s: float) -> None:
        """Ranges that the store has committed; backward ones mean nothing."""
        for part in ack.acks:
            for first, last in part.ranges:
                if first <= last:
                    self._add(device, part.outbox, first, last, now_s)

    def due(self, now_s: float, *, everything: bool = False) -> list[DueAck]:
        """Messages to publish now.

        Args:
            now_s: monotonic seconds, as given to `add`.
            everything: also what is not due yet (at an orderly stop).
        """
        out: list[DueAck] = []
        due, known = self._due, self._open
        while due and (everything or due[0][0] <= now_s):
            device = due.popleft()[1]
            one = known.pop(device)
            if one.more is None:
                first, last = one.first, one.last
                payload = b'{"acks":[{"outbox":"%b","ranges":[[%d,%d]]}]}' % (one.outbox.encode(), first, last)
                out.append(DueAck(device, payload, last - first + 1))
            else:
                out.append(self._take(device, one, now_s))
        return out

    def _add(self, device: str, outbox: str, first: int, last: int, now_s: float) -> None:
        one = self._open.get(device)
        if one is None:
            self._open[device] = _Open(outbox, first, last)
            self._due.append((now_s + self._interval_s, device))
        else:
            one.add(outbox, first, last)

    def _take(self, device: str, one: _Open, now_s: float) -> DueAck:
        """One message of several ranges; what it cannot hold is due after another interval."""
        boxes: dict[str, list[tuple[int, int]]] = {one.outbox: [(one.first, one.last)]}
        for outbox, first, last in one.more or ():
            boxes.setdefault(outbox, []).append((first, last))
        parts: list[wire.AckRanges] = []
        events = 0
        for number, (outbox, came) in enumerate(boxes.items()):
            ranges = coalesce(came)
            told = ranges[:MAX_RANGES] if number < MAX_OUTBOXES else []
            if told:
                parts.append(wire.AckRanges(outbox, told))
                events += sum(last - first + 1 for first, last in told)
            for first, last in ranges[len(told) :]:
                self._add(device, outbox, first, last, now_s)
        return DueAck(device, wire.encode(wire.Ack(parts)), events)
