"""Several gateway processes as one: a parent that starts them, watches them, adds up what they say, and ends them.

The parent speaks neither MQTT nor Kafka and handles no message: each child is an ordinary gateway of some shards.
A child that ends is started again with backoff, one that hangs is killed first; both are told once. Children end with
the parent, whatever ends it.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey import exposition, health
from covey.processes import Child, Children, covey_command, free_port
from covey.runtime import Backoff, write_whole
from gateway import counts, layout

if TYPE_CHECKING:
    import threading

    from gateway.config import GatewayConfig

_HOST = "127.0.0.1"  # children show their health to this machine only
_TURN_S = 0.1
_LOOK_S = 1.0
_ANSWER_S = 2.0  # of a child's health port
_START_S = 60.0  # until the first answer; Python on a busy small machine
_ALIVE_S = 30.0  # as in bridge.py
_STOP_S = 5.0  # beyond `flush_s`
_RETRY_CAP_S = 30.0
_ENVIRONMENT = "COVEY_GATEWAY_"
# name -> (type, help); the parent's own
METRICS = {
    "process_up": ("gauge", "1 while the process answers and is alive"),
    "process_starts": ("counter", "times the process was started"),
    "process_kills": ("counter", "times it was killed because it hung"),
}


@dataclass
class _Member:
    """One child and what is known of it."""

    number: int
    config: GatewayConfig
    file: Path
    port: int = 0
    child: Child | None = None
    status: dict[str, Any] = field(default_factory=dict)  # its last /healthz; {} when it did not answer
    answered: bool = False  # ever, since it was started
    lives_s: float = 0.0  # monotonic: when it was last seen alive
    due_s: float = 0.0  # monotonic: when to start it
    kills: int = 0
    told: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(cap_s=_RETRY_CAP_S))

    @property
    def alive(self) -> bool:
        return bool(self.status.get("alive"))

    @property
    def starts(self) -> int:
        return 0 if self.child is None else self.child.starts

    def about(self) -> dict[str, object]:
        return {
            "process": self.number,
            "gateway": self.config.name,
            "shards": layout.shown(self.config.own_shards()),
            "pid": None if self.child is None else self.child.process.pid,
            "health_port": self.port,
            "alive": self.alive,
            "ready": bool(self.status.get("ready")),
            "starts": self.starts,
            "kills": self.kills,
        }


class _Mover:
    """Sessions of an earlier layout, once, before any child runs: `covey gateway move` as a process (see move.py)."""

    def __init__(self, config: GatewayConfig, folder: Path, children: Children, log: logging.Logger) -> None:
        self._file = folder / "move.toml"
        write_whole(self._file, layout.to_toml(config).encode(), mode=0o600)
        self._children = children
        self._log = log
        self._child: Child | None = None
        self._done = False
        self._due_s = 0.0
        self._told = False
        self._backoff = Backoff(cap_s=_RETRY_CAP_S)

    def done(self, now_s: float) -> bool:
        """Whether children may start; begins, and begins again after a failure."""
        if self._done or (self._child is not None and self._child.alive):
            return self._done
        if self._child is not None:
            code = self._child.process.returncode
            self._child = None
            if code == 2:  # a wrong configuration; said in one line already
                raise SystemExit(2)
            if code == 0:
                self._done = True
                return True
            if not self._told:
                self._log.warning("sessions of an earlier layout could not be looked for yet: trying again")
                self._told = True
            self._due_s = now_s + self._backoff.next_s()
        if now_s >= self._due_s:
            words = ["gateway", "move", "--config", str(self._file), "--die-with-parent"]
            self._child = self._children.start("move", covey_command(*words))
        return False


class _Pool:
    def __init__(self, config: GatewayConfig, folder: Path, ask: ThreadPoolExecutor, log: logging.Logger) -> None:
        self._config = config
        self._ask = ask
        self._log = log
        self._children = Children(folder, to_stderr=True)
        self._members = [_Member(i, c, folder / f"{i}.toml") for i, c in enumerate(layout.of_processes(config))]
        for member in self._members:
            write_whole(member.file, layout.to_toml(member.config).encode(), mode=0o600)
        self._mover = _Mover(config, folder, self._children, log)
        self._proven = False  # one child has answered: the configuration can be run
        self._stopping = False
        self._look_at_s = 0.0
        self._turned_s = time.monotonic()

    def turn(self) -> None:
        """Start what is due, see who ended, ask all how they are, end who hangs."""
        now_s = self._turned_s = time.monotonic()
        if not self._mover.done(now_s):
            return
        for member in self._members if self._proven else self._members[:1]:
            if member.child is None or not member.child.alive:
                self._mend(member, now_s)
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_S
        answers = self._ask.map(_ask_status, self._members)
        for member, status in zip(self._members, answers, strict=True):
            self._seen(member, status)

    def close(self) -> None:
        """End all children: each flushes, acknowledges and says that nobody listens. Bounded."""
        self._stopping = True
        killed = self._children.stop(timeout_s=self._config.flush_s + _STOP_S)
        self._log.info("stopped%s", f"; killed: {', '.join(killed)}" if killed else "")

    def view(self) -> health.View:
        """For the health port's threads: what the last look saw."""
        members = [member.about() for member in self._members]
        alive = time.monotonic() - self._turned_s < _ALIVE_S
        ready = alive and not self._stopping and all(about["ready"] for about in members)
        status: dict[str, object] = {"gateway": self._config.name, "alive": alive, "ready": ready}
        status |= {"mqtt": self._config.mqtt, "kafka": self._config.kafka, "ack_after": self._config.ack_after}
        said = [member.status for member in self._members if member.status]
        status |= counts.together(said)
        if len(said) < len(members):
            status |= {"mqtt_connected": 0, "kafka_connected": 0}  # not all of them
        return health.View(alive, ready, status | {"processes": members}, self._metrics)

    def _metrics(self) -> str:
        ports = [member.port for member in self._members]
        texts = zip(ports, self._ask.map(lambda port: _get(port, "/metrics"), ports), strict=True)
        joined = exposition.joined({str(i): text for i, (_port, text) in enumerate(texts) if text}, "process")
        families = []
        for name, (kind, about) in METRICS.items():
            suffix = "_total" if kind == "counter" else ""
            values = {"process_up": "alive", "process_starts": "starts", "process_kills": "kills"}
            rows = [
                exposition.Sample(suffix, (("process", str(m.number)),), int(getattr(m, values[name])))
                for m in self._members
            ]
            families.append(exposition.Family(counts.metric(name), kind, about, rows))
        return exposition.text(families) + joined

    def _mend(self, member: _Member, now_s: float) -> None:
        """Start a child that does not run, now or when its backoff is over."""
        if member.child is not None and member.due_s == 0.0:
            code = member.child.process.returncode
            if code == 2 and not member.answered:  # a wrong configuration; the child has said so in one line
                raise SystemExit(2)
            member.status = {}
            member.due_s = now_s + member.backoff.next_s()
            if not member.told:
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                self._log.warning(
                    "process %d (pid %d) %s: starting again", member.number, member.child.process.pid, how
                )
                member.told = True
        if now_s < member.due_s:
            return
        member.port = free_port(_HOST)
        words = ["gateway", "run", "--config", str(member.file), "--health-port", str(member.port)]
        words += ["--process", str(member.number), "--die-with-parent"]
        member.child = self._children.start(member.config.name, covey_command(*words))
        member.answered = False
        member.lives_s, member.due_s = now_s, 0.0

    def _seen(self, member: _Member, status: dict[str, Any]) -> None:
        if member.child is None or not member.child.alive:
            return
        now_s = time.monotonic()
        member.status = status
        if member.alive:
            self._proven = member.answered = True
            member.lives_s = now_s
            if status.get("ready"):
                member.backoff.reset()
                if member.told:
                    self._log.info("process %d (pid %d): ready again", member.number, member.child.process.pid)
                member.told = False
            return
        silent_s = now_s - member.lives_s
        if silent_s > (self._config.hung_s if member.answered else max(_START_S, self._config.hung_s)):
            member.kills += 1
            pid = member.child.process.pid
            self._log.warning("process %d (pid %d) hangs since %.0f s: killing it", member.number, pid, silent_s)
            member.told = True
            self._children.kill(member.config.name)


