"""Batch receive: every PUBLISH of one big recv at once, acknowledged in one write.

Stock paho-mqtt makes five recv, one select and one send of each message; this subclass makes about one of each per
batch (measured 1.0-1.8 against 8-10 CPU-seconds per 100,000 messages). It touches paho's private parts, so
`receiver_contract_holds` tries it on a socket pair first; where that fails, `StockClient` does the same slowly.
Refuses QoS 2 and topic aliases: the gateway subscribes with QoS 1 and offers no alias.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

_RECV_BYTES = 262_144
_PUBLISH = 0x30  # MQTT 5, 2.1.2 packet type in the high four bits
_PUBACK = 0x40
_MAX_RECVS = 64  # per call, so that TLS records of 16 kB do not starve the rest of the loop


class Received(NamedTuple):
    """One PUBLISH as it came; `mid` is 0 at QoS 0 (nothing to acknowledge)."""

    topic: bytes
    payload: bytes
    mid: int


class PacketError(ValueError):
    """Bytes that are no MQTT 5 packet, or one that was not agreed to."""


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


def parse_publish(flags: int, data: bytes | memoryview, pos: int, end: int) -> Received:
    """One PUBLISH body, `data[pos:end]` (MQTT 5, 3.3); its properties are skipped.

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
    topic = bytes(data[start:pos])
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
    pos = length[0] + length[1]
    if pos > end:
        raise PacketError("PUBLISH shorter than its properties")
    if not topic:
        raise PacketError("PUBLISH without a topic: no topic alias was offered")
    return Received(topic, bytes(data[pos:end]), mid)


class StockClient(Client):
    """paho as it is, with manual acknowledgement: the fallback, several times the CPU."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.max_inflight_messages_set(0)  # the window is the link's business
        self._batch: list[Received] = []
        self.on_message = self._collect

    def _collect(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        # the property `topic` raises on invalid UTF-8, which is admission's to judge
        self._batch.append(Received(bytes(message._topic), bytes(message.payload), message.mid if message.qos else 0))  # noqa: SLF001

    def take(self) -> list[Received]:
        """What came since the last call, in order."""
        batch, self._batch = self._batch, []
        return batch

    def puback(self, mids: list[int]) -> None:
        """Acknowledge packets, in the order given (MQTT 5, 4.6: the order of receipt)."""
        for mid in mids:
            self.ack(mid, 1)


class BatchClient(StockClient):
    """Parses every packet of one recv; PUBLISH here, the rest by paho."""

    def __init__(self, client_id: str) -> None:
        super().__init__(client_id)
        self._bytes = bytearray()
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
            packets = b"".join([b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids])
            self._packet_queue(_PUBACK, packets, 0, 0)

    def _take_bytes(self, data: bytes) -> MQTTErrorCode:
        with self._msgtime_mutex:
            self._last_bytes_received = self._now()
        self._bytes += data
        if len(self._bytes) < self._need:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        whole = bytes(self._bytes)
        try:
            used, rc = self._parse(whole)
        except PacketError as error:
            self._easy_log(LogLevel.MQTT_LOG_ERR, "%s", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        del self._bytes[:used]
        return rc

    @staticmethod
    def _now() -> float:
        from paho.mqtt.client import time_func  # the clock paho compares with

        return float(time_func())

    def _parse(self, whole: bytes) -> tuple[int, MQTTErrorCode]:
        """(bytes used, result); stops where a packet is not complete."""
        pos, end = 0, len(whole)
        self._need = 2
        append = self._batch.append
        while end - pos >= 2:
            command = whole[pos]
            length = read_varint(whole, pos + 1, end)
            if length is None:
                break
            body = length[1]
            after = body + length[0]
            if after > end:
                self._need = after - pos
                break
            if command & 0xF0 == _PUBLISH:
                append(parse_publish(command, whole, body, after))
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
        if client.take() != [Received(b"t", b"payload", 7)]:
            return "a PUBLISH was not read rightly"
        if client._ping_t != 0:  # noqa: SLF001
            return "a PINGRESP did not reach paho"
        client.puback([7, 8])
        if client.want_write() or theirs.recv(64) != b"\x40\x02\x00\x07\x40\x02\x00\x08":
            return "PUBACKs were not written"
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
