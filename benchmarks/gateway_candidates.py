"""The candidates: how each is started on a job, and why one is not there.

Each is a process that is told brokers, MQTT filter, Kafka topic and the level of the MQTT topic that is the key; it keeps a
persistent MQTT session (QoS 1), acknowledges after Kafka where it can, and produces with acks=all and idempotence. What
comes ready-made is configured as its documentation has it for that; what a team would write itself is in peers/.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway_jobs import Job

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
BUILDS = HERE.parent / ".servers" / "peers"
_WANTED = PEERS / "requirements.txt"
_BUILD_S = 3_600.0


class Launch(NamedTuple):
    """How a process is started."""

    command: list[str]
    env: dict[str, str]


class Candidate:
    """One of those compared; `absent` says why it cannot run a job, "" when it can."""

    name = ""
    about = ""
    acknowledges = False  # to devices, in the job covey

    def absent(self, job: Job) -> str:
        """Why it cannot run."""
        raise NotImplementedError

    def build(self) -> str:
        """Fetch or build what it needs; why that failed, or ""."""
        return ""

    def version(self) -> str:
        """As printed beside the figures."""
        return ""

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        """Write what it needs into `place` and say how it is started."""
        raise NotImplementedError


class Ours(Candidate):
    """`covey gateway run` with its defaults."""

    name = "ours"
    about = "covey gateway, one process"
    acknowledges = True

    def absent(self, job: Job) -> str:
        """As of every candidate."""
        if job.name == "raw" and importlib.util.find_spec("gateway.mapping") is None:
            return "this gateway has no mappings yet"
        return ""

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        """As of every candidate."""
        config = place / "gateway.toml"
        text = ""
        if job.name == "raw":
            text = f'[[mappings]]\nfilter = "{job.filter}"\ntopic = "{job.topic}"\nkey = "{{{job.level}}}"\npayload = "raw"\n'
        config.write_text(text)
        command = [
            sys.executable,
            "-m",
            "covey",
            "gateway",
            "run",
            "--config",
            str(config),
            "--mqtt",
            mqtt,
            "--kafka",
            kafka,
        ]
        return Launch([*command, "--log-level", "warning"], {})


class StockPaho(Candidate):
    """peers/stock_paho.py."""

    name = "stock-paho"
    about = "paho-mqtt and confluent-kafka as documented; manual acknowledgement in order after the delivery report"
    acknowledges = True

    def absent(self, _job: Job) -> str:
        """As of every candidate."""
        return ""

    def version(self) -> str:
        """As of every candidate."""
        from importlib.metadata import version

        return f"paho-mqtt {version('paho-mqtt')}, confluent-kafka {version('confluent-kafka')}"

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        """As of every candidate."""
        return Launch([sys.executable, str(PEERS / "stock_paho.py")], told(self.name, job, place, mqtt, kafka))


class MqBridge(Candidate):
    """mq-bridge (Rust core) from PyPI, in an environment of its own.

    It can key by the MQTT topic, which stands for the device, when it is told to keep the topic as metadata; that also
    makes the topic a header of every record. Without, the key is random, which is cheaper and loses the order per device.
    """

    def __init__(self, *, keyed: bool) -> None:
        self._keyed = keyed
        self.name = "mq-bridge" if keyed else "mq-bridge-unkeyed"
        self.about = "its Rust core, no handler, acknowledges after Kafka; "
        self.about += "keyed by MQTT topic" if keyed else "random keys, no order per device"

    def build(self) -> str:
        """As of every candidate."""
        try:
            self._python()
        except subprocess.CalledProcessError as error:
            return f"cannot be installed: {(error.stderr.strip().splitlines() or ['?'])[-1]}"
        return ""

    def absent(self, _job: Job) -> str:
        """As of every candidate."""
        return self.build()

    def version(self) -> str:
        """As of every candidate."""
        return _WANTED.read_text(encoding="utf-8").split(" ", 1)[0].replace("==", " ")

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        """As of every candidate."""
        env = told(self.name, job, place, mqtt, kafka)
        if self._keyed:
            env |= {"MQB_SOURCE_METADATA": "true", "BENCH_PARTITION_KEY": "mqb.src.mqtt_topic"}
        return Launch([self._python(), str(PEERS / "mq_bridge_route.py")], env)

    def _python(self) -> str:
        """The environment's interpreter; made and filled when it is not there or its list has changed."""
        home, wanted = BUILDS / "mq-bridge", _WANTED.read_text(encoding="utf-8")
        python, stamp = home / "bin" / "python", home / "stamp"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(home)],
                [str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(_WANTED)],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_S)
            stamp.write_text(wanted, encoding="utf-8")
        return str(python)


class External(Candidate):
    """A folder of peers/ with `build BUILD_DIR` and `run BUILD_DIR --mqtt H:P --kafka H:P ...`.

    Built by `bench_gateway.py --build` only: a Go program of that size takes its time.
    """

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self._source = PEERS / name
        self._built = BUILDS / name
        self._stamp = BUILDS / f"{name}.built"

    def build(self) -> str:
        """Build it; why it could not be, or "" when it was."""
        if not os.access(self._source / "build", os.X_OK):
            return f"peers/{self.name}/build is not there"
        command = [str(self._source / "build"), str(self._built)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_S)
        words = (done.stderr or done.stdout).strip().splitlines()
        why = "" if done.returncode == 0 else (words[-1] if words else f"build ended with {done.returncode}")
        BUILDS.mkdir(parents=True, exist_ok=True)
        self._stamp.write_text(why, encoding="utf-8")
        return why

    def absent(self, _job: Job) -> str:
        """As of every candidate."""
        if not self._stamp.exists():
            return "not built (bench_gateway.py --build)"
        return self._stamp.read_text(encoding="utf-8")

    def version(self) -> str:
        """As of every candidate."""
        told = self._built / "VERSION"
        return told.read_text(encoding="utf-8").strip() if told.exists() else ""

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        """As of every candidate."""
        command = [
            str(self._source / "run"),
            str(self._built),
            "--mqtt",
            mqtt,
            "--kafka",
            kafka,
            "--filter",
            job.filter,
        ]
        command += ["--topic", job.topic, "--key-level", str(job.level), "--client-id", f"bench-{self.name}"]
        return Launch(command, {"BENCH_FOLDER": str(place)})


def told(name: str, job: Job, place: Path, mqtt: str, kafka: str) -> dict[str, str]:
    """What every peer finds in its environment."""
    return {
        "BENCH_JOB": job.name,
        "BENCH_MQTT": mqtt,  # host:port
        "BENCH_KAFKA": kafka,  # host:port
        "BENCH_FILTER": job.filter,
        "BENCH_TOPIC": job.topic,
        "BENCH_KEY_LEVEL": str(job.level),  # of the MQTT topic, from 0
        "BENCH_CLIENT_ID": f"bench-{name}",  # stable over restarts: the session must be found again
        "BENCH_FOLDER": str(place),  # for its own files
    }


ALL: dict[str, Candidate] = {
    one.name: one
    for one in (
        Ours(),
        MqBridge(keyed=True),
        MqBridge(keyed=False),
        StockPaho(),
        External("mqttjs", "mqtt.js and kafkajs"),
        External("connect", "Redpanda Connect"),
        External("telegraf", "Telegraf"),
    )
}
