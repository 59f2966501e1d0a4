"""The cloud's end of a device's road in the tests: a subscriber on a real broker that acknowledges what it is told to."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from covey import topics, wire
from servers import Process, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from msgspec import Struct
    from typing_extensions import Self


class Cloud:
    """Receives every device's events in order of arrival.

    Attributes:
        acknowledging: answer each event with an ack of exactly it.
        holes: sequence numbers that are not acknowledged, as if they had been lost behind the broker.
        events: (identity, kind, bytes) in order of arrival, repeats included.
        presences: (device, presence).
    """

    def __init__(self, port: int, *, acknowledging: bool = True, gateway: bool = True) -> None:
        self.acknowledging = acknowledging
        self.holes: set[int] = set()
        self.events: list[tuple[wire.Identity, str, bytes]] = []
        self.presences: list[tuple[str, wire.Presence]] = []
        self._gateway = gateway
        self._ready = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def seqs(self) -> list[int]:
        """Sequence numbers in order of arrival."""
        return [identity.seq for identity, _, _ in list(self.events)]

    def data(self, kind: str) -> list[Any]:
        """Data of the events of a kind, each once, by seq."""
        found = {i.seq: wire.decode_data(wire.decode_event(body)[0]) for i, k, body in list(self.events) if k == kind}
        return [found[seq] for seq in sorted(found)]

    def tell(self, device: str, kind: str, message: Struct, *, retain: bool = False) -> None:
        """Send something down."""
        self._client.publish(topics.mqtt_topic(device, kind), wire.encode(message), qos=1, retain=retain)

    def say_gateway(self, device: str, *, online: bool) -> None:
        """The gateway's own retained presence in the device's shard."""
        payload = wire.encode(wire.GatewayPresence(online, "test"))
        self._client.publish(topics.gateway_topic(topics.shard(device)), payload, qos=1, retain=True)

    def ack(self, identity: wire.Identity, first: int, last: int) -> None:
        """Acknowledge a range of an outbox."""
        self.tell(identity.device, "ack", wire.Ack([wire.AckRanges(identity.outbox, [(first, last)])]))

    def _on_connect(self, client: Client, *_: Any) -> None:
        client.subscribe([(name, 1) for name in topics.uplink_filters()])
        if self._gateway:
            for shard in topics.SHARDS:
                client.publish(
                    topics.gateway_topic(shard), wire.encode(wire.GatewayPresence(True, "test")), retain=True
                )

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        address = topics.parse(message.topic)
        if address.kind == topics.PRESENCE:
            self.presences.append((address.device, wire.decode(wire.Presence, message.payload)))
            return
        _, identity = wire.decode_event(message.payload)
        self.events.append((identity, address.kind, message.payload))
        if self.acknowledging and identity.seq not in self.holes:
            self.ack(identity, identity.seq, identity.seq)


def start_agent(
    folder: Path, port: int, device: str, *options: str, log: str = "agent.log", env: dict[str, str] | None = None
) -> Process:
    """An agent process with its state in `folder`/`device`."""
    code = "from covey.cli import one_line\nfrom edge.cli import app\nwith one_line():\n    app(standalone_mode=False)"
    command = [sys.executable, "-c", code, "run", "--device", device, "--mqtt", f"127.0.0.1:{port}"]
    command += ["--state", str(folder / device), *options]
    return Process(f"agent {device}", command, folder / log, env={**os.environ, **(env or {})}).start()


def wait_status(folder: Path, device: str, timeout_s: float = 60.0, **wanted: object) -> dict[str, Any]:
    """Poll status.json until it says what is wanted."""
    import json

    path = folder / device / "status.json"

    def there() -> dict[str, Any] | None:
        if not path.exists():
            return None
        status: dict[str, Any] = json.loads(path.read_text())
        return status if all(status.get(key) == value for key, value in wanted.items()) else None

    try:
        found = wait_for(there, timeout_s, f"{device}: status with {wanted}")
    except AssertionError as error:
        said = [file.read_text() for file in (path, folder / "agent.log") if file.exists()]
        raise AssertionError("\n".join([str(error), *said])) from error
    assert found is not None
    return found
