"""How far an outbox has counted, kept where no backup and no copy of a card reaches: in the memory of this boot.

An outbox file may be a copy: of a card that now flies in two drones, or last week's, put back. Nothing inside it can tell,
and whoever goes on counting in it uses sequence numbers that were used before. So a file is gone on with only where this
mark says that it is as new as what was last committed under its path since the machine started. Otherwise, and in any
doubt (no mark, another one, a system without /dev/shm), a new outbox begins, which costs nothing but a new id.

It knows no database. What cannot be written is taken away: no mark is safe, an old one is not.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108  # tmpfs on every Linux, also under ProtectSystem=strict; gone with the boot
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_BYTES = 8192
_GONE_S = 3600.0  # without a commit; an idle agent has one a minute


class Counted(NamedTuple):
    """What was last committed."""

    outbox: str
    place: int


class Mark:
    """The mark of one outbox file; one writer."""

    def __init__(self, path: Path, memory: Path = MEMORY) -> None:
        """Nothing is read or written yet.

        Args:
            path: of the outbox.
            memory: a folder that does not outlive the boot.
        """
        self._of = os.path.realpath(path)
        digest = hashlib.sha256(os.fsencode(self._of)).hexdigest()[:24]
        self._prefix = f"covey-outbox-{os.geteuid()}-"
        self._path = memory / f"{self._prefix}{digest}"
        self._boot = _boot()
        self._fd: int | None = None

    def read(self) -> Counted | None:
        """The mark of this boot; None where there is none that can be believed."""
        raw = _read(self._path)
        found = _parse(raw) if raw is not None else None
        if found is None or not self._boot or found[:2] != (self._boot, self._of):
            return None
        return found[2]

    def write(self, outbox: str, place: int) -> None:
        """Set it after a commit and before anything committed is given out; never raises."""
        if not self._boot:
            return
        text = os.fsencode(f"{outbox}\n{place:020d}\n{self._boot}\n{self._of}\n")
        try:
            if self._fd is None:
                self._fd = self._open(text)
            if os.pwrite(self._fd, b"%08x\n" % zlib.crc32(text) + text, 0) != len(text) + 9:
                raise OSError
        except OSError:
            self.remove()

    def remove(self) -> None:
        """Take it away: a new outbox will begin at the next start."""
        self.close()
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """The mark stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def sweep(self) -> None:
        """Forget the marks of files that are gone, and were for an hour.

        A file that is not seen from here may be there for another service: their folders are hidden from each other, this
        memory is not. One that is used writes its mark with every commit.
        """
        for path in self._others():
            raw = _read(path)
            found = _parse(raw) if raw is not None else None
            if found is not None and not Path(found[1]).exists():
                with suppress(OSError):
                    if abs(time.time() - path.stat().st_mtime) > _GONE_S:
                        path.unlink()

    def _others(self) -> Iterator[Path]:
        try:
            names = os.listdir(self._path.parent)  # noqa: PTH208  # names are all that is wanted
        except OSError:
            return
        for name in names:
            if name.startswith(self._prefix) and name != self._path.name:
                yield self._path.parent / name

    def _open(self, text: bytes) -> int:
        if len(text) + 9 > _MAX_BYTES:
            raise OSError
        with suppress(OSError):
            self._path.unlink()  # whoever made it: this one is ours
        return os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _read(path: Path) -> bytes | None:
    """A mark's bytes, if the file is our own: everybody may write into the folder."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            return None
        return os.read(fd, _MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)


def _parse(raw: bytes) -> tuple[str, str, Counted] | None:
    """(boot, path, what was committed) of a mark that is whole."""
    try:
        crc, outbox, place, boot, of, end = raw.split(b"\n")
        if int(crc, 16) != zlib.crc32(raw[9:]) or end:
            return None
        return boot.decode(), os.fsdecode(of), Counted(outbox.decode(), int(place))
    except ValueError:
        return None


def _boot() -> str:
    """This boot's name; empty where there is none to be had."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
