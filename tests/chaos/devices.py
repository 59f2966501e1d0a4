"""A load for the chaos rig: devices that run the product's own outbox, window and link, and write down what they put.

`python -m chaos.devices FOLDER JOURNAL --mqtt host:port --devices N --rate R`: each device puts R events a second until
SIGTERM, then everything is sent until it is acknowledged, and the exit code says whether that was reached (0) or not (1).
Killed at any moment it goes on where its outboxes are. The journal is written before the outbox sees an event, so nothing
can be in the store that is not in it; chaos.verdict reads it. There is no model here: detection is not what is tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from covey import wire
from covey.runtime import Backoff, install_stop, start_logging, write_whole
from edge.link import Link
from edge.outbox import Outbox
from edge.resend import SendWindow
from edge.uplink import Uplink

if TYPE_CHECKING:
    import threading

DIGEST = "ab" * 32
KINDS = ("summary", "status", "alarm")
SHARES = (7.0, 2.0, 1.0)  # of ten events
STATUS_S = 0.2


class Journal:
    """One line per event put, per outbox opened, per range given up; whole lines only, also after kill -9."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())  # one write: whole or not at all


class Device:
    """One device."""

    def __init__(
        self,
        name: str,
        folder: Path,
        journal: Journal,
        host: str,
        port: int,
        options: argparse.Namespace,
        stack: ExitStack,
    ) -> None:
        self.name, self._journal, self._shares = name, journal, options.shares
        log = logging.getLogger(name)
        folder.mkdir(parents=True, exist_ok=True)
        self.outbox = stack.enter_context(Outbox(folder / "outbox.db", name))
        journal.write("open", name, self.outbox.id, self.outbox.last_seq)
        link = Link(name, host, port, log, keepalive_s=5, backoff=Backoff(0.2, 3.0))
        stack.callback(link.close)
        # As the agent has it, or with shorter waits: a rig of minutes stands for a life of months.
        hasty = SendWindow(256, 3.0, 6.0, backoff=Backoff(0.5, 5.0))
        self.up = Uplink(self.outbox, link, SendWindow() if options.patient else hasty, log)
        self._rng = random.Random(f"{options.seed}/{name}/{os.getpid()}")
        self.due_s = 0.0
        self.put_rows = 0

    def put(self, rate_hz: float, now_s: float) -> None:
        """One event when it is time; what was missed while the disk or the process stood still is not made up for."""
        if now_s < self.due_s:
            return
        self.due_s = now_s + self._rng.uniform(0.5, 1.5) / rate_hz
        (kind,) = self._rng.choices(KINDS, self._shares)
        tells = self.outbox.dropped() if kind == "summary" else []
        windows = self._rng.randrange(1, 100) if kind == "summary" else 0
        data = self._data(kind, windows, tells)

        def build(identity: wire.Identity) -> bytes:
            body = wire.make_event(identity, kind, time.time(), data)
            for one in tells:
                self._journal.write("dropped", self.name, one.outbox, one.first, one.last)
            digest = hashlib.sha256(body).hexdigest()
            self._journal.write("put", self.name, identity.outbox, identity.seq, digest, windows)
            return body

        self.outbox.put(kind, build, tells)
        self.put_rows += 1

    def journal_dropped(self) -> None:
        for one in self.outbox.dropped(1_000_000):
            self._journal.write("dropped", self.name, one.outbox, one.first, one.last)

    def _data(self, kind: str, windows: int, tells: list[wire.Dropped]) -> wire.Summary | wire.Status | wire.Alarm:
        now_s = time.time()
        reported = wire.Reported(0, "", "onnx")
        if kind == "status":
            return wire.Status("command", reported, detail="x" * self._rng.randrange(200), command="c")
        if kind == "alarm":
            word = f"{self.name}-{self._rng.getrandbits(32):08x}"
            window = wire.WindowRef(now_s - 1, now_s, DIGEST)
            trace = f"{self._rng.getrandbits(128):032x}"
            shares = [wire.Share("motor.m1", 1.0)]
            lineage = (0, DIGEST, "", "onnx", 3.0, 3.5, 2.0, 0.99, "motor.m1", shares, trace)
            return wire.Alarm(word, "begin", window, 1, *lineage)
        sketch = [[0, 0], [5, windows]]
        health = wire.Health(
            memory_bytes=1,
            cpu_s=time.process_time(),
            outbox_rows=self.outbox.depth,
            outbox_bytes=self.outbox.size_bytes,
            raw_bytes=1000 * self.outbox.last_seq,
            uplink_bytes=self.up.link.sent_bytes,
            dropped=tells,
        )
        return wire.Summary(
            start_s=now_s - 1,
            end_s=now_s,
            windows=windows,
            alarmed_windows=0,
            threshold=2.0,
            score=wire.Scores(p50=1.0, p95=1.5, p99=1.8, max=2.5, sketch=sketch),
            drift=wire.Drift(input=0.1, score=1.0),
            reported=reported,
            health=health,
        )


def run(options: argparse.Namespace, stop: threading.Event) -> int:
    host, port = options.mqtt.rsplit(":", 1)
    with ExitStack() as stack:
        journal = Journal(options.journal)
        devices = [
            Device(name, options.folder / name, journal, host, int(port), options, stack)
            for name in (f"{options.prefix}-{n:03d}" for n in range(options.devices))
        ]
        say_at_s = 0.0
        deadline_s = 0.0
        while True:
            now_s = time.monotonic()
            if stop.is_set() and not deadline_s:
                deadline_s = now_s + options.drain_s
                for device in devices:
                    device.outbox.commit()
            for device in devices:
                if not deadline_s:
                    device.put(options.rate, now_s)
                device.up.step(now_s)
            if now_s >= say_at_s:
                say_at_s = now_s + STATUS_S
                _say(options, devices)
            left = sum(device.outbox.depth for device in devices)
            if deadline_s and (not left or now_s > deadline_s):
                break
            time.sleep(0.01)
        for device in devices:
            device.journal_dropped()
        _say(options, devices)
    return 1 if left else 0


def _say(options: argparse.Namespace, devices: list[Device]) -> None:
    depth = sum(device.outbox.depth for device in devices)
    last = sum(device.outbox.last_seq for device in devices)
    state = {
        "pid": os.getpid(),
        "written": last,
        "backlog": depth,
        "settled": last - depth,
        "connected": sum(device.up.link.connected for device in devices),
        "trouble": sum(bool(device.outbox.trouble) for device in devices),
        "dropped": sum(device.outbox.dropped_rows() for device in devices),
    }
    write_whole(options.journal.with_suffix(".status"), json.dumps(state).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--mqtt", required=True)
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--rate", type=float, default=5.0, help="events per second of each device")
    parser.add_argument("--shares", type=lambda text: [float(part) for part in text.split(",")], default=SHARES)
    parser.add_argument("--patient", action="store_true", help="wait as long as the agent does before sending again")
    parser.add_argument("--prefix", default="chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drain-s", type=float, default=60.0)
    options = parser.parse_args()
    stop = install_stop()
    start_logging("devices", "info")
    return run(options, stop)


if __name__ == "__main__":
    sys.exit(main())
