"""Training runs that are started from the console: `covey cloud rounds run` as a process, one at a time over all consoles of a store."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from cloud.console.auth import in_thread
from cloud.console.problems import Refused
from cloud.desk import learning
from covey.errors import StoreError
from covey.processes import covey_command
from covey.runtime import PARENT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from cloud.desk.audit import Actor

_log = logging.getLogger("cloud.console")

_END_S = 70.0  # a run that is stopped ends in order: a round's message may be under way
_SAY_S = learning.KEEP_S / 4  # that it goes on


class Training:
    """The run that this console has started, if it still goes."""

    def __init__(self, engine: Engine, words: Sequence[str], config: Path | None = None) -> None:
        self._engine, self._words, self._config = engine, list(words), config
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    async def start(self, actor: Actor) -> None:
        """Start a run as configured. On the event loop's thread, the main one: the kernel ends a child with the thread that started it.

        Raises:
            Refused: 409, none is configured.
            NameTaken: one is going on, here or at another console.
            StoreError: the store does not take it; nothing is started.
        """
        if not self._words:
            raise Refused(
                409, "training: options of `covey federated train` expected in [console] of the configuration"
            )
        holder = secrets.token_hex(8)
        await in_thread(learning.begin_run, self._engine, holder, actor)
        try:
            process = self._popen()
        except OSError as error:
            told = f"training: a process expected, {error.strerror or error}"
            await in_thread(learning.end_run, self._engine, holder, told, actor)
            raise Refused(503, told) from error
        self._process = process
        self._keeper = threading.Thread(target=self._keep, args=(process, holder), name="training", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End it in order, and wait."""
        process = self._process
        if process is None or self._keeper is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._keeper.join(_END_S)

    def _popen(self) -> subprocess.Popen[bytes]:
        options = ["--config", str(self._config)] if self._config else []
        return subprocess.Popen(
            covey_command("cloud", "rounds", "run", *options, "--die-with-parent", "--", *self._words),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=sys.stderr.fileno(),
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,
        )

    def _keep(self, process: subprocess.Popen[bytes], holder: str) -> None:
        """On its own thread: say in the store that the run goes on, and that it is over."""
        while True:
            try:
                code = process.wait(_SAY_S)
                break
            except subprocess.TimeoutExpired:
                self._say(holder)
        _log.info("the training run has ended with %d", code)
        try:
            learning.end_run(self._engine, holder)
        except StoreError as error:
            _log.warning("%s; another run may begin in %.0f s", error, learning.KEEP_S)

    def _say(self, holder: str) -> None:
        try:
            if not learning.keep_run(self._engine, holder):
                _log.warning(
                    "the store was out of reach for too long: another training run may have begun beside this one"
                )
        except StoreError as error:
            _log.warning("%s; saying again in %.0f s that the training run goes on", error, _SAY_S)
