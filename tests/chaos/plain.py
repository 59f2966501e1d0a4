"""A load of plain MQTT 5 devices that know nothing of covey: QoS 1, no outbox, and a PUBACK is all they wait for.

`python -m chaos.plain STATUS --mqtt host:port --clients N --rate R`: each client publishes R messages a second until SIGTERM,
then waits for what is not confirmed. What the broker confirmed is forgotten here, so from there on it is in the broker's queue
and nowhere else until the gateway has brought it to Kafka. What was not confirmed when a connection ended is sent again,
oldest first. Topic `tele/<client>/SENSOR`, payload {"n": number from 1, "t": seconds since the epoch}; the status file says
how many each client had confirmed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from covey.runtime import install_stop, start_logging, write_whole
from firmware_sim.net.links import PROFILES
from firmware_sim.net.sessions import Client, Sessions

if TYPE_CHECKING:
    import threading

FILTER = "tele/+/SENSOR"
TOPIC = "plain.sensors"
# As users have it in the gateway's configuration file.
MAPPING = f"""\
[[mappings]]
filter = "{FILTER}"
topic = "{TOPIC}"
key = "{{1}}"
payload = "raw"
"""
STATUS_S = 0.2


class Plain:
    """One client's counting."""

    def __init__(self, name: str, first_s: float) -> None:
        self.name, self.due_s = name, first_s
        self.made = 0
        self.waiting: deque[tuple[int, bytes]] = deque()  # made and not confirmed, ascending
        self.sent: dict[int, int] = {}  # packet id -> number, of this connection
        self.next = 1  # number of the first one not sent on this connection

    def make(self) -> None:
        self.made += 1
        filler = "x" * 180  # a sensor's message of some 250 bytes
        body = {"n": self.made, "t": time.time(), "ENERGY": {"Power": self.made % 997, "Note": filler}}
        self.waiting.append((self.made, json.dumps(body).encode()))

    def confirm(self, packet_id: int) -> None:
        number = self.sent.pop(packet_id)
        if self.waiting and self.waiting[0][0] == number:
            self.waiting.popleft()
        else:
            self.waiting = deque(one for one in self.waiting if one[0] != number)


def run(options: argparse.Namespace, stop: threading.Event) -> int:
    host, port = options.mqtt.rsplit(":", 1)
    names = [f"{options.prefix}-{n:04d}" for n in range(options.clients)]
    link = PROFILES["ethernet"]
    clients = [Client(name, (), "", str.encode, link, n) for n, name in enumerate(names)]
    now_s = time.monotonic()
    plains = [Plain(name, now_s + n / options.rate / len(names)) for n, name in enumerate(names)]
    deadline_s = say_at_s = 0.0
    with Sessions(host, int(port), clients, connect_per_s=1_000.0) as sessions:
        while True:
            now_s = time.monotonic()
            if stop.is_set() and not deadline_s:
                deadline_s = now_s + options.drain_s
            for index, plain in enumerate(plains):
                while not deadline_s and plain.due_s <= now_s:
                    plain.due_s += 1.0 / options.rate
                    plain.make()
                for number, body in plain.waiting:
                    if number >= plain.next:
                        packet_id = sessions.publish(index, f"tele/{plain.name}/SENSOR", body)
                        if packet_id is None:
                            break
                        plain.sent[packet_id] = number
                        plain.next = number + 1
            for index, what, detail in sessions.step(0.01):
                plain = plains[index]
                if what == "puback":
                    plain.confirm(int(str(detail)))
                elif what in ("lost", "ready"):  # packet ids die with the connection
                    plain.sent.clear()
                    plain.next = 1
            left = sum(len(plain.waiting) for plain in plains)
            over = bool(deadline_s) and (not left or now_s > deadline_s)
            if over or now_s >= say_at_s:
                say_at_s = now_s + STATUS_S
                made = sum(plain.made for plain in plains)
                state = {"written": made, "settled": made - left, "backlog": left}
                state["connected"] = sessions.counters.connected
                each = {plain.name: plain.made for plain in plains} if over else {}
                write_whole(options.status, json.dumps({**state, "made": each}).encode())
            if over:
                break
        sessions.close()
    return 1 if left else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("status", type=Path)
    parser.add_argument("--mqtt", required=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=2.0, help="messages per second of each client")
    parser.add_argument("--prefix", default="plain")
    parser.add_argument("--drain-s", type=float, default=60.0)
    options = parser.parse_args()
    stop = install_stop()
    start_logging("plain", "info")
    return run(options, stop)


if __name__ == "__main__":
    sys.exit(main())
