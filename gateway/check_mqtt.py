"""The MQTT half of `covey gateway check`: what this broker grants to this gateway, and nothing taken from it.

Speaks the few packets itself, so that whatever is at the other end can be told. Its session is its own and ends with it.
It acknowledges nothing, publishes nothing and asks for no retained message. It never asks for a clean start: a broker
that names clients by their user (mosquitto's use_username_as_clientid) would delete the running gateway's queue for it.
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
import struct
from typing import TYPE_CHECKING, NamedTuple

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from covey import topics
from covey.errors import ConfigError
from gateway.config import GatewayConfig, host_port
from gateway.link import client_id
from gateway.mapping import Mappings
from gateway.probe import STEP_S, Conversation, Finding, reach
from gateway.receiver import PacketError, read_varint

if TYPE_CHECKING:
    from typing import Any

_CONNECT, _CONNACK, _SUBSCRIBE, _SUBACK, _DISCONNECT = 0x10, 0x20, 0x82, 0x90, 0xE0  # MQTT 5, 2.1.2
_SESSION_S = 60  # should this process be killed; else DISCONNECT ends the session at once
_QOS1_NO_RETAINED = 0x21  # MQTT 5, 3.8.3.1: QoS 1, retain handling 2
_PER_SUBSCRIBE = 64
_PACKET_ROOM = 512  # topic, properties and lengths around an event

_CONNECT_FIXES = {
    0x84: "the gateway needs MQTT 5: use a broker (or a listener) that speaks it",
    0x85: "the broker allows only certain client ids: allow those that begin with covey-gateway-",
    0x86: "see mqtt_user and mqtt_password_file",
    0x87: "see mqtt_user, mqtt_password_file and mqtt_cert, and whom the broker admits",
    0x8A: "this client or address is banned at the broker",
    0x97: "the broker's quota is reached",
}


class _Granted(NamedTuple):
    session_present: bool
    reason: int
    properties: Any  # paho's Properties; None from a broker that answers as MQTT 3.1.1


class _NoMqttError(Exception):
    """The other end does not go on as an MQTT 5 broker would; carries a fix."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.fix = fix


def check_mqtt(config: GatewayConfig) -> list[Finding]:
    """Every line of the MQTT side; stops at the first step that fails."""
    found: list[Finding] = []
    sock = reach("mqtt", host_port(config.mqtt), config.mqtt_credentials, found)
    if sock is None:
        return found
    with contextlib.closing(sock):
        talk = Conversation(sock)
        granted: _Granted | None = None
        try:
            granted = _connect(talk, config)
            if _login(config, granted, found):
                found += _limits(config, granted.properties)
                found.append(_subscribe(talk, _filters(config)))
        except _NoMqttError as error:
            found.append(Finding("mqtt", "FAIL", f"{config.mqtt}: {error}", error.fix))
        except (OSError, ConfigError) as error:
            why = config.mqtt_credentials.explain(error)
            fix = "see mqtt_cert and mqtt_key" if isinstance(error, ssl.SSLError) else "see the broker's log"
            found.append(Finding("mqtt", "FAIL", f"{config.mqtt}: {why}", fix))
        finally:
            if granted is not None:
                _leave(talk, config.session_expiry_s if granted.session_present else 0)
    return found


