"""The MQTT connection: the only file that connects with paho. One client object per connection.

Translates paho's exceptions and return codes into `LinkError` or into the ordinary state "not connected".
Knows nothing of Kafka; decides nothing about messages.
"""

from __future__ import annotations

import hashlib
import select
import time
from typing import TYPE_CHECKING, Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from covey import topics
from covey.errors import ConfigError, LinkError
from gateway.config import GatewayConfig, host_port
from gateway.mapping import Mappings
from gateway.receiver import BatchClient, Received, StockClient, contract_problem

if TYPE_CHECKING:
    import logging

_CONNECT_TIMEOUT_S = 3.0
_READY_TIMEOUT_S = 10.0  # CONNACK and SUBACK after the TCP connection
_WINDOW = 100  # QoS 1 publishes of ours in flight; less when the broker says so
_FILTERS_PER_SUBSCRIBE = 64


class Link:
    """One gateway's MQTT side.

    Attributes:
        generation: counts connections; packet ids mean something only within one.
        connected: subscribed, so that messages flow.
    """

    def __init__(self, config: GatewayConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        problem = contract_problem()
        if problem:
            log.warning("paho-mqtt is not as the batch receiver needs it (%s): receiving one by one", problem)
        self._make: type[StockClient] = StockClient if problem else BatchClient
        self._client: StockClient | None = None
        self._poll = select.poll()
        self._registered = -1
        self._subscribing: set[int] = set()
        self._began_s = 0.0
        self._window = _WINDOW
        self._mappings = Mappings(config.mappings)
        self._inflight: dict[int, object] = {}
        self._confirmed: list[tuple[object, int]] = []
        self._down = self._said = ""
        self._answered = False
        self.generation = 0
        self.connected = False
        self.session_present = False
        self.max_packet_bytes = 0  # the broker's; 0: it names none

    @property
    def alive(self) -> bool:
        """A socket is open, subscribed or not yet."""
        return self._client is not None

    @property
    def room(self) -> int:
        """How many QoS 1 publishes may be sent now."""
        return max(0, self._window - len(self._inflight)) if self.connected else 0

    def connect(self) -> None:
        """Open a connection and begin the session; `connected` becomes true in a later `step`.

        Raises:
            LinkError: the broker cannot be reached.
        """
        self._drop("new connection")
        try:  # at each connection: a certificate or password that was replaced needs no restart
            tls, password = self._config.mqtt_credentials.context(), self._config.mqtt_credentials.password()
        except ConfigError as error:
            raise LinkError(f"mqtt {self._config.mqtt}: {error}") from error
        client = self._make(client_id(self._config), properties=self._mappings.wants_properties)
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        if tls is not None:
            client.tls_set_context(tls)
        if self._config.mqtt_user:
            client.username_pw_set(self._config.mqtt_user, password)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = self._config.session_expiry_s
        properties.ReceiveMaximum = self._config.receive_maximum
        host, port = host_port(self._config.mqtt)
        self._down = ""
        try:
            client.connect(host, port, self._config.keepalive_s, clean_start=False, properties=properties)
        except (OSError, ValueError) as error:  # ssl.SSLError and gaierror are OSErrors
            why = self._config.mqtt_credentials.explain(error)
            raise LinkError(f"mqtt {self._config.mqtt}: {why}") from error
        self._client = client
        self._answered = False
        self._began_s = time.monotonic()
        self.generation += 1

    def step(self, timeout_s: float, *, read: bool) -> list[Received]:
        """Wait up to `timeout_s` for the socket, do what is due, and return what came.

        Args:
            timeout_s: 0 does not wait.
            read: False leaves incoming bytes where they are (backpressure).
        """
        client = self._client
        sock = client.socket() if client is not None else None
        if client is None or sock is None:
            self._drop(self._down or "closed")
            return []
        self._watch(sock.fileno(), (select.POLLIN if read else 0) | (select.POLLOUT if client.want_write() else 0))
        pending = getattr(sock, "pending", None)  # TLS may hold decrypted bytes that poll does not see
        if pending is not None and read and pending():
            timeout_s = 0.0
            events = select.POLLIN
        else:
            events = 0
        for _, event in self._poll.poll(timeout_s * 1000.0):
            events |= event
        if events & select.POLLOUT:
            client.loop_write()
        if events & ~select.POLLOUT and read:
            client.loop_read()
        elif events & (select.POLLHUP | select.POLLERR):
            self._down = self._down or "connection lost"
        if read:
            client.loop_misc()  # not while held back: an unread PINGRESP would look like a dead broker
        received = client.take()
        if self._down or client.socket() is None:
            self._drop(self._down or "connection lost")
        elif not self.connected and time.monotonic() - self._began_s > _READY_TIMEOUT_S:
            self._drop("no answer to connect or subscribe")
        return received

    def filters(self) -> tuple[str, ...]:
        """What is subscribed to."""
        return (*topics.uplink_filters(self._config.shards), *self._mappings.filters)

    def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """Take on nothing more for these; what the broker's session holds already still comes (move.py)."""
        for start in range(0, len(filters), _FILTERS_PER_SUBSCRIBE):
            if self._client is not None:
                self._client.unsubscribe(list(filters[start : start + _FILTERS_PER_SUBSCRIBE]))

    def puback(self, mids: list[int]) -> None:
        """Acknowledge packets of this connection, in order of receipt."""
        if self._client is not None and mids:
            self._client.puback(mids)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, token: object = None) -> bool:
        """Send one message; False when not connected.

        Args:
            topic: MQTT topic.
            payload: at most the broker's packet size.
            qos: 0, or 1 within `room`.
            retain: as MQTT says.
            token: comes back from `lost()` when a QoS 1 message was not acknowledged before the connection ended.
        """
        if self._client is None or not self.connected:
            return False
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if qos and info.rc == 0:
            self._inflight[info.mid] = token
        return bool(info.rc == 0)

    def publish_many(self, messages: list[tuple[bytes, bytes]]) -> bool:
        """Send (topic, payload) pairs with QoS 0 in one write; False when not connected."""
        if self._client is None or not self.connected:
            return False
        self._client.publish_many(messages)
        return True

    def confirmed(self) -> list[tuple[object, int]]:
        """(token, reason code of the PUBACK) of QoS 1 messages answered since the last call; 0 means received."""
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def lost(self) -> list[object]:
        """Tokens of QoS 1 messages that ended with their connection; call while not connected."""
        tokens = [token for token in self._inflight.values() if token is not None]
        self._inflight.clear()
        return tokens

    def close(self, deadline_s: float, *, forget: bool = False) -> None:
        """Write out what is queued, say goodbye; keep the session at the broker, or let it `forget` us."""
        client = self._client
        while client is not None and client.socket() is not None and (client.want_write() or self._inflight):
            if time.monotonic() > deadline_s:
                break
            self.step(0.02, read=True)
            client = self._client
        if client is not None:
            client.on_disconnect = None
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            if forget and self._config.session_expiry_s:  # MQTT 5, 3.14.2.2.2
                properties.SessionExpiryInterval = 0
            client.disconnect(properties=properties)
        self._drop("stopped", say=False)

    def _drop(self, why: str, *, say: bool = True) -> None:
        client, self._client = self._client, None
        self._watch(-1, 0)
        self._subscribing.clear()
        if client is None:
            return
        if say and why != self._said:  # once, not at every try
            self._log.warning("mqtt %s: %s: trying again", self._config.mqtt, why)
            self._said = why
        self.connected = False
        client.on_disconnect = None
        client._sock_close()  # noqa: SLF001  # disconnect() would say an orderly goodbye

    def _watch(self, fd: int, events: int) -> None:
        if self._registered not in (-1, fd):
            self._poll.unregister(self._registered)
        if fd != -1:
            self._poll.register(fd, events)
        self._registered = fd

    def _on_connect(self, client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._down = f"refused: {str(reason).lower()}"
            return
        self.session_present = bool(flags.session_present)
        self._window = min(_WINDOW, getattr(properties, "ReceiveMaximum", 65_535))
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", 0)
        filters = self.filters()
        # retained messages of plain devices come with a new subscription, not again with each connection (MQTT 5, 3.8.3.1)
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        for start in range(0, len(filters), _FILTERS_PER_SUBSCRIBE):
            part = [(name, options) for name in filters[start : start + _FILTERS_PER_SUBSCRIBE]]
            _, mid = client.subscribe(part)
            self._subscribing.add(mid)

    def _on_subscribe(self, _client: Any, _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        refused = [str(r).lower() for r in reasons if r.is_failure]
        if refused:
            self._down = f"subscription refused: {refused[0]}"
        self._subscribing.discard(mid)
        if not self._subscribing and not self._down:
            self.connected = True
            self._said = ""

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        token = self._inflight.pop(mid, None)
        if token is not None:
            self._confirmed.append((token, reason.value))
        if reason.is_failure:
            self._log.warning("mqtt %s: a message of ours was refused: %s", self._config.mqtt, str(reason).lower())

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        by = "broker" if getattr(flags, "is_disconnect_packet_from_server", False) else "network"
        self._down = self._down or f"connection ended by the {by}: {str(reason).lower()}"
        if not self._answered and self._config.mqtt_ca:  # TLS 1.3 refuses a client after the handshake
            self._down += " before CONNACK (does it accept mqtt_cert? `covey gateway check` tells)"
        if "taken over" in self._down:
            self._down += f" (is another gateway named {self._config.name!r} running?)"


def client_id(config: GatewayConfig) -> str:
    """Stable over restarts, so that the broker's session is found again; another one for other shards.

    A resumed session keeps its old subscriptions: with the same id a gateway would go on receiving shards it gave up.
    """
    name = f"covey-gateway-{config.name}"
    if config.shards is None:
        return name
    return f"{name}-{hashlib.sha256(' '.join(sorted(config.shards)).encode()).hexdigest()[:8]}"
