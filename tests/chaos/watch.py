"""What the gateway's process weighs, looked at again and again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.rig import Rig

EVERY_S = 0.25


class Watch:
    """Resident memory of the gateway; call `look` in every turn of a loop.

    Attributes:
        now_mb: when it was last seen.
        most_mb: the most of all its lives.
        looks: how often it was seen.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._due_s = 0.0
        self.now_mb = self.most_mb = 0.0
        self.looks = 0

    def look(self) -> None:
        """Look, when it is time; VmHWM of proc(5) is the peak, so nothing between two looks is missed."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        with suppress(OSError, KeyError):  # it may be down
            text = Path(f"/proc/{self._rig.gateway.process.pid}/status").read_text(encoding="ascii")
            told = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Vm"))
            self.now_mb = int(told["VmRSS"].split()[0]) / 1024
            self.most_mb = max(self.most_mb, int(told["VmHWM"].split()[0]) / 1024)
            self.looks += 1
