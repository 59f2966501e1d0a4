"""How far a stage is behind, how far it will be, and how many consumers that asks for. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

WINDOW_S = 60.0  # rates are of so long
AHEAD_S = 60.0  # lag is expected for then


class Sample(NamedTuple):
    """What a stage's instance knows at one moment."""

    at_s: float  # monotonic
    ends: int  # sum of the ends of its partitions
    processed: int  # messages, since its start
    busy_s: float  # spent on them, since its start


class Rates(NamedTuple):
    """Messages a second, of late."""

    arrivals: float
    trend: float  # by how much arrivals grow in a second
    processed: float
    capacity: float  # while busy; 0: nothing was processed yet


class History:
    """Samples of the last `WINDOW_S`, of one set of partitions."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._places: tuple[object, ...] = ()
        self._capacity = 0.0

    def add(self, sample: Sample, places: tuple[object, ...]) -> Rates:
        """Take one more and tell the rates; other partitions have other ends, so they begin anew."""
        if places != self._places:
            self._samples.clear()
            self._places = places
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at_s <= sample.at_s - WINDOW_S:
            self._samples.popleft()
        found = rates(list(self._samples))
        # What it could do when it last had something to do.
        self._capacity = found.capacity or self._capacity
        return found._replace(capacity=self._capacity)


def rates(samples: list[Sample]) -> Rates:
    """Rates over samples, oldest first; the trend is the later half's arrivals against the earlier half's."""
    first, last = samples[0], samples[-1]
    span = last.at_s - first.at_s
    if span <= 0:
        return Rates(0.0, 0.0, 0.0, 0.0)
    middle = min(samples, key=lambda one: abs(one.at_s - (first.at_s + last.at_s) / 2))
    early_s, late_s = middle.at_s - first.at_s, last.at_s - middle.at_s
    trend = 0.0
    if early_s > 0 and late_s > 0:
        early, late = (middle.ends - first.ends) / early_s, (last.ends - middle.ends) / late_s
        trend = (late - early) / (span / 2)  # between the halves' middles
    busy_s, processed = last.busy_s - first.busy_s, last.processed - first.processed
    return Rates(
        arrivals=max(0.0, (last.ends - first.ends) / span),
        trend=trend,
        processed=processed / span,
        capacity=processed / busy_s if busy_s > 0 else 0.0,
    )


def arriving(found: Rates, ahead_s: float = AHEAD_S) -> float:
    """Messages a second to be expected over the next `ahead_s`: the mean of a straight line, not below none."""
    now = found.arrivals + found.trend * WINDOW_S / 2  # at the window's end, not in its middle
    then = now + found.trend * ahead_s
    return (max(0.0, now) + max(0.0, then)) / 2


def expected(behind: int, found: Rates, ahead_s: float = AHEAD_S) -> int:
    """Messages that this instance will be behind in `ahead_s` if nothing is added."""
    if not found.capacity:
        return behind + round(arriving(found, ahead_s) * ahead_s)
    return max(0, round(behind + (arriving(found, ahead_s) - found.capacity) * ahead_s))


def wanted(arrivals: float, behind: int, capacity: float, drain_s: float, partitions: int) -> int:
    """Consumers that take what arrives and drain the lag in `drain_s`: at least one, at most one a partition.

    Args:
        arrivals: messages a second to be expected, of all partitions.
        behind: messages, of all partitions.
        capacity: messages a second that one consumer takes while busy; 0: not known, so one.
        drain_s: how soon the lag should be gone.
        partitions: of the topic with most.
    """
    if capacity <= 0:
        return 1
    return max(1, min(partitions, math.ceil((arrivals + behind / drain_s) / capacity)))
