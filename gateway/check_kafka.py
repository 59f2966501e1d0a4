"""The Kafka half of `covey gateway check`: reachable, secured as configured, topics fit for what the gateway promises.

Only asks: no consumer, so no group; nothing produced; no topic named that is not there, so none is created.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType

from covey import topics
from covey.errors import ConfigError
from gateway.config import GatewayConfig, host_port
from gateway.kafka import Heard, ask_metadata, make_admin, told, wanted_topics
from gateway.probe import STEP_S, Conversation, Finding, reach

if TYPE_CHECKING:
    from collections.abc import Iterable

_RECORD_ROOM = 1_024  # key, headers and record batch around an event
_SHORT_MS = 24 * 3_600_000  # a consumer that is down for a night must find everything
_MAX_ANSWER = 1 << 20

# Kafka protocol guide: request header v1 and ApiVersions v0, which every broker answers before a login
_API_VERSIONS = struct.pack("!hhih5s", 18, 0, 1, 5, b"covey")


class _Topic(NamedTuple):
    """What is known of one topic that exists."""

    name: str
    replicas: int  # of the partition that has fewest
    leaderless: int
    settings: dict[str, str]  # {} where they could not be seen
    allowed: frozenset[AclOperation] | None  # None: not told


def check_kafka(config: GatewayConfig) -> list[Finding]:
    """Every line of the Kafka side; stops at the first step that fails."""
    found: list[Finding] = []
    parts = config.kafka.split(",")
    answering = [part for part in parts if _speaks(config, part, found)]
    if not answering:
        return found
    if len(answering) < len(parts):  # one is enough to begin with
        found = [f if f.ok else Finding(f.what, "warn", f.detail, f.fix) for f in found]
    heard = Heard()
    try:
        admin = make_admin(config, heard)
    except ConfigError as error:
        return [*found, Finding("kafka", "FAIL", str(error), "see the file")]
    try:
        cluster = ask_metadata(admin, heard)
    except KafkaException as error:
        why = heard.better(error)
        return [*found, Finding("kafka", "FAIL", f"{config.kafka}: {why}", _login_fix(config, why))]
    found.append(Finding("kafka", "ok", f"cluster {cluster.cluster_id}, {len(cluster.brokers)} brokers"))
    found += _advertised(cluster.brokers.values(), parts)
    wanted = wanted_topics(config)
    there = [name for name in wanted if name in cluster.topics]
    found.append(_present(config, admin, wanted, cluster.topics))
    if there and config.kafka_kind == "kafka":
        seen = _examine(admin, there, found)
        found += _fit(config, seen)
    return found


def _speaks(config: GatewayConfig, part: str, found: list[Finding]) -> bool:
    """Whether Kafka's protocol is spoken at one bootstrap address, told in `found`."""
    sock = reach("kafka", host_port(part), config.kafka_credentials, found)
    if sock is None:
        return False
    with contextlib.closing(sock):
        talk = Conversation(sock)
        try:
            talk.verdict()
            talk.send(struct.pack("!i", len(_API_VERSIONS)) + _API_VERSIONS)
            whole = talk.need(8)
        except OSError as error:
            why = config.kafka_credentials.explain(error)
            found.append(Finding("kafka", "FAIL", f"{part}: {why}", "see kafka_cert, kafka_key and the broker's log"))
            return False
        if whole:
            size, correlation = struct.unpack("!ii", talk.received[:8])
            if 4 < size < _MAX_ANSWER and correlation == 1:
                return True
        silent = not talk.received and talk.timed_out()
        spoken = talk.stranger() if silent or talk.received else ""
    if spoken == "HTTP":
        detail, fix = "answers in HTTP", "this is a web server's port: set kafka to the broker's"
    elif spoken == "TLS":
        detail, fix = "speaks TLS", "set kafka_ca (kafka_ca = 'system' for a public certificate)"
    elif silent:
        detail, fix = f"accepts the connection and says nothing for {STEP_S:g} s", "is this a Kafka API port?"
    elif talk.received:
        detail, fix = f"answers nothing of Kafka's: {talk.received[:16]!r}", "is this a Kafka API port?"
    else:
        detail = "closes the connection at the first request"
        fix = "is it a TLS port (set kafka_ca), or does it want kafka_cert?"
    found.append(Finding("kafka", "FAIL", f"{part}: {detail}", fix))
    return False


