"""Another wall clock for one process: chaos/clock.c, compiled and preloaded."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[1] / "chaos" / "clock.c"


class Clock:
    """The machine's clock and an offset that may jump at any moment."""

    def __init__(self, folder: Path) -> None:
        """Compile it; skips the test where that cannot be."""
        if not sys.platform.startswith("linux") or shutil.which("cc") is None:
            pytest.skip("another clock: Linux and a C compiler (cc) expected")
        self._file, self._library = folder / "clock", folder / "clock.so"
        words = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl", "-pthread"]
        subprocess.run(words, check=True, timeout=60)
        self.ahead_s(0.0)

    @property
    def env(self) -> dict[str, str]:
        """Of the process that is to have it."""
        return {"LD_PRELOAD": str(self._library), "COVEY_CLOCK_FILE": str(self._file)}

    def ahead_s(self, offset_s: float) -> None:
        """Jump to so many seconds ahead of the machine's clock."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:  # in place: it is mapped
            file.write(struct.pack("=q", round(offset_s * 1e9)))
