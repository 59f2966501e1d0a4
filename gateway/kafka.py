"""Kafka clients as the gateway needs them: their settings, the topics, and what their errors mean.

Every confluent_kafka exception is translated here or in the two files that use these clients.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from covey import topics
from covey.credentials import kafka_settings
from covey.errors import ConfigError, LinkError
from gateway.config import host_port
from gateway.kafka_options import option_problems
from gateway.probe import Finding, reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka.admin import ClusterMetadata

    from gateway.config import GatewayConfig
    from gateway.kafka_options import Options

_ASK_S = 5.0  # a metadata or admin request
_silent = logging.getLogger("gateway.librdkafka")
_silent.addHandler(logging.NullHandler())
_log = logging.getLogger("gateway.kafka")
_silent.propagate = False  # an outage is told once by us, not every second by the library


# Certificates and passwords: what these say is for a person to mend, and lasts until then.
_SECURITY = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})  # noqa: SLF001  # the library's public codes begin so


# Said by a broker that has not heard yet whom the controller chose; it mends itself.
_ELECTING = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})
_T = TypeVar("_T")


class Heard:
    """What the library says beside its answers: the reason of a "transport failure"."""

    def __init__(self) -> None:
        self.security = ""  # a certificate or password was refused
        self._other = ""
        self.tls = False  # TLS failed

    def __call__(self, error: KafkaError) -> None:
        """The `error_cb` of a client; called from its `poll`."""
        if error.code() in _SECURITY:
            self.security = told(error)
            self.tls = error.code() == KafkaError._SSL  # noqa: SLF001  # as above
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001  # says nothing more
            self._other = told(error)

    def better(self, error: BaseException) -> str:
        """The reason heard, or what `error` itself says."""
        return self.security or self._other or told(error)


def client_settings(config: GatewayConfig) -> dict[str, Any]:
    """Settings of librdkafka for every client of ours; the password is read from its file now.

    Raises:
        ConfigError: the password file cannot be read.
    """
    base: dict[str, Any] = {
        "bootstrap.servers": config.kafka,
        "client.id": f"covey-gateway-{config.name}",
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "socket.timeout.ms": 15_000,
        "logger": _silent,
    }
    secured = kafka_settings(config.kafka_credentials, config.kafka_mechanism)
    return base | secured | config.kafka_options


def make_admin(config: GatewayConfig, heard: Heard) -> AdminClient:
    """A client that asks and creates topics.

    Raises:
        ConfigError: the library refuses the settings.
    """
    try:
        return AdminClient(client_settings(config) | {"error_cb": heard})
    except KafkaException as error:
        raise _refused(error) from error


def make_producer(
    config: GatewayConfig,
    on_error: Callable[[KafkaError], None],
    on_connected: Callable[[bool], None],
    *,
    only_failures: bool = False,
) -> Producer:
    """A producer that keeps trying for ever: an outage is an ordinary state, and the broker holds what it has not acked.

    Args:
        config: `kafka_kind` embedded gives up idempotence, which Tansu does not survive a restart with.
        on_error: library errors, fatal ones too; called from `poll`.
        on_connected: whether any broker is connected; called from `poll` about once a second.
        only_failures: no delivery report for what succeeds.

    Raises:
        ConfigError: the password file cannot be read, or the library refuses the settings.
    """
    said = None  # None: never connected; what is wrong at the start is told by who creates the topics

    def on_stats(text: str) -> None:
        nonlocal said
        brokers = json.loads(text).get("brokers", {})
        connected = any(b.get("state") == "UP" for b in brokers.values())
        said = "" if connected else said
        on_connected(connected)

    def on_library_error(error: KafkaError) -> None:
        nonlocal said
        if said is not None and error.code() in _SECURITY and told(error) != said:
            said = told(error)
            _log.warning("kafka %s: %s: trying again", config.kafka, said)
        on_error(error)

    settings: dict[str, Any] = {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,  # the adaptive tick makes the batches
        "queue.buffering.max.messages": config.queue_messages,
        "message.timeout.ms": 0,
        "statistics.interval.ms": 1_000,
        "delivery.report.only.error": only_failures,
        "stats_cb": on_stats,
        "error_cb": on_library_error,
    }
    if config.kafka_kind == "embedded":
        settings |= {"enable.idempotence": False, "max.in.flight.requests.per.connection": 1, "linger.ms": 5}
    try:
        return Producer(client_settings(config) | settings | config.kafka_options)
    except KafkaException as error:
        raise _refused(error) from error


def make_consumer(
    config: GatewayConfig,
    group: str,
    on_commit: Callable[[KafkaError | None, list[TopicPartition]], None] | None = None,
) -> Consumer:
    """A consumer for `assign`: no group is joined; only what is asked for is committed, under the name `group`.

    Raises:
        ConfigError: the password file cannot be read, or the library refuses the settings.
    """
    settings: dict[str, Any] = {
        "group.id": group,
        **({"on_commit": on_commit} if on_commit is not None else {}),
        "enable.partition.eof": True,  # tells when all has been read
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # Tansu's fetch does not wake on new data: there this is the latency.
        "fetch.wait.max.ms": 25 if config.kafka_kind == "embedded" else 250,
    }
    try:
        return Consumer(client_settings(config) | settings | config.kafka_options)
    except KafkaException as error:
        raise _refused(error) from error


def ask_metadata(admin: AdminClient, heard: Heard) -> ClusterMetadata:
    """Brokers and topics; a refused certificate or password ends the waiting at once, it will not mend itself.

    Raises:
        KafkaException: no broker answers.
    """
    deadline_s = time.monotonic() + _ASK_S
    while True:
        try:
            return admin.list_topics(timeout=_ASK_S / 5)
        except KafkaException:
            admin.poll(0)  # else it keeps to itself what it heard
            if heard.security or time.monotonic() >= deadline_s:
                raise


def settled(ask: Callable[[], _T]) -> _T:
    """What `ask` returns; while the brokers still choose leaders, as they do for a new topic, it is asked again.

    Raises:
        KafkaException: anything else, or no leader within five seconds.
    """
    deadline_s = time.monotonic() + _ASK_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _ELECTING or time.monotonic() >= deadline_s:
                raise
            time.sleep(0.05)


def wanted_topics(config: GatewayConfig) -> tuple[str, ...]:
    """Covey's own topics and those of the mappings."""
    return tuple(dict.fromkeys((*topics.KAFKA_TOPICS, *(m.topic for m in config.mappings))))