def _login_fix(config: GatewayConfig, why: str) -> str:
    if not config.kafka_user:
        return "does it want a login? set kafka_user and kafka_password_file"
    if "mechanisms" in why:  # "enabled mechanisms are [...]"
        return "set kafka_mechanism to one that the broker has enabled"
    return "see kafka_user, kafka_password_file and kafka_mechanism"


def _advertised(brokers: Iterable[Any], asked: list[str]) -> list[Finding]:
    """Clients go on to the addresses that brokers advertise: those must be reachable from here, too."""
    from covey.credentials import Credentials

    lost: list[str] = []
    for broker in brokers:
        where = f"{broker.host}:{broker.port}"
        if where not in asked:
            sock = reach("kafka", (broker.host, broker.port), Credentials("kafka"), [])
            if sock is None:
                lost.append(where)
            else:
                sock.close()
    if not lost:
        return []
    fix = "set advertised.listeners of the brokers to addresses that this machine reaches"
    return [Finding("brokers", "FAIL", f"advertised but out of reach: {', '.join(lost)}", fix)]


def _present(config: GatewayConfig, admin: AdminClient, wanted: tuple[str, ...], have: dict[str, Any]) -> Finding:
    missing = [name for name in wanted if name not in have]
    there = [have[name] for name in wanted if name in have]
    detail = f"{len(there)} there"
    if there:
        counts = sorted({len(t.partitions) for t in there})
        detail += f" ({' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} partitions)"
    if not missing:
        return Finding("topics", "ok", detail)
    detail += f", {len(missing)} to be created by run"
    if len(missing) < len(wanted):
        detail += f": {', '.join(missing)}"
    allowed: Any = None
    with contextlib.suppress(KafkaException, TimeoutError, ValueError):
        future = admin.describe_cluster(include_authorized_operations=True, request_timeout=STEP_S)
        allowed = future.result(STEP_S).authorized_operations
    if config.kafka_kind == "kafka" and (allowed is None or AclOperation.CREATE not in allowed):
        fix = "create them, or allow this user CREATE; if it may create these by name, pass over this line"
        may = "and nobody tells whether this user may" if allowed is None else "but this user may not create all topics"
        return Finding("topics", "warn", f"{detail}, {may}", fix)
    return Finding("topics", "ok", detail)


def _examine(admin: AdminClient, names: list[str], found: list[Finding]) -> list[_Topic]:
    settings: dict[str, dict[str, str]] = {}
    try:
        asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, n) for n in names], request_timeout=STEP_S)
        for resource, future in asked.items():
            settings[resource.name] = {k: str(v.value) for k, v in future.result(2 * STEP_S).items()}
    except (KafkaException, TimeoutError) as error:
        fix = "allow this user DESCRIBE_CONFIGS, or look at the topics' settings yourself"
        found.append(Finding("settings", "warn", f"cannot be seen: {told(error)}", fix))
    seen: list[_Topic] = []
    try:
        described = admin.describe_topics(
            TopicCollection(names), include_authorized_operations=True, request_timeout=STEP_S
        )
        for name, future in described.items():
            one = future.result(2 * STEP_S)
            copies = min((len(p.replicas) for p in one.partitions), default=0)
            leaderless = sum(p.leader is None for p in one.partitions)
            allowed = None if one.authorized_operations is None else frozenset(one.authorized_operations)
            seen.append(_Topic(name, copies, leaderless, settings.get(name, {}), allowed))
    except (KafkaException, TimeoutError) as error:
        found.append(Finding("topics", "FAIL", f"cannot be seen: {told(error)}", "allow this user DESCRIBE"))
    return seen


def _fit(config: GatewayConfig, seen: list[_Topic]) -> list[Finding]:
    """Judgement of the topics there are; pure."""
    known = [t for t in seen if t.settings]
    found = [_allowed(config, seen)]
    leaderless = [t.name for t in seen if t.leaderless]
    if leaderless:
        fix = "start the brokers that hold them"
        found.append(Finding("leaders", "FAIL", f"partitions without a leader: {', '.join(leaderless)}", fix))
    if known:
        found += [_copies(known), _size(config, known)]
    ours = [t for t in known if t.name in topics.KAFKA_TOPICS]  # how a mapping's topic is kept is its user's choice
    if ours:
        found += [_cleanup(ours), *_retention(ours), _clock(ours)]
    return found


