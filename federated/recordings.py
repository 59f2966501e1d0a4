"""Recordings of simulated devices, read once for all messages of a run where an engine asks for it.

A training run looks at every file four times (what is there, learn, ranges, evaluation). Inside `keeping` the samples
stay on a shelf, bounded, the longest unused go first; a file that changes on disk is read anew. Outside of it, on a
device, nothing is kept. What is kept is the table as its reader gave it, which nobody may write to.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edge.sources.files import read_recording

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge.sources import Recording

KEPT_BYTES = 256 << 20
_TABLES = {".csv", ".npz"}  # a column of theirs does not depend on which others are read

_Key: TypeAlias = tuple[str, int, int, tuple[int, int] | None, str | None, tuple[str, ...] | None]


@dataclass
class Shelf:
    """What was read, at most `most` bytes of samples."""

    most: int = KEPT_BYTES
    size: int = 0
    kept: OrderedDict[_Key, Recording] = field(default_factory=OrderedDict)

    def put(self, key: _Key, recording: Recording) -> None:
        """Keep this; what was unused longest makes room."""
        if recording.samples.nbytes > self.most:
            return
        recording.samples.flags.writeable = False
        self.kept[key] = recording
        self.size += recording.samples.nbytes
        while self.size > self.most:
            _, oldest = self.kept.popitem(last=False)
            self.size -= oldest.samples.nbytes

    def get(self, key: _Key) -> Recording | None:
        """What is kept under this key, used now."""
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)


_shelves: list[Shelf] = []  # the innermost `keeping` last


@contextmanager
def keeping(shelf: Shelf) -> Iterator[None]:
    """Keep what is read in here on that shelf."""
    _shelves.append(shelf)
    try:
        yield
    finally:
        _shelves.pop()


def read(path: str, columns: Sequence[str] | None, rows: tuple[int, int] | None, array: str | None = None) -> Recording:
    """`read_recording`, or what an earlier call with the same file gave.

    Raises:
        DataError: as `read_recording`; failures are not kept.
    """
    if not _shelves:
        return read_recording(path, columns, rows, array)
    shelf = _shelves[-1]
    try:
        told = Path(path).stat()
    except OSError:
        return read_recording(path, columns, rows, array)  # which says what is wrong
    wanted = None if columns is None else tuple(columns)
    key = (path, told.st_mtime_ns, told.st_size, rows, array, wanted)
    found = shelf.get(key)
    if found is None and wanted is not None and Path(path).suffix.lower() in _TABLES:
        found = _columns(shelf.get((*key[:5], None)), wanted)
    if found is None:
        found = read_recording(path, columns, rows, array)
        shelf.put(key, found)
    return found


def _columns(whole: Recording | None, wanted: tuple[str, ...]) -> Recording | None:
    """Those columns of a kept table, if it has them all."""
    if whole is None or whole.channels == wanted:
        return whole
    if not set(wanted) <= set(whole.channels):
        return None
    return replace(whole, channels=wanted, samples=whole.samples[:, [whole.channels.index(name) for name in wanted]])
