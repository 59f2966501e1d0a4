"""A small ext4 of its own in a file, and copies of its blocks while others write to it: what a power cut would leave.

What was written and not flushed is in the machine's memory and not in the file, so a copy of the file is the disk at that
moment; the journal is replayed when the copy is mounted. A copy counts only if a second one, made right after it, is the
same: then nothing was written in between and it is one moment, not two halves.

    sh = images.in_own_namespace("harm.power", ...)      mounts end with the process, the loop devices with the mounts
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 512 * 1024 * 1024
LONG = bool(os.environ.get("COVEY_LONG"))  # the long forms, as `make harm` runs them


def need_namespaces() -> None:
    """Skip where mounts of our own are not to be had."""
    missing = [name for name in ("unshare", "mount", "mkfs.ext4", "losetup") if _which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (util-linux, e2fsprogs)")
    if os.geteuid() != 0:
        pytest.skip("loop mounts: root only")
    words = ["unshare", "--mount", "true"]
    if subprocess.run(words, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("unshare --mount: not allowed here")
    if not Path("/dev/loop-control").exists():
        pytest.skip("loop devices: none here")
    if shutil.disk_usage(MEMORY).free < _ENOUGH_BYTES:
        pytest.skip(f"{MEMORY}: {_ENOUGH_BYTES} bytes free expected")


def in_own_namespace(module: str, *words: str, timeout_s: float) -> str:
    """Run a module of the tests in a mount namespace of its own; returns what it printed.

    Raises:
        AssertionError: it failed; with what it said.
    """
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module, *words]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def make_image(path: Path, size_mb: int) -> None:
    """An empty ext4, all of it for its users."""
    with path.open("wb") as file:
        file.truncate(size_mb * 1024 * 1024)
    words = ["mkfs.ext4", "-q", "-m", "0", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run([*words, str(path)], check=True, timeout=60, capture_output=True)


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    """The image at a mount point; its loop device is freed with the mount."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(point)], check=True, timeout=60)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=False, timeout=60)


def snapshot(image: Path, to: Path) -> bool:
    """Copy the image as it is at one moment; False where it changed under the copy."""
    first = image.read_bytes()
    if image.read_bytes() != first:
        return False
    to.write_bytes(first)
    return True


def written_bytes(point: Path) -> int:
    """Bytes that the mount's block device has been given to write since it was made."""
    device = point.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    return 512 * int(stat[6])  # Documentation/block/stat.rst: write sectors


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
