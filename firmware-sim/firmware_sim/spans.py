"""Sets of numbers as ascending inclusive ranges that neither overlap nor touch. Pure."""

from __future__ import annotations


def extend(ranges: list[tuple[int, int]], first: int, last: int) -> None:
    """Add a range behind all others."""
    if ranges and ranges[-1][1] + 1 == first:
        ranges[-1] = (ranges[-1][0], last)
    else:
        ranges.append((first, last))


def take(ranges: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """Cut [first, last] out of ascending ranges; returns what was there of it."""
    if not ranges or last < ranges[0][0]:
        return []
    left, taken = [], []
    for low, high in ranges:
        begin, end = max(low, first), min(high, last)
        if begin > end:
            left.append((low, high))
            continue
        taken.append((begin, end))
        if low < begin:
            left.append((low, begin - 1))
        if end < high:
            left.append((end + 1, high))
    ranges[:] = left
    return taken
