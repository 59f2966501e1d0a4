"""Every MQTT and Kafka name, and nothing else knows them; `parse` is the inverse of the format functions.

MQTT   covey/v1/<shard>/<device>/{summary,alarm,status,presence}  up
       covey/v1/<shard>/<device>/{ack,desired,command}            down
       covey/v1/<shard>/gateway                                   the gateway's own retained presence
The shard is the first two hex digits of sha256(device), so that gateways split the fleet by topic prefix.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from covey.errors import WireError

ROOT = "covey/v1"

# fullmatch only: `$` would accept a trailing newline.
_DEVICE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")

UP_KINDS = ("summary", "alarm", "status")
DOWN_KINDS = ("ack", "desired", "command")
PRESENCE = "presence"
GATEWAY = "gateway"
SHARDS = tuple(f"{n:02x}" for n in range(256))

SUMMARIES = "covey.summaries"
ALARMS = "covey.alarms"
ALARMS_ENRICHED = "covey.alarms.enriched"
ALARMS_HIGH = "covey.alarms.high"
ALARMS_LOW = "covey.alarms.low"
STATUS = "covey.status"
DESIRED = "covey.desired"  # compacted, keyed by device
COMMANDS = "covey.commands"
ACKS = "covey.acks"
FEEDBACK = "covey.feedback"
LEARNING = "covey.learning"
DEADLETTER = "covey.deadletter"

KAFKA_TOPICS = (
    SUMMARIES,
    ALARMS,
    ALARMS_ENRICHED,
    ALARMS_HIGH,
    ALARMS_LOW,
    STATUS,
    DESIRED,
    COMMANDS,
    ACKS,
    FEEDBACK,
    LEARNING,
    DEADLETTER,
)
COMPACTED = frozenset({DESIRED})

# The Kafka topic that an event of a kind goes to; presence travels with status.
KAFKA_OF_KIND = {"summary": SUMMARIES, "alarm": ALARMS, "status": STATUS, PRESENCE: STATUS}


class Address(NamedTuple):
    """What an MQTT topic of ours says."""

    shard: str
    device: str  # "" for the gateway's own topic
    kind: str


def is_device(name: str) -> bool:
    """Whether `name` may be a device: 1-64 letters, digits, `.`, `_`, `-`, not beginning with a mark."""
    return _DEVICE.fullmatch(name) is not None and name != GATEWAY


def shard(device: str) -> str:
    """First two hex digits of sha256(device)."""
    return hashlib.sha256(device.encode()).hexdigest()[:2]


def mqtt_topic(device: str, kind: str) -> str:
    """MQTT topic of one kind of one device."""
    return f"{ROOT}/{shard(device)}/{device}/{kind}"


def gateway_topic(shard_: str) -> str:
    """The gateway's own retained topic in a shard."""
    return f"{ROOT}/{shard_}/{GATEWAY}"


def uplink_filters(shards: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """MQTT filters of everything that devices send; `+` for the shard when a gateway serves all of them."""
    kinds = (*UP_KINDS, PRESENCE)
    if shards is None:
        return tuple(f"{ROOT}/+/+/{kind}" for kind in kinds)
    return tuple(f"{ROOT}/{s}/+/{kind}" for s in shards for kind in kinds)


def parse(topic: str) -> Address:
    """The inverse of `mqtt_topic` and `gateway_topic`.

    Raises:
        WireError: reason `bad_topic`; also where the shard is not the device's.
    """
    parts = topic.split("/")
    if len(parts) == 4 and parts[3] == GATEWAY and "/".join(parts[:2]) == ROOT and parts[2] in SHARDS:
        return Address(parts[2], "", GATEWAY)
    if len(parts) != 5 or "/".join(parts[:2]) != ROOT:
        raise WireError("bad_topic", f"{ROOT}/<shard>/<device>/<kind> expected, {topic[:120]!r} received")
    _, _, shard_, device, kind = parts
    if kind not in UP_KINDS and kind not in DOWN_KINDS and kind != PRESENCE:
        raise WireError("bad_topic", f"unknown kind {kind[:40]!r} in {topic[:120]!r}")
    if not is_device(device):
        raise WireError("bad_topic", f"device name expected, {device[:80]!r} received")
    if shard_ != shard(device):
        raise WireError("bad_topic", f"shard {shard(device)} expected for {device}, {shard_[:8]!r} received")
    return Address(shard_, device, kind)
