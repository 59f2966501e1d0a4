"""Training runs that are started from the console: `covey cloud rounds run` as a process, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from cloud.console.problems import Refused
from covey.processes import covey_command
from covey.runtime import PARENT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_END_S = 70.0  # a run that is stopped ends in order: a round's message may be under way


class Training:
    """The run that this console has started, if it still goes."""

    def __init__(self, words: Sequence[str], config: Path | None = None) -> None:
        self._words, self._config = list(words), config
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start a run as configured. On the main thread: the kernel ends a child with the thread that started it.

        Raises:
            Refused: 409, none is configured, or one is going on.
        """
        if not self._words:
            raise Refused(
                409, "training: options of `covey federated train` expected in [console] of the configuration"
            )
        with self._lock:
            if self.going:
                raise Refused(409, "one run at a time expected, one is going on")
            options = ["--config", str(self._config)] if self._config else []
            self._process = subprocess.Popen(
                covey_command("cloud", "rounds", "run", *options, "--die-with-parent", "--", *self._words),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                stderr=sys.stderr.fileno(),
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )

    @property
    def going(self) -> bool:
        """Whether it goes on."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End it in order, and wait."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
