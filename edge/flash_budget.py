"""How many bytes a day may be written for learning: a token bucket. Pure: the clock is an argument.

Cards wear out by what is written to them. The bucket holds one day's bytes at most. Once it is empty it stays closed until
an hour's share is back, so that the windows that are written are whole stretches and not single ones far apart.
"""

from __future__ import annotations

_DAY_S = 86_400.0
_OPENS = 1 / 24  # of the bucket


class FlashBudget:
    """Bytes that may be written.

    Attributes:
        refused: writes that were not allowed.
    """

    def __init__(self, bytes_per_day: int, now_s: float, left: float | None = None, away_s: float = 0.0) -> None:
        """A bucket; full, or as the process before left it.

        Args:
            bytes_per_day: 0: no limit.
            now_s: monotonic.
            left: bytes that were left at the end of the last process; None: a full bucket.
            away_s: how long ago that was by the wall clock; one that was set back gives nothing.
        """
        self._day = float(bytes_per_day)
        self._left = self._day if left is None or not abs(left) <= self._day else left
        if 0 < away_s < _DAY_S:
            self._left = min(self._day, self._left + away_s * self._day / _DAY_S)
        elif away_s >= _DAY_S:
            self._left = self._day
        self._at_s = now_s
        self._closed = self._left <= 0
        self.refused = 0

    @property
    def left(self) -> float:
        """Bytes that may be written now; below zero after writes that had to be."""
        return self._left

    def take(self, size_bytes: int, now_s: float, *, must: bool = False) -> bool:
        """Whether so much may be written now; `must`: it is written in any case, and counted."""
        if not self._day:
            return True
        passed_s = max(0.0, now_s - self._at_s)
        self._left = min(self._day, self._left + passed_s * self._day / _DAY_S)
        self._at_s = now_s
        if self._closed and self._left >= self._day * _OPENS:
            self._closed = False
        if not must and (self._closed or self._left < size_bytes):
            self._closed = True
            self.refused += 1
            return False
        self._left = max(-self._day, self._left - size_bytes)
        return True
