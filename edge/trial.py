"""The trial of a new release: one that does not live through its first windows is taken back at the next start.

`<state>/trial.json` holds a mark while the new model is at work and has not proven itself. An orderly stop takes the mark
back; a crash, a kill or a power loss leaves it. Two marks make a crash loop.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from covey.runtime import write_whole

if TYPE_CHECKING:
    from pathlib import Path

MAX_DEATHS = 2  # one may be a power cut


class _TrialFile(Struct, frozen=True, forbid_unknown_fields=True):
    release: int
    digest: str
    windows_left: int
    marks: int = 0


class Trial:
    """The mark of one device.

    Attributes:
        on: a release is on trial.
    """

    def __init__(self, path: Path) -> None:
        """Read what the last process left; a damaged file counts as none."""
        self._path = path
        self._state: _TrialFile | None = None
        self._marked = False
        try:
            self._state = msgspec.json.decode(path.read_bytes(), type=_TrialFile)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            self._state = None

    @property
    def on(self) -> bool:
        """A release is on trial."""
        return self._state is not None

    def failed(self, release: int, digest: str) -> bool:
        """Whether this release, active now, died at work twice before it had proven itself."""
        state = self._state
        if state is None:
            return False
        if (state.release, state.digest) != (release, digest):
            self.end()
            return False
        return state.marks >= MAX_DEATHS

    def begin(self, release: int, digest: str, windows: int) -> None:
        """A release was made active; it has to live through so many windows."""
        self.end()
        if windows > 0:
            self._write(_TrialFile(release, digest, windows))

    def enter(self) -> None:
        """The model is about to be loaded or to score."""
        if self._state is not None and not self._marked:
            self._marked = True
            self._write(msgspec.structs.replace(self._state, marks=self._state.marks + 1))

    def leave(self) -> None:
        """It is idle, or the process stops in good order."""
        if self._state is not None and self._marked:
            self._marked = False
            self._write(msgspec.structs.replace(self._state, marks=self._state.marks - 1))

    def lived(self, windows: int) -> bool:
        """It scored so many windows; True when that ends the trial."""
        if self._state is None or windows == 0:
            return False
        left = self._state.windows_left - windows
        if left > 0:
            self._state = msgspec.structs.replace(self._state, windows_left=left)  # in memory: a death starts anew
            return False
        self.end()
        return True

    def end(self) -> None:
        """No trial any more."""
        self._state, self._marked = None, False
        self._path.unlink(missing_ok=True)

    def _write(self, state: _TrialFile) -> None:
        self._state = state
        with suppress(OSError):  # a full disk: a mark too few or too many, where the agent would end otherwise
            write_whole(self._path, msgspec.json.encode(state), mode=0o600)
