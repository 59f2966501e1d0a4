"""A name for this process that it has again when it is started again, also after a kill, and that no other one has meanwhile.

Consumer groups and transactions know their members by name: the same name takes over at once, a new one waits until the
old one has timed out. The name is the host's and the number of a lock file, which the kernel frees with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 256  # processes of a kind on one machine


@contextmanager
def claim(kind: str, folder: Path | None = None) -> Iterator[str]:
    """The first free name of this machine for processes of a kind, ours as long as the block lasts.

    Args:
        kind: processes that must not be called alike: same broker, same group, same stages.
        folder: for the lock files; ours in the temporary folder by default.

    Raises:
        UsageError: no lock file can be made, or all names are taken.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"covey-{os.getuid()}"
    short = hashlib.sha256(kind.encode()).hexdigest()[:12]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
            raise UsageError(
                f"{folder}: a folder of this user expected; set `instance` to a name of this process's own"
            )
        for number in range(MOST):
            lock = os.open(folder / f"{short}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            try:
                yield name(socket.gethostname(), number)
            finally:
                os.close(lock)
            return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; set `instance` to a name of this process's own") from error
    raise UsageError(f"{folder}: all of {MOST} names are taken")


def name(host: str, number: int) -> str:
    """A name of at most 64 letters, digits, `.`, `_`, `-`."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', host)[:56]}-{number}"
