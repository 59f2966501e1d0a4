"""The MQTT 5 packets that a device writes and reads, as bytes. Pure: no socket, no state.

Section numbers are those of the OASIS standard MQTT Version 5.0 (7 March 2019). Written are CONNECT, SUBSCRIBE, PUBLISH,
PUBACK, PINGREQ and DISCONNECT; read are CONNACK, SUBACK, PUBLISH, PUBACK, PINGRESP and DISCONNECT. QoS 2, topic aliases and
AUTH are refused: our devices neither ask for nor announce them, so a broker must not send them.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import TYPE_CHECKING, NamedTuple

from covey.errors import LinkError
from firmware_sim import mqtt5_fields as fields
from firmware_sim.mqtt5_fields import PacketError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_REMAINING = 268_435_455  # 1.5.5: four bytes of seven bits
MAX_PACKET_ID = 65_535
DEFAULT_RECEIVE_MAXIMUM = 65_535  # 3.2.2.3.3
PINGREQ = b"\xc0\x00"  # 3.12

_U16 = Layout(">H")
_U32 = Layout(">I")

# 2.4, those that a server sends.
REASONS = {
    0x00: "success",
    0x01: "granted qos 1",
    0x02: "granted qos 2",
    0x10: "no matching subscribers",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "qos not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription identifiers not supported",
    0xA2: "wildcard subscriptions not supported",
}


class Connack(NamedTuple):
    """3.2."""

    session_present: bool
    reason: int
    receive_maximum: int = DEFAULT_RECEIVE_MAXIMUM
    maximum_packet: int = 0  # bytes; 0: no limit
    keepalive_s: int | None = None  # 3.2.2.3.14: replaces the client's
    maximum_qos: int = 2
    reason_text: str = ""


class Publish(NamedTuple):
    """3.3."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int  # 0 with QoS 0


class Puback(NamedTuple):
    """3.4."""

    packet_id: int
    reason: int


class Suback(NamedTuple):
    """3.9."""

    packet_id: int
    reasons: bytes  # one a subscription


class Pingresp(NamedTuple):
    """3.13."""


class Disconnect(NamedTuple):
    """3.14."""

    reason: int
    reason_text: str = ""


Packet = Connack | Publish | Puback | Suback | Pingresp | Disconnect


def reason_name(code: int) -> str:
    """A reason code in words, with its number."""
    return f"{REASONS.get(code, 'unknown reason')} (0x{code:02x})"


# Writing


def varint(value: int) -> bytes:
    """1.5.5: a variable byte integer."""
    if value < 0x80:
        return bytes((value,))
    if value > MAX_REMAINING:
        raise LinkError(f"mqtt: a packet of at most {MAX_REMAINING} bytes expected, {value} given")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise LinkError(f"mqtt: a field of at most 65535 bytes expected, {len(value)} given")
    return _U16.pack(len(value)) + value


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def connect(
    client_id: str,
    keepalive_s: int,
    *,
    will: tuple[str, bytes] | None = None,
    user: str = "",
    password: str | None = None,
    maximum_packet: int = 0,
) -> bytes:
    """3.1: CONNECT with Clean Start.

    Args:
        client_id: as the broker is to know us.
        keepalive_s: 0-65535; 0 turns it off.
        will: (topic, payload), published with QoS 1 when the connection ends without DISCONNECT.
        user: "" for none.
        password: None for none; only beside a user.
        maximum_packet: bytes of the largest packet that we take; 0: any.
    """
    flags = 0x02  # 3.1.2.4 Clean Start
    properties = b"\x27" + _U32.pack(maximum_packet) if maximum_packet else b""  # 3.1.2.11.4
    payload = _text(client_id)
    if will is not None:
        flags |= 0x04 | 0x08  # 3.1.2.5, 3.1.2.6 QoS 1
        payload += b"\x00" + _text(will[0]) + _binary(will[1])
    if user:
        flags |= 0x80
        payload += _text(user)
        if password is not None:
            flags |= 0x40
            payload += _text(password)
    head = b"\x00\x04MQTT\x05" + bytes((flags,)) + _U16.pack(keepalive_s)
    return _packet(0x10, head + varint(len(properties)) + properties + payload)


def subscribe(packet_id: int, subscriptions: Sequence[tuple[str, int]]) -> bytes:
    """3.8: SUBSCRIBE to (filter, QoS) pairs."""
    filters = b"".join(_text(name) + bytes((qos,)) for name, qos in subscriptions)
    return _packet(0x82, _U16.pack(packet_id) + b"\x00" + filters)


def publish(topic: str, payload: bytes, packet_id: int = 0, *, retain: bool = False, dup: bool = False) -> bytes:
    """3.3: PUBLISH, QoS 1 with a packet id and QoS 0 without."""
    name = topic.encode()
    first = 0x30 | (0x08 if dup else 0) | (0x02 if packet_id else 0) | (0x01 if retain else 0)
    identifier = _U16.pack(packet_id) if packet_id else b""
    size = 3 + len(name) + len(identifier) + len(payload)  # with the length of no properties
    return b"".join((bytes((first,)), varint(size), _U16.pack(len(name)), name, identifier, b"\x00", payload))


def puback(packet_id: int) -> bytes:
    """3.4: PUBACK of success, in its short form."""
    return b"\x40\x02" + _U16.pack(packet_id)


