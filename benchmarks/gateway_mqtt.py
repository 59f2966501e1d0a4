"""As much MQTT 5 as a load generator and two watchers need: packets in and out of bytes, and one blocking connection.

Made for the benchmark only: it knows no QoS 2, no TLS, no session of its own, and believes what the broker sends.
Source: OASIS MQTT 5.0, sections 1.5.5 (lengths), 2.1 (fixed header), 3.1 to 3.9 (packets).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90
RECEIVE_MAXIMUM = 0x21
# Value sizes of the properties that a CONNACK may hold before or after Receive Maximum (section 2.2.2.2); text is -1.
_SIZES = {17: 4, 18: -1, 19: 2, 21: -1, 22: -1, 26: -1, 28: -1, 31: -1, 33: 2, 34: 2, 36: 1, 37: 1, 39: 4, 40: 1, 41: 1}
_SIZES[42] = 1


def varint(number: int) -> bytes:
    """A Variable Byte Integer."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value: str | bytes) -> bytes:
    """A length-prefixed string."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    """A fixed header before `body`."""
    return bytes([first]) + varint(len(body)) + body


def connect(client_id: str, *, keepalive_s: int = 0) -> bytes:
    """A CONNECT that begins a clean session, which ends with its connection."""
    return packet(0x10, text("MQTT") + bytes([5, 0x02]) + struct.pack(">H", keepalive_s) + b"\x00" + text(client_id))


def subscribe(mid: int, filters: list[str], qos: int) -> bytes:
    """A SUBSCRIBE; every filter with the same quality of service."""
    return packet(0x82, struct.pack(">H", mid) + b"\x00" + b"".join(text(f) + bytes([qos]) for f in filters))


def publish_head(topic: str, payload_bytes: int) -> bytes:
    """A QoS 1 PUBLISH up to its packet identifier; packet identifier, a zero byte (no properties) and payload follow."""
    return b"\x32" + varint(2 + len(topic.encode()) + 2 + 1 + payload_bytes) + text(topic)


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Whole packets (first byte, body) at the front of `data`, and the rest."""
    found: list[tuple[int, bytes]] = []
    pos, end = 0, len(data)
    while end - pos >= 2:
        length, shift, at = 0, 0, pos + 1
        while at < end:
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 0x80:
                break
        else:
            break
        if at + length > end:
            break
        found.append((data[pos], data[at : at + length]))
        pos = at + length
    return found, data[pos:]


def message(body: bytes, qos: int) -> tuple[bytes, bytes]:
    """Topic and payload of a PUBLISH's body; its properties are skipped (fewer than 128 bytes of them)."""
    length = int.from_bytes(body[:2], "big")
    at = 2 + length + (2 if qos else 0)
    return body[2 : 2 + length], body[at + 1 + body[at] :]


def receive_maximum(connack: bytes) -> int:
    """How many QoS 1 messages the broker takes unacknowledged, from a CONNACK's body."""
    at, end = 3, 3 + connack[2]
    while at < end:
        name, at = connack[at], at + 1
        if name == RECEIVE_MAXIMUM:
            return int.from_bytes(connack[at : at + 2], "big")
        size = _SIZES[name]
        at += size if size > 0 else 2 + int.from_bytes(connack[at : at + 2], "big")
    return 65_535


class Connection:
    """One blocking connection to a broker on loopback."""

    def __init__(self, port: int, client_id: str, filters: list[str] | None = None, qos: int = 0) -> None:
        """Connect, and subscribe when filters are given; returns when the broker has answered.

        Raises:
            OSError: the broker cannot be reached.
            ValueError: it refuses.
        """
        self.sock = socket.create_connection(("127.0.0.1", port), 30.0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.sock.sendall(connect(client_id))
        body = self._await(CONNACK)
        if body[1]:
            raise ValueError(f"the broker refuses {client_id}: reason {body[1]}")
        self.window = receive_maximum(body)
        if filters:
            self.sock.sendall(subscribe(1, filters, qos))
            body = self._await(SUBACK)
            if any(code >= 0x80 for code in body[3 + body[2] :]):
                raise ValueError(f"the broker refuses to subscribe {client_id}")

    def packets(self) -> list[tuple[int, bytes]]:
        """What one recv brings; blocks unless the socket does not.

        Raises:
            ConnectionError: the broker ended the connection.
        """
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the broker ended the connection")
        found, self._rest = split(self._rest + data)
        return found

    def publishes(self, qos: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """Topics and payloads as they come, for ever."""
        while True:
            for first, body in self.packets():
                if first & 0xF0 == PUBLISH:
                    yield message(body, qos)

    def close(self) -> None:
        """Say goodbye and close."""
        with contextlib.suppress(OSError):
            self.sock.sendall(b"\xe0\x00")
        self.sock.close()

    def _await(self, kind: int) -> bytes:
        while True:
            for first, body in self.packets():
                if first & 0xF0 == kind & 0xF0:
                    return body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
