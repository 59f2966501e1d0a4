"""A local broker's topics as readings: JSON objects of numbers, or plain numbers, MQTT 5.

Names. Under a filter without a wildcard a channel is the object's key (nested ones joined by "."); a filter with one puts the topic's
levels from the first wildcard on before it: under `drone/#`, `{"ax": 1}` on `drone/imu` is "imu.ax", and a plain number on `drone/rpm` is "rpm".
A message counts from its arrival. Retained messages are not asked for: nobody knows how old they are. It publishes nothing.

paho's thread only enqueues, within bounds; what is too much is dropped, the oldest first, and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from covey.runtime import Backoff
from edge.sources import Vehicle
from edge.sources.live import Reading
from edge.sources.numbers import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_MESSAGES = 4096
_MOST_BYTES = 4 << 20  # that wait to be read
_PACKET_BYTES = 256 << 10  # the broker is told to send no larger ones
_KEEPALIVE_S = 30
_CONNECT_S = 5.0
_TURN_S = 0.2  # paho's thread looks at `close` so often
_QUEUE_READ = 1024  # messages decoded at one read
_REFUSED = 128  # reason codes from here on are errors (MQTT 5, section 2.4)


class MqttReader:
    """See `edge.sources.live.Reader`."""

    done = False
    exact = False

    def __init__(self, host: str, port: int, topics: str, *, user: str = "", password: str | None = None) -> None:
        """The thread begins at once; a broker that is away is `problem`. `topics` is one filter."""
        self.label = f"mqtt {host} {port}"
        self.vehicle = Vehicle()
        self.problem = f"{self.label}: not connected yet"
        self._where = (host, port)
        self._topics = topics
        levels = topics.split("/")
        wild = [n for n, level in enumerate(levels) if level in {"+", "#"}]
        self._prefix_from = wild[0] if wild else None
        self._waiting: deque[tuple[float, str, bytes]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._readings = self._bad = self._dropped = 0
        self._prefixed: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        self._stop = threading.Event()
        self._client = self._new_client(user, password)
        self._thread = threading.Thread(target=self._run, name="mqtt source", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """Messages read, those that hold no numbers, and those that came faster than they were read."""
        return {"readings": self._readings, "bad": self._bad, "dropped": self._dropped}

    def want(self, names: frozenset[str] | None) -> None:
        """All that comes is read anyway."""

    def read(self, now_s: float) -> Sequence[Reading]:  # noqa: ARG002  # as every reader; messages carry their arrival
        """Messages that have come."""
        out: list[Reading] = []
        for _ in range(_QUEUE_READ):
            with self._lock:
                if not self._waiting:
                    break
                arrived_s, topic, payload = self._waiting.popleft()
                self._bytes -= len(payload)
            found = numbers(payload)
            if not found:
                self._bad += 1
                continue
            self._readings += 1
            out.append(Reading(arrived_s, arrived_s, self._named(topic, tuple(found)), tuple(found.values())))
        return out

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """Messages have no clock but ours."""
        return t_s + (clock_s - now_s)

    def close(self) -> None:
        """Disconnect."""
        self._stop.set()
        self._thread.join(_CONNECT_S + 1.0)

    def _named(self, topic: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        names = self._prefixed.get((topic, keys))
        if names is None:
            levels = topic.split("/")
            before = ".".join(levels if self._prefix_from is None else levels[self._prefix_from :])
            whole = before if self._prefix_from is not None else levels[-1]
            inside = f"{before}." if self._prefix_from is not None and before else ""
            names = tuple(f"{inside}{key}" if key else whole for key in keys)
            if len(self._prefixed) >= 256:  # topics and shapes that are remembered
                self._prefixed.clear()
            self._prefixed[topic, keys] = names
        return names

    # -- on the thread --------------------------------------------------------------------------------------------

    def _new_client(self, user: str, password: str | None) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False)
        client.connect_timeout = _CONNECT_S
        if user:
            client.username_pw_set(user, password)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _run(self) -> None:
        backoff = Backoff(0.2, 10.0)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
        properties.MaximumPacketSize = _PACKET_BYTES
        while not self._stop.is_set():
            try:
                self._client.connect(*self._where, keepalive=_KEEPALIVE_S, clean_start=True, properties=properties)
                while not self._stop.is_set():
                    code = self._client.loop(_TURN_S)
                    if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                        break
                    if not self.problem:
                        backoff.reset()
                else:
                    self._client.disconnect()
                    return
                self.problem = self.problem or f"{self.label}: connection lost"
            except Exception as error:  # noqa: BLE001  # whatever a broker's bytes do to paho, the thread goes on and says so
                why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self.problem = f"{self.label}: {why.splitlines()[0]}"
            self._stop.wait(backoff.next_s())

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.value >= _REFUSED:
            self.problem = f"{self.label}: {str(reason).lower()}"
            return
        options = SubscribeOptions(qos=0, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.subscribe(self._topics, options=options)

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [reason for reason in reasons if reason.value >= _REFUSED]
        self.problem = f"{self.label}: {self._topics}: {str(refused[0]).lower()}" if refused else ""

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        arrived_s = time.monotonic()
        with self._lock:
            self._waiting.append((arrived_s, message.topic, message.payload))
            self._bytes += len(message.payload)
            while len(self._waiting) > _MOST_MESSAGES or self._bytes > _MOST_BYTES:
                self._bytes -= len(self._waiting.popleft()[2])
                self._dropped += 1