def disconnect(reason: int = 0) -> bytes:
    """3.14: DISCONNECT; with reason 0 the broker discards the will."""
    return b"\xe0\x00" if reason == 0 else bytes((0xE0, 0x01, reason))


# Reading


def decode(buffer: bytes, limit: int = MAX_REMAINING) -> tuple[list[Packet], int]:
    """All complete packets at the beginning of `buffer`, and how many bytes they are.

    Args:
        buffer: what came from the broker and was not used yet.
        limit: bytes of the largest packet that is accepted.

    Raises:
        PacketError: malformed, of a kind that a server does not send, or larger than `limit`.
    """
    packets: list[Packet] = []
    at, end = 0, len(buffer)
    while end - at >= 2:
        size = buffer[at + 1]
        body = at + 2
        if size >= 0x80:
            found = fields.read_varint(buffer, at + 1, min(end, at + 5))
            if found is None:
                if end - at > 4:
                    raise PacketError("malformed packet: remaining length of more than four bytes")
                break
            size, body = found
        if body + size - at > limit:
            raise PacketError(f"packet too large: at most {limit} bytes expected, {body + size - at} announced")
        if body + size > end:
            break
        first = buffer[at]
        if first == 0x40 and size == 2:  # by far the most frequent
            packets.append(Puback(fields.packet_id(buffer, body), 0))
        else:
            read = _READERS.get(first >> 4)
            if read is None:
                raise PacketError(f"unexpected packet of type {first >> 4}")
            packets.append(read(first & 0x0F, buffer[body : body + size]))
        at = body + size
    return packets, at


def _flags(flags: int, packet: str) -> None:
    if flags:
        raise PacketError(f"malformed packet: {packet} with flags 0x{flags:x}")  # 2.1.3


def _read_connack(flags: int, body: bytes) -> Connack:
    _flags(flags, "CONNACK")
    if len(body) < 3:
        raise PacketError("malformed packet: CONNACK is cut short")
    if body[0] > 1:
        raise PacketError("malformed packet: CONNACK with reserved flags")
    values, end = fields.properties(body, 2, fields.CONNACK_KINDS)
    _ended(body, end, "CONNACK")

    def number(key: int, default: int) -> int:
        value = values.get(key, default)
        return value if isinstance(value, int) else default

    if number(0x21, 1) == 0 or number(0x27, 1) == 0:
        raise PacketError("protocol error: CONNACK with a maximum of 0")  # 3.2.2.3.3, 3.2.2.3.6
    return Connack(
        session_present=bool(body[0]),
        reason=body[1],
        receive_maximum=number(0x21, DEFAULT_RECEIVE_MAXIMUM),
        maximum_packet=number(0x27, 0),
        keepalive_s=number(0x13, 0) if 0x13 in values else None,
        maximum_qos=number(0x24, 2),
        reason_text=str(values.get(0x1F, "")),
    )


def _read_publish(flags: int, body: bytes) -> Publish:
    qos = flags >> 1 & 0x03
    if qos > 1:
        raise PacketError(f"protocol error: PUBLISH with QoS {qos} where at most 1 was asked for")
    topic, at = fields.string(body, 0)
    if not topic or "#" in topic or "+" in topic:  # 3.3.2.1; an empty one needs an alias, which we do not announce
        raise PacketError("protocol error: PUBLISH without a topic name, or with wildcards in it")
    packet_id = 0
    if qos:
        packet_id = fields.packet_id(body, at)
        at += 2
    if at < len(body) and body[at] == 0:  # no properties
        at += 1
    else:
        _, at = fields.properties(body, at, fields.PUBLISH_KINDS)
    return Publish(topic, body[at:], qos, bool(flags & 0x01), bool(flags & 0x08), packet_id)


def _reason(body: bytes, at: int, packet: str, kinds: fields.Kinds) -> tuple[int, str]:
    """Reason code and text at the end of a packet; either may be left out (3.4.2.1, 3.14.2.1)."""
    if at >= len(body):
        return 0, ""
    reason = body[at]
    if at + 1 == len(body):
        return reason, ""
    values, end = fields.properties(body, at + 1, kinds)
    _ended(body, end, packet)
    return reason, str(values.get(0x1F, ""))


def _ended(body: bytes, end: int, packet: str) -> None:
    if end != len(body):
        raise PacketError(f"malformed packet: {packet} with {len(body) - end} bytes too many")


def _read_puback(flags: int, body: bytes) -> Puback:
    _flags(flags, "PUBACK")
    packet_id = fields.packet_id(body, 0)
    return Puback(packet_id, _reason(body, 2, "PUBACK", fields.REASON_KINDS)[0])


def _read_suback(flags: int, body: bytes) -> Suback:
    _flags(flags, "SUBACK")
    packet_id = fields.packet_id(body, 0)
    _, at = fields.properties(body, 2, fields.REASON_KINDS)
    return Suback(packet_id, body[at:])


def _read_pingresp(flags: int, body: bytes) -> Pingresp:
    _flags(flags, "PINGRESP")
    _ended(body, 0, "PINGRESP")
    return Pingresp()


def _read_disconnect(flags: int, body: bytes) -> Disconnect:
    _flags(flags, "DISCONNECT")
    return Disconnect(*_reason(body, 0, "DISCONNECT", fields.DISCONNECT_KINDS))


_READERS: dict[int, Callable[[int, bytes], Packet]] = {
    2: _read_connack,
    3: _read_publish,
    4: _read_puback,
    9: _read_suback,
    13: _read_pingresp,
    14: _read_disconnect,
}
