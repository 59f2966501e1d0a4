"""The stack of one machine: embedded MQTT and Kafka API brokers, gateway, store, bundle server, agents.

Starts roles only as processes and imports none. `covey up` keeps it running; `covey demo` plays a story on it.
The embedded brokers keep nothing on disk, so rows are acknowledged after the store has them.
"""

from __future__ import annotations

import json
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from covey.errors import ProcessError, UsageError
from covey.processes import Children, accepts, covey_command, free_port
from covey.runtime import write_whole

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

HOST = "127.0.0.1"
READY_S = 30.0
EMBEDDED = {
    "mqtt": "iotcore (rumqttd), memory only: use Mosquitto or any MQTT 5 broker in production",
    "kafka": "Tansu, memory only: use Redpanda or any Kafka API broker in production",
}
STATE_FILE = "stack.json"
STORE_FILE = "store.db"
FIRST_FILE = "release-1.covey"
DEFAULT_DIR = ".covey"


class Stack:
    """Where the parts of one stack are, and how each is started."""

    def __init__(self, folder: Path, ports: dict[str, int] | None = None) -> None:
        self.folder = folder
        self.ports = ports or {name: free_port(HOST) for name in ("mqtt", "kafka", "serve", "health")}
        # One thread a numeric library: many processes share few cores.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.children = Children(folder / "logs", {**threads, "COVEY_CLOUD_STORE": self.store})
        self.agents: list[str] = []
        self._instance = ""

    @property
    def mqtt(self) -> str:
        """Host and port of the MQTT broker."""
        return f"{HOST}:{self.ports['mqtt']}"

    @property
    def kafka(self) -> str:
        """Host and port of the Kafka API broker."""
        return f"{HOST}:{self.ports['kafka']}"

    @property
    def store(self) -> str:
        """SQLAlchemy URL of the store."""
        return f"sqlite:///{self.folder / STORE_FILE}"

    @property
    def repository(self) -> Path:
        """Folder of the release repository."""
        return self.folder / "repository"

    @property
    def trusted_root(self) -> Path:
        """The root metadata that devices are given."""
        return self.repository / "repository" / "metadata" / "1.root.json"

    @property
    def base_url(self) -> str:
        """Of the bundle server, as devices see it."""
        return f"http://{HOST}:{self.ports['serve']}"

    def agent_state(self, device: str) -> Path:
        """State folder of one agent."""
        return self.folder / "agents" / device

    def start_core(self, stop: threading.Event) -> None:
        """Start everything but the agents and wait until each part answers."""
        self._port_must_be_free()
        self.start_mqtt()
        self.start_kafka()
        for name in ("mqtt", "kafka"):
            self.children.wait_until(partial(accepts, HOST, self.ports[name]), READY_S, name, stop)
        self.start_gateway()
        self.start_cloud()
        self.start_serve()
        for name, port in (("gateway", self.ports["health"]), ("serve", self.ports["serve"])):
            self.children.wait_until(partial(accepts, HOST, port), READY_S, name, stop)

    def start_mqtt(self) -> None:
        """Start the embedded MQTT broker."""
        command = [covey_command()[0], "-m", "covey.embedded.mqtt", "--port", str(self.ports["mqtt"])]
        self.children.start("mqtt", command)

    def start_kafka(self) -> None:
        """Start the embedded Kafka API broker; a new one knows nothing of the last one's offsets."""
        self._instance = secrets.token_hex(8)
        command = [covey_command()[0], "-m", "covey.embedded.kafka", "--port", str(self.ports["kafka"])]
        self.children.start("kafka", command)

    def start_gateway(self) -> None:
        """Start the gateway."""
        self.children.start(
            "gateway",
            covey_command("gateway", "run", "--mqtt", self.mqtt, "--kafka", self.kafka, "--kafka-kind", "embedded")
            + ["--ack-after", "store", "--health-port", str(self.ports["health"]), "--die-with-parent"],
        )

    def start_cloud(self) -> None:
        """Start the store's consumer."""
        self.children.start(
            "cloud",
            covey_command("cloud", "run", "--kafka", self.kafka, "--kafka-kind", "embedded")
            + ["--broker-instance", self._instance, "--instance", "one", "--store", self.store, "--ack-after", "store"]
            + ["--repository-dir", str(self.repository), "--base-url", self.base_url, "--die-with-parent"],
        )

    def start_serve(self) -> None:
        """Start the bundle server."""
        self.children.start(
            "serve",
            covey_command("cloud", "serve", "--repository-dir", str(self.repository), "--host", HOST)
            + ["--port", str(self.ports["serve"]), "--die-with-parent"],
        )

    def start_console(self, stop: threading.Event) -> None:
        """Start the console, on loopback, and wait until it answers. A run that is started there learns from the agents' rings."""
        port = self.ports["console"]
        first, learned = self.folder / FIRST_FILE, self.folder / "learned.covey"
        training = ["--engine", "local", "--stack", str(self.folder), "--initial", str(first), "--out", str(learned)]
        lines = {
            "kafka": self.kafka,
            "kafka_kind": "embedded",
            "broker_instance": "none",  # it reads nothing from the broker
            "store": self.store,
            "repository_dir": str(self.repository),
            "base_url": self.base_url,
        }
        # A JSON text is a TOML text, and so is a list of them.
        told = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        told += f"[console]\nport = {port}\ntraining = {json.dumps(training)}\n"
        path = self.folder / "console.toml"
        write_whole(path, told.encode(), 0o600)
        self.children.start("console", covey_command("cloud", "console", "--config", str(path), "--die-with-parent"))
        self.children.wait_until(partial(accepts, HOST, port), READY_S, "console", stop)

    def start_agent(self, device: str, options: Sequence[str]) -> None:
        """Start one agent with its own state folder."""
        name = f"agent-{device}"
        self.children.start(
            name,
            covey_command("edge", "run", "--device", device, "--mqtt", self.mqtt)
            + ["--state", str(self.agent_state(device)), "--trusted-root", str(self.trusted_root)]
            + [*options, "--die-with-parent"],
        )
        self.agents.append(name)

    def add_release(self, bundle: Path, note: str, stop: threading.Event, group: str = "default") -> dict[str, Any]:
        """Sign a bundle, record it and want it of the group's devices."""
        words = ["cloud", "releases", "add", str(bundle), "--group", group, "--note", note, "--store", self.store]
        words += ["--repository-dir", str(self.repository), "--kafka", self.kafka, "--kafka-kind", "embedded"]
        words += ["--base-url", self.base_url, "--json"]
        answer: dict[str, Any] = json.loads(self.children.run("release", covey_command(*words), READY_S, stop))
        return answer

    def ask(self, name: str, words: Sequence[str], stop: threading.Event) -> Any:
        """JSON answer of one of our own commands."""
        return json.loads(self.children.run(name, covey_command(*words), READY_S, stop))

    def mend(self) -> list[str]:
        """Start again what ended; returns what was started.

        A new embedded Kafka broker never says that an offset is out of range (measured: it skips messages silently),
        so the gateway and the store's consumer start anew with it.
        """
        dead = [c.name for c in self.children.children.values() if not c.alive]
        if "kafka" in dead:
            self.children.stop(["gateway", "cloud"])
            self.start_kafka()
            self.start_gateway()
            self.start_cloud()
            dead = [*dict.fromkeys([*dead, "gateway", "cloud"])]
        for name in dead:
            child = self.children.children.get(name)
            if child is not None and not child.alive:
                self.children.start(name, child.command)
        return dead

    def save(self) -> None:
        """Write down where everything is, for `covey status`, `down` and `federated train --stack`."""
        described = {
            "pid": os.getpid(),
            "ports": self.ports,
            "store": self.store,
            "repository": str(self.repository),
            "agents": [name.removeprefix("agent-") for name in self.agents],
            "parts": {c.name: c.process.pid for c in self.children.children.values()},
            "embedded": EMBEDDED,
        }
        write_whole(self.folder / STATE_FILE, json.dumps(described, indent=1).encode(), mode=0o600)

    def _port_must_be_free(self) -> None:
        for name, port in self.ports.items():
            if accepts(HOST, port):
                raise UsageError(f"{name}: a free port expected, {HOST}:{port} is taken")


def read_state(folder: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        UsageError: no stack was started there, or its file is damaged.
    """
    path = folder / STATE_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: a stack expected, none was started there (covey up --dir {folder})") from error
    except ValueError as error:
        raise UsageError(f"{path}: damaged: {error}") from error
    return state


def is_running(state: dict[str, Any]) -> bool:
    """Whether the supervisor that wrote this still runs (and the pid is not another program's by now)."""
    try:
        with open(f"/proc/{int(state['pid'])}/cmdline", "rb") as file:  # noqa: PTH123  # proc is no real path
            words = file.read().split(b"\0")
    except (OSError, KeyError, ValueError):
        return False
    return b"covey" in b" ".join(words) and b"up" in words


def wait_gone(pid: int, timeout_s: float, stop: threading.Event) -> None:
    """Wait until a process that is not our child has ended.

    Raises:
        ProcessError: it has not.
    """
    waited = 0.0
    while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110  # proc is no real path
        if waited >= timeout_s:
            raise ProcessError(f"pid {pid}", f"still runs after {timeout_s:.0f} s")
        stop.wait(0.1)
        waited += 0.1
