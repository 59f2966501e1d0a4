"""Which events are safe, as inclusive ranges per outbox; at most one ack message a device per interval.

Pure: identities in, `wire.Ack` messages out, the time is an argument. Forgets nothing until it is handed out.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

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


class AckBook:
    """What may be acknowledged to each device, and when its next ack is due."""

    _SWEEP = 4_096

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._open: dict[str, dict[str, list[tuple[int, int]]]] = {}  # device -> outbox -> ranges as they came
        self._due: list[tuple[float, str]] = []  # heap; one entry for each device in _open
        self._last_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, identity: wire.Identity, now_s: float) -> None:
        """One event is safe, or refused for good."""
        self._add(identity.device, identity.outbox, identity.seq, identity.seq, now_s)

    def add_ack(self, device: str, ack: wire.Ack, now_s: float) -> None:
        """Ranges that the store has committed."""
        for part in ack.acks:
            for first, last in part.ranges:
                if first <= last:
                    self._add(device, part.outbox, first, last, now_s)

    def due(self, now_s: float, *, everything: bool = False) -> list[tuple[str, wire.Ack, int]]:
        """Messages to publish now: (device, ack, number of events in it).

        Args:
            now_s: monotonic seconds, as given to `add`.
            everything: also what is not due yet (at an orderly stop).
        """
        out: list[tuple[str, wire.Ack, int]] = []
        while self._due and (everything or self._due[0][0] <= now_s):
            _, device = heapq.heappop(self._due)
            outboxes = self._open.pop(device)
            ack, events = _take(outboxes)
            out.append((device, ack, events))
            self._last_s[device] = now_s
            if outboxes:  # more than one message holds
                self._open[device] = outboxes
                heapq.heappush(self._due, (now_s + self._interval_s, device))
        if len(self._last_s) > self._SWEEP:
            self._last_s = {d: t for d, t in self._last_s.items() if now_s - t < self._interval_s}
        return out

    def _add(self, device: str, outbox: str, first: int, last: int, now_s: float) -> None:
        outboxes = self._open.get(device)
        if outboxes is None:
            outboxes = self._open[device] = {}
            last_s = self._last_s.get(device)
            due_s = now_s if last_s is None else max(now_s, last_s + self._interval_s)
            heapq.heappush(self._due, (due_s, device))
        ranges = outboxes.setdefault(outbox, [])
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], last)  # the ordinary case: in order, so memory stays small
        else:
            ranges.append((first, last))


def _take(outboxes: dict[str, list[tuple[int, int]]]) -> tuple[wire.Ack, int]:
    """One message out of `outboxes`; what does not fit stays in it."""
    parts: list[wire.AckRanges] = []
    events = 0
    for outbox in list(outboxes)[:MAX_OUTBOXES]:
        ranges = coalesce(outboxes.pop(outbox))
        if len(ranges) > MAX_RANGES:
            outboxes[outbox] = ranges[MAX_RANGES:]
            ranges = ranges[:MAX_RANGES]
        parts.append(wire.AckRanges(outbox, ranges))
        events += sum(last - first + 1 for first, last in ranges)
    return wire.Ack(parts), events
