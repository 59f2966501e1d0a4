"""An operator's word about an alarm, carried out on the keeper's thread: false ones go back into the ring.

Between the store of alarmed windows (edge/rejected.py) and the ring; it neither judges nor answers. A disk that takes nothing
costs windows, not the agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey.errors import DataError
from edge.rejected import Rejected

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from covey import wire
    from covey.bundle import Inputs
    from edge.commission import Ring
    from edge.core import Kept
    from edge.keeper import Keeper


@dataclass(frozen=True)
class TakenBack:
    """What became of a `false-alarm` command.

    Attributes:
        command: which one.
        windows: that are in the ring again; 0: none were kept of this alarm.
        problem: one line where the disk failed.
    """

    command: wire.Command
    windows: int
    problem: str = ""

    @property
    def detail(self) -> str:
        """For the answer."""
        if self.problem:
            return f"false-alarm: {self.problem}"
        if not self.windows:
            return f"false-alarm: no windows are kept of alarm {self.command.alarm_id or '(none given)'}"
        return f"false-alarm: {self.windows} windows are back in the ring"


class Rejections:
    """One device's."""

    def __init__(self, folder: Path, inputs: Inputs, ring: Ring, keeper: Keeper, log: logging.Logger) -> None:
        """Nothing is opened before the first alarm or command; `folder` shares the ring's flash budget."""
        self._folder, self._inputs, self._ring, self._keeper, self._log = folder, inputs, ring, keeper, log
        self._store: Rejected | None = None

    def keep(self, alarms: Sequence[tuple[str, list[Kept]]]) -> None:
        """Keep each alarm's windows, soon."""
        for alarm_id, windows in alarms:
            self._keeper.do(lambda alarm_id=alarm_id, windows=windows: self._kept(alarm_id, windows))  # type: ignore[misc]

    def take_back(self, command: wire.Command) -> None:
        """Give an alarm's windows to the ring; the keeper's answer is a `TakenBack`."""
        self._keeper.do(lambda: self._taken_back(command))

    def _kept(self, alarm_id: str, windows: list[Kept]) -> None:
        try:
            if not self._opened().keep(alarm_id, windows):
                self._log.info("alarm %s: no room or flash budget for its windows", alarm_id)
        except DataError as error:
            self._log.warning("%s", error)

    def _taken_back(self, command: wire.Command) -> TakenBack:
        try:
            return TakenBack(command, self._ring.take_back(self._opened().take(command.alarm_id)))
        except DataError as error:
            self._log.warning("%s", error)
            return TakenBack(command, 0, str(error))

    def _opened(self) -> Rejected:
        if self._store is None:
            self._store = Rejected(self._folder, self._inputs, budget=self._ring.budget)
        return self._store
