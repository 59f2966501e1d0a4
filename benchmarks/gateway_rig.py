"""The rig of the gateway benchmark: mosquitto, Kafka, a candidate in between, and the meters.

CPU is the kernel's own count in nanoseconds (the process clock of POSIX), over all threads of the candidate and of its
children. Whether the candidate has acknowledged everything is read from the broker's store, which keeps a QoS 1 message
until then. A saturated run fills the broker's queue while the candidate is stopped (SIGSTOP), so that nobody else needs
the machine while it drains. Every run has a fresh mosquitto; Kafka stays.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_jobs import OUTBOX, Job, line
from gateway_mqtt import Connection
from gateway_tail import Topic

from processes import Process
from servers import Mosquitto

if TYPE_CHECKING:
    from gateway_candidates import Candidate
    from typing_extensions import Self

    from servers import Kafka

HERE = Path(__file__).resolve().parent
MOSQUITTO = (
    "persistence false\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0\n"
    "set_tcp_nodelay true\nsys_interval 1\n"
)
STORED = "$SYS/broker/store/messages/count"
_SLACK = 24  # messages of the broker's own by which its store may differ
_READY_S = 60.0
_WARM_PHASE, RUN_PHASE = 2, 3


class RunError(Exception):
    """A candidate did not do what the run asks; the text says what."""


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_s(pids: list[int]) -> float:
    """CPU-seconds of processes, all threads, ended ones included; nanosecond resolution."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            total += time.clock_gettime((~pid) << 3 | 2)  # linux/posix-timers.h: CPUCLOCK_SCHED of a process
    return total


