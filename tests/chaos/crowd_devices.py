"""A load of very many devices in one process: the simulator's sessions, each with a will, a birth and rows of its own.

`python -m chaos.crowd_devices JOURNAL --mqtt host:port --devices N`: each device puts one event when it starts, one more every
`--every` seconds, and `--burst` at once on SIGUSR1; on SIGTERM everything is sent until it is acknowledged. Rows are sent, held
and sent again by the product's rule (edge.resend) and deleted on the gateway's acknowledgement alone. They are in memory: this
process is not what is killed (chaos.devices has the outbox that survives that).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import signal
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos import badness
from chaos.devices import Journal
from covey import topics, wire
from covey.runtime import install_stop, start_logging, write_whole
from edge.resend import SendWindow
from firmware_sim.net.links import PROFILES
from firmware_sim.net.sessions import Client, Sessions

if TYPE_CHECKING:
    import threading

STATUS_S = 0.2
LATE_S = 0.5  # how often the oldest row in flight is looked at
BATCH = 32  # rows sent by a device in one turn, as edge/uplink.py


class Device:
    """One device's rows."""

    def __init__(self, name: str, first_s: float) -> None:
        self.name, self.due_s = name, first_s
        self.outbox = secrets.token_hex(8)
        self.topic = topics.mqtt_topic(name, "status")
        self.seq = 0
        self.rows: dict[int, bytes] = {}  # not acknowledged, ascending
        self.window = SendWindow()

    def put(self, journal: Journal) -> None:
        self.seq += 1
        body = badness.status(wire.Identity(self.name, self.outbox, self.seq), "crowd")
        journal.write("put", self.name, self.outbox, self.seq, hashlib.sha256(body).hexdigest(), 0)
        self.rows[self.seq] = body

    def acknowledge(self, ack: wire.Ack) -> int:
        gone = 0
        for one in ack.acks:
            if one.outbox == self.outbox:
                for first, last in one.ranges:
                    gone += sum(self.rows.pop(seq, None) is not None for seq in range(first, last + 1))
                self.window.acknowledged(one.ranges)
        return gone


class Crowd:
    """All of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        host, port = options.mqtt.rsplit(":", 1)
        self._options = options
        self._journal = Journal(options.journal)
        begin_s = time.monotonic() + options.every
        self.devices = [
            Device(f"{options.prefix}-{n:05d}", begin_s + n * options.every / options.devices)
            for n in range(options.devices)
        ]
        self.sessions = Sessions(
            host,
            int(port),
            [self._client(n, device.name) for n, device in enumerate(self.devices)],
            connect_per_s=2_000.0,
        )
        self.written = self.settled = 0
        self._wanting: set[int] = set()
        self._burst = False
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_burst", True))

    @staticmethod
    def _client(n: int, name: str) -> Client:
        down = tuple((topics.mqtt_topic(name, kind), 1) for kind in topics.DOWN_KINDS)
        gone = lambda session: wire.encode(wire.Presence(online=False, session=session))  # noqa: E731  # one expression
        own = (*down, (topics.gateway_topic(topics.shard(name)), 1))
        return Client(name, own, topics.mqtt_topic(name, topics.PRESENCE), gone, PROFILES["ethernet"], n)

    def run(self, stop: threading.Event) -> int:
        """Until `stop`, then until everything is acknowledged; how many rows are left."""
        for index, device in enumerate(self.devices):
            self._journal.write("open", device.name, device.outbox, 0)
            self._put(index)
        deadline_s = say_at_s = late_at_s = 0.0
        turn = 0
        while True:
            now_s = time.monotonic()
            if stop.is_set() and not deadline_s:
                deadline_s = now_s + self._options.drain_s
            if not deadline_s:
                turn = self._put_due(now_s, turn)
            if now_s >= late_at_s:
                late_at_s = now_s + LATE_S
                self._look_late(now_s)
            self._send(now_s)
            for index, what, detail in self.sessions.step(0.02):
                self._happened(index, what, detail, now_s)
            left = self.written - self.settled
            over = bool(deadline_s) and (not left or now_s > deadline_s)
            if over or now_s >= say_at_s:
                say_at_s = now_s + STATUS_S
                self._say(left)
            if over:
                self.sessions.close()
                return left

    def _put(self, index: int) -> None:
        self.devices[index].put(self._journal)
        self.written += 1
        self._wanting.add(index)

    def _put_due(self, now_s: float, turn: int) -> int:
        """Events that are due; devices take turns, so only the next one need be looked at."""
        if self._burst:
            self._burst = False
            for index in range(len(self.devices)):
                for _ in range(self._options.burst):
                    self._put(index)
        for _ in range(len(self.devices)):
            device = self.devices[turn]
            if device.due_s > now_s:
                break
            device.due_s += self._options.every
            self._put(turn)
            turn = (turn + 1) % len(self.devices)
        return turn

    def _look_late(self, now_s: float) -> None:
        for index, device in enumerate(self.devices):
            if not device.rows or not self.sessions.connected(index):
                continue
            if device.window.late(now_s) and self.sessions.unconfirmed(index):
                self.sessions.cut(index)  # the broker does not answer at all, as edge/uplink.py has it
            else:
                self._wanting.add(index)

    def _send(self, now_s: float) -> None:
        wanting, self._wanting = self._wanting, set()
        for index in wanting:
            device = self.devices[index]
            room = min(device.window.room(now_s), self.sessions.room(index), BATCH)
            if room <= 0:
                continue  # comes again with an acknowledgement, or with the next look
            after = device.window.after
            for seq, body in list(islice((row for row in device.rows.items() if row[0] > after), room)):
                if self.sessions.publish(index, device.topic, body) is None:
                    break
                device.window.sent(seq, now_s)

    def _happened(self, index: int, what: str, detail: Any, now_s: float) -> None:
        device = self.devices[index]
        if what == "ready":
            birth = wire.encode(wire.Presence(online=True, session=self.sessions.session(index)))
            self.sessions.publish(index, topics.mqtt_topic(device.name, topics.PRESENCE), birth)
            device.window.connected(now_s)
        elif what == "message":
            topic, payload = detail
            kind = topic.rsplit("/", 1)[-1]
            if kind == "ack":
                self.settled += device.acknowledge(wire.decode(wire.Ack, payload))
            elif kind == topics.GATEWAY and payload:
                device.window.gateway(now_s, online=wire.decode(wire.GatewayPresence, payload).online)
        if device.rows:
            self._wanting.add(index)

    def _say(self, left: int) -> None:
        counters = self.sessions.counters
        state = {"written": self.written, "settled": self.settled, "backlog": left}
        state |= {"connected": counters.connected, "connects": counters.connects, "lost": counters.lost}
        write_whole(self._options.journal.with_suffix(".status"), json.dumps(state).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("journal", type=Path)
    parser.add_argument("--mqtt", required=True)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between events of each device")
    parser.add_argument("--burst", type=int, default=3, help="events of each device at once on SIGUSR1")
    parser.add_argument("--prefix", default="crowd")
    parser.add_argument("--drain-s", type=float, default=180.0)
    options = parser.parse_args()
    stop = install_stop()
    start_logging("crowd", "info")
    return 1 if Crowd(options).run(stop) else 0


if __name__ == "__main__":
    sys.exit(main())
