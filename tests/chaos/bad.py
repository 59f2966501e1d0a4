"""Bad messages among good ones: each is rejected and counted, and the next good one is in Kafka at once.

After every bad message its own device and another one each send a good one. How long that took is Kafka's time of receipt
(LogAppendTime) minus the event's own time, taken just before it was sent: the same machine's clock, to the millisecond.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from chaos import badness, records
from chaos.devices import Journal
from chaos.loads import Agents, ended_well, judge, warm
from chaos.raw_client import CLOSED, RawClient
from cloud.store.writer import CONFLICTS, DUPLICATES_REFUSED
from covey import topics, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chaos.outcome import Outcome
    from chaos.rig import Rig

NEXT_S = 1.0  # the next good message is in Kafka within this
SENDERS = 4
RATE_HZ = 200.0  # bad messages a second, and twice as many good ones
READ_S = 60.0  # for dead letters to reach Kafka
OUTBOX = "600d600d600d600d"
NOT_AUTHORISED = 0x87


class Letter(NamedTuple):
    """A dead letter, or what is expected to be one: its bytes as far as they are kept."""

    reason: str
    topic: str
    digest: str


class Sender:
    """A device that sends good and bad messages, with the connections it needs."""

    def __init__(self, rig: Rig, name: str, victim: str, journal: Journal, rng: random.Random) -> None:
        host, port = rig.far_end("devices-mqtt", rig.mqtt.port)
        self.name = name
        self.maker = badness.Maker(name, victim, rng)
        self._own = RawClient(host, port, name)
        self._inside = RawClient(host, port, f"{name}-inside", "insider")
        self._journal, self._seq = journal, 0
        self.last_good = b""
        journal.write("open", name, OUTBOX, 0)

    def good(self, detail: str) -> None:
        """Send one good message.

        Raises:
            AssertionError: the broker refused it.
        """
        self._seq += 1
        body = badness.status(wire.Identity(self.name, OUTBOX, self._seq), detail)
        self._journal.write("put", self.name, OUTBOX, self._seq, hashlib.sha256(body).hexdigest(), 0)
        reason = self._own.publish(topics.mqtt_topic(self.name, "status"), body)
        if reason not in (0, 0x10):  # success; nobody subscribed
            raise AssertionError(f"{self.name}/{self._seq}: PUBACK of success expected, {reason} received")
        self.last_good = body

    def bad(self, kind: str) -> tuple[badness.Bad, str]:
        """Send one bad message; returns what the broker did with it: one of badness' words, or "" when it took it."""
        made = self.maker.make(kind, self.last_good)
        reason = (self._inside if made.insider else self._own).publish(made.topic, made.payload)
        return made, {CLOSED: badness.CLOSED, NOT_AUTHORISED: badness.REFUSED}.get(reason, "")

    def close(self) -> None:
        self._own.close()
        self._inside.close()


def run(rig: Rig, row: Outcome, seed: int, messages: int, say: Callable[[str], None], *, strict: bool = True) -> None:
    """Send so many bad messages beside the ordinary load; the result goes into `row`.

    Args:
        rig: with badness.ACL and badness.GATEWAY_TOML.
        row: the result.
        seed: of the load and of the order of kinds.
        messages: bad ones.
        say: progress.
        strict: the slowest good message counts; else, where other work shares the machine, the median one behind each kind
            of bad message, against what is usual meanwhile.
    """
    rng = random.Random(f"{seed}/bad")
    agents = Agents(rig, "bad-a", seed, devices=6)
    warm(rig, agents)
    before = _counts(rig)
    letters_before = Counter(_letters(rig))
    path = rig.folder / "bad.journal"
    journal = Journal(path)
    senders = [Sender(rig, f"bad-s-{n}", f"bad-s-{(n + 1) % SENDERS}", journal, rng) for n in range(SENDERS)]
    fates, expected = _send(senders, messages, rng, row, say)
    for sender in senders:
        sender.close()
    ended_well(rig, agents, 120.0)
    row.verdict = judge(rig, [agents.journal, path], "bad")
    found = _await_letters(rig, letters_before, sum(expected.values()))
    found = Counter({_named(letter, expected): n for letter, n in found.items()})
    after = _counts(rig)
    for reason, n in sorted(fates.items()):
        row.figures[reason] = n
    row.bound("letters_missing", sum((expected - found).values()), most=0)
    row.bound("letters_unexpected", sum((found - expected).values()), most=0)
    in_gateway = sum(n for letter, n in expected.items() if letter.reason != badness.CONFLICT)
    row.bound("gateway_counted_wrong", abs(after["gateway"] - before["gateway"] - in_gateway), most=0)
    row.bound("conflicts_counted_wrong", abs(after[CONFLICTS] - before[CONFLICTS] - fates[badness.CONFLICT]), most=0)
    repeats = after[DUPLICATES_REFUSED] - before[DUPLICATES_REFUSED]
    row.bound("repeats_refused", repeats, least=fates[badness.REPEAT])  # and what the agents sent twice
    delays = list(_delays(rig))
    row.bound("good_messages", len(delays), least=2 * messages)
    usual_s = median(delay_s for _, delay_s in delays)
    row.figures["median_s"] = round(usual_s, 3)
    slowest_s = max(delay_s for _, delay_s in delays)
    if strict:
        row.bound("next_s", slowest_s, most=NEXT_S)
    else:  # the machine may stand still for a second; it does not do so behind one kind of message only
        row.figures["next_s"] = round(slowest_s, 3)
        after = {kind: median(delay_s for said, delay_s in delays if said == kind) for kind in badness.KINDS}
        worst = max(after, key=lambda kind: after[kind])
        row.bound(f"next_after_{worst}_s", after[worst], most=max(NEXT_S, 4 * usual_s))