def _connect(talk: Conversation, config: GatewayConfig) -> _Granted:
    user, password = config.mqtt_user, config.mqtt_credentials.password()
    flags = (0x80 if user else 0) | (0x40 if password is not None else 0)
    properties = b"\x11" + _SESSION_S.to_bytes(4, "big") + b"\x21\x00\x01"  # session expiry, receive maximum 1
    body = _text("MQTT") + bytes([5, flags]) + (30).to_bytes(2, "big") + bytes([len(properties)]) + properties
    body += _text(f"{client_id(config)}-check-{secrets.token_hex(3)}")
    body += (_text(user) if user else b"") + (_text(password) if password is not None else b"")
    talk.verdict()
    with contextlib.suppress(ConnectionError):  # told by what is read, or is not
        talk.send(_packet(_CONNECT, body))
    kind, answer = _next(talk, first=True)
    if kind != _CONNACK or len(answer) < 2:
        raise _NoMqttError(f"CONNACK expected, packet type {kind >> 4} received", "is this an MQTT broker?")
    if len(answer) == 2:  # without properties: no MQTT 5; 3.1.1 says 1 for "unacceptable protocol version"
        raise _NoMqttError("speaks MQTT 3.1.1 only", _CONNECT_FIXES[0x84])
    properties_ = Properties(PacketTypes.CONNACK)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties_.unpack(answer[2:])  # type: ignore[no-untyped-call]  # as above
    return _Granted(bool(answer[0] & 1), answer[1], properties_)


def _login(config: GatewayConfig, granted: _Granted, found: list[Finding]) -> bool:
    if granted.reason >= 0x80:
        why = _named(PacketTypes.CONNACK, granted.reason)
        more = getattr(granted.properties, "ReasonString", "")
        fix = _CONNECT_FIXES.get(granted.reason, "see the broker's log")
        found.append(Finding("mqtt", "FAIL", f"{config.mqtt}: refused: {why}{': ' * bool(more)}{more}", fix))
        return False
    if granted.session_present:
        detail = "the broker gave this check another client's session, so it goes no further"
        fix = "mosquitto: use_username_as_clientid and use_identity_as_username do so; one user per client then"
        found.append(Finding("mqtt", "warn", f"{config.mqtt}: accepted, but {detail}", fix))
        return False
    who = f"as {config.mqtt_user}" if config.mqtt_user else "without a user"
    found.append(Finding("mqtt", "ok", f"{config.mqtt}: MQTT 5, accepted {who}"))
    return True


def _limits(config: GatewayConfig, properties: Any) -> list[Finding]:
    """What CONNACK says of the broker (MQTT 5, 3.2.2.3); what is left out has the default of the standard."""
    receive = getattr(properties, "ReceiveMaximum", 65_535)
    packet = getattr(properties, "MaximumPacketSize", 0)
    found = [Finding("receive maximum", "ok", f"{receive} of ours at a time, {config.receive_maximum} of theirs")]
    wanted = config.max_event_bytes + _PACKET_ROOM
    if packet and packet < wanted:
        fix = f"raise the broker's limit to {wanted}, or lower max_event_bytes"
        found.append(Finding("packet size", "warn", f"at most {packet} bytes, {wanted} expected", fix))
    else:
        found.append(Finding("packet size", "ok", f"at most {packet} bytes" if packet else "no limit told"))
    for what, name, need in (("qos 1", "MaximumQoS", 1), ("retain", "RetainAvailable", 1)):
        there = getattr(properties, name, need) >= need
        fix = "" if there else f"the gateway cannot work without it: allow {what} at the broker"
        found.append(Finding(what, "ok" if there else "FAIL", "available" if there else "not available", fix))
    if getattr(properties, "WildcardSubscriptionAvailable", 1):
        found.append(Finding("wildcards", "ok", "available"))
    else:
        found.append(Finding("wildcards", "FAIL", "not available", "allow wildcard subscriptions at the broker"))
    return found


def _filters(config: GatewayConfig) -> tuple[str, ...]:
    """What a gateway subscribes to."""
    return (*topics.uplink_filters(config.shards), *Mappings(config.mappings).filters)


