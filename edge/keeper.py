"""Slow work beside the scoring, one job after the other on a thread of its own: the ring's writes, and calibrations from it.

A job's answer, or its error, comes back by `take`. It decides nothing.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_END_S = 60.0


class Keeper:
    """The thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], object]) -> None:
        """Queue a job; what it returns, unless it is None, comes back by `take`."""
        self._jobs.put(job)

    def take(self) -> list[object]:
        """Answers since the last call.

        Raises:
            BaseException: what a job raised; jobs behind it are done all the same.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        out: list[object] = []
        while not self._answers.empty():
            out.append(self._answers.get_nowait())
        return out

    def wait(self) -> None:
        """Until every job queued so far is done."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait(_END_S)

    def close(self) -> None:
        """Do what is queued, then end."""
        self._jobs.put(None)
        self._thread.join(_END_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                answer = job()
            except BaseException as error:  # noqa: BLE001  # reaches the agent by `take`
                self._error = error
            else:
                if answer is not None:
                    self._answers.put(answer)
