"""Kafka is down for minutes: what the gateway weighs meanwhile, and how fast what piled up goes through afterwards.

Two loads at once: agents, whose backlog lies in their own outboxes, and plain MQTT devices with a mapping, whose backlog lies
in mosquitto's queue and nowhere else. Rates come from the records themselves: when each event was made (its own time) and
when Kafka appended it (LogAppendTime, same machine), so neither gateway nor devices are asked how fast they were.
"""

from __future__ import annotations

import signal
import time
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from chaos import plain, records
from chaos.loads import Agents, Load, PlainDevices, ended_well, judge, warm
from chaos.order import Order
from chaos.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chaos.outcome import Outcome
    from chaos.rig import Rig

GATEWAY_MB = 256.0  # at most
DRAIN_TIMES = 5.0  # the live rate, at least
LIVE_S = 10.0  # of life before the outage
AFTER_S = 5.0  # of life after the backlog is gone
READ_S = 120.0  # for the last messages to reach Kafka


class Seen(NamedTuple):
    """The first record of one message."""

    made_s: float
    appended_s: float


class Drain(NamedTuple):
    """Rates around an outage, messages per second."""

    live_hz: float
    drain_hz: float
    backlog: int
    seconds: float


def drain(seen: Iterable[Seen], begin_s: float, end_s: float, live_s: float) -> Drain:
    """Rates of one load around an outage. Pure.

    Args:
        seen: its messages.
        begin_s: when Kafka went down.
        end_s: when it was up again.
        live_s: how long before `begin_s` the load ran undisturbed.

    Returns:
        live_hz: messages made per second before the outage.
        drain_hz: messages appended per second between the first append after the outage and that of the last message that
            was made before its end. What is made meanwhile is in it: it goes the same way.
        backlog: messages made before the end of the outage and appended after it.
        seconds: how long that took.
    """
    messages = list(seen)
    live = sum(begin_s - live_s <= one.made_s < begin_s for one in messages)
    late = [one for one in messages if one.appended_s >= begin_s + 1.0 and one.made_s < end_s]
    after = sorted(one.appended_s for one in messages if one.appended_s >= begin_s + 1.0)
    if not late:
        return Drain(live / live_s, 0.0, 0, 0.0)
    last_s = max(one.appended_s for one in late)
    through = sum(appended_s <= last_s for appended_s in after)
    took_s = max(last_s - after[0], 0.001)  # Kafka's clock counts milliseconds
    return Drain(live / live_s, through / took_s, len(late), took_s)


def run(rig: Rig, row: Outcome, seed: int, down_s: float, say: Callable[[str], None]) -> None:
    """Kafka is killed and stays away for `down_s`; the result goes into `row`."""
    agents = Agents(rig, "outage", seed, devices=10, rate_hz=10.0, shares="90,9,1", patient=True)
    others = PlainDevices(rig, "plain", clients=50, rate_hz=2.0) if plain.MAPPING in rig.gateway_toml else None
    watch = Watch(rig)
    loads: list[Load] = [agents] if others is None else [agents, others]
    for load in loads:
        warm(rig, load)
    _live(rig, watch, LIVE_S)
    begin_s = time.time()
    with rig.hurt("kafka"):
        rig.kafka.process.kill9()
        code = rig.kafka.process.wait(5.0)
        rig.kills += code == -signal.SIGKILL
        before_mb = watch.now_mb
        _live(rig, watch, down_s, say)
        rig.kafka.process.start()
    rig.wait(rig.kafka.ready, 120.0, "kafka is back")
    end_s = time.time()
    backlog = {load.name: load.progress()["backlog"] for load in loads}
    say(f"kafka down for {end_s - begin_s:.0f} s, gateway {watch.most_mb:.0f} MB (before {before_mb:.0f}); draining")

    def drained() -> bool:
        watch.look()
        return agents.progress()["backlog"] < 100  # a second of life

    rig.wait(drained, 600.0, "the agents' backlog is gone")
    _live(rig, watch, AFTER_S)
    for load in loads:
        ended_well(rig, load, 300.0)
    row.verdict = judge(rig, [agents.journal], agents.name)
    row.bites = [f"kafka down {end_s - begin_s:.0f} s, backlog {backlog}"]
    found = drain(_agents(rig, f"{agents.name}-"), begin_s, end_s, LIVE_S / 2)
    row.figures["down_s"] = round(end_s - begin_s, 1)
    row.bound("gateway_mb", watch.most_mb, most=GATEWAY_MB)
    _note(row, "agents", found)
    if others is not None:
        _note(row, "plain", drain(_plain(rig, row, others), begin_s, end_s, LIVE_S / 2))


def _note(row: Outcome, name: str, found: Drain) -> None:
    row.figures[f"{name}_backlog"] = found.backlog
    row.figures[f"{name}_live_hz"] = round(found.live_hz, 1)
    row.figures[f"{name}_drain_hz"] = round(found.drain_hz, 1)
    row.bound(f"{name}_drain_times", found.drain_hz / max(found.live_hz, 1e-9), least=DRAIN_TIMES)


def _live(rig: Rig, watch: Watch, seconds: float, say: Callable[[str], None] = lambda _text: None) -> None:
    """Let the stack run while the gateway is watched: how long the outage lasts, not a way to wait for something."""
    end_s, say_at_s = time.monotonic() + seconds, time.monotonic() + 30.0
    while (left_s := end_s - time.monotonic()) > 0:
        watch.look()
        if time.monotonic() >= say_at_s:
            say_at_s += 30.0
            say(f"gateway {watch.now_mb:.0f} MB, {left_s:.0f} s to go")
        rig.pause_for(min(0.25, left_s))


class _Event(msgspec.Struct):
    id: str
    time: str


def _agents(rig: Rig, prefix: str) -> list[Seen]:
    decoder = msgspec.json.Decoder(_Event)
    seen: dict[str, Seen] = {}
    for record in records.read(rig.kafka.bootstrap, records.EVENT_TOPICS):
        one = records.identity(record)
        if one is not None and one.device.startswith(prefix):
            event = decoder.decode(record.value)
            made_s = datetime.fromisoformat(event.time).timestamp()
            seen.setdefault(event.id, Seen(made_s, record.time_s))
    return list(seen.values())


class _Sensor(msgspec.Struct):
    n: int
    t: float


def _plain(rig: Rig, row: Outcome, others: PlainDevices) -> list[Seen]:
    """The plain devices' messages, once all are there; what is missing or out of order goes into the verdict."""
    decoder = msgspec.json.Decoder(_Sensor)
    made = others.made()
    total = sum(made.values())
    seen: dict[tuple[bytes, int], Seen] = {}
    order = Order()
    moved_s, most = time.monotonic(), -1
    while len(seen) < total and time.monotonic() - moved_s < READ_S:
        rig.mend()
        seen, order = {}, Order()
        for record in records.read(rig.kafka.bootstrap, [plain.TOPIC]):
            one = decoder.decode(record.value)
            order.see(record.topic, record.partition, record.key.decode(), one.n)
            seen.setdefault((record.key, one.n), Seen(one.t, record.time_s))
        if len(seen) > most:
            moved_s, most = time.monotonic(), len(seen)
    expected = {(name.encode(), n) for name, count in made.items() for n in range(1, count + 1)}
    lost, strange = expected - seen.keys(), seen.keys() - expected
    row.figures |= {"plain_messages": total, "plain_repeats": order.repeats}
    row.bound("plain_lost", len(lost), most=0)
    row.bound("plain_unknown", len(strange), most=0)
    row.bound("plain_disordered", order.disordered, most=0)
    row.missed += order.bad[:3]
    return list(seen.values())
