"""The agent's MQTT 5 connection: the only file on the device that knows paho.

Every connection is a new client object with clean_start=True (a resumed session would not resend retained messages on every
broker, and a killed agent would stay on its old release). paho's thread only enqueues; everything else happens in `step`,
on the caller's thread. A broken connection is an ordinary state, retried with backoff; LinkError is for what cannot work.

It decides nothing about rows: what is sent when, and what counts as safe, is in resend.py and outbox.py.
"""

from __future__ import annotations

import queue
import secrets
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from covey import topics, wire
from covey.errors import LinkError
from covey.runtime import Backoff
from edge.budget import interface_of

if TYPE_CHECKING:
    import logging

_CONNECT_TIMEOUT_S = 5.0
_READY_TIMEOUT_S = 15.0  # from the first packet to SUBACK
# paho ignores the broker's Receive Maximum; 20 is the least that brokers are known to allow by default (mosquitto).
_PUBACK_WINDOW = 20
_STEADY_S = (
    10.0  # a connection that lasted so long was a good one: two devices of one name must not fight without backoff
)
_MAX_INBOX = 1024  # messages from the broker that wait for `step`; a flood beyond it is dropped, all are sent again


class Message(NamedTuple):
    """What came: `ack`, `desired`, `command` or `gateway`."""

    kind: str
    payload: bytes
    retained: bool = False  # the broker had it; else it was said just now


class _Happened(NamedTuple):
    generation: int
    what: str  # connected | ready | gone | puback | message
    detail: Any = None


