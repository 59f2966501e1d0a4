"""An agent's private state folder, and what is opened in it before anything else."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

from covey.errors import ConfigError, UsageError
from edge.models.fetch_child import ChildUpdater

if TYPE_CHECKING:
    from contextlib import ExitStack

    from edge.config import AgentConfig


def state_folder(config: AgentConfig, stack: ExitStack) -> Path:
    """The state folder, made if need be (0700) and locked against a second agent until the stack closes.

    Raises:
        ConfigError: it cannot be made.
        UsageError: another agent runs on it.
    """
    folder = Path(config.state)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        file = stack.enter_context((folder / "lock").open("a"))
    except OSError as error:
        raise ConfigError(f"state: {folder}: a folder of our own expected: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"state: {folder}: another agent runs on it") from error
    return folder


def updater(config: AgentConfig, state: Path) -> ChildUpdater | None:
    """What fetches releases; None where no trusted root is configured."""
    if not config.trusted_root:
        return None
    return ChildUpdater(state / "update", Path(config.trusted_root))
