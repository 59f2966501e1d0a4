"""The candidates: how each is started on a job, and why one is not there.

Each is a process that is told brokers, MQTT filter, Kafka topic and the level of the MQTT topic that is the key; it keeps a
persistent MQTT session (QoS 1), acknowledges after Kafka where it can, and produces with acks=all and idempotence. What
comes ready-made is configured as its documentation has it for that; what a team would write itself is in peers/.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway_jobs import Job

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
VENV = HERE.parent / ".servers" / "peers"


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
        if job.name == "raw" and importlib.util.find_spec("gateway.mapping") is None:
            return "this gateway has no mappings yet"
        return ""

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        config = place / "gateway.toml"
        text = ""
        if job.name == "raw":
            # The limit of events a second and device is for real devices; here few of them send everything.
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

    def absent(self, job: Job) -> str:
        return ""

    def version(self) -> str:
        from importlib.metadata import version

        return f"paho-mqtt {version('paho-mqtt')}, confluent-kafka {version('confluent-kafka')}"

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        return Launch([sys.executable, str(PEERS / "stock_paho.py")], told(self.name, job, place, mqtt, kafka))


class MqBridge(Candidate):
    """mq-bridge (Rust core) from PyPI, in an environment of its own."""

    name = "mq-bridge"
    about = "mq-bridge's Rust core, no handler; manual acknowledgement after Kafka"

    def absent(self, job: Job) -> str:
        try:
            self._python()
        except subprocess.CalledProcessError as error:
            return f"cannot be installed: {error.stderr.strip().splitlines()[-1:]}"
        return ""

    def version(self) -> str:
        return (
            (PEERS / "requirements.txt").read_text(encoding="utf-8").split("\n", 1)[0].split(" ")[0].replace("==", " ")
        )

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        return Launch([self._python(), str(PEERS / "mq_bridge_route.py")], told(self.name, job, place, mqtt, kafka))

    def _python(self) -> str:
        """The environment's interpreter; made and filled when it is not there or its list has changed."""
        python, wanted = VENV / "bin" / "python", (PEERS / "requirements.txt").read_text(encoding="utf-8")
        stamp = VENV / "stamp"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(VENV)],
                [str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(PEERS / "requirements.txt")],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            stamp.write_text(wanted, encoding="utf-8")
        return str(python)


class External(Candidate):
    """A folder of peers/ with an executable `run`, told everything by environment variables (`told`).

    `run --check` exits 0 when it is built, and otherwise says why not; `run --version` prints one line.
    """

    def __init__(self, name: str, about: str) -> None:
        self.name = name
        self.about = about
        self._run = PEERS / name / "run"

    def absent(self, job: Job) -> str:
        if not os.access(self._run, os.X_OK):
            return f"peers/{self.name}/run is not there"
        done = subprocess.run([str(self._run), "--check"], capture_output=True, text=True, check=False, timeout=60)
        words = (done.stdout + done.stderr).strip().splitlines()
        return "" if done.returncode == 0 else (words[-1] if words else f"run --check ended with {done.returncode}")

    def version(self) -> str:
        done = subprocess.run([str(self._run), "--version"], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip()

    def launch(self, job: Job, place: Path, mqtt: str, kafka: str) -> Launch:
        return Launch([str(self._run)], told(self.name, job, place, mqtt, kafka))


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
        MqBridge(),
        StockPaho(),
        External("mqttjs", "mqtt.js and kafkajs"),
        External("connect", "Redpanda Connect"),
        External("telegraf", "Telegraf"),
    )
}

if __name__ == "__main__":
    from gateway_jobs import RAW

    print(json.dumps({name: one.absent(RAW) or one.version() or "there" for name, one in ALL.items()}, indent=1))
