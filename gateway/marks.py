"""Which letters of one partition are done: an offset, and ranges after it, small enough for Kafka to keep with the offset.

A replay leaves letters behind (refused still, left out by a filter) and sends others after them, so one offset cannot
say what is done. Pure: no Kafka here. A mark says "done" only of what was added; what cannot be kept is forgotten,
which means sent again, never passed over.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left, bisect_right

TAG = "covey1:"  # first characters of our metadata; anything else was written by somebody else's tool
METADATA_CHARS = 4_000  # Kafka's offset.metadata.max.bytes is 4096 by default


class Marks:
    """The done offsets of one partition.

    Args:
        next_offset: everything below it is done.
    """

    def __init__(self, next_offset: int = 0) -> None:
        self._next = next_offset
        self._firsts: list[int] = []  # of the ranges above, ascending, disjoint, never touching
        self._lasts: list[int] = []

    @property
    def next_offset(self) -> int:
        """The first offset that is not done."""
        return self._next

    def done(self, offset: int) -> bool:
        """Whether an offset is done."""
        if offset < self._next:
            return True
        at = bisect_right(self._firsts, offset) - 1
        return at >= 0 and offset <= self._lasts[at]

    def add(self, first: int, last: int) -> None:
        """Mark the offsets from `first` to `last`, both included, as done."""
        first = max(first, self._next)
        if last < first:
            return
        low = bisect_left(self._lasts, first - 1)  # the first range that overlaps or touches
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]
        if self._firsts[0] == self._next:
            self._next = self._lasts[0] + 1
            del self._firsts[0], self._lasts[0]

    def encode(self, most_chars: int = METADATA_CHARS) -> tuple[str, int]:
        """The ranges above `next_offset` as text, and how many offsets had to be left out of it.

        Gaps and lengths in turn, as LEB128 integers, in base64; the highest ranges are left out first.
        """
        most_bytes = max(0, most_chars - len(TAG)) // 4 * 3
        packed = bytearray()
        at = self._next
        for n, (first, last) in enumerate(zip(self._firsts, self._lasts, strict=True)):
            pair = _leb128(first - at) + _leb128(last - first + 1)
            if len(packed) + len(pair) > most_bytes:
                left_out = zip(self._firsts[n:], self._lasts[n:], strict=True)
                return self._text(packed), sum(b - a + 1 for a, b in left_out)
            packed += pair
            at = last + 1
        return self._text(packed), 0

    @staticmethod
    def _text(packed: bytearray) -> str:
        return TAG + base64.b64encode(packed).decode() if packed else ""

    @classmethod
    def decode(cls, next_offset: int, metadata: str) -> Marks:
        """The inverse of `next_offset` and `encode`; metadata of others means that no range is known."""
        marks = cls(next_offset)
        if not metadata.startswith(TAG):
            return marks
        try:
            numbers = _integers(base64.b64decode(metadata.removeprefix(TAG), validate=True))
        except (binascii.Error, ValueError):
            return marks
        at = next_offset
        for gap, length in zip(numbers[::2], numbers[1::2], strict=False):
            marks.add(at + gap, at + gap + length - 1)
            at += gap + length
        return marks


def _leb128(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _integers(packed: bytes) -> list[int]:
    result: list[int] = []
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            result.append(number)
            number = shift = 0
    if shift:
        raise ValueError("the last integer has no end")
    return result
