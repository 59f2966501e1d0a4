"""Does this broker take this device? TCP, TLS, MQTT 5 CONNECT with the configured credentials, and away again.

Subscribes to nothing, publishes nothing, leaves no session. Its client id is its own, so that a running agent keeps its
connection, and it never asks for a clean start: a broker that names clients by their user would end the agent's session for it.

Source: MQTT 5.0 (OASIS), 3.1 and 3.2.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from covey.errors import ConfigError
from edge.doctor import Line

if TYPE_CHECKING:
    from covey.credentials import Credentials

STEP_S = 5.0  # one question and its answer
_CONNECT, _CONNACK, _DISCONNECT = 0x10, 0x20, 0xE0  # 2.1.2
_SESSION_S = 30  # should this process be killed; DISCONNECT ends it at once
_REASONS = {  # 3.2.2.2
    0x80: "unspecified error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x95: "packet too large",
    0x97: "quota exceeded",
    0x9F: "connection rate exceeded",
}
_FIXES = {
    0x84: "use a broker (or a listener) that speaks MQTT 5",
    0x86: "see mqtt_user and mqtt_password_file",
    0x87: "see mqtt_user, mqtt_password_file and mqtt_cert, and whom the broker admits",
    0x8A: "this device is banned at the broker",
}


class _Strange(Exception):
    """The other end does not answer as an MQTT broker."""


def check_mqtt(host: str, port: int, device: str, who: Credentials) -> list[Line]:
    """One line for each step; the first that fails is the last."""
    where = f"{host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout=STEP_S)
    except OSError as error:  # gaierror and time-outs, too
        fix = f"is the broker up, and is mqtt = '{where}' its address as seen from here (firewall, name, modem)?"
        return [Line("broker tcp", "FAIL", f"{where}: {who.explain(error)}", fix)]
    lines = [Line("broker tcp", "ok", f"{where}: connected")]
    sock = plain
    try:
        context = who.context()
        if context is not None:
            sock = context.wrap_socket(plain, server_hostname=host)
            lines.append(Line("broker tls", "ok", f"{sock.version()}, its certificate is valid"))
        lines.append(_login(sock, where, device, who))
    except _Strange as error:
        lines.append(Line("broker mqtt", "FAIL", f"{where}: {error}", "is this an MQTT 5 broker? is TLS spoken there?"))
    except (OSError, ConfigError) as error:
        tls = isinstance(error, (ssl.SSLError, ConfigError)) or (who.ca and len(lines) == 1)
        fix = "see mqtt_ca, mqtt_cert and mqtt_key" if tls else "see the broker's log"
        lines.append(Line("broker tls" if tls else "broker mqtt", "FAIL", f"{where}: {who.explain(error)}", fix))
    finally:
        sock.close()
    return lines


def _login(sock: socket.socket, where: str, device: str, who: Credentials) -> Line:
    password = who.password()
    flags = (0x80 if who.user else 0) | (0x40 if password is not None else 0)
    properties = b"\x11" + _SESSION_S.to_bytes(4, "big")  # 3.1.2.11.2 session expiry
    body = _text("MQTT") + bytes([5, flags]) + (30).to_bytes(2, "big") + bytes([len(properties)]) + properties
    body += _text(f"{device}-doctor-{secrets.token_hex(3)}")
    body += (_text(who.user) if who.user else b"") + (_text(password) if password is not None else b"")
    sock.settimeout(STEP_S)
    with contextlib.suppress(ConnectionError):  # who refuses at once closes: what it said is still to be read
        sock.sendall(_packet(_CONNECT, body))
    kind, answer = _answer(sock)
    if kind != _CONNACK or len(answer) < 2:
        raise _Strange(f"CONNACK expected, packet type {kind >> 4} came")
    if len(answer) == 2:  # no properties: MQTT 3.1.1
        return Line("broker mqtt", "FAIL", f"{where}: speaks MQTT 3.1.1 only", _FIXES[0x84])
    if answer[1] >= 0x80:
        why = _REASONS.get(answer[1], f"code {answer[1]:#04x}")
        return Line("broker mqtt", "FAIL", f"{where}: refused: {why}", _FIXES.get(answer[1], "see the broker's log"))
    present = bool(answer[0] & 1)
    # 3.14.2.2.2: our own session ends with us; another client's, which the broker gave us, lives on
    farewell = b"\x00" if present else b"\x00\x05\x11" + bytes(4)
    with contextlib.suppress(OSError):
        sock.sendall(_packet(_DISCONNECT, farewell))
        sock.settimeout(1.0)
        while sock.recv(4096):  # closing with unread bytes would reset the connection
            pass
    as_whom = f"as {who.user}" if who.user else "with its certificate" if who.cert else "without a user"
    return Line("broker mqtt", "ok", f"{where}: MQTT 5, accepted {as_whom}")


def _answer(sock: socket.socket) -> tuple[int, bytes]:
    """(packet type, body) of the first packet.

    Raises:
        _Strange: nothing came, or no MQTT.
        OSError: the connection broke.
    """
    end_s = time.monotonic() + STEP_S
    try:
        kind = _read(sock, 1, end_s)[0]
        if kind != _CONNACK:
            raise _Strange(f"answers no MQTT: {bytes([kind])!r}")
        length = shift = 0
        while True:  # 1.5.5 variable byte integer
            byte = _read(sock, 1, end_s)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 21:
                raise _Strange("answers no MQTT: a length of more than four bytes")
        if length > 4096:
            raise _Strange(f"a CONNACK of {length} bytes")
        return kind, _read(sock, length, end_s)
    except TimeoutError as error:
        raise _Strange(f"accepts the connection and says nothing for {STEP_S:g} s") from error


def _read(sock: socket.socket, count: int, end_s: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(0.01, end_s - time.monotonic()))
        part = sock.recv(count - len(data))
        if not part:
            raise _Strange("closes the connection at CONNECT")
        data += part
    return data


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("!H", len(raw)) + raw


def _packet(kind: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, byte = rest >> 7, rest & 0x7F
        length += bytes([byte | (0x80 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body