def ensure_topics(config: GatewayConfig) -> list[str]:
    """Create the topics that do not exist; returns those created.

    Raises:
        LinkError: no broker answers, or it refuses.
        ConfigError: the password file cannot be read, or the library refuses the settings.
    """
    heard = Heard()
    admin = make_admin(config, heard)
    try:
        have = ask_metadata(admin, heard).topics
        missing = [name for name in wanted_topics(config) if name not in have]
        if not missing:
            return []
        replication = config.replication or (1 if config.kafka_kind == "embedded" else -1)
        wanted = [
            NewTopic(name, config.partitions, replication, config=_topic_settings(config, name)) for name in missing
        ]
        created: list[str] = []
        for name, future in admin.create_topics(wanted, request_timeout=_ASK_S).items():
            refused = future.exception(timeout=2 * _ASK_S)
            if refused is None:
                created.append(name)
            elif not _exists(refused):  # another gateway may have been faster
                raise LinkError(f"kafka {config.kafka}: topic {name}: {told(refused)}") from refused
    except KafkaException as error:
        why = (heard.tls and _tls_problem(config)) or heard.better(error)
        raise LinkError(f"kafka {config.kafka}: {why}") from error
    except TimeoutError as error:
        raise LinkError(f"kafka {config.kafka}: no answer to the creation of topics") from error
    return created


def describe(config: GatewayConfig) -> dict[str, int]:
    """Partitions of each topic of covey and of the mappings that exists.

    Raises:
        LinkError: no broker answers.
        ConfigError: the password file cannot be read, or the library refuses the settings.
    """
    heard = Heard()
    admin = make_admin(config, heard)
    try:
        have = admin.list_topics(timeout=_ASK_S).topics
    except KafkaException as error:
        raise LinkError(f"kafka {config.kafka}: {told(error)}") from error
    return {name: len(have[name].partitions) for name in wanted_topics(config) if name in have}


def _tls_problem(config: GatewayConfig) -> str:
    """What is wrong with a broker's certificate, more exactly than the library says; "" when nothing is seen."""
    for part in config.kafka.split(","):
        found: list[Finding] = []
        sock = reach("kafka", host_port(part), config.kafka_credentials, found)
        if sock is not None:
            sock.close()
        elif found[-1].what == "kafka tls":
            return found[-1].detail
    return ""


def unusable_options(options: Options) -> list[str]:
    """Names of `kafka_options` that librdkafka does not know, and values that it does not take; connects to nothing."""
    problems: list[str] = []
    for name, value in sorted(options.items()):
        if option_problems({name: value}):
            continue  # refused in any case
        try:
            Producer({name: value, "logger": _silent})
        except (KafkaException, TypeError, ValueError) as error:
            problems.append(f"kafka_options.{name}: {told(error)}")
    return problems


def _refused(error: KafkaException) -> ConfigError:
    return ConfigError(f"kafka: the library refuses these settings: {told(error)}")


def _exists(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS


# Where and when in the library: of no use to who reads the line, and different each time.
_PLACE = re.compile(r"^(?:[a-z_]+://)?\S+/(?:bootstrap|\d+): |\s*\((?:after|add broker's)[^()]*(?:\([^()]*\))?[^()]*\)")
_OUR_WORDS = (
    ("verify that ssl.ca.location is correctly configured", "see that kafka_ca is its CA, that it names the host,"),
    ("or root CA certificates are installed (install ca-certificates package)", "and that it is not out of date"),
    ("sasl.mechanism", "kafka_mechanism"),
)


def told(error: BaseException | KafkaError) -> str:
    """What the library says, as part of one line; the same words for the same trouble."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    text = _PLACE.sub("", inner.str() if isinstance(inner, KafkaError) else str(inner))
    for theirs, ours in _OUR_WORDS:
        text = text.replace(theirs, ours)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]  # "SASL ..." stays


def _topic_settings(config: GatewayConfig, name: str) -> dict[str, str]:
    if config.kafka_kind == "embedded":
        return {}
    # The broker's own clock: by a producer's, a gateway that is an hour ahead has everything refused (Kafka 4's
    # default), and one that is a week behind has its records deleted as old as soon as they are written.
    settings = {"message.timestamp.type": "LogAppendTime"}
    if name in topics.COMPACTED:
        settings["cleanup.policy"] = "compact"
    return settings
