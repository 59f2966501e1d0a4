"""Messages that must not pass, and what is to become of each. Pure.

The expected reasons come from docs/protocol.md (Dead letter) and from MQTT 5's reason codes, not from the gateway.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NamedTuple

from covey import topics, wire

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

REFUSED = "broker: not authorised"  # PUBACK 0x87: the broker's access list (ACL) says no
CLOSED = "broker: too large"  # the connection is ended, MQTT 5 3.1.2.11.4
REPEAT = "store: repeat"
CONFLICT = "identity_conflict"  # found by the store, which has the other bytes
BEYOND_PACKET = 140_000  # bytes; mosquitto's max_packet_size is 131,072 in this rig
NESTED = 20_000

# What a broker should allow: devices their own topics, the gateway everything. `insider` stands for a broker without a list.
ACL = """\
topic read covey/v1/+/gateway
topic read tele/#
user gateway
topic readwrite #
user insider
topic readwrite #
pattern readwrite covey/v1/+/%c/#
"""
GATEWAY_TOML = 'mqtt_user = "gateway"\n'


class Bad(NamedTuple):
    """One message.

    Attributes:
        kind: what is wrong with it.
        topic: it is published to.
        payload: its bytes.
        fates: what may become of it: dead letter reasons, or one of the words above.
        insider: whether it takes a broker that lets it through to reach the gateway.
    """

    kind: str
    topic: str
    payload: bytes
    fates: tuple[str, ...]
    insider: bool = False


class Maker:
    """Makes the messages of one device that has gone bad.

    Args:
        device: its name.
        victim: another device, which it pretends to be.
        rng: of the words in them.
    """

    OUTBOX = "badbadbadbadbad0"  # none of the good events' outboxes

    def __init__(self, device: str, victim: str, rng: random.Random) -> None:
        self.device, self.victim, self._rng = device, victim, rng
        self._seq = 0

    def make(self, kind: str, good: bytes) -> Bad:
        """One message of a kind; `good` is one that this device has sent before."""
        self._seq += 1
        topic, payload, fates = _KINDS[kind](self, good)
        return Bad(kind, topic, payload, fates, kind in _INSIDE)

    def topic(self, kind: str = "status", device: str = "") -> str:
        return topics.mqtt_topic(device or self.device, kind)

    def event(self, **changes: object) -> bytes:
        """A status event with some of its fields changed; None takes one out."""
        fields = json.loads(self.status())
        fields.update(changes)
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    def status(self, device: str = "") -> bytes:
        detail = f"{self._rng.getrandbits(64):016x}"
        identity = wire.Identity(device or self.device, self.OUTBOX, self._seq)
        return status(identity, detail)

    def summary(self, threshold: str = "2.0", windows: str = "5", sketch: str = "[[0,5]]") -> bytes:
        """A summary event as text, so that it may hold what no encoder writes."""
        data = (
            f'{{"start_s":1.0,"end_s":2.0,"windows":{windows},"alarmed_windows":0,"threshold":{threshold},'
            f'"score":{{"p50":1.0,"p95":1.5,"p99":1.8,"max":2.5,"sketch":{sketch}}},"drift":{{"input":0.1,"score":1.0}},'
            '"reported":{"release":0,"digest":"","runtime":"onnx"},"health":{"memory_bytes":1,"cpu_s":1.0,"outbox_rows":1,'
            '"outbox_bytes":1,"raw_bytes":1,"uplink_bytes":1}}'
        )
        return (
            f'{{"specversion":"1.0","id":"{self.device}/{self.OUTBOX}/{self._seq}","source":"/covey/{self.device}",'
            f'"type":"covey.summary.v1","time":"2026-11-23T08:00:10.000Z","data":{data}}}'
        ).encode()

    def nested(self) -> bytes:
        return self.event(data="@").replace(b'"@"', b"[" * NESTED + b"]" * NESTED)

    def wrong_shard(self) -> str:
        right = topics.shard(self.device)
        wrong = next(shard for shard in topics.SHARDS if shard != right)
        return self.topic().replace(f"/{right}/", f"/{wrong}/", 1)


def status(identity: wire.Identity, detail: str) -> bytes:
    """A good status event, made now."""
    data = wire.Status("command", wire.Reported(0, "", "onnx"), detail=detail, command="c")
    return wire.make_event(identity, "status", time.time(), data)


def _other_bytes(good: bytes) -> bytes:
    fields = json.loads(good)
    fields["data"]["detail"] = "not what was sent before"
    return json.dumps(fields).encode()


_Made = tuple[str, bytes, tuple[str, ...]]
_NOT_JSON, _BAD_SCHEMA = ("not_json",), ("bad_schema",)
_EITHER = ("not_json", "bad_schema")  # JSON by its grammar, and more than a decoder takes
_KINDS: dict[str, Callable[[Maker, bytes], _Made]] = {
    # oversized
    "large": lambda m, _: (m.topic(), m.status() + b" " * wire.MAX_EVENT_BYTES, ("too_large",)),
    "beyond_packet": lambda m, _: (m.topic(), m.status() + b" " * BEYOND_PACKET, (CLOSED,)),
    # malformed
    "text": lambda m, _: (m.topic(), b"hello", _NOT_JSON),
    "empty": lambda m, _: (m.topic(), b"", _NOT_JSON),
    "cut_short": lambda m, _: (m.topic(), m.status()[:-10], _NOT_JSON),
    "not_utf8": lambda m, _: (m.topic(), m.status().replace(b'"detail":"', b'"detail":"\xff\xfe'), _NOT_JSON),
    "nan": lambda m, _: (m.topic("summary"), m.summary(threshold="NaN"), _NOT_JSON),
    "infinite": lambda m, _: (m.topic("summary"), m.summary(threshold="1e999"), _EITHER),
    "nested": lambda m, _: (m.topic(), m.nested(), _EITHER),
    "version": lambda m, _: (m.topic(), m.event(specversion="0.3"), _BAD_SCHEMA),
    "no_data": lambda m, _: (m.topic(), m.event(data=None), _BAD_SCHEMA),
    "negative": lambda m, _: (m.topic("summary"), m.summary(windows="-1"), _BAD_SCHEMA),
    "mistyped": lambda m, _: (m.topic("summary"), m.summary(windows='"5"'), _BAD_SCHEMA),
    "sketch": lambda m, _: (m.topic("summary"), m.summary(sketch="[[0,5],[0,5]]"), ("bad_sketch",)),
    "trace": lambda m, _: (m.topic(), m.event(traceparent="zz"), _BAD_SCHEMA),
    "identity": lambda m, _: (m.topic(), m.event(id="x"), ("bad_identity",)),
    "type": lambda m, _: (m.topic(), m.event(type="covey.rumour.v1"), ("unknown_type",)),
    # spoofed
    "source": lambda m, _: (m.topic(), m.event(source=f"/covey/{m.victim}"), ("source_mismatch",)),
    "pretender": lambda m, _: (m.topic(), m.status(m.victim), ("topic_mismatch",)),
    "kind": lambda m, _: (m.topic("alarm"), m.status(), ("topic_mismatch",)),
    "others_topic": lambda m, _: (m.topic(device=m.victim), m.status(), ("topic_mismatch",)),
    "others_shard": lambda m, _: (m.wrong_shard(), m.status(), ("bad_topic",)),
    "no_device": lambda m, _: (f"{topics.ROOT}/00/not a device/status", m.status(), ("bad_topic",)),
    "forbidden": lambda m, _: (m.topic(device=m.victim), m.status(m.victim), (REFUSED,)),
    "others_presence": lambda m, _: (
        m.topic(topics.PRESENCE, m.victim),
        wire.encode(wire.Presence(online=False, session="0" * 16)),
        (REFUSED,),
    ),
    # replayed
    "replay": lambda m, good: (m.topic(), good, (REPEAT,)),
    "conflict": lambda m, good: (m.topic(), _other_bytes(good), (CONFLICT,)),
}
_INSIDE = frozenset({"others_topic", "others_shard", "no_device"})
KINDS = tuple(_KINDS)
