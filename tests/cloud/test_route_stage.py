"""The stage `route` on a real store: where alarms go, whom it writes down, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.store.writer import Received, write_batch
from cloud.stream.kafka import Record
from cloud.stream.route import RouteStage, Told, is_quiet
from cloud.stream.rules_file import parse
from cloud_events import OUTBOX, alarm
from covey import topics, wire
from covey.wire_alarms import ROUTED_TYPE, Context, Enriched, decode_routed, make_enriched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from cloud.stream.stage import Made

T = 1_770_000_000.0
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
RULES = """
[[rules]]
name = "rotor"
when = { top_channel = "motor.*" }
level = "high"
webhooks = ["ops"]
mailboxes = ["duty"]
quiet_s = 600

[[rules]]
name = "acc"
when = { top_channel = "acc.*" }
level = "high"
webhooks = ["ops"]
ends = true

[[webhooks]]
name = "ops"
url = "http://127.0.0.1:9/"

[[mailboxes]]
name = "duty"
to = ["duty@example.org"]

[smtp]
host = "127.0.0.1"
sender = "covey@example.org"
"""


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """A new store on each database."""
    made = schema.open_store(store_url)
    yield made
    made.dispose()


def record(seq: int, received_s: float = T, device: str = "d1", state: str = "begin", **changes: Any) -> Record:
    alarm_id = changes.pop("alarm_id", f"a{seq}")
    data = Enriched(alarm(alarm_id, state, **changes), "t", received_s, Context(group="g"), received_s)
    content = make_enriched(wire.Identity(device, OUTBOX, seq), data, TRACE)
    return Record(topics.ALARMS_ENRICHED, 0, seq, device, content, received_s)


def rows(engine: Engine) -> list[tuple[str, int, str]]:
    table = tables.deliveries
    with schema.read(engine) as connection:
        found = connection.execute(sa.select(table).order_by(table.c.device, table.c.seq, table.c.target))
        return [(row.device, row.seq, row.target) for row in found]


def stage_of(engine: Engine) -> RouteStage:
    return RouteStage(lambda: parse(RULES, "t"), engine)


def test_an_alarm_goes_where_its_rule_says_and_its_targets_are_written_down(engine: Engine) -> None:
    made = stage_of(engine).process("b", [record(1), record(2, top_channel="baro")])
    high, low = made.messages
    assert (high.topic, high.key, high.traceparent) == (topics.ALARMS_HIGH, "d1", TRACE)
    assert low.topic == topics.ALARMS_LOW
    identity, data, trace = decode_routed(high.value)
    assert (identity, trace) == (wire.Identity("d1", OUTBOX, 1), TRACE)
    assert (data.level, data.rule, data.targets) == ("high", "rotor", ["ops", "duty"])
    assert (data.alarm, data.received_s, data.context.group) == (alarm("a1"), T, "g")
    assert decode_routed(low.value)[1].rule == ""
    assert rows(engine) == [("d1", 1, "duty"), ("d1", 1, "ops")]
    with schema.read(engine) as connection:
        assert {row.body for row in connection.execute(sa.select(tables.deliveries))} == {high.value}
    assert made.results == {"high": 1, "low": 1}


def test_a_batch_done_again_decides_the_same_and_writes_nothing_twice(engine: Engine) -> None:
    batch = [record(1), record(2, T + 100), record(3, T + 700), record(4, T + 50, "d2")]
    first = [decode_routed(one.value)[1].targets for one in stage_of(engine).process("b", batch).messages]
    assert first == [["ops", "duty"], [], ["ops", "duty"], ["ops", "duty"]]  # the second is quiet
    before = rows(engine)
    again = [decode_routed(one.value)[1].targets for one in stage_of(engine).process("b", batch).messages]
    assert again == first
    assert rows(engine) == before


def test_quiet_counts_the_same_device_channel_and_target_only() -> None:
    mine = Told(wire.Identity("d1", OUTBOX, 5), "ops", "acc.z", T)

    def told(**changes: Any) -> bool:
        return is_quiet(mine, [Told(wire.Identity("d1", OUTBOX, 4), "ops", "acc.z", T - 59)._replace(**changes)], 60.0)

    assert told()
    assert not told(received_s=T - 60)
    assert not told(received_s=T + 1)
    assert not told(target="duty")
    assert not told(channel="acc.x")
    assert not told(identity=wire.Identity("d2", OUTBOX, 4))
    assert not told(identity=mine.identity)


def test_ends_are_routed_and_told_only_where_the_rule_says(engine: Engine) -> None:
    made = stage_of(engine).process("b", [record(1, state="end"), record(2, state="end", top_channel="acc.z")])
    assert [one.topic for one in made.messages] == [topics.ALARMS_HIGH, topics.ALARMS_HIGH]
    assert rows(engine) == [("d1", 2, "ops")]


def ways(made: Made) -> list[tuple[str, str]]:
    """(topic, rule) of each message."""
    return [(one.topic, decode_routed(one.value)[1].rule) for one in made.messages]


def test_an_end_goes_where_its_beginning_went_whatever_its_own_figures_say(engine: Engine) -> None:
    stage = stage_of(engine)
    begin = record(1, top_channel="acc.z")
    end = record(2, state="end", alarm_id="a1", top_channel="baro")  # by itself no rule would fit, and low
    assert ways(stage.process("b", [begin, end])) == [(topics.ALARMS_HIGH, "acc"), (topics.ALARMS_HIGH, "acc")]
    assert rows(engine) == [("d1", 1, "ops"), ("d1", 2, "ops")]  # that rule tells of ends
    low = [record(3, top_channel="baro"), record(4, state="end", alarm_id="a3", top_channel="motor.m1")]
    assert ways(stage.process("b", low[:1])) == [(topics.ALARMS_LOW, "")]
    assert ways(stage.process("b", low[1:])) == [(topics.ALARMS_LOW, "")]
    assert len(rows(engine)) == 2


def test_an_instance_that_has_not_seen_the_beginning_asks_the_store(engine: Engine) -> None:
    [begun] = stage_of(engine).process("b", [record(1, top_channel="acc.z")]).messages
    identity, data, _ = decode_routed(begun.value)
    said = wire.Event("1.0", str(identity), "", ROUTED_TYPE, "", msgspec.Raw(b"null"))
    write_batch(engine, "b", {}, [Received(identity, said, data, begun.value, T, begun.topic)])
    end = record(2, state="end", alarm_id="a1", top_channel="baro")
    assert ways(stage_of(engine).process("b", [end])) == [(topics.ALARMS_HIGH, "acc")]
    other = record(2, device="d2", state="end", alarm_id="a1", top_channel="baro")  # another device's alarm of that id
    assert ways(stage_of(engine).process("b", [other])) == [(topics.ALARMS_LOW, "")]


def test_an_end_finds_what_its_targets_were_told_while_the_store_stage_is_behind(engine: Engine) -> None:
    stage_of(engine).process("b", [record(1, top_channel="acc.z"), record(3, top_channel="baro")])
    assert rows(engine) == [("d1", 1, "ops")]
    ends = [record(n + 1, state="end", alarm_id=f"a{n}", top_channel="motor.m1") for n in (1, 3)]
    other = record(2, device="d2", state="end", alarm_id="a1", top_channel="baro")
    # Nobody was told of the third alarm's beginning: its end goes by its own figures.
    alone = ways(stage_of(engine).process("b", [ends[1]]))
    assert ways(stage_of(engine).process("b", [*ends, other])) == [
        (topics.ALARMS_HIGH, "acc"),
        *alone,
        (topics.ALARMS_LOW, ""),
    ]


def test_an_end_whose_rule_is_gone_keeps_its_level_and_tells_nobody(engine: Engine) -> None:
    now = [parse(RULES, "t")]
    stage = RouteStage(lambda: now[0], engine)
    stage.process("b", [record(1, top_channel="acc.z")])
    now[0] = parse('otherwise = "low"', "t")
    assert ways(stage.process("b", [record(2, state="end", alarm_id="a1")])) == [(topics.ALARMS_HIGH, "")]
    assert rows(engine) == [("d1", 1, "ops")]


def test_a_store_that_is_away_does_not_hold_up_ends(engine: Engine) -> None:
    with schema.write(engine) as connection:
        connection.execute(sa.text("ALTER TABLE routings RENAME TO away"))
    made = stage_of(engine).process("b", [record(2, state="end", alarm_id="a1", top_channel="baro")])
    assert ways(made) == [(topics.ALARMS_LOW, "")]  # by its own figures


def test_what_is_not_enriched_is_a_dead_letter(engine: Engine) -> None:
    wrong_key = record(1)._replace(key="d2")
    made = stage_of(engine).process("b", [record(1)._replace(value=b"[]"), wrong_key, record(3)])
    letters = [
        wire.decode(wire.DeadLetter, one.value).reason for one in made.messages if one.topic == topics.DEADLETTER
    ]
    assert letters == ["bad_schema", "source_mismatch"]
    assert made.results == {"refused": 2, "high": 1}
