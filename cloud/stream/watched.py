"""A file that may be changed while we run: looked at every few seconds, read anew when it is another; a bad one changes nothing.

For any thread. What is handed out is a whole old value or a whole new one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from covey.errors import CoveyError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_log = logging.getLogger("cloud.watched")

LOOK_S = 2.0


class Watched(Generic[T]):
    """What a file says now."""

    def __init__(
        self,
        path: str,
        load: Callable[[str], T],
        refused: Callable[[], None] = lambda: None,
        first: Callable[[], T] | None = None,
    ) -> None:
        """Read it.

        Args:
            path: of the file; "": `load` knows what holds without one, and nothing is looked at again.
            load: reads it; what it raises of ours refuses the file.
            refused: told of each file that is refused.
            first: what holds until there is a good one; without it a bad first file is raised.

        Raises:
            CoveyError: whatever `load` raises, this first time.
        """
        self._path, self._load, self._refused = path, load, refused
        self._lock = threading.Lock()
        self._digest = self._read()
        try:
            self._value = load(path)
        except CoveyError as error:
            if first is None:
                raise
            self._value = first()
            refused()
            _log.error("%s; looked at again when the file changes", error)
        self._look_at = time.monotonic() + LOOK_S

    def now(self) -> T:
        """The value; looks at the file now and then."""
        with self._lock:
            if self._path and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_S
                self._look()
            return self._value

    def _look(self) -> None:
        digest = self._read()
        if digest == self._digest:
            return
        self._digest = digest  # a bad file is told once, not every few seconds
        try:
            self._value = self._load(self._path)
        except CoveyError as error:
            self._refused()
            _log.error("%s; what was read before holds", error)
            return
        _log.info("%s: read anew, sha256 %s", self._path, digest[:12])

    def _read(self) -> str:
        """Its content's hash: editors and mounts keep times and sizes. "": not there, which `load` says better."""
        try:
            return hashlib.sha256(Path(self._path).read_bytes()).hexdigest() if self._path else ""
        except OSError:
            return ""
