"""The whole stack for chaos: mosquitto, Apache Kafka, gateway and store, each a process that can be hurt and comes back.

Wires say how the parts reach each other: `direct` (loopback), `proxy` (loopback through firmware_sim.net.proxy), or `netns` (each part
in a network namespace of its own, joined by wires that can be cut). What ends by itself is started again, as a service
manager would, and counted. Data stays in one folder. The rig hurts nothing by itself: that is chaos.faults.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chaos.net import Net
from firmware_sim.net.proxy import Proxy
from processes import Process, free_port, wait_for
from servers import Kafka, Mosquitto, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from typing_extensions import Self

Wires = Literal["direct", "proxy", "netns"]

# A wire's name -> its two ends.
WIRES = {
    "devices-mqtt": ("devices", "mqtt"),
    "gateway-mqtt": ("gateway", "mqtt"),
    "gateway-kafka": ("gateway", "kafka"),
    "store-kafka": ("store", "kafka"),
}
PARTS = ("mqtt", "kafka", "gateway", "store")

# As deploy would ship it: sessions, queues and retained messages on disk every few seconds, queues that hold an outage of
# the gateway. What a kill takes between two saves is mended by the devices: a PUBACK is not durability.
MOSQUITTO = """\
persistence true
persistence_location {folder}/
autosave_interval 5
allow_anonymous true
max_inflight_messages 1000
max_queued_messages 200000
max_queued_bytes 268435456
max_packet_size 131072
set_tcp_nodelay true
"""
# A record is in the page cache when Kafka confirms it, which survives kill -9 of Kafka, not a power cut of the machine.
KAFKA = {"log.retention.check.interval.ms": "10000"}

READY_S = 90.0  # on a machine that does other things too
EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside a namespace of the rig's own


def clock_missing() -> str:
    """Why no part can be given another clock; "" when it can."""
    if not sys.platform.startswith("linux"):
        return "another clock needs Linux"
    return "" if shutil.which("cc") else "another clock needs a C compiler (cc)"


def _many_files() -> None:
    """As many open files as we may have, for us and our children: a broker needs one for each client."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Mosquitto(Mosquitto):
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        address = EVERYWHERE if rig.net else "127.0.0.1"
        folder = rig.folder / "mqtt"
        port = free_port()
        lines = f"listener {port} {address}\n" + MOSQUITTO.format(folder=folder)
        if rig.acl:
            lines += f"acl_file {folder}/acl\n"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "acl").write_text(rig.acl)
            (folder / "acl").chmod(0o600)  # mosquitto grumbles about others
        super().__init__(folder, lines, port)

    def ready(self) -> bool:
        with self.rig.inside("mqtt"):
            return super().ready()


class _Kafka(Kafka):
    start_timeout_s = READY_S

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ways = {"gateway": free_port(), "store": free_port()}
        super().__init__(rig.folder / "kafka", config={})
        net = rig.net
        bind = EVERYWHERE if net else "127.0.0.1"
        listeners = [f"LOCAL://127.0.0.1:{self.port}", f"CONTROLLER://127.0.0.1:{self.controller_port}"]
        advertised = [f"LOCAL://127.0.0.1:{self.port}"]
        for user, port in self.ways.items():
            listeners.append(f"{user.upper()}://{bind}:{port}")
            host, seen = rig.far_end(f"{user}-kafka", port)
            advertised.append(f"{user.upper()}://{host}:{seen}")
        names = ["LOCAL", "CONTROLLER", *(user.upper() for user in self.ways)]
        self.config = KAFKA | {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
            "inter.broker.listener.name": "LOCAL",
        }

    def ready(self) -> bool:
        with self.rig.inside("kafka"):
            return super().ready()


