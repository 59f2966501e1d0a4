"""Configuration of the gateway: every key, its unit, its bound and its default; `load_config` looks at the files, too.

The struct itself does no I/O. docs/gateway.md, "Configuration", shows the same keys to users.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct, structs

from covey import topics, wire
from covey.config import load
from covey.credentials import Credentials
from gateway import mapping
from gateway.kafka_options import Options, option_problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Port = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

_HOST_PORT = re.compile(r"[^\s:,]+:[0-9]{1,5}")
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}")


class GatewayConfig(Struct, frozen=True, kw_only=True):
    """One gateway process. `covey gateway run --help` lists the options that set the same keys."""

    mqtt: str = "127.0.0.1:1883"  # host:port
    kafka: str = "127.0.0.1:9092"  # host:port, more after commas
    name: str = "gateway"  # MQTT client id and presence: one process per name
    shards: tuple[str, ...] | None = None  # two hex digits each; None: the whole fleet
    processes: Annotated[int, Meta(ge=1, le=256)] = 1  # the shards are split among so many; <name>-0, <name>-1, ...
    hung_s: Seconds = 30.0  # a process of several that is not alive for so long is killed and started again
    mappings: tuple[mapping.Mapping, ...] = ()  # [[mappings]]: plain MQTT devices (docs/gateway.md, "Any device")

    ack_after: Literal["kafka", "store"] = "kafka"  # store: where the Kafka broker keeps nothing on disk
    ack_interval_s: Seconds = 1.0  # at most one ack message per device in it
    kafka_kind: Literal["kafka", "embedded"] = "kafka"
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 6  # of topics that do not exist yet
    replication: Annotated[int, Meta(ge=0, le=16)] = 0  # 0: the broker's default

    max_event_bytes: Annotated[int, Meta(ge=256, le=wire.MAX_EVENT_BYTES)] = wire.MAX_EVENT_BYTES
    rate_events_s: Annotated[float, Meta(gt=0)] = 500.0  # sustained, per device; an agent sends about one
    rate_burst: Annotated[int, Meta(ge=1)] = 20_000  # a backlog after an outage must pass
    receive_maximum: Annotated[int, Meta(ge=1, le=65_535)] = 4_000  # MQTT 5: unacknowledged at most
    queue_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000  # for Kafka; when full, reading stops
    queue_bytes: Annotated[int, Meta(ge=1_048_576, le=8_589_934_592)] = (
        67_108_864  # received, unconfirmed; above: reading stops
    )
    session_expiry_s: Annotated[int, Meta(ge=0, le=4_294_967_295)] = 604_800  # the broker keeps our queue so long
    keepalive_s: Annotated[int, Meta(ge=2, le=3_600)] = 30
    republish_interval_s: Seconds = 3_600.0  # each desired once more within it, evenly spread
    presence_interval_s: Seconds = 30.0
    flush_s: Seconds = 10.0  # at an orderly stop

    mqtt_ca: str = ""  # PEM file, or `system` for the machine's trust store; TLS when given
    mqtt_cert: str = ""  # PEM file, the chain; for brokers that ask for one
    mqtt_key: str = ""  # PEM file of the certificate's key, without passphrase
    mqtt_user: str = ""
    mqtt_password_file: str = ""  # one line; read at each connection

    kafka_ca: str = ""  # the same for the Kafka API
    kafka_cert: str = ""
    kafka_key: str = ""
    kafka_user: str = ""  # SASL when given
    kafka_password_file: str = ""
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_options: Options = {}  # librdkafka settings as they are; not those that the gateway's promises rest on

    health_host: str = "127.0.0.1"
    health_port: Port = 0  # 0: off
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not _is_host_port(self.mqtt):
            problems.append(f"mqtt: host:port expected, {self.mqtt!r} given")
        if not all(_is_host_port(part) for part in self.kafka.split(",")):
            problems.append(f"kafka: host:port[,host:port] expected, {self.kafka!r} given")
        if not _NAME.fullmatch(self.name):
            problems.append(f"name: 1-64 letters, digits, '.', '_', '-' expected, {self.name!r} given")
        unknown = [s for s in self.shards or () if s not in topics.SHARDS]
        if unknown or self.shards == ():
            problems.append(f"shards: two hex digits each expected, {', '.join(unknown) or 'none'} given")
        if self.processes > len(self.own_shards()):
            problems.append(f"processes: at most one per shard ({len(self.own_shards())}) expected")
        if self.processes > 1 and not _NAME.fullmatch(f"{self.name}-{self.processes - 1}"):
            problems.append("name: room for '-<process>' within 64 characters expected with processes > 1")
        if self.receive_maximum > self.queue_messages:
            problems.append(f"receive_maximum: at most queue_messages ({self.queue_messages}) expected")
        problems += self.mqtt_credentials.rules() + self.kafka_credentials.rules()
        problems += option_problems(self.kafka_options)
        problems += mapping.problems(self.mappings)
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def mqtt_credentials(self) -> Credentials:
        """Who we are to the MQTT broker."""
        return Credentials.of("mqtt", structs.asdict(self))

    @property
    def kafka_credentials(self) -> Credentials:
        """Who we are to the Kafka API."""
        return Credentials.of("kafka", structs.asdict(self))

    def warnings(self) -> list[str]:
        """What works and should not stay: open secrets, passwords in clear, certificates near their end."""
        return self.mqtt_credentials.warnings() + self.kafka_credentials.warnings()

    def serves(self, shard: str) -> bool:
        """Whether a shard is this gateway's."""
        return self.shards is None or shard in self.shards

    def own_shards(self) -> tuple[str, ...]:
        """The shards this gateway serves, named."""
        return topics.SHARDS if self.shards is None else self.shards


def load_config(
    path: Path | None = None, options: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> GatewayConfig:
    """The configuration of `covey gateway`, its files looked at.

    Raises:
        ConfigError: one message with every mistake: keys, values, and files that are missing, unreadable or out of date.
    """
    return load(GatewayConfig, "gateway", path, options, environ, also=_file_problems)


def _file_problems(values: Mapping[str, object]) -> list[str]:
    problems = Credentials.of("mqtt", values).problems() + Credentials.of("kafka", values).problems()
    options = values["kafka_options"]
    if options and isinstance(options, dict):
        from gateway.kafka import unusable_options  # only then: the library is heavy

        problems += unusable_options(options)
    return problems


def _is_host_port(text: str) -> bool:
    return _HOST_PORT.fullmatch(text) is not None and 0 < int(text.rsplit(":", 1)[1]) <= 65_535


def host_port(text: str) -> tuple[str, int]:
    """Host and port of a validated `host:port`."""
    host, port = text.rsplit(":", 1)
    return host, int(port)