def _send(
    senders: list[Sender], messages: int, rng: random.Random, row: Outcome, say: Callable[[str], None]
) -> tuple[Counter[str], Counter[Letter]]:
    """Every kind in turn, in an order drawn anew each time; returns what should become of all of them."""
    fates: Counter[str] = Counter()
    expected: Counter[Letter] = Counter()
    for sender in senders:
        sender.good("first")
    kinds: list[str] = []
    begun_s, say_at_s = time.monotonic(), time.monotonic() + 15.0
    for n in range(messages):
        if not kinds:
            kinds = rng.sample(badness.KINDS, len(badness.KINDS))
        sender = rng.choice(senders)
        bad, done = sender.bad(kinds.pop())
        fate = bad.fates[0]
        if fate in (badness.REFUSED, badness.CLOSED) and done != fate:
            row.missed.append(f"{bad.kind}: {fate} expected, {done or 'taken'}")
        elif fate not in (badness.REFUSED, badness.CLOSED):
            if done:
                row.missed.append(f"{bad.kind}: taken by the broker expected, {done}")
            if fate != badness.REPEAT:
                expected[_letter("/".join(bad.fates), bad.topic, bad.payload)] += 1
        fates[fate] += 1
        sender.good(bad.kind)
        rng.choice([other for other in senders if other is not sender]).good(bad.kind)
        if time.monotonic() >= say_at_s:
            say_at_s += 15.0
            say(f"{n + 1} bad messages sent")
        ahead_s = begun_s + (n + 1) / RATE_HZ - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)  # the rate of the load
    return fates, expected


def _letter(reason: str, topic: str, payload: bytes) -> Letter:
    """`reason`: where several would do, all of them with "/" between."""
    if reason == badness.CONFLICT:
        topic = topics.STATUS  # the store knows the record, not the MQTT topic
    kept = payload[: wire.MAX_DEADLETTER_PAYLOAD_BYTES]
    return Letter(reason, topic, hashlib.sha256(kept).hexdigest())


def _named(letter: Letter, expected: Counter[Letter]) -> Letter:
    """A letter under the name by which it is expected, where several reasons would do."""
    for one in (letter, letter._replace(reason="not_json/bad_schema")):
        if one in expected and letter.reason in one.reason.split("/"):
            return one
    return letter


def _letters(rig: Rig) -> Iterable[Letter]:
    for record in records.read(rig.kafka.bootstrap, [topics.DEADLETTER]):
        one = wire.decode(wire.DeadLetter, record.value)
        yield Letter(one.reason, one.topic, hashlib.sha256(one.payload).hexdigest())


def _await_letters(rig: Rig, before: Counter[Letter], count: int) -> Counter[Letter]:
    """The dead letters that came, when they are as many as expected or no more come."""
    deadline_s = time.monotonic() + READ_S
    while True:
        found = Counter(_letters(rig)) - before
        if sum(found.values()) >= count or time.monotonic() > deadline_s:
            return found
        rig.mend()


def _counts(rig: Rig) -> dict[str, int]:
    """Dead letters as the gateway counts them, repeats and conflicts as the store does."""
    letters = rig.gateway_status().get("deadletter", {})
    where = f"{rig.store_file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(where, uri=True, timeout=5.0)) as db:
        counters = dict(db.execute("SELECT name, value FROM counters").fetchall())
    return {"gateway": sum(letters.values())} | {
        name: int(counters.get(name, 0)) for name in (CONFLICTS, DUPLICATES_REFUSED)
    }


class _Data(msgspec.Struct):
    detail: str


class _Event(msgspec.Struct):
    id: str
    time: str
    data: _Data


def _delays(rig: Rig) -> Iterable[tuple[str, float]]:
    """Of each good message of the senders: the kind of the bad one before it, and made to appended in seconds."""
    decoder = msgspec.json.Decoder(_Event)
    seen: set[str] = set()
    for record in records.read(rig.kafka.bootstrap, [topics.STATUS]):
        one = records.identity(record)
        if one is None or one.outbox != OUTBOX:
            continue
        if str(one) not in seen and b"not what was sent before" not in record.value:
            event = decoder.decode(record.value)
            seen.add(str(one))
            yield event.data.detail, max(0.0, record.time_s - datetime.fromisoformat(event.time).timestamp())