class _Role(Server):
    """Our own process, in its zone and with its clock."""

    start_timeout_s = READY_S

    def __init__(self, rig: Rig, name: str) -> None:
        self.name, self.rig = name, rig
        super().__init__(rig.folder / name, free_port())
        self.clock = rig.folder / name / "clock"
        self.process.env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if name in rig.clocks:
            self.set_clock(0.0)
            self.process.env |= {"LD_PRELOAD": str(rig.clock_library()), "COVEY_CLOCK_FILE": str(self.clock)}

    def set_clock(self, ahead_s: float) -> None:
        """Let its wall clock jump to so many seconds ahead of the machine's."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:  # written in place: the file is mapped
            file.write(struct.pack("=q", round(ahead_s * 1e9)))

    def command(self) -> list[str]:
        rig, base = self.rig, [sys.executable, "-m", "covey"]
        if self.name == "gateway":
            mqtt = "{}:{}".format(*rig.far_end("gateway-mqtt", rig.mqtt.port))
            kafka = "{}:{}".format(*rig.far_end("gateway-kafka", rig.kafka.ways["gateway"]))
            words = ["gateway", "run", "--mqtt", mqtt, "--kafka", kafka, "--health-port", str(self.port)]
            if rig.gateway_toml:
                path = self.folder / "gateway.toml"
                path.write_text(rig.gateway_toml)
                words += ["--config", str(path)]
            return [*base, *words, "--ack-after", rig.ack_after, "--die-with-parent"]
        kafka = "{}:{}".format(*rig.far_end("store-kafka", rig.kafka.ways["store"]))
        words = ["cloud", "run", "--kafka", kafka, "--store", str(rig.store_file)]
        words += ["--repository-dir", str(self.folder / "repository"), "--ack-after", rig.ack_after]
        return [*base, *words, "--die-with-parent"]

    def ready(self) -> bool:
        if self.name == "gateway":
            return bool(self.rig.gateway_status().get("ready"))
        return "reading" in self.process.log.read_text(errors="replace")[self._log_mark :]

    def start(self) -> Self:
        self._log_mark = self.process.log.stat().st_size if self.process.log.exists() else 0
        return super().start()


class Rig:
    """One stack. Use in `with`; parts are `rig.parts[name]`."""

    def __init__(
        self,
        folder: Path,
        wires: Wires = "direct",
        *,
        ack_after: Literal["kafka", "store"] = "kafka",
        clocks: tuple[str, ...] = (),
        small_mb: dict[str, int] | None = None,
        acl: str = "",
        gateway_toml: str = "",
    ) -> None:
        """Lay it out in `folder`, which must be empty.

        Args:
            folder: data, logs, configuration.
            wires: see the module.
            ack_after: as the gateway and the store have it.
            clocks: parts that have a wall clock of their own.
            small_mb: part -> size of the file system of its own that its folder is on (root only).
            acl: mosquitto's acl_file; "": everybody may do everything.
            gateway_toml: the gateway's configuration file; its addresses are given as options all the same.
        """
        self.acl, self.gateway_toml = acl, gateway_toml
        _many_files()
        self.folder, self.ack_after, self.clocks = folder, ack_after, clocks
        self.wires_kind = wires
        self.own_ends: dict[str, int] = {}  # part -> how often it ended by itself and was started again
        self.kills = 0
        self._stack = ExitStack()
        self._down: set[str] = set()  # hurt on purpose: not to be mended
        self.net: Net | None = None
        self.proxies: dict[str, Proxy] = {}
        self.children: dict[str, Process] = {}  # loads, under the same care as parts
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for part, size_mb in (small_mb or {}).items():
                self._mount(part, size_mb)
            if wires == "netns":
                self.net = Net(folder / "net", WIRES)
                self._stack.callback(self.net.close)
            elif wires == "proxy":
                for name in WIRES:
                    self.proxies[name] = self._stack.enter_context(Proxy("127.0.0.1", 0))
            self.mqtt = _Mosquitto(self)
            self.kafka = _Kafka(self)
            if self.proxies:
                self.proxies["devices-mqtt"].target_port = self.mqtt.port
                self.proxies["gateway-mqtt"].target_port = self.mqtt.port
                for user, port in self.kafka.ways.items():
                    self.proxies[f"{user}-kafka"].target_port = port
            self.gateway, self.store = _Role(self, "gateway"), _Role(self, "store")
        except BaseException:
            self._stack.close()
            raise
        self.parts: dict[str, Server] = {
            "mqtt": self.mqtt,
            "kafka": self.kafka,
            "gateway": self.gateway,
            "store": self.store,
        }
        if self.net is not None:
            for zone, server in self.parts.items():
                server.process.command[:0] = self.net.zones[zone].prefix

    def __enter__(self) -> Self:
        try:
            for name in PARTS:
                part = self.parts[name]
                self._stack.callback(part.stop)
                part.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def store_file(self) -> Path:
        """The store's SQLite file."""
        return self.folder / "store" / "store.db"

    def far_end(self, wire: str, port: int) -> tuple[str, int]:
        """Host and port by which the first end of a wire reaches the second."""
        if self.net is not None:
            return self.net.wires[wire].address[WIRES[wire][1]], port
        if self.proxies:
            return "127.0.0.1", self.proxies[wire].port
        return "127.0.0.1", port

    def inside(self, zone: str) -> AbstractContextManager[None]:
        """In a part's network namespace, where it has one."""
        return self.net.zones[zone].inside() if self.net is not None else nullcontext()

    def gateway_status(self) -> dict[str, Any]:
        """What the gateway says of itself; empty when it does not answer."""
        try:
            with (
                self.inside("gateway"),
                urllib.request.urlopen(f"http://127.0.0.1:{self.gateway.port}/healthz", timeout=5) as answer,
            ):
                return dict(json.load(answer))
        except (OSError, ValueError):
            return {}

    def child(self, name: str, command: list[str]) -> Process:
        """Start a process beside the devices, under the rig's care until `forget`."""
        if self.net is not None:
            command = [*self.net.zones["devices"].prefix, *command]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        process = Process(name, command, self.folder / f"{name}.log", env=env)
        self.children[name] = process
        self._stack.callback(process.kill9)
        return process.start()

    @contextmanager
    def hurt(self, name: str) -> Iterator[None]:
        """While a part is down on purpose nobody starts it."""
        self._down.add(name)
        try:
            yield
        finally:
            self._down.discard(name)

    def mend(self) -> None:
        """Start again what ended by itself."""
        for name, part in self.parts.items():
            if name not in self._down and not part.process.alive:
                self.own_ends[name] = self.own_ends.get(name, 0) + 1
                part.start()

    def wait(self, predicate: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait until it holds, mending meanwhile.

        Raises:
            AssertionError: it did not in time.
        """

        def look() -> object:
            self.mend()
            return predicate()

        wait_for(look, timeout_s, what)

    def pause_for(self, seconds: float) -> None:
        """Let the stack run as it is for a while: how long a fault holds, not a way to wait for something."""
        end_s = time.monotonic() + seconds
        while (left := end_s - time.monotonic()) > 0:
            self.mend()
            time.sleep(min(0.1, left))

    def ask(self, *words: str, exits: tuple[int, ...] = (0,)) -> bytes:
        """What one of our commands prints.

        Raises:
            RuntimeError: it ended with another code than `exits` has.
        """
        out = self.folder / "asked.out"
        log = self.folder / "asked.log"
        command = [sys.executable, "-m", "covey", *words]
        with out.open("wb") as file:
            done = subprocess.run(command, stdout=file, stderr=log.open("ab"), timeout=600, check=False)
        if done.returncode not in exits:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {log.read_text()[-500:]}")
        return out.read_bytes()

    def export(self) -> Path:
        """The store as `covey cloud export` writes it."""
        out = self.folder / "events.jsonl"
        self.ask("cloud", "export", "--store", str(self.store_file), "--out", str(out))
        return out

    def clock_library(self) -> Path:
        """chaos/clock.c, compiled."""
        library = self.folder / "clock.so"
        if not library.exists():
            source = Path(__file__).with_name("clock.c")
            flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
            words = ["cc", *flags, "-o", str(library), str(source), "-ldl", "-pthread"]
            subprocess.run(words, check=True, timeout=60)
        return library

    def _mount(self, part: str, size_mb: int) -> None:
        folder = self.folder / part
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=True, timeout=30)
        self._stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False, timeout=30)
