"""Numbers out of JSON and out of streams of lines that nobody vouches for: bounded, and an exception never leaves. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LINE_BYTES = 1 << 20
_MOST_CHANNELS = 4096  # of one object
_DEEPEST = 8


def numbers(payload: bytes | str) -> dict[str, float] | None:
    """The numbers of a JSON object, nested keys joined by ".", elements of arrays ".0", ".1"; one plain number under "".

    True and false are 1 and 0; text and null are left out. NaN and Infinity are read as Python writes them. None: no JSON of
    that kind, or nested too deeply.
    """
    try:
        value: Any = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError):
            return None
    out: dict[str, float] = {}
    if isinstance(value, int | float):
        value = {"": value}
    if not isinstance(value, dict):
        return None
    for name, number in _walk(value, "", 0):
        if len(out) >= _MOST_CHANNELS:
            break
        out[name] = number
    return out


def _walk(value: dict[str, Any] | list[Any], before: str, depth: int) -> Iterator[tuple[str, float]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, int | float):
            try:
                yield f"{before}{key}", float(item)
            except OverflowError:
                yield f"{before}{key}", float("nan")
        elif isinstance(item, dict | list) and depth < _DEEPEST:
            yield from _walk(item, f"{before}{key}.", depth + 1)


class LineBuffer:
    """Whole lines out of chunks of bytes.

    Attributes:
        too_long: lines beyond the limit, left out.
    """

    def __init__(self) -> None:
        """Nothing came yet."""
        self._rest = bytearray()
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that these bytes complete, without their ends."""
        *lines, rest = data.split(b"\n")
        if not lines:
            self._keep(rest)
            return []
        if self._skipping:
            self._skipping = False
            lines.pop(0)
        elif self._rest:
            lines[0] = bytes(self._rest) + lines[0]
        self._rest.clear()
        self._keep(rest)
        return lines

    def last(self) -> bytes:
        """What came behind the last line's end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _keep(self, rest: bytes) -> None:
        if self._skipping:
            return
        if len(self._rest) + len(rest) > MOST_LINE_BYTES:
            self._rest.clear()
            self._skipping = True
            self.too_long += 1
            return
        self._rest += rest
