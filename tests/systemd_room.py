"""A real systemd as init of namespaces of its own, over a copy-on-write view of this machine: nothing reaches the machine itself.

Needs root, namespaces and overlayfs; where they cannot be had the test is skipped by name. The network is the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servers import ROOT, Process, absent, unique, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

_INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /sys sys
umount -R sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs etc/systemd/system
mkdir -p run/systemd/system run/lock mnt/old
ln -s /dev/null etc/systemd/system/systemd-tmpfiles-setup.service # empties /tmp, where this may be
printf '[Unit]\\nDefaultDependencies=no\\n' >etc/systemd/system/room.target
folder=$1
while [ "$folder" != / ]; do chmod o+x ".$folder"; folder=$(dirname "$folder"); done # the service is not root
pivot_root . mnt/old
cd /
umount -l /mnt/old
mount --make-rshared / # as init does where it is not told of a container: credentials come by propagation
exec env -i container=room PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=room.target \
  --log-target=console --show-status=false
"""


class Room:
    """In `with`: systemd runs; `run` and `path` reach into it."""

    def __init__(self, folder: Path) -> None:
        if not Path("/lib/systemd/systemd").exists() or shutil.which("systemctl") is None:
            absent("systemd", "not installed (as root: apt-get install systemd)")
        if os.geteuid() != 0:
            pytest.skip("systemd: root is needed to make it namespaces")
        folder.mkdir(parents=True, exist_ok=True)
        # A control group of its own: two rooms at a time must not see each other's services.
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        groups = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
        if groups is None:
            absent("systemd", "no cgroup2 is mounted here")
        self.group = Path(groups) / unique("covey-room")
        inside = ["unshare", "-f", "-p", "-m", "-C", "-u", "--kill-child", "sh", "-c", _INIT, "room", str(ROOT)]
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        self.process = Process("systemd", ["sh", "-c", enter, str(self.group), *inside], folder / "systemd.log")
        self.pid = 0

    def __enter__(self) -> Self:
        try:
            self.group.mkdir()
        except OSError as error:
            absent("systemd", f"no control group of its own here: {error.strerror}")
        self.process.start()
        try:
            wait_for(self._up, 20.0, "systemd as init of its namespaces")
        except AssertionError:
            self.__exit__()
            said = self.process.tail()
            if "mount" in said or "unshare" in said:
                absent("systemd", f"no namespaces or mounts of its own here: {said.strip().splitlines()[-1]}")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill9()
        wait_for(self._empty, 10.0, "the room's processes gone")

    def _empty(self) -> bool:
        try:
            for folder in sorted(self.group.rglob("*/"), key=lambda one: len(one.parts), reverse=True):
                folder.rmdir()
            self.group.rmdir()
        except OSError:  # processes still end
            return False
        return True

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-u", "-r", "-w", "env", "-u", "NOTIFY_SOCKET"]
        done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=timeout_s, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.process.tail()}"
        return done

    def path(self, path: str) -> Path:
        """A path inside as seen from here."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` tells it."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def pids(self, unit: str) -> list[int]:
        """The unit's processes, by their numbers out here."""
        group = self.show(unit, "ControlGroup")
        listed = f"/proc/{self.pid}/root/sys/fs/cgroup{group}/cgroup.procs" if group else os.devnull
        try:
            return [int(line) for line in Path(listed).read_text().split()]
        except FileNotFoundError:
            return []

    def _up(self) -> bool:
        # `process` is unshare; its only child becomes systemd
        try:
            pid = self.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
                return False
        except FileNotFoundError:
            return False
        self.pid = int(children[0])
        return "running" in self.run("systemctl", "is-system-running", check=False).stdout
