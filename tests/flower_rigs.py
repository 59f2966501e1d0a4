"""A SuperLink and devices that join it, as processes, for tests and benchmarks of engine `flower`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey.bundle import Features, Inputs
from federated.engines import flower
from federated.engines.flower_control import Control
from federated.engines.flower_keys import make_node_key, read_node_public
from federated_rigs import CHANNELS, walk, write_csv, write_ring
from processes import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INPUTS = Inputs(list(CHANNELS), 1.0, 4, 1, Features("lag"))
COMMAND = [sys.executable, "-P", "-m", "covey", "federated"]
START_S = 90.0  # importing Flower on a busy machine


@dataclass
class Device:
    """One device's folder."""

    name: str
    folder: Path

    @property
    def ring(self) -> Path:
        """Its ring."""
        return self.folder / "ring.bin"

    @property
    def key(self) -> Path:
        """Its node key."""
        return self.folder / "node.key"


def make_device(folder: Path, number: int, rows: int = 300) -> Device:
    """A device with a ring of its own and a key."""
    device = Device(f"d{number}", folder / f"d{number}")
    log = write_csv(folder / f"m{number}.csv", walk(rows, seed=number))
    write_ring(device.ring, INPUTS, [(log, False)])
    make_node_key(device.key)
    return device


class SuperLinkRig:
    """A SuperLink in a folder; `start` again after `kill`."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.folder, self.options, self.port = folder, list(options), free_port()
        self.process: Process | None = None

    def start(self) -> flower.Found:
        """Start it and wait until both of its doors are open."""
        words = [*COMMAND, "superlink", "--folder", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        ready = self.folder / "superlink.json"
        ready.unlink(missing_ok=True)
        self.process = Process("superlink", [*words, *self.options], self.folder.parent / "superlink.log")
        self.process.start(ready.exists, START_S)
        return flower.find(self.folder)

    def kill(self) -> None:
        """SIGKILL, and forget that it was ready."""
        assert self.process is not None
        self.process.kill9()
        (self.folder / "superlink.json").unlink(missing_ok=True)

    def control(self) -> Control:
        """Its control API."""
        found = flower.find(self.folder)
        return Control(found.control, found.token_file)

    def register(self, devices: Sequence[Device]) -> None:
        """Let devices in."""
        with self.control() as control:
            for device in devices:
                control.register(device.name, read_node_public(device.key.with_suffix(".key.pub")))

    def join(self, device: Device, *options: str) -> Process:
        """Start a device's SuperNode."""
        words = [*COMMAND, "join", "--superlink", f"127.0.0.1:{self.port}", "--ring", str(device.ring)]
        words += ["--key", str(device.key), "--ca", str(self.folder / "tls" / "ca.pem"), "--nice", "0"]
        return Process(f"join {device.name}", [*words, *options], device.folder / "join.log").start()

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.stop()
