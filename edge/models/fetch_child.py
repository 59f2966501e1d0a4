"""Fetching in a child process: TUF and its cryptography (about 20 MB) never enter the agent, and a hang there stops nobody.

    python -m edge.models.fetch_child FOLDER TRUSTED_ROOT      a `desired` on stdin; one JSON line: {"path", "error", "bytes"}

SIGTERM makes the child stop and keep what came, as `Updater.fetch` does when its stop event is set.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from covey import wire
from covey.errors import CoveyError, UpdateError
from covey.runtime import die_with_parent

if TYPE_CHECKING:
    from types import FrameType

_TURN_S = 0.1
_STOP_S = 20.0  # the child's longest wait is Limits.silence_s


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    path: str = ""
    error: str = ""
    bytes: int = 0


class ChildUpdater:
    """`edge.models.update.Updater`, each fetch in a process of its own.

    Attributes:
        fetched_bytes: bytes of metadata and bundles received since start.
    """

    def __init__(self, folder: Path, trusted_root: Path) -> None:
        self._folder, self._trusted_root = folder, trusted_root
        self.fetched_bytes = 0

    def fetch(self, desired: wire.Desired, stop: threading.Event) -> Path:
        """As `Updater.fetch`.

        Raises:
            UpdateError: what the child tells, or its death.
        """
        where = f"release {desired.release} for group {desired.group}"
        paths = [str(self._folder.absolute()), str(self._trusted_root.absolute())]
        command = [sys.executable, "-m", "edge.models.fetch_child", *paths]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
            said.write(wire.encode(desired))
            said.seek(0)
            try:
                child = subprocess.Popen(command, stdin=said, stdout=out, cwd="/")
            except OSError as error:
                raise UpdateError(f"{where}: the child cannot be started: {error.strerror}") from error
            try:
                code = _ended(child, stop)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            out.seek(0)
            text = out.read().decode(errors="replace").strip()
        try:
            answer = msgspec.json.decode(text.splitlines()[-1] if text else "", type=_Answer)
        except msgspec.DecodeError:
            raise UpdateError(f"{where}: an answer expected, the child that fetches ended with {code}") from None
        self.fetched_bytes += answer.bytes
        if answer.error:
            raise UpdateError(answer.error)
        return Path(answer.path)


def _ended(child: subprocess.Popen[bytes], stop: threading.Event) -> int:
    asked = False
    while True:
        if stop.is_set() and not asked:
            asked = True
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        try:
            return child.wait(_STOP_S if asked else _TURN_S)
        except subprocess.TimeoutExpired:
            if asked:
                child.kill()


def main() -> None:
    """The child."""
    from edge.models.update import Updater

    folder, trusted_root = (Path(text) for text in sys.argv[1:])
    stop = threading.Event()

    def on_signal(_signum: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the agent, which asks in good order
    die_with_parent()
    updater = Updater(folder, trusted_root)
    try:
        desired = wire.decode(wire.Desired, sys.stdin.buffer.read())
        answer = _Answer(path=str(updater.fetch(desired, stop)), bytes=updater.fetched_bytes)
    except CoveyError as error:
        answer = _Answer(error=str(error), bytes=updater.fetched_bytes)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
