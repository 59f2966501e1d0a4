"""Batch receive: every PUBLISH of one big recv at once, acknowledged in one write.

Stock paho-mqtt makes five recv, one select and one send of each message; this subclass makes about one of each per
batch (measured 1.0-1.8 against 8-10 CPU-seconds per 100,000 messages). It touches paho's private parts, so
`receiver_contract_holds` tries it on a socket pair first; where that fails, `StockClient` does the same slowly.
Refuses QoS 2 and topic aliases: the gateway subscribes with QoS 1 and offers no alias.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

_RECV_BYTES = 262_144
_PUBLISH = 0x30  # MQTT 5, 2.1.2 packet type in the high four bits
_PUBACK = 0x40
_MAX_RECVS = 64  # per call, so that TLS records of 16 kB do not starve the rest of the loop


# MQTT 5 user properties of a message in order, and its content type; read only when somebody wants them.
User: TypeAlias = "tuple[tuple[str, str], ...]"
# topic, payload, packet id (0 at QoS 0: nothing to acknowledge), properties. A plain tuple: a named one costs as much to
# make as the rest of parsing.
Received: TypeAlias = "tuple[bytes, bytes, int, User]"

CONTENT_TYPE = "content-type"  # the name that a message's content type has among its properties


def received(topic: bytes, payload: bytes, mid: int = 0, user: User = ()) -> Received:
    """One PUBLISH as it came."""
    return topic, payload, mid, user


class PacketError(ValueError):
    """Bytes that are no MQTT 5 packet, or one that was not agreed to."""


def varint(number: int) -> bytes:
    """A variable byte integer (MQTT 5, 1.5.5) of 0 to 268,435,455."""
    if number < 128:
        return bytes((number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes | memoryview, pos: int, end: int) -> tuple[int, int] | None:
    """(value, next position) of a variable byte integer (MQTT 5, 1.5.5), or None when bytes are missing.

    Raises:
        PacketError: longer than four bytes.
    """
    value = shift = 0
    for index in range(pos, min(pos + 4, end)):
        byte = data[index]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, index + 1
        shift += 7
    if end - pos >= 4:
        raise PacketError("variable byte integer of more than four bytes")
    return None


def parse_publish(flags: int, data: bytes, pos: int, end: int, *, properties: bool = False) -> Received:
    """One PUBLISH body, `data[pos:end]` (MQTT 5, 3.3).

    Args:
        flags: first byte of the packet.
        data: holds the body.
        pos: where it begins.
        end: where it ends.
        properties: read user properties and content type; otherwise they are skipped.

    Raises:
        PacketError: lengths do not fit, QoS 2, no topic (a topic alias, which was not offered), packet id 0.
    """
    qos = (flags >> 1) & 3
    if qos > 1:
        raise PacketError(f"QoS 0 or 1 expected, {qos} received")
    if end - pos < 2:
        raise PacketError("PUBLISH without a topic length")
    start = pos + 2
    pos = start + (data[pos] << 8 | data[pos + 1])
    topic = data[start:pos]
    mid = 0
    if qos:
        if end - pos < 2:
            raise PacketError("PUBLISH without a packet id")
        mid = data[pos] << 8 | data[pos + 1]
        pos += 2
        if mid == 0:
            raise PacketError("packet id 0")
    length = read_varint(data, pos, end)
    if length is None:
        raise PacketError("PUBLISH without a property length")
    first = length[1]
    pos = length[0] + first
    if pos > end:
        raise PacketError("PUBLISH shorter than its properties")
    if not topic:
        raise PacketError("PUBLISH without a topic: no topic alias was offered")
    user = parse_properties(data[first:pos]) if properties and pos > first else ()
    return topic, data[pos:end], mid, user


# MQTT 5, table 2-4: the properties of a PUBLISH with a fixed length.
_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
_CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION, _SUBSCRIPTION, _USER = 0x03, 0x08, 0x09, 0x0B, 0x26


def parse_properties(data: bytes) -> User:
    """User properties and content type of a PUBLISH, in order (MQTT 5, 3.3.2.3); the others are skipped.

    Raises:
        PacketError: an unknown property, lengths that do not fit, or text that is not UTF-8.
    """
    found: list[tuple[str, str]] = []
    pos, end = 0, len(data)
    while pos < end:
        kind = data[pos]
        pos += 1
        if kind in _FIXED:
            pos += _FIXED[kind]
        elif kind == _SUBSCRIPTION:
            number = read_varint(data, pos, end)
            pos = end + 1 if number is None else number[1]
        elif kind == _USER:
            name, pos = _text(data, pos)
            value, pos = _text(data, pos)
            found.append((name, value))
        elif kind == _CONTENT_TYPE:
            value, pos = _text(data, pos)
            found.append((CONTENT_TYPE, value))
        elif kind in (_RESPONSE_TOPIC, _CORRELATION):
            pos += 2 + int.from_bytes(data[pos : pos + 2], "big")
        else:
            raise PacketError(f"property {kind:#x} in a PUBLISH")
        if pos > end:
            raise PacketError("PUBLISH with a property longer than its properties")
    return tuple(found)


def _text(data: bytes, pos: int) -> tuple[str, int]:
    start = pos + 2
    end = start + int.from_bytes(data[pos:start], "big")
    if end > len(data):
        raise PacketError("PUBLISH with a property longer than its properties")
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError as error:
        raise PacketError("PUBLISH with a property that is not UTF-8") from error


class StockClient(Client):
    """paho as it is, with manual acknowledgement: the fallback, several times the CPU.

    Args:
        client_id: of the session.
        properties: read user properties and content types of messages.
    """

    def __init__(self, client_id: str, *, properties: bool = False) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.max_inflight_messages_set(0)  # the window is the link's business
        self._wanted = properties
        self._batch: list[Received] = []
        self.on_message = self._collect

    def _collect(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        user: list[tuple[str, str]] = []
        if self._wanted and message.properties is not None:
            user += getattr(message.properties, "UserProperty", [])
            if hasattr(message.properties, "ContentType"):
                user.append((CONTENT_TYPE, message.properties.ContentType))
        topic = bytes(message._topic)  # noqa: SLF001  # the property raises on invalid UTF-8, which is admission's to judge
        self._batch.append((topic, bytes(message.payload), message.mid if message.qos else 0, tuple(user)))

    def take(self) -> list[Received]:
        """What came since the last call, in order."""
        batch, self._batch = self._batch, []
        return batch

    def puback(self, mids: list[int]) -> None:
        """Acknowledge packets, in the order given (MQTT 5, 4.6: the order of receipt)."""
        for mid in mids:
            self.ack(mid, 1)

    def publish_many(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish (topic, payload) pairs with QoS 0."""
        for topic, payload in messages:
            self.publish(topic.decode(), payload, qos=0)


