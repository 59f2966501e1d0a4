"""`kafka_options`: which of librdkafka's settings a user may give, and why not the others.

Pure rules. A setting is refused when the gateway's promises rest on it (nothing lost, order per device, bounded memory),
when another key sets it, or when it would put a secret into the configuration file. Names that librdkafka does not know,
and values that it does not take, are told by gateway/kafka.py, which may import it.
"""

from __future__ import annotations

import re

Options = dict[str, str | int | float | bool]

_PROMISE = "nothing lost and the order per device rest on it"
_MEMORY = "the gateway's memory bound rests on it: set queue_messages"
_READING = "the gateway reads by assignment and commits nothing"
_FROM_FILES = "secrets come from files only: set kafka_user, kafka_password_file, kafka_cert and kafka_key"
_OURS = "the gateway sets it itself"

_REFUSED = {
    "acks": _PROMISE,
    "request.required.acks": _PROMISE,
    "enable.idempotence": _PROMISE,
    "enable.gapless.guarantee": _PROMISE,
    "max.in.flight": _PROMISE,
    "max.in.flight.requests.per.connection": _PROMISE,
    "retries": _PROMISE,
    "message.send.max.retries": _PROMISE,
    "message.timeout.ms": _PROMISE,
    "delivery.timeout.ms": _PROMISE,
    "transactional.id": _PROMISE,
    "partitioner": "the order per device, over every gateway and restart, rests on it",
    "queuing.strategy": _PROMISE,
    "queue.buffering.max.messages": _MEMORY,
    "delivery.report.only.error": "acknowledgements rest on it",
    "statistics.interval.ms": "/readyz rests on it",
    "group.id": _READING,
    "group.instance.id": _READING,
    "group.protocol": _READING,
    "enable.auto.commit": _READING,
    "auto.commit.enable": _READING,
    "enable.auto.offset.store": _READING,
    "auto.offset.reset": _READING,
    "allow.auto.create.topics": "check would create topics",
    "bootstrap.servers": "set kafka",
    "metadata.broker.list": "set kafka",
    "client.id": "set name",
    "security.protocol": "set kafka_ca, kafka_user",
    "ssl.ca.location": "set kafka_ca",
    "ssl.certificate.location": "set kafka_cert",
    "ssl.key.location": "set kafka_key",
    "sasl.username": "set kafka_user",
    "sasl.mechanism": "set kafka_mechanism",
    "sasl.mechanisms": "set kafka_mechanism",
    "enable.ssl.certificate.verification": "without it anyone can be the broker; set kafka_ca",
    "plugin.library.paths": "it loads code",
    "interceptors": _OURS,
    "enabled_events": _OURS,
    "opaque": _OURS,
    "logger": _OURS,
    "log.queue": _OURS,
}
_SECRETS = re.compile(r"password|secret|\.pem$|_pem$|sasl\.oauthbearer\.config|keystore")


def option_problems(options: Options) -> list[str]:
    """Every setting of `kafka_options` that is refused, with the reason."""
    problems: list[str] = []
    for name in sorted(options):
        why = _REFUSED.get(name, "")
        if not why and _SECRETS.search(name):
            why = _FROM_FILES
        if not why and (name.endswith(("_cb", ".cb")) or name.startswith("default.topic.config")):
            why = _OURS
        if why:
            problems.append(f"kafka_options.{name}: refused: {why}")
    return problems
