"""What does a simulated device's MQTT session cost, against paho and against asyncio, on the same mosquitto?

Measured: CPU of this process, scaled to 100,000 messages with QoS 1 (500 bytes; each of 200 sessions sends one and waits for its
PUBACK, again and again, as devices do that send now and then), for our sessions, for the same codec on asyncio transports,
and for stock paho clients whose sockets an outer epoll drives. Then the fleet: memory of each connected session, the time
to connect all, to come back after half of them was cut at once, and what a core does while each session sends every 10 s.
Not shown: the broker's own CPU (it shares the machine), the kernel's memory for sockets, TLS.

    .venv/bin/python benchmarks/sim_sessions.py --sessions 10000 --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_sim.net.ghosts import allow_open_files
from firmware_sim.net.links import PROFILES
from firmware_sim.net.session import PUBACK, READY, Session
from firmware_sim.net.sessions import Client, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD = b"x" * 500
FEW = 200  # sessions of the comparison: paho's own loop ends at 1,024 file descriptors, and each of its clients takes three
MESSAGES = 20_000
ROUNDS = 5  # of the comparison, in turn, since others use the machine, too; medians are told
WAIT_S = 120.0


def clients(count: int) -> list[Client]:
    return [
        Client(
            f"sim-{i:05d}",
            tuple((f"covey/v1/{i % 256:02x}/sim-{i:05d}/{kind}", 1) for kind in ("ack", "desired", "command")),
            f"covey/v1/{i % 256:02x}/sim-{i:05d}/presence",
            lambda session: b'{"online":false,"session":"%s"}' % session.encode(),
            PROFILES["ethernet"],
            i,
        )
        for i in range(count)
    ]


def topic(i: int) -> str:
    return f"covey/v1/{i % 256:02x}/sim-{i:05d}/summary"


def resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def until(sessions: Sessions, predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not predicate():
        sessions.step(0.1)
        if time.monotonic() > deadline:
            sys.exit(f"not within {WAIT_S:g} s: {sessions.counters}")


def ours(port: int, messages: int) -> float:
    """CPU seconds."""
    with Sessions("127.0.0.1", port, clients(FEW), connect_per_s=1000) as sessions:
        until(sessions, lambda: sessions.counters.connected == FEW)
        begun, sent = time.process_time(), 0
        for i in range(FEW):
            sessions.publish(i, topic(i), PAYLOAD)
            sent += 1
        while sessions.counters.pubacks < messages:
            for happened in sessions.step(1.0):
                if happened.what == "puback" and sent < messages:
                    sessions.publish(happened.index, topic(happened.index), PAYLOAD)
                    sent += 1
        spent = time.process_time() - begun
        sessions.close()
    return spent


class OnAsyncio(asyncio.Protocol):
    """Our session on an asyncio transport."""

    def __init__(self, index: int, client: Client, account: Account) -> None:
        self.index, self.session, self.account = index, Session(client), account

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self.transport = transport
        self.session.begin("0" * 16, 0.0, 0.0, 60, 20)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Publish again for each confirmation."""
        for event in self.session.feed(data, 0.0):
            if event.what == READY:
                self.account.ready()
            elif event.what == PUBACK and self.account.confirmed():
                self.publish()
        self.flush()

    def publish(self) -> None:
        """Write one message."""
        self.session.publish(topic(self.index), PAYLOAD, 0.0)

    def flush(self) -> None:
        """Send what waits, in one piece."""
        if self.session.out:
            data = b"".join(self.session.out)
            self.session.out.clear()
            self.transport.write(data)  # type: ignore[attr-defined]  # it is a TCP transport


class Account:
    """Who is ready, and how many messages are to be sent and confirmed."""

    def __init__(self, messages: int) -> None:
        self.to_send = messages - FEW
        self.to_confirm = messages
        self.waiting = FEW
        self.all_ready = asyncio.Event()
        self.all_confirmed = asyncio.Event()

    def ready(self) -> None:
        """One more is."""
        self.waiting -= 1
        if not self.waiting:
            self.all_ready.set()

    def confirmed(self) -> bool:
        """Whether another is to be sent."""
        self.to_confirm -= 1
        if not self.to_confirm:
            self.all_confirmed.set()
        self.to_send -= 1
        return self.to_send >= 0


def on_asyncio(port: int, messages: int) -> float:
    """CPU seconds."""

    async def run() -> float:
        account = Account(messages)
        loop = asyncio.get_running_loop()
        protocols = []
        for i, client in enumerate(clients(FEW)):
            made = await loop.create_connection(lambda i=i, c=client: OnAsyncio(i, c, account), "127.0.0.1", port)
            protocols.append(made[1])
        await asyncio.wait_for(account.all_ready.wait(), WAIT_S)
        begun = time.process_time()
        for protocol in protocols:
            protocol.publish()
            protocol.flush()
        await asyncio.wait_for(account.all_confirmed.wait(), WAIT_S)
        spent = time.process_time() - begun
        for protocol in protocols:
            protocol.transport.close()  # type: ignore[attr-defined]  # set when the connection was made
        return spent

    return asyncio.run(run())


