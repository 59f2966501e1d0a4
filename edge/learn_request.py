"""The cloud asks this device to learn: the agent leaves a request that its learner is started by, unless it may not learn now.

The agent imports no Flower and starts no unit: it may not, by its own limits. It puts `learn.json` into its state folder,
which covey-learn.path waits for; where there is no systemd, `learn_command` is started besides.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import msgspec

from covey.runtime import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from covey.wire import Command

REQUEST = "learn.json"


class Learner:
    """One device's requests to its learner."""

    def __init__(self, state: Path, command: Sequence[str]) -> None:
        """Args: state: the agent's folder; command: argv that starts the learner; (): something waits for the file."""
        self._path = state / REQUEST
        self._command = tuple(command)
        self._started: subprocess.Popen[bytes] | None = None

    def ask(self, command: Command, held: str) -> tuple[bool, str]:
        """Leave the request; whether it was left, and the answer for the cloud.

        Args:
            command: of kind `learn`.
            held: why nothing is trained now; empty: nothing holds it up.
        """
        if held:
            return False, f"learn: {held}"
        if not command.superlink or command.deadline_s <= time.time():
            return False, "learn: a SuperLink and a deadline to come expected"
        if self._started is not None and self._started.poll() is None:
            return False, f"learn: the learner {self._started.pid} is still at work"
        content = {"superlink": command.superlink, "deadline_s": command.deadline_s, "command": command.id}
        try:
            write_whole(self._path, msgspec.json.encode(content), 0o600)
            if self._command:
                self._started = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # it outlives an agent that is started anew, and ends by its own deadline
                )
        except OSError as error:
            return False, f"learn: {error.strerror or error}"
        return True, "learn: the learner is asked to join"
