"""Calls into a library that may never come back: on a thread of their own, waited for so long and no longer.

A thread cannot be ended from outside. A call that is late is asked to end, and left; until it has ended, and for a while after,
nothing more is asked of it.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REST_S = 30.0  # after a call that was late: whoever is late each time must not cost each batch its wait


class LateError(Exception):
    """No answer in time, or not asked because of an earlier one."""


class Deadline:
    """One thread and one call at a time."""

    def __init__(self, name: str, rest_s: float = REST_S) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], _Answer]] = queue.SimpleQueue()
        self._rest_s = rest_s
        self._asked: _Answer | None = None
        self._again_at = 0.0
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, call: Callable[[], Any], timeout_s: float, end: Callable[[], None]) -> Any:
        """What the call gives.

        Args:
            call: run on the other thread.
            timeout_s: how long to wait.
            end: asks a late call to end, if it can.

        Raises:
            LateError: it did not come back in time, or one before it was late.
            Exception: whatever the call raises.
        """
        if self._asked is not None and not self._asked.done.is_set():
            raise LateError("still at work on what it was asked before")
        if time.monotonic() < self._again_at:
            raise LateError(f"not asked for {self._rest_s:g} s after an answer that was late")
        answer = self._asked = _Answer()
        self._calls.put((call, answer))
        if not answer.done.wait(timeout_s):
            end()
            self._again_at = time.monotonic() + self._rest_s
            raise LateError(f"an answer within {timeout_s:g} s expected, none came")
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _run(self) -> None:
        while True:
            call, answer = self._calls.get()
            try:
                answer.value = call()
            except Exception as error:  # noqa: BLE001  # raised where it was asked for
                answer.error = error
            answer.done.set()


class _Answer:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None
