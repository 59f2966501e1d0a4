"""The long run: a million messages from the product's own outboxes while everything is killed at random instants.

When each kill comes is drawn beforehand, as a number of messages written by then, so that a slow machine is hurt as often as
a fast one. A kill does not wait for the one before it to be over: parts go down while others come back.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from chaos.loads import Agents, ended_well, judge, warm
from chaos.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.outcome import Outcome
    from chaos.rig import Rig

GATEWAY_MB = 256.0  # of memory at most
PROCESSES = 3  # of devices, each killed by itself
DEVICES = 8  # in each
RATE_HZ = 70.0  # of each device; the outbox commits in groups, so busy devices are cheap
SHARES = "90,9,1"  # summaries, status events, alarms: an alarm costs a commit of its own
# What is killed how often, of 20.
WEIGHTS = {"gateway": 5, "mqtt": 5, "kafka": 3, "devices": 5, "store": 2}
TOGETHER = 0.2  # share of kills that take a second part with them
DOWN_S = (0.0, 3.0)
SAY_S = 15.0
STUCK_S = 300.0  # without a message more


class Due(NamedTuple):
    """One moment of harm."""

    written: int  # when so many messages have been written
    parts: tuple[str, ...]
    down_s: float


def schedule(seed: int, messages: int, kills: int) -> list[Due]:
    """Moments with `kills` kills in all, uniform over the messages, every kind of part about as often as WEIGHTS says."""
    rng = random.Random(f"{seed}/million")
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    moments: list[Due] = []
    left = kills
    while left > 0:
        parts = [rng.choices(names, weights)[0]]
        if left > 1 and rng.random() < TOGETHER:
            parts.append(rng.choice([name for name in names if name not in parts]))
        left -= len(parts)
        moments.append(Due(round(messages * rng.uniform(0.01, 0.98)), tuple(parts), rng.uniform(*DOWN_S)))
    return sorted(moments)


def run(
    rig: Rig,
    row: Outcome,
    seed: int,
    messages: int,
    kills: int,
    say: Callable[[str], None],
    rate_hz: float = RATE_HZ,
    most_s: float = float("inf"),
) -> None:
    """Write at least so many messages, kill so often, and judge; the result goes into `row`.

    Args:
        rig: to hurt.
        row: the result.
        seed: of devices and moments.
        messages: written at least.
        kills: in all.
        say: progress.
        rate_hz: of each device.
        most_s: after so long no more is written; what is missing of `messages` and `kills` is told as missed.
    """
    rng = random.Random(f"{seed}/million/{row.load}")
    name = "million"
    loads = [
        # As patient as the agent: rows sent again while the broker is full of them would be most of the traffic (seen).
        Agents(rig, f"{name}-{n}", seed + n, DEVICES, rate_hz, SHARES, patient=True)
        for n in range(PROCESSES)
    ]
    watch = Watch(rig)
    for load in loads:
        warm(rig, load)
    begun_s, before = time.monotonic(), sum(load.progress()["written"] for load in loads)
    moments = schedule(seed, messages, kills)
    moved_s, say_at_s, last = begun_s, begun_s, 0
    killed: dict[str, int] = {}
    while True:
        rig.pause_for(0.05)
        written = sum(load.progress()["written"] for load in loads)
        now_s = time.monotonic()
        watch.look()
        if written > last:
            last, moved_s = written, now_s
        elif now_s - moved_s > STUCK_S:
            raise AssertionError(f"no message was written for {STUCK_S:g} s; {written} were")
        for load in loads:
            if not load.process().alive:  # nobody killed it
                raise AssertionError(f"{load.name}: ended by itself\n{load.process().tail()}")
        if now_s >= say_at_s:
            say_at_s = now_s + SAY_S
            settled = sum(load.progress()["settled"] for load in loads)
            done = sum(killed.values())
            rate = (written - before) / max(now_s - begun_s, 1e-3)
            say(
                f"{written} written, {settled} acknowledged, {done} kills, {rate:.0f}/s, gateway {watch.most_mb:.0f} MB"
            )
        if moments and written >= moments[0].written:
            for part in _strike(rig, loads, moments.pop(0), rng):
                killed[part] = killed.get(part, 0) + 1
        if (written >= messages and not moments) or now_s - begun_s > most_s:
            break
    for part in rig.parts.values():
        rig.wait(part.ready, 120.0, f"{part.name} is back")
    for load in loads:
        ended_well(rig, load, 600.0)
    row.seconds = time.monotonic() - begun_s
    say(f"all acknowledged after {row.seconds:.0f} s; judging")
    row.verdict = judge(rig, [load.journal for load in loads], name)
    row.bites = [f"{part} killed {n} times" for part, n in sorted(killed.items())]
    row.bound("messages", row.verdict["written"], least=messages)
    row.bound("kills", sum(killed.values()), least=kills)
    row.bound("gateway_mb", watch.most_mb, most=GATEWAY_MB)
    row.figures |= {f"kills_{part}": n for part, n in sorted(killed.items())}
    row.figures["rate_hz"] = round(row.verdict["written"] / row.seconds)


def _strike(rig: Rig, loads: list[Agents], due: Due, rng: random.Random) -> list[str]:
    """kill -9 of each part, whatever it is doing, and a start later; returns what was really killed.

    Nobody waits until it is ready: the next kill may meet it while it begins.
    """
    killed: list[str] = []
    with ExitStack() as down:
        for part in due.parts:
            load = rng.choice(loads)
            process = load.process() if part == "devices" else rig.parts[part].process
            down.enter_context(rig.hurt(part))
            if not process.alive:  # ended by itself; the rig will start it again
                continue
            process.kill9()
            if process.wait(5.0) == -signal.SIGKILL:
                killed.append(part)
                rig.kills += 1
            down.callback(load.again if part == "devices" else process.start)
        rig.pause_for(due.down_s)
    return killed
