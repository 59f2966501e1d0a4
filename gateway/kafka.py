"""Kafka clients as the gateway needs them: their settings, the topics, and what their errors mean.

Every confluent_kafka exception is translated here or in the two files that use these clients.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from covey import topics
from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import GatewayConfig

_ASK_S = 5.0  # a metadata or admin request
_silent = logging.getLogger("gateway.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False  # an outage is told once by us, not every second by the library


def _common(config: GatewayConfig) -> dict[str, Any]:
    return {
        "bootstrap.servers": config.kafka,
        "client.id": f"covey-gateway-{config.name}",
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "socket.timeout.ms": 15_000,
        "logger": _silent,
    }


def make_producer(
    config: GatewayConfig, on_error: Callable[[KafkaError], None], on_connected: Callable[[bool], None]
) -> Producer:
    """A producer that keeps trying for ever: an outage is an ordinary state, and the broker holds what it has not acked.

    Args:
        config: `kafka_kind` embedded gives up idempotence, which Tansu does not survive a restart with.
        on_error: library errors, fatal ones too; called from `poll`.
        on_connected: whether any broker is connected; called from `poll` about once a second.
    """

    def on_stats(text: str) -> None:
        brokers = json.loads(text).get("brokers", {})
        on_connected(any(b.get("state") == "UP" for b in brokers.values()))

    settings = _common(config) | {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,  # the adaptive tick makes the batches
        "queue.buffering.max.messages": config.queue_messages,
        "message.timeout.ms": 0,
        "statistics.interval.ms": 1_000,
        "stats_cb": on_stats,
        "error_cb": on_error,
    }
    if config.kafka_kind == "embedded":
        settings |= {"enable.idempotence": False, "max.in.flight.requests.per.connection": 1, "linger.ms": 5}
    return Producer(settings)


def make_consumer(config: GatewayConfig, *, ends: bool = False) -> Consumer:
    """A consumer for `assign`: no group is joined, and nothing is committed by itself.

    Args:
        config: its name is part of the group's.
        ends: say at the end of each partition that it is one.
    """
    settings = _common(config) | {
        "group.id": f"covey-gateway-{config.name}",  # demanded by the library, not used
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": ends,
        "auto.offset.reset": "earliest",
        # Tansu's fetch does not wake on new data: there this is the latency.
        "fetch.wait.max.ms": 25 if config.kafka_kind == "embedded" else 250,
    }
    return Consumer(settings)


def make_admin(config: GatewayConfig) -> AdminClient:
    """A client for topics and groups."""
    return AdminClient(_common(config))


def wanted_topics(config: GatewayConfig) -> tuple[str, ...]:
    """Covey's own topics and those of the mappings."""
    return tuple(dict.fromkeys((*topics.KAFKA_TOPICS, *(m.topic for m in config.mappings))))


def ensure_topics(config: GatewayConfig) -> list[str]:
    """Create the topics that do not exist; returns those created.

    Raises:
        LinkError: no broker answers, or it refuses.
    """
    admin = AdminClient(_common(config))
    try:
        have = admin.list_topics(timeout=_ASK_S).topics
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
        raise LinkError(f"kafka {config.kafka}: {told(error)}") from error
    except TimeoutError as error:
        raise LinkError(f"kafka {config.kafka}: no answer to the creation of topics") from error
    return created


def describe(config: GatewayConfig) -> dict[str, int]:
    """Partitions of each topic of covey and of the mappings that exists.

    Raises:
        LinkError: no broker answers.
    """
    try:
        have = AdminClient(_common(config)).list_topics(timeout=_ASK_S).topics
    except KafkaException as error:
        raise LinkError(f"kafka {config.kafka}: {told(error)}") from error
    return {name: len(have[name].partitions) for name in wanted_topics(config) if name in have}


def _exists(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS


def told(error: BaseException | KafkaError) -> str:
    """What the library says, as part of one line."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    text = inner.str() if isinstance(inner, KafkaError) else str(inner)
    return text[:1].lower() + text[1:]


def _topic_settings(config: GatewayConfig, name: str) -> dict[str, str]:
    if config.kafka_kind == "embedded":
        return {}
    # The broker's own clock: by a producer's, a gateway that is an hour ahead has everything refused (Kafka 4's
    # default), and one that is a week behind has its records deleted as old as soon as they are written.
    settings = {"message.timestamp.type": "LogAppendTime"}
    if name in topics.COMPACTED:
        settings["cleanup.policy"] = "compact"
    return settings