class Link:
    """One device's connection to its broker.

    Attributes:
        connected: subscribed, so that messages flow both ways.
        session: 16 hex digits of this connection, as in its presence.
        sent_bytes: payload bytes published, repeats included.
    """

    def __init__(
        self,
        device: str,
        host: str,
        port: int,
        log: logging.Logger,
        *,
        tls: ssl.SSLContext | None = None,
        user: str = "",
        password: str | None = None,
        keepalive_s: int = 30,
        backoff: Backoff | None = None,
    ) -> None:
        self._device, self._host, self._port = device, host, port
        self._log, self._tls, self._user, self._password = log, tls, user, password
        self._keepalive_s = keepalive_s
        self._backoff = backoff or Backoff(0.2, 30.0)
        self._events: queue.SimpleQueue[_Happened] = queue.SimpleQueue()
        self._client: Client | None = None
        self._opener: threading.Thread | None = None
        self._generation = 0
        self._began_s = 0.0
        self._ready_s = 0.0
        self._next_try_s = 0.0
        self._said = ""
        self._unconfirmed: set[int] = set()
        self._max_packet = 0
        self.connected = False
        self.session = ""
        self.sent_bytes = 0
        self.interface = ""  # network interface of this connection, where it can be told

    @property
    def unconfirmed(self) -> int:
        """Messages that the broker has not confirmed by PUBACK."""
        return len(self._unconfirmed)

    @property
    def room(self) -> int:
        """How many messages the broker takes now without their waiting in memory."""
        return max(0, _PUBACK_WINDOW - len(self._unconfirmed)) if self.connected else 0

    def step(self, now_s: float) -> list[Message]:
        """Do what is due without waiting; returns what came. `now_s` is monotonic."""
        if self._client is None and now_s >= self._next_try_s:
            self._connect(now_s)
        received: list[Message] = []
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
            if event.generation != self._generation or self._client is None:
                continue  # of a connection that is gone
            if event.what == "message":
                received.append(event.detail)
            elif event.what == "puback":
                self._unconfirmed.discard(event.detail)
            elif event.what == "connected":
                self._subscribe(event.detail)
            elif event.what == "ready":
                self._ready(now_s)
            else:
                self._lost(str(event.detail), now_s)
        if self._client is not None and not self.connected and now_s - self._began_s > _READY_TIMEOUT_S:
            self._lost("no answer to connect or subscribe", now_s)
        elif self._client is not None and self.connected and self._client.socket() is None:
            self._lost("connection lost", now_s)  # paho's loop can end without a word
        return received

    def publish(self, kind: str, payload: bytes) -> bool:
        """Send one event (QoS 1); False when it cannot be taken now.

        Raises:
            LinkError: it is larger than a message of ours, or this broker, may be. It would block all that follow it.
        """
        limit = min(wire.MAX_EVENT_BYTES, self._max_packet or wire.MAX_EVENT_BYTES)
        if len(payload) > limit:
            raise LinkError(f"mqtt: an event of at most {limit} bytes expected, {len(payload)} given")
        if self._client is None or not self.room:
            return False
        return self._publish(self._client, topics.mqtt_topic(self._device, kind), payload)

    def announce(self) -> None:
        """Say that this session is there; again, when who listens was not there at the first time."""
        if self._client is not None and self.connected:
            birth = wire.encode(wire.Presence(online=True, session=self.session))
            self._publish(self._client, self._presence_topic, birth)

    def drop(self, why: str, now_s: float) -> None:
        """Give this connection up: the next `step`s make a new one."""
        if self._client is not None:
            self._lost(why, now_s)

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye in good order: presence, then DISCONNECT, which takes the will back."""
        client = self._client
        if client is not None and self.connected:
            deadline = time.monotonic() + timeout_s
            self._publish(client, self._presence_topic, wire.encode(wire.Presence(online=False, session=self.session)))
            while self._unconfirmed and self._client is client and time.monotonic() < deadline:
                self.step(time.monotonic())
                time.sleep(0.01)
        self._generation += 1
        self._client, self.connected = None, False
        if client is not None:
            self._discard(client).join(timeout_s)

    @property
    def _presence_topic(self) -> str:
        return topics.mqtt_topic(self._device, topics.PRESENCE)

    def _connect(self, now_s: float) -> None:
        self._generation += 1
        generation = self._generation
        self.session = secrets.token_hex(8)
        self._unconfirmed.clear()
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages = _PUBACK_WINDOW
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._user:
            client.username_pw_set(self._user, self._password)
        gone = wire.encode(wire.Presence(online=False, session=self.session))
        client.will_set(self._presence_topic, gone, qos=1)
        put = self._events.put

        # These run on paho's thread: they enqueue, nothing else.
        def on_connect(_client: Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
            if reason.is_failure:
                put(_Happened(generation, "gone", f"refused: {str(reason).lower()}"))
            else:
                put(_Happened(generation, "connected", getattr(properties, "MaximumPacketSize", 0)))

        def on_subscribe(_client: Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
            refused = [str(reason).lower() for reason in reasons if reason.is_failure]
            put(_Happened(generation, "gone" if refused else "ready", f"subscription refused: {refused}"))

        def on_message(_client: Client, _data: Any, message: Any) -> None:
            if self._events.qsize() < _MAX_INBOX:
                kind = str(message.topic).rsplit("/", 1)[-1]
                put(_Happened(generation, "message", Message(kind, bytes(message.payload), bool(message.retain))))

        def on_publish(_client: Client, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
            put(_Happened(generation, "puback", mid))

        def on_disconnect(_client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            put(_Happened(generation, "gone", f"connection ended: {str(reason).lower()}"))

        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        client.on_publish, client.on_disconnect = on_publish, on_disconnect

        def open_socket() -> None:  # name look-up, TCP and TLS may take seconds: not on the agent's thread
            try:
                client.connect(self._host, self._port, self._keepalive_s, clean_start=True)
                client.loop_start()
            except (OSError, ValueError) as error:  # ssl.SSLError and gaierror are OSErrors
                put(_Happened(generation, "gone", str(error).lower()))

        self._client, self._began_s = client, now_s
        self._opener = threading.Thread(target=open_socket, name="mqtt-connect", daemon=True)
        self._opener.start()

    def _subscribe(self, max_packet: int) -> None:
        self._max_packet = max(0, max_packet - 256) if max_packet else 0  # the packet holds the topic, too
        own = [topics.mqtt_topic(self._device, kind) for kind in topics.DOWN_KINDS]
        filters = [*own, topics.gateway_topic(topics.shard(self._device))]
        if self._client is not None:
            self._client.subscribe([(name, SubscribeOptions(qos=1)) for name in filters])

    def _ready(self, now_s: float) -> None:
        self.connected = True
        self._said = ""
        self._ready_s = now_s
        self.interface = _interface(self._client)
        self._log.info("mqtt %s:%d: connected", self._host, self._port)
        self.announce()

    def _publish(self, client: Client, topic: str, payload: bytes) -> bool:
        info = client.publish(topic, payload, qos=1)
        if info.rc != 0:
            return False
        self._unconfirmed.add(info.mid)
        self.sent_bytes += len(payload)
        return True

    def _lost(self, why: str, now_s: float) -> None:
        client, self._client = self._client, None
        if self.connected and now_s - self._ready_s > _STEADY_S:
            self._backoff.reset()
        self.connected = False
        self._generation += 1
        self._next_try_s = now_s + self._backoff.next_s()
        if why != self._said:  # once, not at every try
            self._log.warning("mqtt %s:%d: %s; trying again", self._host, self._port, why)
            self._said = why
        if client is not None:
            self._discard(client)

    def _discard(self, client: Client) -> threading.Thread:
        """End a client and its threads, on a thread of its own: it may still be connecting."""
        opener = self._opener

        def end() -> None:
            if opener is not None:
                opener.join()  # else it would open a connection that nobody knows of, under our name
            client.on_connect = client.on_subscribe = client.on_message = client.on_publish = None
            client.on_disconnect = None
            client.disconnect()
            client.loop_stop()

        ending = threading.Thread(target=end, name="mqtt-discard", daemon=True)
        ending.start()
        return ending


def _interface(client: Client | None) -> str:
    try:
        here: Any = client.socket() if client is not None else None  # paho's type for it leaves getsockname out
        return "" if here is None else interface_of(str(here.getsockname()[0]))
    except OSError:  # it broke just now
        return ""


def tls_context(ca: str, cert: str = "", key: str = "") -> ssl.SSLContext | None:
    """TLS from PEM files; None without `ca`.

    Raises:
        LinkError: a file is missing or is not what it should be.
    """
    if not ca:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            context.load_cert_chain(cert, key)
    except OSError as error:  # a missing file, or ssl.SSLError
        raise LinkError(f"mqtt_ca {ca}, mqtt_cert {cert or 'none'}: {error}") from error
    return context


def read_password(path: str) -> str | None:
    """The first line of a secret's file; None without one.

    Raises:
        LinkError: it cannot be read.
    """
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise LinkError(f"mqtt_password_file {path}: {error}") from error
