"""Which outbox a place of the file belongs to. Pure.

A file counts its rows through, over all of its outboxes: the place. An outbox begins behind its `base` and ends where the
next one begins; its sequence numbers are place - base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covey.wire import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Span = tuple[int, int]  # inclusive places


class Places:
    """The outboxes of one file, oldest first.

    Attributes:
        bases: outbox -> its base, ascending; the last one is what new rows belong to.
    """

    def __init__(self, bases: dict[str, int]) -> None:
        self.bases = bases

    @property
    def current(self) -> str:
        """Outbox of new rows."""
        return next(reversed(self.bases))

    def seq(self, place: int) -> int:
        """Sequence number of a place of the current outbox; 0: the place before its first row."""
        return place - self.bases[self.current]

    def begin(self, outbox: str, last: int) -> None:
        """A new outbox begins behind place `last`."""
        self.bases[outbox] = last

    def spans(self, last: int) -> dict[str, Span]:
        """Outbox -> (first, last) place; empty ones end before they begin."""
        ends = [*list(self.bases.values())[1:], last]
        return {outbox: (base + 1, end) for (outbox, base), end in zip(self.bases.items(), ends, strict=True)}

    def find(self, outbox: str, ranges: Iterable[Span], last: int) -> list[Span]:
        """Where these sequence numbers of an outbox are, as far as the file has them."""
        if outbox not in self.bases:
            return []
        begin, end = self.spans(last)[outbox]
        found = ((begin - 1 + max(1, a), min(begin - 1 + b, end)) for a, b in ranges)
        return [(a, b) for a, b in found if a <= b]

    def split(self, spans: Iterable[Span]) -> Iterator[Span]:
        """The same places, cut where another outbox begins."""
        for first, last in spans:
            begin = first
            for base in self.bases.values():
                if begin <= base < last:
                    yield begin, base
                    begin = base + 1
            yield begin, last

    def told(self, spans: Iterable[Span]) -> list[tuple[Span, Dropped]]:
        """Ascending places of one outbox each, neighbours joined, with how they are told."""
        joined: list[tuple[str, int, int]] = []
        for first, last in spans:
            outbox = self._owner(first)
            if joined and joined[-1][0] == outbox and first <= joined[-1][2] + 1:
                joined[-1] = (outbox, joined[-1][1], max(joined[-1][2], last))
            else:
                joined.append((outbox, first, last))
        base = self.bases
        return [((a, b), Dropped(outbox, a - base[outbox], b - base[outbox])) for outbox, a, b in joined]

    def _owner(self, place: int) -> str:
        owner = ""
        for outbox, base in self.bases.items():
            if base < place or not owner:
                owner = outbox
        return owner
