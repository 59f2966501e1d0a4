"""Windows of an alarm while it lasts, so that an operator who calls it false can give them back to the ring.

Pure and bounded: the first `MOST` windows that were anomalous or alarmed, from the one that raised it. Where they are kept
until somebody judges is edge/rejected.py's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.core import Kept

MOST = 256  # windows of one alarm


class AlarmedWindows:
    """Of one device."""

    def __init__(self) -> None:
        self._open: list[Kept] = []
        self._over: list[tuple[str, list[Kept]]] = []

    def add(self, window: Kept) -> None:
        """One that may be part of an alarm, or is."""
        if len(self._open) < MOST:
            self._open.append(window)

    def calm(self) -> None:
        """A normal window outside of an alarm: what was anomalous before it came to nothing."""
        self._open = []

    def over(self, alarm_id: str) -> None:
        """The alarm that these windows were part of has ended."""
        windows, self._open = self._open, []
        if windows:
            self._over.append((alarm_id, windows))

    def take(self) -> list[tuple[str, list[Kept]]]:
        """(alarm id, its windows) of each that ended since the last call."""
        if not self._over:
            return []
        over, self._over = self._over, []
        return over
