"""What can be done to the stack, each with a beginning, an end, and a look whether it really bit.

A fault that did nothing proves nothing: `bite` says what was seen of it, and a fault without a bite is an error of the rig.
Faults are drawn and timed by the caller's seeded generator. What a fault needs (root, namespaces, the proxy, a C compiler,
a small file system) is named by `needs`; the runner lays the rig out for it or skips it by name.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chaos.rig import PARTS, READY_S, WIRES
from firmware_sim.chaos import CALM, Conditions
from processes import wait_for

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from chaos.loads import Load
    from chaos.rig import Rig

SETTLE_S = 90.0  # for the load to move again after a fault
Needs = Literal["", "netns", "proxy", "clock", "small"]


class DidNotBiteError(AssertionError):
    """A fault was injected and nothing came of it."""


@dataclass(frozen=True)
class Fault:
    """One kind of harm."""

    name: str
    times: int = 1  # how often in a combination
    hold_s: tuple[float, float] = (2.0, 6.0)  # how long each time
    needs: Needs = ""
    part: str = ""  # whose folder is small, or whose clock is another

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        """Do it once and take it back; returns what was seen of it.

        Raises:
            DidNotBiteError: nothing was seen of it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Kill(Fault):
    """kill -9, and a start some moments later as a service manager would."""

    parts: tuple[str, ...] = ()
    hold_s: tuple[float, float] = (0.0, 3.0)

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        name = rng.choice(self.parts)
        process = load.process() if name == "devices" else rig.parts[name].process
        if not process.alive:  # ended by itself, and this may not be counted
            raise DidNotBiteError(f"{name} was not running")
        pid = process.pid
        with rig.hurt(name):
            process.kill9()
            code = process.wait(5.0)
            rig.kills += 1
            rig.pause_for(rng.uniform(*self.hold_s))
            if name == "devices":
                load.again()
                if rng.random() < 0.7:  # else it is killed again while it begins
                    rig.wait(load.writes, SETTLE_S, "the devices write again")
            else:
                rig.parts[name].start()
        if code != -signal.SIGKILL or process.pid == pid:
            raise DidNotBiteError(f"{name}: ended with {code}, pid {pid} -> {process.pid}")
        return f"{name} {pid}->{process.pid}"


@dataclass(frozen=True)
class Blackout(Fault):
    """Kafka goes; while events pile up before it, gateway and mosquitto go as well; then all come back, in any order.

    What was acknowledged before Kafka had it is nowhere then: with one part down at a time, another still holds it.
    """

    hold_s: tuple[float, float] = (1.0, 3.0)

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        names = ["gateway", "mqtt"]
        rng.shuffle(names)
        names.insert(0, "kafka")
        before = load.progress()["written"]
        with ExitStack() as down:
            for name in names:
                process = rig.parts[name].process
                down.enter_context(rig.hurt(name))
                process.kill9()
                rig.kills += 1
                if name == "kafka":  # long enough for events to reach a gateway that cannot pass them on
                    rig.wait(lambda: load.progress()["written"] >= before + 20, SETTLE_S, "events are written")
                    rig.pause_for(rng.uniform(*self.hold_s))
            rng.shuffle(names)
            for name in names:
                rig.parts[name].process.start()  # one that needs another waits for it
        for name in names:
            rig.wait(rig.parts[name].ready, READY_S, f"{name} is back")
        return f"down together, back in the order {', '.join(names)}"


@dataclass(frozen=True)
class Pause(Fault):
    """SIGSTOP: the process hangs, its connections stay open."""

    parts: tuple[str, ...] = ()
    hold_s: tuple[float, float] = (4.0, 12.0)

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        name = rng.choice(self.parts)
        process = load.process() if name == "devices" else rig.parts[name].process
        process.send(signal.SIGSTOP)
        try:
            wait_for(lambda: _state(process.pid) == "T", 10.0, f"{name} stands still")
            used = _cpu_ticks(process.pid)
            rig.pause_for(rng.uniform(*self.hold_s))
            if _cpu_ticks(process.pid) != used:
                raise DidNotBiteError(f"{name}: used the CPU while stopped")
        finally:
            process.send(signal.SIGCONT)
        return f"{name} stood still"


@dataclass(frozen=True)
class Cut(Fault):
    """Nothing passes a wire, and nobody is told."""

    wire: str = ""
    hold_s: tuple[float, float] = (4.0, 12.0)
    needs: Needs = "netns"

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        assert rig.net is not None
        near, far = WIRES[self.wire]
        port = rig.mqtt.port if far == "mqtt" else rig.kafka.ways[near]
        wire = rig.net.wires[self.wire]
        if not _reaches(rig, near, wire.address[far], port):
            raise DidNotBiteError(f"{self.wire}: no way through before the cut")
        wire.cut()
        try:
            if _reaches(rig, near, wire.address[far], port):
                raise DidNotBiteError(f"{self.wire}: still open")
            rig.pause_for(rng.uniform(*self.hold_s))
        finally:
            wire.heal()
        rig.wait(lambda: _reaches(rig, near, wire.address[far], port), 30.0, f"{self.wire} is whole again")
        return f"{self.wire}: no connection while cut"