def resident_mb(pids: list[int]) -> float:
    """Greatest resident memory, MB."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
            total += int(next(row for row in lines if row.startswith("VmHWM")).split()[1]) / 1000
    return total


class Watch(threading.Thread):
    """How many messages the broker holds, and when it said so last; an own connection."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._connection = Connection(port, "bench-watch", [STORED])
        self._connection.sock.settimeout(None)
        self.stored = -1
        self.changed_s = time.monotonic()

    def run(self) -> None:
        """Follow until the connection is closed."""
        with suppress(OSError):
            for _, payload in self._connection.publishes():
                self.stored, self.changed_s = int(payload), time.monotonic()

    def calm(self, at_most: int, timeout_s: float, still_s: float = 1.6) -> bool:
        """Wait until the store holds few enough and does not change any more."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if 0 <= self.stored <= at_most and time.monotonic() - self.changed_s >= still_s:
                return True
            time.sleep(0.02)
        return False

    def falls_to(self, at_most: int, timeout_s: float) -> bool:
        """Wait until the store holds few enough."""
        return self.calm(at_most, timeout_s, 0.0)

    def falls(self, at_most: int, timeout_s: float, still_s: float = 10.0) -> int:
        """Wait until the store holds few enough, or changes no more; by how many it is too many then."""
        begun = time.monotonic()
        while not self.falls_to(at_most, 0.1):
            now = time.monotonic()
            if now - begun > timeout_s or now - max(begun, self.changed_s) > still_s:
                break
        return max(0, self.stored - at_most)


class AckCount:
    """A process that counts the events acknowledged to devices."""

    def __init__(self, port: int, job: Job) -> None:
        command = [
            sys.executable,
            str(HERE / "gateway_acks.py"),
            "--port",
            str(port),
            "--filter",
            job.acks,
            "--outbox",
            OUTBOX,
        ]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.events = 0
        self._ready = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()
        if not self._ready.wait(20.0):
            raise RunError("the counter of acknowledgements does not start")

    def _follow(self) -> None:
        for row in self._child.stdout or ():
            self.events = int(row)
            self._ready.set()

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()


class Rig:
    """One run of one candidate on one job."""

    def __init__(self, place: Path, kafka: Kafka, candidate: Candidate, job: Job, devices: int) -> None:
        self.job = job
        self.devices = devices
        self._candidate = candidate
        self._kafka = kafka
        self._stack = ExitStack()
        self._place = place
        place.mkdir(parents=True)
        self.broker = self._stack.enter_context(Mosquitto(place / "mosquitto", MOSQUITTO))
        self.topic = Topic(kafka.bootstrap, job.topic)
        self._stack.callback(self.topic.close)
        self.watch = Watch(self.broker.port)
        self.watch.start()
        self._acks = None
        if job.acks and candidate.acknowledges:
            self._acks = AckCount(self.broker.port, job)
            self._stack.callback(self._acks.close)
        launch = candidate.launch(job, place, f"127.0.0.1:{self.broker.port}", kafka.bootstrap)
        self.process = Process(candidate.name, launch.command, place / "candidate.log", env=os.environ | launch.env)
        self._stack.callback(self._end)
        self.process.start()
        self.begin = self.topic.ends()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def signal(self, number: signal.Signals) -> None:
        """To the candidate and its children, the youngest first."""
        for pid in reversed(family(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def warm_up(self, messages: int) -> None:
        """Wait until it bridges, then send it enough that its caches and its compiler have seen all devices.

        Raises:
            RunError: it does not bridge.
        """
        probe = line(self.job, 0)
        deadline = time.monotonic() + _READY_S
        before = self.topic.count()
        with Connection(self.broker.port, "bench-probe") as connection:
            for n in range(1, 100_000):
                connection.sock.sendall(probe.head + n.to_bytes(2, "big") + b"\0" + probe.body % (1_000_000 + n, 0))
                connection.packets()
                time.sleep(0.1)
                if self.topic.count() > before:
                    break
                if time.monotonic() > deadline or not self.process.alive:
                    raise RunError(f"nothing came through within {_READY_S:g} s; {self.process.tail(3)}")
        before = self._settled_count()
        self.load(messages, 0.0, _WARM_PHASE)
        self._await(before + messages, 120.0)
        if not self.watch.calm(1_000, 60.0):
            raise RunError(f"the broker still holds {self.watch.stored} messages after the warm-up")
        self.begin = self.topic.ends()

    def load(self, messages: int, rate_s: float, phase: int, *, wait: bool = True, seed: int = 1) -> Any:
        """The generator, as a process; its own figures when it is waited for."""
        command = [
            sys.executable,
            str(HERE / "gateway_load.py"),
            "--port",
            str(self.broker.port),
            "--job",
            self.job.name,
        ]
        command += ["--messages", str(messages), "--rate", str(rate_s), "--phase", str(phase), "--seed", str(seed)]
        command += ["--devices", str(self.devices)]
        if not wait:
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
        return json.loads(done.stdout)

    def saturated(self, messages: int) -> dict[str, float]:
        """Fill the broker's queue while the candidate is stopped, let it go, and meter it until all is acknowledged.

        What it brings to Kafka and leaves unacknowledged is told as `still_held`.

        Raises:
            RunError: it does not bring everything to Kafka, or does not acknowledge it to the devices.
        """
        stored = self.watch.stored
        acked = self._acks.events if self._acks else 0
        base = self.topic.count()
        pids = family(self.process.pid)
        self.signal(signal.SIGSTOP)
        try:
            self.load(messages, 0.0, RUN_PHASE)
        finally:
            meter = Meter(pids, self.broker, self._kafka)
            begun = time.time()
            self.signal(signal.SIGCONT)
        self._await(base + messages, 60.0 + messages / 500)
        still_held = self.watch.falls(stored + _SLACK, 60.0)
        if self._acks:
            deadline = time.monotonic() + 60.0
            while self._acks.events < acked + messages and time.monotonic() < deadline:
                time.sleep(0.02)
        used = meter.read()
        if self._acks and self._acks.events < acked + messages:
            raise RunError(f"{self._acks.events - acked} of {messages} events acknowledged to their devices")
        verdict = self.topic.judge(self.job, self.begin, RUN_PHASE, messages)
        wall_s = verdict.last_ms / 1e3 - begun
        used = {name: value * 1e5 / messages for name, value in used.items()}
        return used | {
            "wall_per_s": messages / wall_s,
            "per_cpu_s": 1e5 / used["cpu_s"],
            "memory_mb": resident_mb(pids),
            "still_held": still_held,
            **_counts(verdict._asdict()),
        }

    def paced(self, rate_s: float, seconds: float) -> dict[str, float]:
        """Publish at a rate while a consumer reads: delays and CPU.

        Raises:
            RunError: not everything arrives.
        """
        messages = int(rate_s * seconds)
        command = [
            sys.executable,
            str(HERE / "gateway_tail.py"),
            "--kafka",
            self._kafka.bootstrap,
            "--job",
            self.job.name,
        ]
        command += ["--messages", str(messages), "--phase", str(RUN_PHASE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
            assert tail.stdout is not None
            tail.stdout.readline()
            pids = family(self.process.pid)
            meter = Meter(pids, self.broker, self._kafka)
            load = self.load(messages, rate_s, RUN_PHASE)
            delays = sorted(json.loads(tail.stdout.readline())[int(rate_s) :])  # the first second is not told
            used = meter.read()
        if len(delays) < messages - int(rate_s):
            raise RunError(f"{len(delays) + int(rate_s)} of {messages} messages reached the consumer")
        used = {name: value * 1e5 / messages for name, value in used.items()}
        told = {"p50_ms": delays[len(delays) // 2], "p99_ms": delays[int(len(delays) * 0.99)], "max_ms": delays[-1]}
        verdict = self.topic.judge(self.job, self.begin, RUN_PHASE, messages)
        return used | told | {"load_late_p99_ms": load["late_p99_ms"], **_counts(verdict._asdict())}

    def killed(self, rate_s: float, seconds: float, kills: list[float]) -> dict[str, float]:
        """Kill it at moments (seconds after the load began) and start it again at once; what is lost, double, out of order."""
        messages = int(rate_s * seconds)
        stored = self.watch.stored
        load = self.load(messages, rate_s, RUN_PHASE, wait=False)
        begun = time.monotonic()
        for at_s in kills:
            time.sleep(max(0.0, begun + at_s - time.monotonic()))
            self.signal(signal.SIGKILL)
            self.process.kill9()
            self.process.start()
        load.communicate(timeout=600)
        self._settled_count(120.0)
        self.watch.falls_to(stored + _SLACK, 60.0)
        self._settled_count()
        verdict = self.topic.judge(self.job, self.begin, RUN_PHASE, messages)
        held = max(0, self.watch.stored - stored - _SLACK)
        return {"kills": len(kills), "messages": messages, "still_held": held, **_counts(verdict._asdict())}

    def _await(self, count: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        seen = moved = 0.0
        while (now := self.topic.count()) < count:
            if now != seen:
                seen, moved = now, time.monotonic()
            if time.monotonic() > deadline or time.monotonic() > moved + 30.0 or not self.process.alive:
                raise RunError(f"{count - now} messages did not reach Kafka; {self.process.tail(3)}")
            time.sleep(0.1)

    def _settled_count(self, timeout_s: float = 30.0) -> int:
        """The topic's count once it has not changed for three seconds."""
        deadline = time.monotonic() + timeout_s
        last, since = self.topic.count(), time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < 3.0:
            time.sleep(0.1)
            if (now := self.topic.count()) != last:
                last, since = now, time.monotonic()
        return last

    def _end(self) -> None:
        pids = family(self.process.pid)
        self.process.stop(15.0)
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(Exception):
            self.topic.forget()


class Meter:
    """CPU of the candidate, of mosquitto and of Kafka since its making."""

    def __init__(self, pids: list[int], broker: Mosquitto, kafka: Kafka) -> None:
        self._of = {"cpu_s": pids, "mosquitto_cpu_s": [broker.process.pid], "kafka_cpu_s": [kafka.process.pid]}
        self._begun = {name: cpu_s(pids) for name, pids in self._of.items()}

    def read(self) -> dict[str, float]:
        """CPU-seconds so far."""
        return {name: cpu_s(pids) - self._begun[name] for name, pids in self._of.items()}


def _counts(verdict: dict[str, int]) -> dict[str, float]:
    return {name: verdict[name] for name in ("lost", "duplicates", "order", "not_keyed")}
