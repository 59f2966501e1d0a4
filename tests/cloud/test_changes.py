"""Change numbers: what people look at is stamped, and a live view's cursor never passes a row that is still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from cloud.store import changes, reader, schema, tables
from cloud.store.told import Letter
from cloud.store.writer import Received, write_batch
from cloud.stream.decode import decode_record
from cloud.stream.events import decode
from cloud.stream.kafka import Record
from cloud_events import OUTBOX, T0, alarm, presence, received, summary
from covey import topics, wire, wire_alarms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

    from servers import Postgres


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = schema.open_store(store_url)
    yield made
    made.dispose()


def seen_since(engine: Engine, cursor: int) -> tuple[set[str], int]:
    """Devices that a view with this cursor is told of, and its next cursor."""
    with schema.read(engine) as connection:
        horizon = changes.horizon(connection)
        table = tables.devices
        query = sa.select(table.c.device).where(table.c.changed >= cursor, table.c.changed < horizon)
        return set(connection.execute(query).scalars()), horizon


@pytest.mark.broker
def test_transactions_that_end_in_reverse_order_are_both_seen_once(postgres: Postgres) -> None:
    engine = schema.open_store(postgres.database())
    _, cursor = seen_since(engine, 0)

    def put(connection: sa.Connection, device: str) -> None:
        values = {"device": device, "group": "g", "changed": changes.number(connection)}
        connection.execute(sa.insert(tables.devices).values(values))

    with engine.connect() as first, engine.connect() as second:
        with first.begin():
            put(first, "first")  # takes the lower number, and ends last
            with second.begin():
                put(second, "second")
            early, middle = seen_since(engine, cursor)
        late, end = seen_since(engine, middle)
    # `second` waits for `first`: had the cursor passed it, `first` would never have been told.
    assert early == set()
    assert late == {"first", "second"}
    assert seen_since(engine, end)[0] == set()
    engine.dispose()


def test_a_cursor_moves_over_what_was_told_and_no_further(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(1), received(1, device="d2")])
    told, cursor = seen_since(engine, 0)
    assert told == {"d1", "d2"}
    assert seen_since(engine, cursor)[0] == set()
    write_batch(engine, "b", {}, [received(2, device="d2")])
    assert seen_since(engine, cursor)[0] == {"d2"}


def enriched(seq: int = 2, alarm_id: str = "a1") -> bytes:
    data = wire_alarms.Enriched(alarm(alarm_id), "t", T0, wire_alarms.Context(group="north", peers=4), T0 + 1)
    return wire_alarms.make_enriched(wire.Identity("d1", OUTBOX, seq), data)


def routed(seq: int = 2, alarm_id: str = "a1", level: Any = "high") -> bytes:
    context = wire_alarms.Context(group="north", peers=4)
    data = wire_alarms.Routed(alarm(alarm_id), "t", T0, context, T0 + 1, level, "hot", ["desk"], T0 + 2)
    return wire_alarms.make_routed(wire.Identity("d1", OUTBOX, seq), data)


def line(seq: int = 1) -> bytes:
    return wire.make_round_event(wire.RoundEvent("ab" * 8, seq, T0 + seq, "round", round=seq, figures={"loss": 0.5}))


def stage(topic: str, value: bytes, key: str = "d1", offset: int = 0) -> Any:
    return decode_record(Record(topic, 0, offset, key, value, T0))


@pytest.mark.parametrize(
    "made",
    [
        lambda: received(9, summary(9)),
        lambda: received(9, alarm("a2")),
        lambda: received(9, wire.Status(kind="start", reported=wire.Reported(1, "", "onnx"))),
        lambda: decode(Record(topics.STATUS, 0, 0, "d1", presence(True, "a" * 16), T0)),
    ],
    ids=["summary", "alarm", "status", "presence"],
)
def test_everything_that_a_device_says_stamps_its_row(engine: Engine, made: Callable[[], Received]) -> None:
    write_batch(engine, "b", {}, [received(1)])
    _, cursor = seen_since(engine, 0)
    write_batch(engine, "b", {}, [made()])
    assert seen_since(engine, cursor)[0] == {"d1"}


@pytest.mark.parametrize(
    ("topic", "content"),
    [(topics.ALARMS, None), (topics.ALARMS_ENRICHED, enriched()), (topics.ALARMS_HIGH, routed())],
)
def test_an_alarms_end_context_and_route_stamp_its_row(engine: Engine, topic: str, content: bytes | None) -> None:
    write_batch(engine, "b", {}, [received(2, alarm()), received(3, alarm("other"))])
    _, cursor = seen_since(engine, 0)
    one = received(4, alarm(state="end")) if content is None else stage(topic, content)
    applied = write_batch(engine, "b", {}, [one])
    table = tables.alarms
    with schema.read(engine) as connection:
        query = sa.select(table.c.alarm_id).where(table.c.changed >= cursor)
        assert list(connection.execute(query).scalars()) == ["a1"]
    # What the cloud says of an event acknowledges nothing: the event itself may not be stored yet.
    assert bool(applied.safe) == (content is None)


def test_what_stages_say_is_kept_once_whatever_comes_first(engine: Engine) -> None:
    context, route = stage(topics.ALARMS_ENRICHED, enriched()), stage(topics.ALARMS_HIGH, routed())
    write_batch(engine, "b", {}, [route, context])  # before the alarm itself
    write_batch(engine, "b", {}, [received(2, alarm()), context, stage(topics.ALARMS_LOW, routed(level="low"))])
    with schema.read(engine) as connection:
        (one,) = connection.execute(sa.select(tables.enrichments)).mappings()
        (other,) = connection.execute(sa.select(tables.routings)).mappings()
    assert (one["device"], one["seq"], one["alarm_id"], one["enriched_s"]) == ("d1", 2, "a1", T0 + 1)
    assert one["context"] == '{"group":"north","peers":4}'
    assert (other["level"], other["rule"], other["routed_s"]) == ("high", "hot", T0 + 2)
    assert reader.counts(engine)["events"] == 1


def test_lines_of_training_runs_are_kept_once_and_stamped(engine: Engine) -> None:
    lines = [stage(topics.LEARNING, line(n), key="ab" * 8) for n in (1, 2, 2)]
    write_batch(engine, "b", {}, lines)
    write_batch(engine, "b", {}, lines[:1])
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(tables.rounds).order_by(tables.rounds.c.seq)).mappings().all()
    assert [(row["run"], row["seq"], row["kind"], row["round"]) for row in rows] == [
        ("ab" * 8, 1, "round", 1),
        ("ab" * 8, 2, "round", 2),
    ]
    assert rows[0]["changed"] > 0
    assert wire.decode(wire.RoundEvent, rows[0]["body"]).figures == {"loss": 0.5}
    assert reader.counts(engine)["devices"] == 0


def test_dead_letters_are_kept_once_by_their_place_and_never_make_new_ones(engine: Engine) -> None:
    letter = wire.DeadLetter("not_json", "x", "covey/v1/..", T0, 3, b"abc", False)
    one = stage(topics.DEADLETTER, wire.encode(letter), key="", offset=7)
    assert isinstance(one, Letter)
    write_batch(engine, "b", {}, [], [], [one, one])
    write_batch(engine, "b", {}, [], [], [one])
    with schema.read(engine) as connection:
        (row,) = connection.execute(sa.select(tables.dead_letters)).mappings()
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.outgoing)).scalar_one() == 0
    assert (row["partition"], row["offset"], row["reason"], row["size_bytes"]) == (0, 7, "not_json", 3)
    assert stage(topics.DEADLETTER, b"nonsense", key="") is None


def test_a_stages_message_of_another_key_is_refused_and_acknowledges_nobody() -> None:
    refused = stage(topics.ALARMS_ENRICHED, enriched(), key="d2")
    assert (refused.reason, refused.identity) == ("source_mismatch", None)
    assert stage(topics.ALARMS_HIGH, enriched()).reason == "unknown_type"
    assert stage(topics.LEARNING, wire.encode(wire.Learning(kind="release", time_s=T0)), key="g") is None


def test_offsets_only_grow(engine: Engine) -> None:
    from cloud.store.writer import load_offsets

    place = (topics.SUMMARIES, 3)
    write_batch(engine, "b", {place: 50}, [])
    write_batch(engine, "b", {place: 40}, [received(1)])
    assert load_offsets(engine, "b") == {place: 50}
    assert reader.counts(engine)["events"] == 1