def with_paho(port: int, messages: int) -> float:
    """CPU seconds of stock paho clients; their sockets are in one epoll of ours, not in 200 threads."""
    from paho.mqtt.client import Client as Paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    epoll = select.epoll()
    found: dict[int, int] = {}
    confirmed: list[int] = []
    ready: list[int] = []
    fleet = []
    for i, client in enumerate(clients(FEW)):
        one = Paho(CallbackAPIVersion.VERSION2, client.client_id, protocol=MQTTProtocolVersion.MQTTv5, userdata=i)
        one.on_publish = lambda _c, index, *_: confirmed.append(index)
        one.on_subscribe = lambda _c, index, *_: ready.append(index)
        one.on_connect = lambda c, index, *_: c.subscribe(topic(index) + "/down", 1)
        one.connect("127.0.0.1", port, 60)
        fleet.append(one)
        fd = one.socket().fileno()
        found[fd] = i
        epoll.register(fd, select.EPOLLIN)

    def turn() -> None:
        for fd, _ in epoll.poll(1.0):
            fleet[found[fd]].loop_read()
        for one in fleet:
            if one.want_write():
                one.loop_write()

    while len(ready) < FEW:
        turn()
    begun, sent = time.process_time(), 0
    for i, one in enumerate(fleet):
        one.publish(topic(i), PAYLOAD, qos=1)
        sent += 1
    count = 0
    while count < messages:
        turn()
        count += len(confirmed)
        for index in confirmed:
            if sent < messages:
                fleet[index].publish(topic(index), PAYLOAD, qos=1)
                sent += 1
        confirmed.clear()
    spent = time.process_time() - begun
    for one in fleet:
        one.disconnect()
    return spent


def fleet(port: int, count: int, seconds: float) -> dict[str, float]:
    """Memory, times and the steady load of `count` sessions."""
    before_kb = resident_kb()
    made = clients(count)
    out: dict[str, float] = {}
    with Sessions("127.0.0.1", port, made, connect_per_s=1e6, keepalive_s=30) as sessions:
        begun = time.monotonic()
        until(sessions, lambda: sessions.counters.connected == count)
        out["connect_s"] = time.monotonic() - begun
        begun_cpu, begun = time.process_time(), time.monotonic()
        sent = 0
        while (now := time.monotonic() - begun) < seconds:
            while sent < now * count / 10:
                i = sent * 7919 % count  # not in the order of connecting
                sessions.publish(i, topic(i), PAYLOAD)
                sent += 1
            sessions.step(0.005)
        out["steady_core"] = (time.process_time() - begun_cpu) / (time.monotonic() - begun)
        out["memory_kb"] = (resident_kb() - before_kb) / count
        until(sessions, lambda: sessions.counters.pubacks == sent)
        for i in range(0, count, 2):
            sessions.cut(i)
        begun = time.monotonic()
        until(sessions, lambda: sessions.counters.connected == count)
        out["storm_s"] = time.monotonic() - begun
        calm = time.monotonic() + 0.2
        until(sessions, lambda: time.monotonic() > calm)
        begun_cpu = time.process_time()
        for _ in range(10_000):
            sessions.step()
        out["idle_us"] = (time.process_time() - begun_cpu) / 10_000 * 1e6
        sessions.close(30)
    return out


def figure(value: float, unit: str, goal: float | None = None) -> dict[str, Any]:
    """One figure as every benchmark prints it; goals are upper bounds."""
    return {"value": round(value, 3), "unit": unit, "goal": goal, "met": None if goal is None else value <= goal}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="of each round of the comparison")
    parser.add_argument("--seconds", type=float, default=20.0, help="of steady load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    command = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if command is None:
        sys.exit("mosquitto is not installed")
    allow_open_files(options.sessions + 1000)  # mosquitto inherits the limit
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n")
        broker = subprocess.Popen([command, "-c", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            big = fleet(port, options.sessions, options.seconds)  # first: memory freed by the others would hide its own
            runs = [[way(port, options.messages) for way in (ours, on_asyncio, with_paho)] for _ in range(ROUNDS)]
            mine, other, paho = (statistics.median(one) * 100_000 / options.messages for one in zip(*runs, strict=True))
        finally:
            broker.terminate()
            broker.wait(10)
    figures = {
        "cpu_s_per_100k": figure(mine, "CPU-s"),
        "cpu_s_per_100k_asyncio": figure(other, "CPU-s"),
        "cpu_s_per_100k_paho": figure(paho, "CPU-s"),
        "share_of_paho": figure(mine / paho, "", 0.25),
        "sessions": figure(options.sessions, ""),
        "memory_kb_per_session": figure(big["memory_kb"], "kB", 6.0),
        "connect_all_s": figure(big["connect_s"], "s"),
        "half_cut_all_back_s": figure(big["storm_s"], "s"),
        "steady_core_share": figure(big["steady_core"], "core"),
        "idle_step_us": figure(big["idle_us"], "us"),
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}")
    for name, one in figures.items():
        goal = "" if one["goal"] is None else f"  (goal <= {one['goal']:g}: {'met' if one['met'] else 'NOT met'})"
        print(f"{name:26} {one['value']:10g} {one['unit']}{goal}")


if __name__ == "__main__":
    main()
