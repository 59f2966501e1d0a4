"""From one layout of processes to another: what the broker holds for sessions that nobody will resume goes to Kafka.

A session belongs to a client id, and a client id to a set of shards. After a change of `processes` the old sessions
would keep what came while the gateway was stopped, and go on collecting until they expire. Agents send that again; plain
devices do not. So, while no gateway of this name runs: the new sessions are made (from then on they collect), the old
ones end their subscriptions, hand over what they hold, and are ended. Old before new keeps each device's order; what
came in between may come twice, as after any reconnection.

The old layout is read from the gateways' retained presence, so nothing is kept on disk. Knows only sessions of this
gateway's own `name`, and shards as `layout.py` writes them.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from covey import topics, wire
from covey.errors import LinkError, WireError
from gateway import layout
from gateway.acks import AckBook
from gateway.admit import Admission, RateLimit
from gateway.counts import Counts
from gateway.link import Link, client_id
from gateway.mapping import Mappings
from gateway.uplink import Uplink

if TYPE_CHECKING:
    import logging
    import threading
    from collections.abc import Iterable

    from gateway.config import GatewayConfig
    from gateway.receiver import Received

_CONNECT_S = 20.0
_QUIET_S = 0.5  # no more retained messages came for so long: those were all
_DRAINED_S = 2.0  # the same of a session's queue, where one message missed is one lost
_STEP_S = 0.05


class Moved(NamedTuple):
    """One session that was ended."""

    client_id: str
    existed: bool
    messages: int  # delivered to Kafka, dead letters too


class _PresenceLink(Link):
    """Reads what gateways say of themselves, in a session that ends with the connection."""

    def filters(self) -> tuple[str, ...]:
        return (topics.gateway_topic("+"),)


class _OldLink(Link):
    """Resumes a session; mappings are not subscribed anew, or their retained messages would all come."""

    def filters(self) -> tuple[str, ...]:
        return topics.uplink_filters(self._config.shards)


def wanted(config: GatewayConfig) -> list[GatewayConfig]:
    """The gateways that will run."""
    return layout.of_processes(config) if config.processes > 1 else [config]


def left_behind(config: GatewayConfig, present: Iterable[tuple[str, str]]) -> list[GatewayConfig]:
    """Gateways of this name whose sessions no gateway of `config` will resume.

    Args:
        config: what will run.
        present: (shard, gateway) of every retained presence, online or not.
    """
    own = re.compile(re.escape(config.name) + r"(-\d{1,3})?")
    shards_of: dict[str, list[str]] = {}
    for shard, name in present:
        if own.fullmatch(name):
            shards_of.setdefault(name, []).append(shard)
    keep = {client_id(c) for c in wanted(config)}
    found: list[GatewayConfig] = []
    for name, shards in sorted(shards_of.items()):
        if not any(config.serves(shard) for shard in shards):
            continue  # of a neighbour with the same name; its session is not ours to end
        whole = len(shards) == len(topics.SHARDS)
        for part in (tuple(sorted(shards)), *((None,) if whole else ())):  # the whole fleet has two ways to be written
            old = msgspec.structs.replace(config, name=name, shards=part, processes=1)
            if client_id(old) not in keep:
                found.append(old)
    return found


def run(config: GatewayConfig, stop: threading.Event, log: logging.Logger) -> list[Moved]:
    """Move; no gateway of this name may be running. Done again after a failure, it goes on where it was.

    Raises:
        LinkError: the MQTT broker is out of reach, or `stop` was set; nothing is lost.
    """
    old = left_behind(config, _present(config, stop, log))
    if not old:
        return []
    for new in wanted(config):
        link = Link(new, log)
        _connect(link, new, stop)
        link.close(time.monotonic() + _QUIET_S)  # what it received is not acknowledged: the session keeps it
    moved = [_drain(config, gateway, stop, log) for gateway in old]
    return [m for m in moved if m.existed]


def _present(config: GatewayConfig, stop: threading.Event, log: logging.Logger) -> list[tuple[str, str]]:
    reader = msgspec.structs.replace(config, name=f"{config.name[:50]}.move", processes=1, session_expiry_s=0)
    link = _PresenceLink(reader, log)
    received = _connect(link, reader, stop)
    present: dict[str, str] = {}
    quiet_s = time.monotonic()
    while received or time.monotonic() - quiet_s < _QUIET_S:
        for topic, payload, _mid, _user in received:
            quiet_s = time.monotonic()
            try:
                shard = topics.parse(topic.decode()).shard
                present[shard] = wire.decode(wire.GatewayPresence, payload).gateway
            except (WireError, UnicodeDecodeError):
                continue  # not from a gateway
        received = link.step(_STEP_S, read=True)
        _must_live(link, reader, stop)
    link.close(time.monotonic() + _QUIET_S)
    return sorted(present.items())


def _drain(config: GatewayConfig, old: GatewayConfig, stop: threading.Event, log: logging.Logger) -> Moved:
    """Everything that one old session holds, to Kafka; then end it."""
    counts = Counts()
    limit = RateLimit(config.rate_events_s, config.rate_burst)
    first = time.time_ns() // 1_000  # as in bridge.py
    admission = Admission(config.name, config.max_event_bytes, limit, first_presence=first, mappings=config.mappings)
    # the ack book is not published: agents send again what nobody acknowledged to them, and sinks drop repeats
    uplink = Uplink(old, admission, AckBook(config.ack_interval_s), counts, log)
    link = _OldLink(old, log)
    messages = 0
    try:
        received = _connect(link, old, stop)
        existed = link.session_present
        link.unsubscribe((*topics.uplink_filters(old.shards), *Mappings(config.mappings).filters))
        quiet_s = time.monotonic()
        while received or uplink.pending or (existed and time.monotonic() - quiet_s < _DRAINED_S):
            if received:
                quiet_s = time.monotonic()
                messages += len(received)
                uplink.submit(link.generation, received, time.time())
            for _generation, mids in uplink.poll(0.0):
                link.puback(mids)
            received = link.step(_STEP_S, read=not uplink.blocked)
            _must_live(link, old, stop)
        link.close(time.monotonic() + _QUIET_S, forget=True)
    finally:
        uplink.close()
    if existed:
        log.info(
            "mqtt %s: session %s of an earlier layout ended; %d messages moved", old.mqtt, client_id(old), messages
        )
    return Moved(client_id(old), existed, messages)


def _connect(link: Link, config: GatewayConfig, stop: threading.Event) -> list[Received]:
    """Connect and subscribe; returns what came meanwhile."""
    link.connect()
    deadline_s = time.monotonic() + _CONNECT_S
    received: list[Received] = []
    while not link.connected:
        received += link.step(_STEP_S, read=True)
        _must_live(link, config, stop)
        if time.monotonic() > deadline_s:
            raise LinkError(f"mqtt {config.mqtt}: not subscribed within {_CONNECT_S:g} s")
    return received


def _must_live(link: Link, config: GatewayConfig, stop: threading.Event) -> None:
    if stop.is_set():
        raise LinkError("interrupted: sessions of an earlier layout are as they were; run it again")
    if not link.alive:
        raise LinkError(f"mqtt {config.mqtt}: connection lost while sessions of an earlier layout were moved")