@dataclass(frozen=True)
class Thin(Fault):
    """A wire carries few bytes a second (tbf)."""

    wire: str = ""
    rate_bytes_s: int = 4_000
    hold_s: tuple[float, float] = (10.0, 20.0)
    needs: Needs = "netns"

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        assert rig.net is not None
        wire = rig.net.wires[self.wire]
        wire.limit(self.rate_bytes_s)
        try:
            rig.pause_for(rng.uniform(*self.hold_s))
            held = wire.held_back()
        finally:
            wire.unlimit()
        if not held:
            raise DidNotBiteError(f"{self.wire}: {self.rate_bytes_s} B/s held nothing back")
        return f"{self.wire}: held back {held} times"


@dataclass(frozen=True)
class Proxied(Fault):
    """The proxy on one wire makes it bad; a drop resets what is open, again and again."""

    wire: str = ""
    conditions: Conditions = CALM
    drops: int = 0
    hold_s: tuple[float, float] = (8.0, 15.0)
    needs: Needs = "proxy"

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        proxy = rig.proxies[self.wire]
        before = proxy.counters.dropped + proxy.counters.delayed + proxy.counters.refused
        stalled_s = proxy.counters.stalled_s
        hold_s = rng.uniform(*self.hold_s)
        proxy.set(self.conditions)
        try:
            for _ in range(self.drops):
                rig.wait(lambda: proxy.counters.open > 0, SETTLE_S, f"{self.wire}: somebody is connected")
                proxy.drop()
                rig.pause_for(hold_s / self.drops)
            if not self.drops:
                rig.pause_for(hold_s)
        finally:
            proxy.set(CALM)
        after = proxy.counters.dropped + proxy.counters.delayed + proxy.counters.refused
        if after == before and proxy.counters.stalled_s == stalled_s:
            raise DidNotBiteError(f"{self.wire}: nothing was delayed, dropped, refused or stalled")
        return f"{self.wire}: {after - before} segments or connections, {proxy.counters.stalled_s - stalled_s:.0f} s"


@dataclass(frozen=True)
class Full(Fault):
    """The disk of one part is full."""

    hold_s: tuple[float, float] = (8.0, 15.0)
    needs: Needs = "small"

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        folder = rig.folder / self.part
        filler = folder / "filler"
        backlog = load.progress()["backlog"]
        refused = 0
        end_s = time.monotonic() + rng.uniform(*self.hold_s)
        try:
            with rig.hurt(self.part):  # what ends for want of room would only end again
                while time.monotonic() < end_s:
                    refused += _fill(filler)  # again and again: what is deleted meanwhile makes room
                    rig.pause_for(0.5)
        finally:
            filler.unlink(missing_ok=True)
        if not refused:
            raise DidNotBiteError(f"{self.part}: there was always room")
        return f"{self.part}: no room {refused} times, backlog {backlog} -> {load.progress()['backlog']}"


@dataclass(frozen=True)
class Clock(Fault):
    """The clock of one part jumps by hours, ahead or back, and comes back."""

    hold_s: tuple[float, float] = (5.0, 10.0)
    needs: Needs = "clock"
    jump_s: tuple[float, ...] = (7_200.0, -7_200.0, 86_400.0 * 8, -86_400.0 * 8)

    def inflict(self, rig: Rig, load: Load, rng: random.Random) -> str:
        role = rig.gateway if self.part == "gateway" else rig.store
        jump_s = rng.choice(self.jump_s)
        with open(f"/proc/{role.process.pid}/maps", encoding="ascii") as maps:  # noqa: PTH123  # proc is no real path
            if str(role.clock) not in maps.read():
                raise DidNotBiteError(f"{self.part}: goes by the machine's clock")
        role.set_clock(jump_s)
        try:
            rig.pause_for(rng.uniform(*self.hold_s))
        finally:
            role.set_clock(0.0)
        return f"{self.part}: {jump_s / 3600:+.0f} h"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123  # proc is no real path
        return file.read().rsplit(")", 1)[1].split()[0]


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123  # proc is no real path
        words = file.read().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12])  # utime, stime: proc(5)


def _reaches(rig: Rig, zone: str, host: str, port: int) -> bool:
    with rig.inside(zone), socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _fill(path: Path) -> int:
    """Write until there is no room; 1 when that was seen."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    size = 1 << 20
    try:
        while size >= 512:
            try:
                os.write(fd, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 8
    finally:
        os.close(fd)
    return 1


def faults() -> list[Fault]:
    """All of them."""
    every = (*PARTS, "devices")
    slow = Conditions(delay_s=0.8, jitter_s=0.5, loss=0.05)  # a satellite's on a bad day
    out: list[Fault] = [Kill(f"kill-{part}", times=6, parts=(part,)) for part in every]
    out.append(Kill("kill-any", times=22, parts=every))
    out.append(Blackout("blackout", times=4))
    out += [Pause(f"pause-{part}", times=2, parts=(part,)) for part in every]
    out += [Cut(f"cut-{wire}", times=2, wire=wire) for wire in WIRES]
    out += [Thin(f"thin-{wire}", wire=wire) for wire in WIRES]
    out += [Proxied(f"slow-{wire}", wire=wire, conditions=slow) for wire in WIRES]
    out += [Proxied(f"stall-{wire}", wire=wire, conditions=Conditions(stalled=True)) for wire in WIRES]
    out += [Proxied(f"drop-{wire}", wire=wire, drops=8) for wire in WIRES]
    out += [Full(f"full-{part}", part=part) for part in ("store", "kafka", "mqtt", "devices")]
    out += [Clock(f"clock-{part}", times=3, part=part) for part in ("gateway", "store")]
    return out
