"""One gateway process: uplink, downlink, presence and health around one loop.

An outage of MQTT or Kafka is an ordinary state: it is told once, tried again with backoff, and nothing is lost,
because nothing is acknowledged that Kafka does not have. Keeps no state on disk. Makes no decision about messages.
"""

from __future__ import annotations

import gc
import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from covey import health, topics, tracing, wire
from covey.errors import ConfigError, LinkError
from covey.runtime import Backoff
from gateway.acks import AckBook
from gateway.admit import Admission, RateLimit
from gateway.counts import Counts
from gateway.downlink import Downlink
from gateway.link import Link
from gateway.tick import Tick
from gateway.uplink import Settled, Uplink

if TYPE_CHECKING:
    import threading

    from gateway.config import GatewayConfig

_TELL_S = 60.0
_ASIDE_S = 0.02  # between looks at what is not the road up
_STALLED_S = 10.0  # Kafka has not confirmed anything for so long: not ready
_ALIVE_S = 30.0  # a turn of the loop never takes so long; connecting takes some seconds at most
_TRY_CAP_S = 10.0
_FILES_S = 1.0  # while Kafka is not connected: how often its certificate and password files are looked at


class _Bridge:
    def __init__(self, config: GatewayConfig, log: logging.Logger) -> None:
        self.config = config
        self.log = log
        self.counts = Counts()
        self.acks = AckBook(config.ack_interval_s)
        admission = Admission(
            config.name,
            config.max_event_bytes,
            RateLimit(config.rate_events_s, config.rate_burst),
            first_presence=time.time_ns() // 1_000,  # above every number of an earlier life
            mappings=config.mappings,
        )
        self.link = Link(config, log)
        self.tracing = tracing.start("gateway")
        self.uplink = Uplink(config, admission, self.acks, self.counts, log, self.tracing)
        self.downlink = Downlink(config, self.acks, self.counts, log)
        self._tick = Tick(time.monotonic())
        self._aside_at_s = 0.0
        self._was_connected = False
        self._mqtt_backoff = Backoff(cap_s=_TRY_CAP_S)
        self._kafka_backoff = Backoff(cap_s=_TRY_CAP_S)
        self._mqtt_at_s = self._kafka_at_s = 0.0
        self._kafka_told = ""
        self._mqtt_told = ""
        self._kafka_files = config.kafka_credentials.fingerprint()
        self._files_at_s = 0.0
        self._present_at_s = 0.0
        self._tell_at_s = time.monotonic() + _TELL_S
        self._told = 0
        self._turned_s = time.monotonic()

    def turn(self, stop: threading.Event) -> None:
        """Once around: connect what is not, receive, produce, acknowledge, publish."""
        now_s = self._turned_s = time.monotonic()
        if (not self.downlink.started or self.uplink.topics_missing) and now_s >= self._kafka_at_s:
            self._start_kafka()
        # MQTT only when the topics exist: what comes must have somewhere to go, and presence must be true
        if self.downlink.started and not self.link.alive and now_s >= self._mqtt_at_s and not stop.is_set():
            self._start_mqtt()
        wait = self._tick.waits(
            self.uplink.pending, linked=self.link.alive, busy=self.downlink.busy and self.link.room > 0
        )
        # before anything new is given: only while the library holds nothing is it known what Kafka has
        self.acknowledge(self.uplink.poll(wait.report_s))
        now_s = time.monotonic()
        received = self.link.step(wait.socket_s, read=not (self.uplink.blocked or self.uplink.draining(now_s)))
        if received:
            self.uplink.submit(self.link.generation, received, time.time())
        self._follow_connection()
        now_s = time.monotonic()
        self._tick.saw(len(received), now_s)
        if now_s >= self._aside_at_s or self.downlink.busy:
            self._aside_at_s = now_s + _ASIDE_S
            self.downlink.poll()
            self._on_time(now_s)
            self.downlink.publish(self.link, now_s)
            self._show(now_s)
        if wait.gather_s and not stop.is_set():
            time.sleep(wait.gather_s)

    def acknowledge(self, settled: list[Settled]) -> None:
        """PUBACK what Kafka has, if its connection still lives; one write."""
        mids: list[int] = []
        for generation, part in settled:
            if self.link.alive and generation == self.link.generation:
                mids += part
            else:
                self.counts.add("pubacks_dropped", len(part))
        if mids:
            self.link.puback(mids)
            self.counts.add("pubacks", len(mids))

    def close(self) -> None:
        """An orderly end: flush, acknowledge, say that nobody listens, leave. Bounded by `flush_s`."""
        deadline_s = time.monotonic() + self.config.flush_s
        self.acknowledge(self.uplink.flush(deadline_s))
        self.downlink.publish(self.link, time.monotonic(), everything=True)
        self._say_presence(online=False)
        self.link.close(max(deadline_s, time.monotonic() + 1.0))
        self.downlink.take_confirmed(self.link, time.monotonic())
        self.downlink.close()
        self.uplink.close()
        if self.tracing is not None:
            self.tracing.close()
        self.log.info("stopped; %s", self._summary())

    def view(self) -> health.View:
        """For the health port's threads: reads plain values only."""
        gauges = self.counts.gauges
        alive = time.monotonic() - self._turned_s < _ALIVE_S
        ready = bool(
            alive and gauges["mqtt_connected"] and gauges["kafka_connected"] and gauges["oldest_s"] < _STALLED_S
        )
        about: dict[str, object] = {"gateway": self.config.name, "alive": alive, "ready": ready}
        about |= {"mqtt": self.config.mqtt, "kafka": self.config.kafka, "ack_after": self.config.ack_after}
        return health.View(alive, ready, about | self.counts.snapshot(), self.counts.prometheus)

    def _start_kafka(self) -> None:
        try:
            self.downlink.start()
        except (LinkError, ConfigError) as error:  # ConfigError: a password file that is gone, for now
            self._kafka_at_s = time.monotonic() + self._kafka_backoff.next_s()
            if str(error) != self._kafka_told:
                self.log.warning("%s: trying again", error)
                self._kafka_told = str(error)
            return
        self._kafka_backoff.reset()
        self._kafka_told = ""
        self.uplink.topics_missing = False
        self.log.info("kafka %s: ready", self.config.kafka)

    def _start_mqtt(self) -> None:
        self.downlink.give_back(self.link.lost())
        self._mqtt_at_s = time.monotonic() + self._mqtt_backoff.next_s()
        try:
            self.link.connect()
        except LinkError as error:
            if str(error) != self._mqtt_told:
                self.log.warning("%s: trying again", error)
                self._mqtt_told = str(error)

    def _follow_connection(self) -> None:
        if self.link.connected and not self._was_connected:
            self._mqtt_backoff.reset()
            self._mqtt_told = ""
            self.counts.add("mqtt_connects")
            kept = "resumed" if self.link.session_present else "new"
            self.log.info("mqtt %s: subscribed, session %s", self.config.mqtt, kept)
            self.downlink.on_connected(time.monotonic(), resumed=self.link.session_present)
            self._present_at_s = 0.0
        elif self._was_connected and not self.link.connected:
            self.counts.add("connection_losses")
        self._was_connected = self.link.connected

    def _on_time(self, now_s: float) -> None:
        if self.link.connected and now_s >= self._present_at_s:
            self._say_presence(online=True)
            self._present_at_s = now_s + self.config.presence_interval_s
        if not self.uplink.connected and now_s >= self._files_at_s:
            self._files_at_s = now_s + _FILES_S
            self._take_new_files()
        if now_s >= self._tell_at_s:
            self._tell_at_s = now_s + _TELL_S
            delivered = self._delivered()
            if delivered != self._told:
                self._told = delivered
                self.log.info("%s", self._summary())

    def _take_new_files(self) -> None:
        """A certificate or password for Kafka that was replaced: the library read the old one when its client was made."""
        seen = self.config.kafka_credentials.fingerprint()
        if seen == self._kafka_files or self.config.kafka_credentials.problems():
            return  # as before, or still being written
        self._kafka_files = seen
        self.downlink.close()  # begins anew in the next turn
        self._kafka_at_s = 0.0
        self.uplink.renew("certificate or password replaced")

    def _say_presence(self, *, online: bool) -> None:
        payload = wire.encode(wire.GatewayPresence(online, self.config.name))
        shards = self.config.own_shards()
        for shard in shards:
            # At the stop the last one is a barrier: its PUBACK says that the broker has read them all. Without it,
            # closing with unread bytes resets the connection, and the broker forgets what it has not read (seen).
            qos = 1 if not online and shard == shards[-1] else 0
            self.link.publish(topics.gateway_topic(shard), payload, qos=qos, retain=True)

    def _show(self, now_s: float) -> None:
        gauges = self.counts.gauges
        gauges["pending"] = gauges["in_flight"] = self.uplink.pending
        gauges["kafka_queue"] = self.uplink.queued
        gauges["held_back"] = int(self.uplink.blocked)
        gauges["generation"] = self.link.generation
        gauges["ack_book_devices"] = len(self.acks)
        gauges["oldest_s"] = round(self.uplink.oldest_s(now_s), 3)
        gauges["mqtt_connected"] = int(self.link.connected)
        gauges["kafka_connected"] = int(self.uplink.connected)
        gauges["desired_known"] = len(self.downlink.desired)

    def _delivered(self) -> int:
        return sum(self.counts.get("delivered", topic) for topic in topics.KAFKA_TOPICS)

    def _summary(self) -> str:
        status = self.counts.snapshot()
        names = ("received", "delivered", "deadletter", "pubacks", "acks", "ack_events", "desired", "commands")
        return ", ".join(f"{name} {status[name]}" for name in names) + f", pending {self.uplink.pending}"


def run(config: GatewayConfig, stop: threading.Event) -> None:
    """Bridge until `stop` is set.

    Raises:
        ConfigError: a TLS or password file cannot be read.
        LinkError: the health port is taken.
    """
    log = logging.getLogger("gateway")
    # Every message makes a few objects and no cycles: with the collector's defaults a large fleet is looked through all the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with ExitStack() as stack:
        bridge = _Bridge(config, log)
        stack.callback(bridge.close)
        stack.enter_context(health.serve(config.health_host, config.health_port, bridge.view))
        log.info("bridging mqtt %s and kafka %s (%s)", config.mqtt, config.kafka, config.kafka_kind)
        if config.kafka_kind == "embedded" and config.ack_after != "store":
            log.warning("the embedded Kafka broker keeps nothing on disk: ack_after = 'store' is safer")
        while not stop.is_set():
            bridge.turn(stop)