def run(config: GatewayConfig, stop: threading.Event) -> None:
    """Run `config.processes` gateways until `stop` is set.

    Raises:
        LinkError: the health port is taken.
        SystemExit: 2; a child refused its configuration and has said why.
    """
    log = logging.getLogger("gateway")
    for name in [name for name in os.environ if name.startswith(_ENVIRONMENT)]:
        del os.environ[name]  # read already; it would go before the files that children are given
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="covey-gateway-")))
        ask = stack.enter_context(ThreadPoolExecutor(2 * config.processes, "ask"))
        pool = _Pool(config, folder, ask, log)
        stack.enter_context(health.serve(config.health_host, config.health_port, pool.view))
        stack.callback(pool.close)
        log.info("%d processes between mqtt %s and kafka %s", config.processes, config.mqtt, config.kafka)
        while not stop.wait(_TURN_S):
            pool.turn()


def name_log_lines(process: int) -> None:
    """Let every log line of this process say which of several it is."""

    def name(record: logging.LogRecord) -> bool:
        record.name = f"{record.name}[{process}]"
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(name)


def _ask_status(member: _Member) -> dict[str, Any]:
    if member.child is None:
        return {}
    try:
        status = json.loads(_get(member.port, "/healthz") or "{}")
    except ValueError:
        return {}
    # another program, or another child, may have been faster to take the port
    return status if isinstance(status, dict) and status.get("gateway") == member.config.name else {}


def _get(port: int, path: str) -> str:
    """What a child's health port answers, whatever the code; "" when it does not."""
    connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_S)  # no proxy, whatever the environment says
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return ""
    finally:
        connection.close()