def _allowed(config: GatewayConfig, seen: list[_Topic]) -> Finding:
    read = {topics.DESIRED, topics.COMMANDS} | ({topics.ACKS} if config.ack_after == "store" else set())
    others = {topics.ALARMS_ENRICHED, topics.ALARMS_HIGH, topics.ALARMS_LOW, topics.ACKS} - read  # the cloud's
    others |= {topics.FEEDBACK, topics.LEARNING}
    refused: list[str] = []
    for topic in seen:
        need = AclOperation.READ if topic.name in read else AclOperation.WRITE
        if topic.name not in others and topic.allowed is not None and need not in topic.allowed:
            refused.append(f"{need.name.lower()} {topic.name}")
    if refused:
        fix = "add these ACLs for the gateway's user"
        return Finding("permissions", "FAIL", f"refused: {', '.join(refused)}", fix)
    if any(t.allowed is None for t in seen):
        return Finding("permissions", "ok", "not told by this broker")
    return Finding("permissions", "ok", "may write events and read what goes to devices")


def _copies(known: list[_Topic]) -> Finding:
    impossible = [t.name for t in known if int(t.settings.get("min.insync.replicas", "1")) > t.replicas]
    if impossible:
        fix = "lower min.insync.replicas or raise the replication factor"
        detail = f"min.insync.replicas above the replicas there are, nothing can be written: {', '.join(impossible)}"
        return Finding("replication", "FAIL", detail, fix)
    fewest = min(t.replicas for t in known)
    if fewest == 1:
        fix = "three replicas and min.insync.replicas = 2, where there are three brokers"
        return Finding("replication", "warn", "one copy: a lost disk loses events", fix)
    weak = [t.name for t in known if t.settings.get("min.insync.replicas") == "1"]
    if weak:
        detail = f"acks=all is one broker's word where min.insync.replicas is 1: {', '.join(weak)}"
        return Finding("replication", "warn", detail, "set min.insync.replicas = 2")
    return Finding("replication", "ok", f"{fewest} copies at least, confirmed by two or more")


def _size(config: GatewayConfig, known: list[_Topic]) -> Finding:
    values = dict.fromkeys(topics.KAFKA_TOPICS, config.max_event_bytes)
    for mapping in config.mappings:
        values[mapping.topic] = max(values.get(mapping.topic, 0), mapping.max_bytes)
    small: list[str] = []
    for topic in known:
        limit, wanted = int(topic.settings.get("max.message.bytes", 1 << 30)), values[topic.name] + _RECORD_ROOM
        if limit < wanted:
            small.append(f"{topic.name} {limit}, {wanted} expected")
    if small:
        fix = "raise max.message.bytes, or lower max_event_bytes (a mapping's max_bytes)"
        return Finding("message size", "FAIL", f"max.message.bytes of {'; '.join(small)}", fix)
    return Finding("message size", "ok", f"room for events of {config.max_event_bytes} bytes")


def _cleanup(known: list[_Topic]) -> Finding:
    wrong: list[str] = []
    for topic in known:
        compacts = "compact" in topic.settings.get("cleanup.policy", "")
        if topic.name in topics.COMPACTED and topic.settings.get("cleanup.policy") != "compact":
            wrong.append(f"{topic.name} must be compact (only): desired states would be deleted as they grow old")
        elif topic.name not in topics.COMPACTED and compacts:
            wrong.append(f"{topic.name} must not compact: a device's newer event would delete its older ones")
    if wrong:
        return Finding("cleanup", "FAIL", "; ".join(wrong), "kafka-configs --alter --add-config cleanup.policy=...")
    return Finding("cleanup", "ok", "desired compacted, events kept by time")


def _retention(known: list[_Topic]) -> list[Finding]:
    ages = {t.name: int(t.settings.get("retention.ms", -1)) for t in known if t.name not in topics.COMPACTED}
    bounded = {name: age for name, age in ages.items() if age >= 0}
    if not bounded:
        return [Finding("retention", "ok", "without end")] if ages else []
    name, age = min(bounded.items(), key=lambda item: item[1])
    detail = f"{age / 3_600_000:g} h at least ({name})"
    if age < _SHORT_MS:
        return [Finding("retention", "warn", detail, "what no store has read by then is gone: a day or more")]
    return [Finding("retention", "ok", detail)]


def _clock(known: list[_Topic]) -> Finding:
    senders = [t.name for t in known if t.settings.get("message.timestamp.type") not in (None, "LogAppendTime")]
    if senders:
        fix = "set message.timestamp.type = LogAppendTime: a gateway with a wrong clock is refused or deleted early"
        return Finding("timestamps", "warn", f"by the sender's clock: {', '.join(senders)}", fix)
    return Finding("timestamps", "ok", "by the broker's clock")
