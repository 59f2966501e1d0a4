"""The stage `route`: enriched alarms to covey.alarms.high or .low by the rules, and whom to tell into the store.

A delivery is a row keyed by (event, target), written before the offset moves: a killed stage that does a batch again finds
its rows there. Quiet times count receipts of alarms, not the clock, so that doing it again decides the same.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from msgspec.structs import asdict

from cloud.store import schema, tables
from cloud.stream import rules
from cloud.stream.beginnings import Beginnings, Way
from cloud.stream.sinks import Out
from cloud.stream.spans import Spans
from cloud.stream.stage import Made, dead_letter
from covey import topics, wire
from covey.errors import WireError
from covey.wire_alarms import Enriched, Routed, decode_enriched, decode_routed, make_routed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

    from cloud.stream.kafka import Place, Record
    from cloud.stream.rules_file import Routing
    from covey.tracing import Tracing

_log = logging.getLogger("cloud.route")

TOPIC_OF_LEVEL: dict[str, str] = {"high": topics.ALARMS_HIGH, "low": topics.ALARMS_LOW}


class Told(NamedTuple):
    """A target has heard of an alarm, or will."""

    identity: wire.Identity
    target: str
    channel: str
    received_s: float


class _Decided(NamedTuple):
    identity: wire.Identity
    data: Enriched
    traceparent: str
    level: rules.Level
    rule: rules.Rule | None
    targets: list[str]


class RouteStage:
    """Enriched alarms in, routed alarms and deliveries out."""

    name = "route"
    topics = (topics.ALARMS_ENRICHED,)
    gather_s = 0.0
    sends = True

    def __init__(self, routing: Callable[[], Routing], engine: Engine, tracing: Tracing | None = None) -> None:
        """`routing`: the rules as they are now; asked once a batch."""
        self._now, self._engine = routing, engine
        self._beginnings = Beginnings(engine)
        self._spans = Spans(tracing, self.name)

    def begin(self, _broker: str, _places: Sequence[Place]) -> Mapping[Place, int]:
        """Where the group has committed."""
        return {}

    def tick(self, *, leads: bool) -> None:
        """Nothing is due."""

    def process(self, _broker: str, records: Sequence[Record]) -> Made:
        """Decide, write down whom to tell, and say where each alarm goes.

        Raises:
            StoreError: deliveries are not written; nothing was decided.
        """
        out: list[Out] = []
        routing = self._now()
        taken: list[tuple[wire.Identity, Enriched, str]] = []
        for record in records:
            try:
                identity, data, traceparent = decode_enriched(record.value)
                if record.key != identity.device:
                    raise WireError("source_mismatch", f"key {identity.device} expected, {record.key[:80]!r} received")
            except WireError as error:
                out.append(dead_letter(error.reason, f"route: {error.detail}", record))
                continue
            trace = self._spans.passed(record, traceparent, {"covey.alarm_id": data.alarm.alarm_id})
            taken.append((identity, data, trace))
        decided = self._decide(routing, taken)
        counts = {"refused": len(out)}
        bodies = [(one, _event(one)) for one in decided]
        if any(one.targets for one in decided):
            bodies = self._write_down(bodies)
        for one, body in bodies:
            out.append(Out(TOPIC_OF_LEVEL[one.level], one.identity.device, body, one.traceparent))
            alarm = one.data.alarm
            about = {
                "trace_id": alarm.trace_id,
                "device": one.identity.device,
                "alarm_id": alarm.alarm_id,
                "stage": self.name,
            }
            _log.debug("alarm %s: %s, to %s", alarm.state, one.level, ", ".join(one.targets) or "nobody", extra=about)
            counts[one.level] = counts.get(one.level, 0) + 1
        return Made(out, {word: n for word, n in counts.items() if n})

    def _decide(self, routing: Routing, taken: Sequence[tuple[wire.Identity, Enriched, str]]) -> list[_Decided]:
        begun = {(one.device, data.alarm.alarm_id) for one, data, _ in taken if data.alarm.state == "begin"}
        ended = [(one.device, data.alarm.alarm_id) for one, data, _ in taken if data.alarm.state == "end"]
        ways = self._beginnings.find(key for key in ended if key not in begun)
        decided = []
        for identity, data, traceparent in taken:
            key, begins = (identity.device, data.alarm.alarm_id), data.alarm.state == "begin"
            way = None if begins else ways.get(key)
            if way is None:
                rule = rules.choose(routing.rules, rules.facts(data, identity.device), data.received_s)
                level = routing.otherwise if rule is None else rule.level
            else:  # a rule that is gone since then tells nobody
                rule, level = next((one for one in routing.rules if one.name == way.rule), None), way.level
            if begins:
                ways[key] = Way(level, "" if rule is None else rule.name)
                self._beginnings.note(key, ways[key])
            targets = list(rule.targets) if rule is not None and (begins or rule.ends) else []
            decided.append(_Decided(identity, data, traceparent, level, rule, targets))
        return decided

    def _write_down(self, bodies: Sequence[tuple[_Decided, bytes]]) -> list[tuple[_Decided, bytes]]:
        now = time.time()
        with schema.write(self._engine) as connection:
            told = _told(connection, [one for one, _ in bodies if one.rule is not None and one.rule.quiet_s])
            result: list[tuple[_Decided, bytes]] = []
            rows = []
            for one, body in bodies:
                quiet_s = one.rule.quiet_s if one.rule is not None else 0.0
                mine = Told(one.identity, "", one.data.alarm.top_channel, one.data.received_s)
                targets = [
                    target for target in one.targets if not is_quiet(mine._replace(target=target), told, quiet_s)
                ]
                told += [mine._replace(target=target) for target in targets]
                if targets != one.targets:
                    one = one._replace(targets=targets)  # noqa: PLW2901  # the same, told to fewer
                    body = _event(one)  # noqa: PLW2901
                result.append((one, body))
                rows += [_row(one, target, body, now) for target in targets]
            if rows:
                connection.execute(schema.insert(connection, tables.deliveries).on_conflict_do_nothing(), rows)
        return result


def is_quiet(mine: Told, told: Sequence[Told], quiet_s: float) -> bool:
    """Whether a target has heard of the same device and channel within `quiet_s` before this alarm. Pure."""
    if quiet_s <= 0:
        return False
    return any(
        one.target == mine.target
        and one.identity.device == mine.identity.device
        and one.channel == mine.channel
        and one.identity != mine.identity
        and 0 <= mine.received_s - one.received_s < quiet_s
        for one in told
    )


def _told(connection: Connection, asked: Sequence[_Decided]) -> list[Told]:
    """What targets have heard of the devices, as far back as the rules ask."""
    if not asked:
        return []
    table = tables.deliveries
    names = sorted({one.identity.device for one in asked})
    # A delivery is made after its alarm's receipt, so none that matters was made before this.
    since = min(one.data.received_s - one.rule.quiet_s for one in asked if one.rule is not None)
    rows = connection.execute(
        sa.select(table.c.device, table.c.outbox, table.c.seq, table.c.target, table.c.body).where(
            table.c.device.in_(names), table.c.made_s >= since
        )
    )
    found = []
    for row in rows:
        _, data, _ = decode_routed(row.body)
        identity = wire.Identity(row.device, row.outbox, row.seq)
        found.append(Told(identity, row.target, data.alarm.top_channel, data.received_s))
    return found


def _event(one: _Decided) -> bytes:
    routed = Routed(
        **{name: value for name, value in asdict(one.data).items()},  # noqa: C416  # fields of one struct are another's
        level=one.level,
        rule="" if one.rule is None else one.rule.name,
        targets=one.targets,
        routed_s=time.time(),
    )
    return make_routed(one.identity, routed, one.traceparent)


def _row(one: _Decided, target: str, body: bytes, now: float) -> dict[str, object]:
    device, outbox, seq = one.identity
    return {
        "device": device,
        "outbox": outbox,
        "seq": seq,
        "target": target,
        "alarm_id": one.data.alarm.alarm_id,
        "state": "waiting",
        "next_s": now,
        "made_s": now,
        "body": body,
    }
