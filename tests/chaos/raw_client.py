"""An MQTT 5 client that sends whatever it is given and waits for the answer: for messages that no library would send."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from covey.errors import LinkError
from firmware_sim.net import mqtt5

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 30.0
CLOSED = -1


class RawClient:
    """One connection at a time, blocking; it connects when it has to.

    Args:
        host: of the broker.
        port: of the broker.
        client_id: MQTT client identifier.
        user: "" for none.
    """

    def __init__(self, host: str, port: int, client_id: str, user: str = "") -> None:
        self._address, self._client_id, self._user = (host, port), client_id, user
        self._socket: socket.socket | None = None
        self._rest = b""
        self._packet_id = 0
        self.connects = 0

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish with QoS 1; the reason code of the PUBACK, or CLOSED when the broker ended the connection instead.

        Raises:
            LinkError: no answer.
        """
        self._packet_id = self._packet_id % mqtt5.MAX_PACKET_ID + 1
        try:
            connection = self._socket or self._connect()
            connection.sendall(mqtt5.publish(topic, payload, self._packet_id))
            answer = self._await(
                lambda packet: (
                    isinstance(packet, mqtt5.Disconnect)
                    or (isinstance(packet, mqtt5.Puback) and packet.packet_id == self._packet_id)
                )
            )
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        if not isinstance(answer, mqtt5.Puback):
            self.close()
            return CLOSED
        return answer.reason

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        self._socket = connection = socket.create_connection(self._address, TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.connects += 1
        connection.sendall(mqtt5.connect(self._client_id, 60, user=self._user))
        answer = self._await(lambda packet: isinstance(packet, mqtt5.Connack))
        if not isinstance(answer, mqtt5.Connack) or answer.reason:
            raise LinkError(f"{self._client_id}: CONNACK of success expected, {answer} received")
        return connection

    def _await(self, wanted: Callable[[object], bool]) -> object:
        """The packet that is wanted; None when the connection was closed."""
        assert self._socket is not None
        while True:
            packets, used = mqtt5.decode(self._rest)
            self._rest = self._rest[used:]
            for packet in packets:
                if wanted(packet):
                    return packet
            try:
                data = self._socket.recv(65_536)
            except TimeoutError:
                raise LinkError(f"{self._client_id}: no answer within {TIMEOUT_S:g} s") from None
            if not data:
                return None
            self._rest += data
