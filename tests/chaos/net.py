"""Network namespaces for the chaos rig: each part in its own, joined by wires that can be cut or made slow.

A namespace is held open by a process of ours and is gone when that ends: no names are left in /var/run/netns and nothing
outside changes. A wire is two veth pairs and a bridge in a hub namespace, so a cut is silent at both ends (no address goes
away, packets are just not delivered), as when a cable or a radio link breaks. Needs root; says so instead of trying.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from processes import Process, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why there can be no namespaces here; "" when there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    lacking = [word for word in ("ip", "tc", "nsenter", "unshare") if shutil.which(word) is None]
    return f"{', '.join(lacking)} not installed (iproute2, util-linux)" if lacking else ""


class Zone:
    """One network namespace."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._holder = Process(f"zone-{name}", ["unshare", "--net", "sleep", "infinity"], folder / f"zone-{name}.log")
        ours = Path("/proc/self/ns/net").stat().st_ino
        self._holder.start()
        wait_for(lambda: Path(self.path).stat().st_ino != ours, 10.0, f"namespace {name}")
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return f"/proc/{self._holder.pid}/ns/net"

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run in here; nsenter becomes the command, so its pid is the command's."""
        return ["nsenter", f"--net={self.path}"]

    def run(self, *words: str) -> str:
        done = subprocess.run([*self.prefix, *words], capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the namespace, and so are the sockets and threads that it makes."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        target = os.open(self.path, os.O_RDONLY)
        try:
            _enter(target)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)
            os.close(target)

    def close(self) -> None:
        self._holder.kill9()


class Wire:
    """One link between two zones: `<prefix>.1` is the first one's address, `.2` the second one's."""

    def __init__(self, hub: Zone, number: int, first: Zone, second: Zone) -> None:
        self.hub, self.first, self.second = hub, first, second
        self.address = {first.name: f"10.77.{number}.1", second.name: f"10.77.{number}.2"}
        self._ports = [f"p{number}a", f"p{number}b"]
        bridge = f"br{number}"
        hub.run("ip", "link", "add", bridge, "type", "bridge")
        hub.run("ip", "link", "set", bridge, "up")
        for port, zone in zip(self._ports, (first, second), strict=True):
            inner = f"w{number}"
            hub.run("ip", "link", "add", port, "type", "veth", "peer", "name", inner, "netns", str(zone.pid))
            hub.run("ip", "link", "set", port, "master", bridge, "up")
            zone.run("ip", "addr", "add", f"{self.address[zone.name]}/24", "dev", inner)
            zone.run("ip", "link", "set", inner, "up")

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told."""
        for port in self._ports:
            self.hub.run("ip", "link", "set", port, "down")

    def heal(self) -> None:
        for port in self._ports:
            self.hub.run("ip", "link", "set", port, "up")

    def limit(self, rate_bytes_s: int) -> None:
        """Let at most so many bytes a second pass in each direction; what waits longer than 1 s in the queue is lost."""
        for port in self._ports:
            words = ("tbf", "rate", f"{rate_bytes_s * 8}bit", "burst", "3000", "latency", "1s")
            self.hub.run("tc", "qdisc", "replace", "dev", port, "root", *words)

    def unlimit(self) -> None:
        for port in self._ports:
            self.hub.run("tc", "qdisc", "del", "dev", port, "root")

    def held_back(self) -> int:
        """How often the limit made a packet wait or dropped it, since it was set."""
        total = 0
        for port in self._ports:
            shown = self.hub.run("tc", "-s", "qdisc", "show", "dev", port)
            total += sum(int(n) for n in re.findall(r"overlimits (\d+)", shown))
        return total


class Net:
    """The zones of a rig and the wires between them."""

    def __init__(self, folder: Path, wires: dict[str, tuple[str, str]]) -> None:
        """Make a zone for every name in `wires`, which maps a wire's name to the two zones it joins."""
        folder.mkdir(parents=True, exist_ok=True)
        self.zones: dict[str, Zone] = {}
        self.wires: dict[str, Wire] = {}
        self._hub = Zone("hub", folder)
        try:
            for number, (name, ends) in enumerate(wires.items(), start=1):
                for end in ends:
                    if end not in self.zones:
                        self.zones[end] = Zone(end, folder)
                self.wires[name] = Wire(self._hub, number, self.zones[ends[0]], self.zones[ends[1]])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for zone in [*self.zones.values(), self._hub]:
            zone.close()


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
