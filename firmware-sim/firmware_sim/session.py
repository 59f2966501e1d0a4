"""One device's MQTT 5 session: what is sent, what an answer means, and when the broker counts as gone. Pure.

It behaves on the wire as an edge agent does (edge/link.py): Clean Start, a will with QoS 1, subscriptions, then PUBLISH with
QoS 1 in a bounded window, PUBACKs in the order of receipt, PINGREQ when one direction was silent for the keepalive, and the
end when that is not answered. Bytes come in by `feed` and wait in `out`; sockets, links and the time to wait before the next
try are in sessions.py. It never sends anything twice: that is for whoever keeps the rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from covey.errors import LinkError
from firmware_sim import mqtt5
from firmware_sim.mqtt5_fields import PacketError

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_sim.links import LinkProfile

READY_TIMEOUT_S = 15.0  # from the beginning of TCP to SUBACK, as the agent's
MAX_INCOMING = 1 << 20  # bytes; told to the broker as our Maximum Packet Size
PUBACK_WINDOW = 20  # the agent's; less when the broker's Receive Maximum is less

_SUBSCRIBE_ID: Final = 1
_IDLE, _CONNECTING, _SUBSCRIBING, _READY = range(4)

READY = "ready"
MESSAGE = "message"
PUBACK = "puback"
ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Client:
    """A device as its broker sees it.

    Attributes:
        client_id: its MQTT client identifier.
        subscriptions: (topic filter, QoS 0 or 1).
        will_topic: "" for no will.
        will_payload: makes the will from the connection's session (16 hex digits).
        link: what its radio does.
        seed: of its link and of its waits between tries.
        user: "" for none; `{device}` in it stands for the client identifier.
        password: beside `user`.
    """

    client_id: str
    subscriptions: tuple[tuple[str, int], ...]
    will_topic: str
    will_payload: Callable[[str], bytes]
    link: LinkProfile
    seed: int
    user: str = ""
    password: str | None = None


@dataclass(slots=True)
class Counters:
    """Of all sessions since the start.

    Attributes:
        connected: sessions that are ready now.
        connects: times that a session became ready.
        lost: times that a ready session ended without being asked to.
        failed: tries that did not become ready.
        sent_bytes: handed to TCP.
        received_bytes: taken from TCP.
        published: messages, QoS 1.
        pubacks: of them confirmed.
        messages: that came from the broker.
        reasons: why sessions ended or did not become ready -> times.
    """

    connected: int = 0
    connects: int = 0
    lost: int = 0
    failed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    published: int = 0
    pubacks: int = 0
    messages: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Event(NamedTuple):
    """READY (detail: the session's hex digits), MESSAGE ((topic, payload)), PUBACK (packet id) or, last, ENDED (why)."""

    what: str
    detail: object


class Session:
    """State of one device's connection; `begin` makes it a new one.

    Attributes:
        name: 16 hex digits of this connection, as in its will.
        out: packets to be sent, in order.
    """

    __slots__ = (
        "_began_s",
        "_in_s",
        "_keepalive_s",
        "_last_id",
        "_maximum_packet",
        "_out_s",
        "_ping_s",
        "_rest",
        "_state",
        "_unconfirmed",
        "_window",
        "client",
        "name",
        "out",
    )

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = ""
        self.out: list[bytes] = []
        self._state = _IDLE
        self._unconfirmed: set[int] = set()
        self._last_id = _SUBSCRIBE_ID
        self._rest = b""
        self._window = self._maximum_packet = self._keepalive_s = 0
        self._began_s = self._in_s = self._out_s = 0.0
        self._ping_s = 0.0  # when the PINGREQ that waits for an answer was sent; 0: none

    @property
    def ready(self) -> bool:
        """Subscribed, so that messages flow both ways."""
        return self._state == _READY

    @property
    def unconfirmed(self) -> int:
        """Messages that the broker has not confirmed by PUBACK."""
        return len(self._unconfirmed)

    @property
    def room(self) -> int:
        """How many messages may be published now."""
        return max(0, self._window - len(self._unconfirmed)) if self._state == _READY else 0

    def begin(self, name: str, began_s: float, now_s: float, keepalive_s: int, window: int) -> None:
        """Write CONNECT: TCP is open since `now_s`, and was begun at `began_s`."""
        client = self.client
        self.end()
        self.name, self._began_s, self._in_s, self._out_s = name, began_s, now_s, now_s
        self._keepalive_s, self._window = keepalive_s, window
        self._state = _CONNECTING
        self.out.append(
            mqtt5.connect(
                client.client_id,
                keepalive_s,
                will=(client.will_topic, client.will_payload(name)) if client.will_topic else None,
                user=client.user.replace("{device}", client.client_id),
                password=client.password,
                maximum_packet=MAX_INCOMING,
            )
        )

    def end(self) -> None:
        """Forget the connection: packet ids and all that was not sent die with it."""
        self._state = _IDLE
        self._unconfirmed = set()
        self._last_id = _SUBSCRIBE_ID
        self._rest = b""
        self._maximum_packet = 0
        self._ping_s = 0.0
        self.out = []

    def publish(self, topic: str, payload: bytes, now_s: float) -> int | None:
        """Write a PUBLISH with QoS 1; its packet id, or None when there is no room.

        Raises:
            LinkError: it is larger than this broker takes; it would end the connection every time.
        """
        if self._state != _READY or len(self._unconfirmed) >= self._window:
            return None
        packet_id = self._last_id
        while True:
            packet_id = packet_id % mqtt5.MAX_PACKET_ID + 1
            if packet_id not in self._unconfirmed:
                break
        packet = mqtt5.publish(topic, payload, packet_id)
        if self._maximum_packet and len(packet) > self._maximum_packet:
            raise LinkError(
                f"{self.client.client_id}: a packet of at most {self._maximum_packet} bytes expected by the broker, "
                f"{len(packet)} given"
            )
        self._last_id = packet_id
        self._unconfirmed.add(packet_id)
        self.out.append(packet)
        self._out_s = now_s
        return packet_id

    def disconnect(self) -> None:
        """Write DISCONNECT, which takes the will back; nothing more may be published."""
        self.out.append(mqtt5.disconnect())
        self._window = 0

    def feed(self, data: bytes, now_s: float) -> list[Event]:
        """Take what the broker sent.

        Raises:
            LinkError: the connection has to end, and why.
        """
        buffer = self._rest + data if self._rest else data
        packets, used = mqtt5.decode(buffer, MAX_INCOMING)
        self._rest = buffer[used:] if used < len(buffer) else b""
        self._in_s = now_s
        events: list[Event] = []
        for packet in packets:
            if isinstance(packet, mqtt5.Puback):
                if packet.packet_id in self._unconfirmed:  # else of nothing we know: ignored, as paho does
                    self._unconfirmed.discard(packet.packet_id)
                    events.append(Event(PUBACK, packet.packet_id))
            elif isinstance(packet, mqtt5.Publish):
                events.append(self._message(packet, now_s))
            elif isinstance(packet, mqtt5.Pingresp):
                self._ping_s = 0.0
            elif isinstance(packet, mqtt5.Connack):
                events.extend(self._connected(packet, now_s))
            elif isinstance(packet, mqtt5.Suback):
                events.append(self._subscribed(packet))
            else:
                events.append(Event(ENDED, f"ended by the broker: {mqtt5.reason_name(packet.reason)}"))
                break
        return events

    def check(self, now_s: float) -> float:
        """Do what time demands (PINGREQ); returns when to look again.

        Raises:
            LinkError: the broker has been silent for too long.
        """
        if self._state != _READY:
            if now_s - self._began_s >= READY_TIMEOUT_S:
                raise LinkError("no answer to connect or subscribe")
            return self._began_s + READY_TIMEOUT_S
        keepalive_s = self._keepalive_s
        if not keepalive_s:
            return float("inf")
        if self._ping_s:
            if now_s - self._ping_s >= keepalive_s:
                raise LinkError("keepalive: no answer to a ping")
            return self._ping_s + keepalive_s
        idle_s = min(self._in_s, self._out_s)
        if now_s - idle_s < keepalive_s:
            return idle_s + keepalive_s
        self.out.append(mqtt5.PINGREQ)
        self._ping_s = self._out_s = now_s
        return now_s + keepalive_s

    def _connected(self, packet: mqtt5.Connack, now_s: float) -> list[Event]:
        if self._state != _CONNECTING:
            raise PacketError("protocol error: CONNACK twice")
        if packet.reason >= 0x80:
            raise LinkError(f"refused: {mqtt5.reason_name(packet.reason)}")
        if packet.session_present:
            raise PacketError("protocol error: a session is present after a clean start")  # 3.2.2.1.1
        if packet.maximum_qos < 1:
            raise LinkError("refused: this broker takes QoS 0 only")
        self._window = min(self._window, packet.receive_maximum)
        self._maximum_packet = packet.maximum_packet
        if packet.keepalive_s is not None:
            self._keepalive_s = packet.keepalive_s
        if not self.client.subscriptions:  # SUBSCRIBE must not be empty (3.8.3)
            self._state = _READY
            return [Event(READY, self.name)]
        self._state = _SUBSCRIBING
        self.out.append(mqtt5.subscribe(_SUBSCRIBE_ID, self.client.subscriptions))
        self._out_s = now_s
        return []

    def _subscribed(self, packet: mqtt5.Suback) -> Event:
        if self._state != _SUBSCRIBING or packet.packet_id != _SUBSCRIBE_ID:
            raise PacketError("protocol error: SUBACK to nothing")
        if len(packet.reasons) != len(self.client.subscriptions):
            raise PacketError("protocol error: SUBACK of another number of subscriptions")  # 3.9.3
        refused = [mqtt5.reason_name(reason) for reason in packet.reasons if reason >= 0x80]
        if refused:
            raise LinkError(f"subscription refused: {refused[0]}")
        self._state = _READY
        return Event(READY, self.name)

    def _message(self, packet: mqtt5.Publish, now_s: float) -> Event:
        if self._state not in (_SUBSCRIBING, _READY):  # it may come before SUBACK (3.8.4)
            raise PacketError("protocol error: PUBLISH before CONNACK")
        if packet.qos:
            self.out.append(mqtt5.puback(packet.packet_id))
            self._out_s = now_s
        return Event(MESSAGE, (packet.topic, packet.payload))
