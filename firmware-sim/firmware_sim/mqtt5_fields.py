"""How MQTT 5 writes numbers, strings and properties into a packet, and how they are read back. Pure; see mqtt5.py.

Sections are those of the OASIS standard MQTT Version 5.0: 1.5 data representation, 2.2.2 properties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

Value = int | str | bytes | tuple[str, str]


class PacketError(LinkError):
    """The broker sent what MQTT 5 does not allow, or what we did not ask for: the connection has to end (4.13)."""


def read_varint(buffer: bytes, at: int, end: int) -> tuple[int, int] | None:
    """(value, position behind it); None when it goes on behind `end`."""
    value = shift = 0
    while at < end:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise PacketError("malformed packet: a variable byte integer that is longer than it need be")
            return value, at
        shift += 7
    return None


def packet_id(body: bytes, at: int) -> int:
    """A packet identifier (2.2.1)."""
    if len(body) < at + 2:
        raise PacketError("malformed packet: packet identifier missing")
    value = body[at] << 8 | body[at + 1]
    if value == 0:
        raise PacketError("protocol error: packet identifier 0")
    return value


def field(body: bytes, at: int) -> tuple[bytes, int]:
    """Length-prefixed bytes (1.5.6) and the position behind them."""
    begin = at + 2
    if begin > len(body):
        raise PacketError("malformed packet: a field's length is missing")
    end = begin + (body[at] << 8 | body[at + 1])
    if end > len(body):
        raise PacketError("malformed packet: a field is longer than its packet")
    return body[begin:end], end


def string(body: bytes, at: int) -> tuple[str, int]:
    """A UTF-8 string (1.5.4) and the position behind it."""
    raw, end = field(body, at)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise PacketError("malformed packet: a string that is not UTF-8") from None
    if "\0" in text:
        raise PacketError("malformed packet: a string with a null character")  # 1.5.4
    return text, end


def _pair(body: bytes, at: int) -> tuple[tuple[str, str], int]:
    key, at = string(body, at)
    value, at = string(body, at)
    return (key, value), at


def _number(size: int) -> Callable[[bytes, int], tuple[int, int]]:
    def read(body: bytes, at: int) -> tuple[int, int]:
        if at + size > len(body):
            raise PacketError("malformed packet: a property is cut short")
        return int.from_bytes(body[at : at + size], "big"), at + size

    return read


def _variable(body: bytes, at: int) -> tuple[int, int]:
    found = read_varint(body, at, min(len(body), at + 4))
    if found is None:
        raise PacketError("malformed packet: a variable byte integer without end")
    return found


_BYTE, _TWO, _FOUR = _number(1), _number(2), _number(4)
_USER_PROPERTY, _SUBSCRIPTION_ID = 0x26, 0x0B

# 2.2.2.2: how each property is written, by the packet that may carry it.
Kinds = dict[int, "Callable[[bytes, int], tuple[Value, int]]"]
REASON_KINDS: Kinds = {0x1F: string, _USER_PROPERTY: _pair}
CONNACK_KINDS: Kinds = {
    **REASON_KINDS,
    0x11: _FOUR,  # Session Expiry Interval
    0x12: string,  # Assigned Client Identifier
    0x13: _TWO,  # Server Keep Alive
    0x15: string,  # Authentication Method
    0x16: field,  # Authentication Data
    0x1A: string,  # Response Information
    0x1C: string,  # Server Reference
    0x21: _TWO,  # Receive Maximum
    0x22: _TWO,  # Topic Alias Maximum
    0x24: _BYTE,  # Maximum QoS
    0x25: _BYTE,  # Retain Available
    0x27: _FOUR,  # Maximum Packet Size
    0x28: _BYTE,  # Wildcard Subscription Available
    0x29: _BYTE,  # Subscription Identifier Available
    0x2A: _BYTE,  # Shared Subscription Available
}
PUBLISH_KINDS: Kinds = {
    0x01: _BYTE,  # Payload Format Indicator
    0x02: _FOUR,  # Message Expiry Interval
    0x03: string,  # Content Type
    0x08: string,  # Response Topic
    0x09: field,  # Correlation Data
    _SUBSCRIPTION_ID: _variable,
    _USER_PROPERTY: _pair,
}
DISCONNECT_KINDS: Kinds = {**REASON_KINDS, 0x11: _FOUR, 0x1C: string}


def properties(body: bytes, at: int, kinds: Kinds) -> tuple[dict[int, Value], int]:
    """The properties at `at` (2.2.2) and the position behind them."""
    size, at = _variable(body, at)
    end = at + size
    if end > len(body):
        raise PacketError("malformed packet: properties are longer than their packet")
    values: dict[int, Value] = {}
    while at < end:
        key = body[at]  # all identifiers of MQTT 5 are below 128
        read = kinds.get(key)
        if read is None:
            raise PacketError(f"protocol error: property 0x{key:02x} is not allowed here")
        if key in values and key not in (_USER_PROPERTY, _SUBSCRIPTION_ID):
            raise PacketError(f"protocol error: property 0x{key:02x} came twice")
        values[key], at = read(body[:end], at + 1)
    return values, end
