"""Windows that were found normal wait here before the ring believes it: an alarm soon after them casts them out.

A damaged propeller scores near the threshold for a while before and after it alarms. Windows of that time would teach the
device, and the group, that the damage is normal. So a flight with an alarm teaches nothing but what lies `calm` windows
before or behind it. Pure: it knows neither the ring nor the clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core import Kept


class Quarantine:
    """Holds at most `calm` windows, of one flight."""

    def __init__(self, calm: int) -> None:
        """Empty.

        Args:
            calm: windows without an alarm that must follow a window before it counts as normal.
        """
        self._calm = calm
        self._waiting: list[Kept] = []
        self._owed = 0  # calm windows that must still pass after an alarm before any may wait here
        self._flight: int | None = None

    def take(self, kept: Sequence[Kept], *, alarm: bool) -> list[Kept]:
        """New windows found normal, in order; returns those that have waited long enough.

        Args:
            kept: normal windows, none of them part of an alarm.
            alarm: one is open, began or ended with the samples that brought these windows.
        """
        out: list[Kept] = []
        for window in kept:
            if window.flight != self._flight:
                out += self.end()
                self._flight = window.flight
            if self._owed:
                self._owed -= 1
            else:
                self._waiting.append(window)
        if alarm:
            self._waiting.clear()
            self._owed = self._calm
        while len(self._waiting) > self._calm:
            out.append(self._waiting.pop(0))
        return out

    def end(self) -> list[Kept]:
        """The flight is over; returns what was waiting: nothing can cast it out any more."""
        out, self._waiting, self._owed = self._waiting, [], 0
        return out

    def drop(self) -> None:
        """Forget what is waiting: the model that found it normal is no longer trusted, or has other inputs."""
        self._waiting, self._owed = [], 0