def _subscribe(talk: Conversation, names: tuple[str, ...]) -> Finding:
    refused: list[str] = []
    for number, start in enumerate(range(0, len(names), _PER_SUBSCRIBE), 1):
        part = names[start : start + _PER_SUBSCRIBE]
        talk.more_time(STEP_S)
        body = number.to_bytes(2, "big") + b"\x00" + b"".join(_text(n) + bytes([_QOS1_NO_RETAINED]) for n in part)
        talk.send(_packet(_SUBSCRIBE, body))
        kind, answer = _next(talk)
        while kind != _SUBACK:  # messages of the fleet, which are not ours to take
            if kind == _DISCONNECT:
                why = _named(PacketTypes.DISCONNECT, answer[0] if answer else 0)
                raise _NoMqttError(f"the broker ends the connection at SUBSCRIBE: {why}", "see the broker's log")
            kind, answer = _next(talk)
        length = read_varint(answer, 2, len(answer)) or (0, 3)
        codes = answer[length[0] + length[1] :]
        for name, code in zip(part, codes, strict=False):
            if code != 1:
                why = _named(PacketTypes.SUBACK, code) if code >= 0x80 else "QoS 1 expected, 0 granted"
                refused.append(f"{name}: {why}")
    if refused:
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        fix = "allow this user to subscribe to it (the broker's ACL)"
        return Finding("subscribe", "FAIL", f"{refused[0]}{more}", fix)
    one = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    # mosquitto checks its acl_file for each message only, so there this line says less than elsewhere
    return Finding("subscribe", "ok", f"granted: {one} (mosquitto grants whatever its acl_file says)")


def _next(talk: Conversation, *, first: bool = False) -> tuple[int, bytes]:
    """(first byte, body) of the next packet; the first answer decides whether this is MQTT at all."""
    try:
        there = talk.need(2)
    except ConnectionError:
        there = False
    if not there or (first and talk.received[0] not in (_CONNACK, _DISCONNECT)):
        raise _strange(talk) if first else _NoMqttError("no answer in time", "see the broker's log")
    try:
        length = read_varint(talk.received, 1, len(talk.received))
        while length is None:
            if not talk.need(len(talk.received) + 1):
                raise _NoMqttError("half a packet, then nothing", "see the broker's log")
            length = read_varint(talk.received, 1, len(talk.received))
    except PacketError as error:
        raise _NoMqttError(f"answers no MQTT: {error}", "is this an MQTT broker?") from error
    end = length[0] + length[1]
    if not talk.need(end):
        raise _NoMqttError("half a packet, then nothing", "see the broker's log")
    kind, body = talk.received[0], talk.received[length[1] : end]
    talk.received = talk.received[end:]
    return kind & 0xF0, body


def _strange(talk: Conversation) -> _NoMqttError:
    silent = not talk.received and talk.timed_out()
    spoken = talk.stranger() if silent or talk.received else ""
    if spoken == "HTTP":
        return _NoMqttError("answers in HTTP", "this is a web server's port: set mqtt to the broker's")
    if spoken == "TLS":
        return _NoMqttError("speaks TLS", "set mqtt_ca (mqtt_ca = 'system' for a public certificate)")
    if silent:
        return _NoMqttError(f"accepts the connection and says nothing for {STEP_S:g} s", "is this an MQTT broker?")
    if talk.received:
        return _NoMqttError(f"answers no MQTT: {talk.received[:16]!r}", "is this an MQTT broker?")
    fix = "is it MQTT 5 (a 3.1.1-only broker closes)? is it a TLS port (set mqtt_ca)? does it want mqtt_cert?"
    return _NoMqttError("closes the connection at CONNECT", fix)


def _leave(talk: Conversation, keep_s: int) -> None:
    """DISCONNECT, and wait until the broker has read it.

    Args:
        talk: the connection.
        keep_s: how long the session lives on (MQTT 5, 3.14.2.2.2): 0 ends our own; another client's stays its own.
    """
    with contextlib.suppress(OSError):
        talk.more_time(1.0)
        talk.send(_packet(_DISCONNECT, b"\x00\x05\x11" + keep_s.to_bytes(4, "big")))
        while talk.need(len(talk.received) + 1):  # closing with unread bytes would reset the connection
            talk.received = b""


def _named(packet: int, code: int) -> str:
    try:
        return str(ReasonCode(packet, identifier=code)).lower()
    except (KeyError, AssertionError):
        return f"code {code:#04x}"


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
