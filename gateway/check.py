"""`covey gateway check`: can both brokers be reached with this configuration? Consumes and creates nothing."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey.errors import CoveyError, LinkError
from gateway.config import GatewayConfig, host_port
from gateway.kafka import describe, wanted_topics
from gateway.link import read_password, tls_context
from gateway.receiver import contract_problem

if TYPE_CHECKING:
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode


class Finding(Struct, frozen=True):
    """One line of the check."""

    what: str
    ok: bool
    detail: str


def check(config: GatewayConfig, timeout_s: float = 5.0) -> list[Finding]:
    """Connect to both brokers and say what was found."""
    problem = contract_problem()
    found = [Finding("receiver", True, f"one by one ({problem})" if problem else "in batches")]
    try:
        found.append(Finding("mqtt", True, _mqtt(config, timeout_s)))
    except CoveyError as error:
        found.append(Finding("mqtt", False, str(error)))
    try:
        partitions = describe(config)
    except LinkError as error:
        return [*found, Finding("kafka", False, str(error))]
    missing = [name for name in wanted_topics(config) if name not in partitions]
    found.append(Finding("kafka", True, f"{config.kafka}: connected"))
    found.append(Finding("topics", True, f"{len(partitions)} there, {len(missing)} to be created by run"))
    return found


def _mqtt(config: GatewayConfig, timeout_s: float) -> str:
    """Connect under another client id with a clean session: a running gateway is not disturbed."""
    answered = threading.Event()
    told: list[tuple[bool, str]] = []

    def on_connect(_c: Client, _u: object, _f: object, reason: ReasonCode, properties: Properties | None) -> None:
        most = getattr(properties, "ReceiveMaximum", 65_535)
        told.append((not reason.is_failure, f"{str(reason).lower()}, receive maximum {most}"))
        answered.set()

    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"covey-gateway-{config.name}-check",
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    client.on_connect = on_connect
    client.connect_timeout = timeout_s
    tls = tls_context(config)
    if tls is not None:
        client.tls_set_context(tls)
    if config.mqtt_user:
        client.username_pw_set(config.mqtt_user, read_password(config))
    host, port = host_port(config.mqtt)
    try:
        client.connect(host, port, 30, clean_start=True)
        deadline_s = time.monotonic() + timeout_s
        while not answered.is_set() and time.monotonic() < deadline_s:
            client.loop(0.1)
    except (OSError, ValueError) as error:
        raise LinkError(f"mqtt {config.mqtt}: {error}") from error
    finally:
        client.disconnect()
    if not told:
        raise LinkError(f"mqtt {config.mqtt}: no answer within {timeout_s:g} s; is it MQTT 5?")
    ok, detail = told[0]
    if not ok:
        raise LinkError(f"mqtt {config.mqtt}: refused: {detail}")
    return f"{config.mqtt}: {detail}"