_PUBACKS = [b"\x40\x02" + mid.to_bytes(2, "big") for mid in range(65_536)]


class BatchClient(StockClient):
    """Parses every packet of one recv; PUBLISH here, the rest by paho."""

    def __init__(self, client_id: str, *, properties: bool = False) -> None:
        super().__init__(client_id, properties=properties)
        self._parts: list[bytes] = []  # bytes of a packet that is not complete
        self._have = 0  # their sum
        self._need = 2  # bytes without which parsing again is useless

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what the socket has. `max_packets` is paho's and means nothing here."""
        del max_packets
        for _ in range(_MAX_RECVS):
            if self._sock is None:
                return MQTTErrorCode.MQTT_ERR_NO_CONN
            try:
                data = self._sock_recv(_RECV_BYTES)
            except BlockingIOError:
                break
            except OSError:
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            if not data:
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            rc = self._take_bytes(data)
            if rc:
                return self._loop_rc_handle(rc)
            tls_pending = getattr(self._sock, "pending", None)
            if len(data) < _RECV_BYTES and not (tls_pending and tls_pending()):
                break
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def puback(self, mids: list[int]) -> None:
        """Acknowledge packets, in the order given, in one write; two bytes of remaining length mean success."""
        if mids:
            self._packet_queue(_PUBACK, b"".join([_PUBACKS[mid] for mid in mids]), 0, 0)

    def publish_many(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish (topic, payload) pairs with QoS 0, in one write."""
        packets: list[bytes] = []
        for topic, payload in messages:
            size = len(topic) + len(payload) + 3
            packets += (b"\x30", varint(size), len(topic).to_bytes(2, "big"), topic, b"\0", payload)
        if packets:  # under a name that paho has no more to do for: it would count every PUBLISH as one message
            self._packet_queue(_PUBACK, b"".join(packets), 0, 0)

    def _take_bytes(self, data: bytes) -> MQTTErrorCode:
        with self._msgtime_mutex:
            self._last_bytes_received = self._now()
        self._have += len(data)
        if self._parts or self._have < self._need:
            self._parts.append(data)
            if self._have < self._need:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            data = b"".join(self._parts)
        try:
            used, rc = self._parse(data)
        except PacketError as error:
            self._easy_log(LogLevel.MQTT_LOG_ERR, "%s", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self._have = len(data) - used
        self._parts = [data[used:]] if self._have else []
        return rc

    @staticmethod
    def _now() -> float:
        from paho.mqtt.client import time_func  # the clock paho compares with

        return float(time_func())

    def _parse(self, whole: bytes) -> tuple[int, MQTTErrorCode]:
        """(bytes used, result); stops where a packet is not complete."""
        pos, end = 0, len(whole)
        self._need = 2
        append, wanted = self._batch.append, self._wanted
        while end - pos >= 2:
            command = whole[pos]
            size = whole[pos + 1]
            body = pos + 2
            if size > 127:
                if body < end and whole[body] < 128:  # two bytes: nearly all messages
                    size += (whole[body] << 7) - 128
                    body += 1
                else:
                    length = read_varint(whole, pos + 1, end)
                    if length is None:
                        self._need = end - pos + 1
                        break
                    size, body = length
            after = body + size
            if after > end:
                self._need = after - pos
                break
            if command & 0xF6 == 0x32 and size > 4:  # PUBLISH, QoS 1; DUP and RETAIN change nothing here
                at = body + 2 + (whole[body] << 8 | whole[body + 1])  # of the packet id
                # the ordinary message: it has a topic and an id, and no properties
                if body + 2 < at and at + 3 <= after and not whole[at + 2]:
                    mid = whole[at] << 8 | whole[at + 1]
                    if mid:
                        append((whole[body + 2 : at], whole[at + 3 : after], mid, ()))
                        pos = after
                        continue
            if command & 0xF0 == _PUBLISH:
                append(parse_publish(command, whole, body, after, properties=wanted))
            else:
                rc = self._other(command, whole[body:after])
                if rc or self._sock is None:
                    return after, rc
            pos = after
        return pos, MQTTErrorCode.MQTT_ERR_SUCCESS

    def _other(self, command: int, body: bytes) -> MQTTErrorCode:
        fresh = self._in_packet
        self._in_packet = {
            "command": command,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            return self._packet_handle()
        except (struct.error, IndexError, ValueError) as error:
            raise PacketError(f"packet type {command >> 4}: {error}") from error
        except Exception as error:
            # paho's MalformedPacket has moved between versions: known by its name
            if type(error).__name__ not in ("MalformedPacket", "MQTTException"):
                raise
            raise PacketError(f"packet type {command >> 4}: {error}") from error
        finally:
            self._in_packet = fresh


def contract_problem() -> str:  # noqa: PLR0911  # one return per part of the contract
    """What of paho's private parts is not as `BatchClient` needs it; "" when all is well.

    Sends a PUBLISH in two pieces and a PINGRESP through a socket pair and reads the PUBACK back.
    """
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        theirs.settimeout(1.0)
        client = BatchClient("contract")
        client._sock = ours  # noqa: SLF001  # this is the contract
        client._ping_t = 1.0  # noqa: SLF001
        if not hasattr(client, "_last_bytes_received"):
            return "no _last_bytes_received"
        body = b"\x00\x01t" + b"\x00\x07" + b"\x02\x01\x00" + b"payload"  # property: payload format indicator
        packet = bytes([_PUBLISH | 2, len(body)]) + body
        theirs.sendall(packet[:5])
        client.loop_read()
        theirs.sendall(packet[5:] + bytes([PacketTypes.PINGRESP << 4, 0]))
        client.loop_read()
        if client.take() != [received(b"t", b"payload", 7)]:
            return "a PUBLISH was not read rightly"
        if client._ping_t != 0:  # noqa: SLF001
            return "a PINGRESP did not reach paho"
        client.puback([7, 8])
        if client.want_write() or theirs.recv(64) != b"\x40\x02\x00\x07\x40\x02\x00\x08":
            return "PUBACKs were not written"
        client.publish_many([(b"t", b"x")])
        if client.want_write() or theirs.recv(64) != b"\x30\x05\x00\x01t\x00x":
            return "a PUBLISH was not written"
        theirs.close()
        client.loop_read()
        if client.socket() is not None:
            return "the end of a connection was not seen"
    except Exception as error:  # noqa: BLE001  # whatever another version raises, the answer is the fallback
        return f"{type(error).__name__}: {error}"
    finally:
        theirs.close()
        ours.close()
    return ""


def receiver_contract_holds() -> bool:
    """Whether the installed paho-mqtt can carry `BatchClient`."""
    return contract_problem() == ""
