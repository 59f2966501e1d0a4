"""What drives the stack while it is hurt, and who knows the truth about it: a ledger of its own, outside the stack.

Two loads: `Agents` is the device's own code (chaos.devices) and judged by chaos.verdict; `Fleet` is `covey sim fleet`,
judged by `covey sim report`. Both go on where they were after kill -9.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import ExitStack, closing, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from chaos import records
from chaos.verdict import compare, read_journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from chaos.rig import Rig
    from processes import Process

WARM_S = 120.0
STORE_S = 120.0  # for the store to read what Kafka has, at the end


class Load(Protocol):
    """What a fault and the runner need of a load."""

    name: str

    def start(self) -> None: ...
    def kill9(self) -> None: ...
    def again(self) -> None: ...
    def process(self) -> Process: ...
    def writes(self) -> bool: ...
    def progress(self) -> dict[str, int]: ...
    def finish(self, timeout_s: float) -> None: ...
    def verdict(self) -> dict[str, Any]: ...


class Agents:
    """Devices with the product's outbox, window and link."""

    def __init__(
        self,
        rig: Rig,
        name: str,
        seed: int,
        devices: int = 10,
        rate_hz: float = 5.0,
        shares: str = "7,2,1",
        *,
        patient: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            rig: to connect to.
            name: of its files, and the beginning of its devices' names.
            seed: of what the devices say and when.
            devices: how many, in one process.
            rate_hz: events per second of each.
            shares: of summaries, status events and alarms; an alarm is committed at once, the others together.
            patient: they wait as long as the agent does before they send again.
        """
        self.rig, self.name = rig, name
        self._before = 0  # events written when it was started the last time
        # Beside the devices' folder, which a fault may fill.
        self.journal = rig.folder / f"{name}.journal"
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        words = ["-m", "chaos.devices", str(rig.folder / "devices" / name), str(self.journal)]
        words += ["--mqtt", f"{host}:{port}", "--devices", str(devices), "--rate", str(rate_hz)]
        self._command = [sys.executable, *words, "--prefix", name, "--seed", str(seed), "--drain-s", "180"]
        self._command += ["--shares", shares, *(["--patient"] if patient else [])]

    def start(self) -> None:
        self.rig.child(self.name, self._command)

    def process(self) -> Process:
        return self.rig.children[self.name]

    def kill9(self) -> None:
        self.process().kill9()

    def again(self) -> None:
        self._before = self.progress()["written"]
        self.process().start()

    def writes(self) -> bool:
        """Whether it has written since it was started the last time."""
        return self.progress()["written"] > self._before

    def progress(self) -> dict[str, int]:
        """written, settled, backlog; what the devices last said of themselves."""
        with suppress(OSError, ValueError):
            return dict(json.loads(self.journal.with_suffix(".status").read_bytes()))
        return {"written": 0, "settled": 0, "backlog": 0, "connected": 0}

    def finish(self, timeout_s: float) -> None:
        """Write no more, and wait until everything is acknowledged."""
        ended_well(self.rig, self, timeout_s)

    def verdict(self) -> dict[str, Any]:
        """After `finish`: what became of everything."""
        return judge(self.rig, [self.journal], self.name)


class Crowd(Agents):
    """Very many devices in one process that is not killed (chaos.crowd_devices)."""

    def __init__(self, rig: Rig, name: str, clients: int, burst: int) -> None:
        super().__init__(rig, name, 0)
        # Not through the proxy: a thousand connections of it would be what is tried.
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port) if rig.net else ("127.0.0.1", rig.mqtt.port)
        words = ["-m", "chaos.crowd_devices", str(self.journal), "--mqtt", f"{host}:{port}", "--prefix", name]
        self._command = [sys.executable, *words, "--devices", str(clients), "--burst", str(burst)]

    def again(self) -> None:
        raise NotImplementedError("its rows are in memory: it is not to be killed")


class PlainDevices:
    """Plain MQTT devices (chaos.plain); they are not killed, since they keep nothing."""

    def __init__(self, rig: Rig, name: str, clients: int, rate_hz: float) -> None:
        self.rig, self.name = rig, name
        self._status = rig.folder / f"{name}.status"
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        words = ["-m", "chaos.plain", str(self._status), "--mqtt", f"{host}:{port}", "--prefix", name]
        self._command = [sys.executable, *words, "--clients", str(clients), "--rate", str(rate_hz)]

    def start(self) -> None:
        self.rig.child(self.name, self._command)

    def process(self) -> Process:
        return self.rig.children[self.name]

    def kill9(self) -> None:
        self.process().kill9()

    def again(self) -> None:
        raise NotImplementedError("what a plain device had not sent is gone with it")

    def writes(self) -> bool:
        return self.progress()["written"] > 0

    def progress(self) -> dict[str, int]:
        """written, settled (confirmed by the broker), backlog (not confirmed)."""
        with suppress(OSError, ValueError):
            return {key: n for key, n in json.loads(self._status.read_bytes()).items() if key != "made"}
        return {"written": 0, "settled": 0, "backlog": 0, "connected": 0}

    def made(self) -> dict[str, int]:
        """After `finish`: client -> messages 1 to n that the broker confirmed."""
        return dict(json.loads(self._status.read_bytes())["made"])

    def finish(self, timeout_s: float) -> None:
        """Make no more, and wait until the broker has confirmed everything."""
        ended_well(self.rig, self, timeout_s)

    def verdict(self) -> dict[str, Any]:
        raise NotImplementedError("it is in Kafka, not in the store: chaos.outage judges it")


class Fleet:
    """A simulated fleet, with its truth ledger."""

    SECONDS = 3_600  # it is ended by `finish`, not by its scenario

    def __init__(self, rig: Rig, name: str, seed: int, scenario: str, bundles: Path, devices: int = 100) -> None:
        """Plan nothing yet.

        Args:
            rig: to connect to.
            name: of its files.
            seed: of the fleet.
            scenario: name or file.
            bundles: folder for the models, which the first fleet of a scenario fits.
            devices: how many.
        """
        self.rig, self.name = rig, name
        self._before = 0  # events written when it was started the last time
        self._ledger = rig.folder / f"{name}.ledger"
        self._bundles = bundles / scenario
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        words = ["sim", "fleet", "--scenario", scenario, "--seed", str(seed), "--mqtt", f"{host}:{port}"]
        words += [
            "--devices",
            str(devices),
            "--ledger",
            str(self._ledger),
            "--seconds",
            str(self.SECONDS),
            "--drain-s",
            "180",
            "--json",
            "--quiet",
        ]
        for body, option in (("quadrotor", "--bundle"), ("machine", "--machine-bundle")):
            if (self._bundles / f"{body}.covey").exists():
                words += [option, str(self._bundles / f"{body}.covey")]
        self._command = [sys.executable, "-m", "covey", *words]

    def start(self) -> None:
        self.rig.child(self.name, self._command)

    def process(self) -> Process:
        return self.rig.children[self.name]

    def kill9(self) -> None:
        self.process().kill9()

    def again(self) -> None:
        self._before = self.progress()["written"]
        process = self.process()
        if "--resume" not in process.command:
            process.command.append("--resume")
        process.start()

    def writes(self) -> bool:
        """Whether it has written since it was started the last time."""
        return self.progress()["written"] > self._before

    def progress(self) -> dict[str, int]:
        """From the ledger itself, which the fleet writes to meanwhile."""
        where = f"{self._ledger.absolute().as_uri()}?mode=ro"
        with suppress(sqlite3.Error), closing(sqlite3.connect(where, uri=True, timeout=2.0)) as db:
            written = int(db.execute("SELECT count(*) FROM events").fetchone()[0])
            backlog = int(db.execute("SELECT count(*) FROM queue").fetchone()[0])
            return {"written": written, "settled": written - backlog, "backlog": backlog}
        return {"written": 0, "settled": 0, "backlog": 0}

    def finish(self, timeout_s: float) -> None:
        """Land everything, and wait until all of it is acknowledged."""
        ended_well(self.rig, self, timeout_s)
        self._bundles.mkdir(parents=True, exist_ok=True)
        for made in self._ledger.parent.glob(f"{self._ledger.name}.*.covey"):
            shutil.copy(made, self._bundles / made.name.removeprefix(f"{self._ledger.name}."))

    def verdict(self) -> dict[str, Any]:
        """After `finish`: what `covey sim report` says."""
        found: dict[str, Any] = {}

        def settled() -> bool:
            words = ("sim", "report", "--ledger", str(self._ledger), "--events", str(self.rig.export()), "--json")
            report = json.loads(self.rig.ask(*words, exits=(0, 1)))
            lost, broken = report["lost"]["total"], report["duplicate"] + report["conflicting"] + report["unknown"]
            found.update({name: report[name] for name in ("written", "stored", "conflicting", "unknown")})
            found.update(lost=lost, double=report["duplicate"], given_up=0, good=report["clean"] and not lost)
            found["bad"] = [f"{one['what']}: {one['event']}" for one in report["problems"]]
            return bool(found["good"] or broken)

        with suppress(AssertionError):  # the verdict says what is missing
            self.rig.wait(settled, STORE_S, "the store has everything")
        return _ordered(self.rig, found)


def warm(rig: Rig, load: Load, events: int = 30) -> None:
    """Start a load and wait until some of its events have made the whole way.

    Raises:
        AssertionError: they have not, or it ended.
    """
    load.start()

    def passing() -> bool:
        if not load.process().alive:
            raise AssertionError(f"{load.name}: ended at once\n{load.process().tail()}")
        return load.progress()["settled"] >= events

    rig.wait(passing, WARM_S, f"{load.name}: events pass")


def ended_well(rig: Rig, load: Load, timeout_s: float) -> None:
    """Ask a load to write no more and wait until everything is acknowledged.

    Raises:
        AssertionError: it was not.
    """
    process = load.process()
    # One that has just been started again does not listen yet.
    rig.wait(lambda: load.writes() or not process.alive, timeout_s, f"{load.name}: it writes")
    process.send(signal.SIGTERM)
    rig.wait(lambda: not process.alive, timeout_s, f"{load.name}: everything acknowledged")
    code = process.wait(1.0)
    if code != 0:
        raise AssertionError(f"{load.name}: everything acknowledged and exit 0 expected, exit {code}\n{process.tail()}")


def judge(rig: Rig, journals: Sequence[Path], prefix: str) -> dict[str, Any]:
    """The verdict on all devices of these journals, whose names begin with `prefix` and "-", when they are done."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open(encoding="ascii")) for path in journals]
        written = read_journal(chain.from_iterable(files))
    _stored(rig, len(written) - written.given_up(), prefix)
    answer = json.loads(rig.ask("cloud", "devices", "--store", str(rig.store_file), "--json"))
    windows = {row["device"]: row["windows"] for row in answer}
    with rig.export().open("rb") as lines:
        verdict = compare(written, map(json.loads, lines), windows, prefix)
    return _ordered(rig, verdict.as_dict(), f"{prefix}-")


def _stored(rig: Rig, count: int, prefix: str) -> None:
    """Wait until the store has so many events of these devices, for as long as they become more.

    Raises:
        AssertionError: they became no more for STORE_S.
    """
    where = f"{rig.store_file.absolute().as_uri()}?mode=ro"
    # A range, which the primary key (device, outbox, seq) answers: "." follows "-".
    query = "SELECT count(*) FROM events WHERE device >= ? AND device < ?"
    last, moved_s, look_s = -1, time.monotonic(), 0.0

    def enough() -> bool:
        nonlocal last, moved_s, look_s
        now_s = time.monotonic()
        if now_s < look_s:
            return False
        with suppress(sqlite3.Error), closing(sqlite3.connect(where, uri=True, timeout=2.0)) as db:
            seen = int(db.execute(query, (f"{prefix}-", f"{prefix}.")).fetchone()[0])
            if seen != last:
                last, moved_s = seen, now_s
        look_s = time.monotonic() + 5 * (time.monotonic() - now_s)  # a look at a million rows is not for nothing
        return last >= count or now_s - moved_s > STORE_S

    rig.wait(enough, 24 * 3600.0, "the store has read everything")


def _ordered(rig: Rig, found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A verdict with what Kafka's topics say about order."""
    with rig.inside("kafka"):
        order = records.order(rig.kafka.bootstrap, prefix)
    found |= {"records": order.records, "repeats": order.repeats, "disordered": order.disordered}
    found["bad"] = [*found.get("bad", []), *order.bad]
    found["good"] = bool(found.get("good")) and not order.disordered and order.records > 0
    return found
