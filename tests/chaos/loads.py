"""What drives the stack while it is hurt, and who knows the truth about it: a ledger of its own, outside the stack.

Two loads: `Agents` is the device's own code (chaos.devices) and judged by chaos.verdict; `Fleet` is `covey sim fleet`,
judged by `covey sim report`. Both go on where they were after kill -9.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Protocol

from chaos.verdict import compare, read_journal

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.rig import Rig
    from processes import Process

STORE_S = 120.0  # for the store to read what Kafka has, at the end


class Load(Protocol):
    """What a fault and the runner need of a load."""

    name: str

    def start(self) -> None: ...
    def kill9(self) -> None: ...
    def again(self) -> None: ...
    def process(self) -> Process: ...
    def progress(self) -> dict[str, int]: ...
    def finish(self, timeout_s: float) -> None: ...
    def verdict(self) -> dict[str, Any]: ...


class Agents:
    """Devices with the product's outbox, window and link."""

    def __init__(self, rig: Rig, name: str, seed: int, devices: int = 10, rate_hz: float = 5.0) -> None:
        self.rig, self.name = rig, name
        # Beside the devices' folder, which a fault may fill.
        self._journal = rig.folder / f"{name}.journal"
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        words = ["-m", "chaos.devices", str(rig.folder / "devices" / name), str(self._journal)]
        words += ["--mqtt", f"{host}:{port}", "--devices", str(devices), "--rate", str(rate_hz)]
        self._command = [sys.executable, *words, "--prefix", name, "--seed", str(seed), "--drain-s", "180"]

    def start(self) -> None:
        self.rig.child(self.name, self._command)

    def process(self) -> Process:
        return self.rig.children[self.name]

    def kill9(self) -> None:
        self.process().kill9()

    def again(self) -> None:
        self.process().start()

    def progress(self) -> dict[str, int]:
        """written, settled, backlog; what the devices last said of themselves."""
        with suppress(OSError, ValueError):
            return dict(json.loads(self._journal.with_suffix(".status").read_bytes()))
        return {"written": 0, "settled": 0, "backlog": 0, "connected": 0}

    def finish(self, timeout_s: float) -> None:
        """Write no more, and wait until everything is acknowledged."""
        process = self.process()
        process.send(signal.SIGTERM)
        self.rig.wait(lambda: not process.alive, timeout_s, f"{self.name}: everything acknowledged")
        if process.wait(1.0) != 0:
            raise AssertionError(f"{self.name}: not everything was acknowledged\n{process.tail()}")

    def verdict(self) -> dict[str, Any]:
        """After `finish`: what became of everything."""
        with self._journal.open(encoding="ascii") as lines:
            written = read_journal(lines)
        found: dict[str, Any] = {}

        def settled() -> bool:
            # The store may still be reading what the gateway has acknowledged.
            with self.rig.export().open("rb") as lines:
                events = [json.loads(line) for line in lines]
            answer = json.loads(self.rig.ask("cloud", "devices", "--store", str(self.rig.store_file), "--json"))
            windows = {row["device"]: row["windows"] for row in answer}
            verdict = compare(written, events, windows, self.name)
            found.update(verdict.as_dict())
            return verdict.good or bool(verdict.double or verdict.conflicting or verdict.unknown)

        with suppress(AssertionError):  # the verdict says what is missing
            self.rig.wait(settled, STORE_S, "the store has everything")
        return found


class Fleet:
    """A simulated fleet, with its truth ledger."""

    def __init__(
        self, rig: Rig, name: str, seed: int, scenario: str, devices: int, bundle: Path, seconds: float
    ) -> None:
        self.rig, self.name = rig, name
        self._ledger = rig.folder / f"{name}.ledger"
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        words = ["sim", "fleet", "--scenario", scenario, "--devices", str(devices), "--seed", str(seed)]
        words += ["--mqtt", f"{host}:{port}", "--ledger", str(self._ledger), "--seconds", f"{seconds:g}"]
        words += ["--bundle", str(bundle), "--drain-s", "180", "--json", "--quiet"]
        self._command = [sys.executable, "-m", "covey", *words]

    def start(self) -> None:
        self.rig.child(self.name, self._command)

    def process(self) -> Process:
        return self.rig.children[self.name]

    def kill9(self) -> None:
        self.process().kill9()

    def again(self) -> None:
        process = self.process()
        if "--resume" not in process.command:
            process.command.append("--resume")
        process.start()

    def progress(self) -> dict[str, int]:
        """From the ledger itself, which the fleet writes to meanwhile."""
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"{self._ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db,
        ):
            written, settled = db.execute("SELECT count(*), count(acked_s) FROM events").fetchone()
            return {"written": written, "settled": settled, "backlog": written - settled}
        return {"written": 0, "settled": 0, "backlog": 0}

    def finish(self, timeout_s: float) -> None:
        process = self.process()
        self.rig.wait(lambda: not process.alive, timeout_s, f"{self.name}: the fleet has flown and everything is safe")
        if process.wait(1.0) != 0:
            raise AssertionError(f"{self.name}: not everything was acknowledged\n{process.tail()}")

    def verdict(self) -> dict[str, Any]:
        raise NotImplementedError
