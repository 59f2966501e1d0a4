"""The store's writer: one transaction per batch, exactly-once effect, order by seq."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from cloud.store import reader, schema, tables
from cloud.store.writer import Received, Refused, load_offsets, write_batch
from cloud.stream.events import decode
from cloud.stream.kafka import Record
from cloud_events import DIGEST, OUTBOX, T0, alarm, body, health, new_store, presence, received, reported, summary
from covey import topics, wire
from covey.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """A new store on each database."""
    made = schema.open_store(store_url)
    yield made
    made.dispose()


OFFSET = {(topics.SUMMARIES, 0): 1}


def test_repeat_of_the_same_bytes_is_refused_counted_and_safe(engine: Engine) -> None:
    one = received(1)
    assert write_batch(engine, "b", OFFSET, [one]).stored == 1
    again = write_batch(engine, "b", OFFSET, [one, one])
    assert (again.stored, again.repeated, again.conflicts) == (0, 2, 0)
    assert again.safe == [one.identity]
    counts = reader.counts(engine)
    assert (counts["events"], counts["windows"], counts["duplicates_refused"]) == (1, 10, 2)


def test_looking_for_repeats_goes_by_the_key_and_never_reads_the_whole_table(tmp_path: Path) -> None:
    """A store of a million events took 1.5 s for each batch of 500 when it did."""
    _, engine = new_store(tmp_path)
    statements: list[tuple[str, object]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, text, given, *_: statements.append((text, given)))
    for _ in range(2):  # what is past an outbox's newest is not looked for at all
        write_batch(engine, "b", OFFSET, [received(n) for n in range(1, 31)])
    looked = [one for one in statements if "FROM (VALUES" in one[0] and "events" in one[0]]
    assert len(looked) == 1
    with engine.connect() as connection:
        for text, given in looked:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given)]
            assert any(step.startswith("SEARCH e USING") for step in plan), plan
            assert not any(step.startswith(("SCAN e", "SCAN events")) for step in plan), plan


def test_a_batch_of_more_identities_than_one_look_up_holds_finds_every_repeat(engine: Engine) -> None:
    events = [received(n) for n in range(1, 622)]
    assert write_batch(engine, "b", OFFSET, events[:610]).stored == 610
    applied = write_batch(engine, "b", OFFSET, events)
    assert (applied.stored, applied.repeated, applied.conflicts) == (11, 610, 0)


def test_repeat_within_one_batch_is_stored_once(engine: Engine) -> None:
    applied = write_batch(engine, "b", OFFSET, [received(1), received(1), received(2)])
    assert (applied.stored, applied.repeated) == (2, 1)
    assert reader.counts(engine)["windows"] == 20


@pytest.mark.parametrize("together", [True, False])
def test_same_identity_with_other_bytes_is_a_conflict_in_the_dead_letter(engine: Engine, together: bool) -> None:
    first, other = received(1), received(1, summary(1, windows=99))
    if together:
        applied = write_batch(engine, "b", OFFSET, [first, other])
    else:
        write_batch(engine, "b", OFFSET, [first])
        applied = write_batch(engine, "b", OFFSET, [other])
    assert applied.conflicts == 1
    assert applied.safe == [first.identity]
    assert reader.counts(engine)["windows"] == 10
    with schema.read(engine) as connection:
        letters = [
            wire.decode(wire.DeadLetter, row.value)
            for row in connection.execute(sa.select(tables.outgoing))
            if row.topic == topics.DEADLETTER
        ]
    assert [(one.reason, one.payload) for one in letters] == [("identity_conflict", other.body)]


def test_the_database_itself_holds_an_identity_once(engine: Engine) -> None:
    write_batch(engine, "b", OFFSET, [received(1)])
    with pytest.raises(schema.StoreRefusesError), schema.write(engine) as connection:
        connection.execute(sa.text("insert into events select * from events"))


def test_older_summary_arriving_late_leaves_the_newer_state(engine: Engine) -> None:
    write_batch(engine, "b", OFFSET, [received(5, summary(5, reported=reported(release=2, digest=DIGEST)))])
    write_batch(engine, "b", OFFSET, [received(3, summary(3, reported=reported(release=1, digest=DIGEST)))])
    device = reader.fleet(engine)[0]
    assert device["release"] == 2
    assert device["health"]["raw_bytes"] == 5000
    assert device["windows"] == 20  # its windows count all the same


def test_order_within_a_batch_is_by_seq_not_by_arrival(engine: Engine) -> None:
    late = received(2, summary(2, reported=reported(release=2, digest=DIGEST)))
    write_batch(engine, "b", OFFSET, [late, received(1, summary(1, reported=reported(release=1, digest=DIGEST)))])
    assert reader.fleet(engine)[0]["release"] == 2
    told = [(row["kind"], row["release"]) for row in reader.learning(engine)]
    assert told == [("reported", 1), ("reported", 2)]


def test_a_new_outbox_of_a_device_is_newer_whatever_its_seq(engine: Engine) -> None:
    write_batch(engine, "b", OFFSET, [received(900, summary(900, reported=reported(release=1, digest=DIGEST)))])
    fresh = summary(1, reported=reported(release=2, digest=DIGEST))
    write_batch(engine, "b", OFFSET, [received(1, fresh, outbox="f" * 16)])
    late = summary(901, reported=reported(release=1, digest=DIGEST))
    write_batch(engine, "b", OFFSET, [received(901, late)])
    assert reader.fleet(engine)[0]["release"] == 2


def test_first_report_of_a_release_is_told_once(engine: Engine) -> None:
    for seq in range(1, 5):
        write_batch(engine, "b", OFFSET, [received(seq, summary(seq, reported=reported(release=7, digest=DIGEST)))])
    assert [(row["device"], row["release"]) for row in reader.learning(engine, kind="reported")] == [("d1", 7)]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_an_alarm_is_one_row_whichever_of_its_events_comes_first(engine: Engine, order: tuple[int, int]) -> None:
    end = alarm(
        state="end",
        score=2.1,
        peak_score=9.0,
        windows=12,
        top_channel="acc.z",
        window=wire.WindowRef(T0 + 8, T0 + 9, ""),
    )
    both = {1: received(1, alarm()), 2: received(2, end)}
    for seq in order:
        write_batch(engine, "b", OFFSET, [both[seq]])
    (row,) = reader.alarms(engine)
    assert (row["state"], row["begin_s"], row["end_s"]) == ("end", T0, T0 + 9)
    assert (row["peak_score"], row["windows"], row["score"], row["top_channel"]) == (9.0, 12, 3.0, "motor.m1")
    assert row["attribution"] == [{"channel": "motor.m1", "share": 0.8}, {"channel": "acc.z", "share": 0.2}]


def test_one_device_cannot_write_into_the_alarm_of_another(engine: Engine) -> None:
    write_batch(engine, "b", OFFSET, [received(1, alarm()), received(1, alarm(state="end"), device="d2")])
    assert {row["device"]: row["state"] for row in reader.alarms(engine)} == {"d1": "begin", "d2": "end"}


def test_death_of_an_old_session_leaves_the_new_one_online(engine: Engine) -> None:
    old, new = "a" * 16, "b" * 16

    def say(online: bool, session: str) -> bool:
        one = decode(Record(topics.STATUS, 0, 0, "d1", presence(online, session), T0))
        assert isinstance(one, Received)
        assert write_batch(engine, "b", OFFSET, [one]).safe == []  # outside the sequence: nothing to acknowledge
        return bool(reader.fleet(engine)[0]["online"])

    assert say(True, old)
    assert say(True, new)
    assert say(False, old)
    assert not say(False, new)
    assert reader.counts(engine)["events"] == 0


def test_missing_numbers_are_those_neither_stored_nor_told_as_dropped(engine: Engine) -> None:
    # 1 and 10 stored, 3-5 and 4-6 told as dropped, 4 arrived all the same: 3, 5, 6 dropped; 2, 7, 8, 9 missing.
    gaps = [wire.Dropped(OUTBOX, 3, 5), wire.Dropped(OUTBOX, 4, 6)]
    last = summary(10, health=health(10, dropped=gaps))
    write_batch(engine, "b", OFFSET, [received(1), received(4), received(10, last)])
    counts = reader.counts(engine)
    assert (counts["missing"], counts["dropped"]) == (4, 3)


def test_undecodable_becomes_a_dead_letter_and_its_identity_is_safe(engine: Engine) -> None:
    raw = json.loads(body(4))
    raw["data"]["windows"] = -1
    bad = decode(Record(topics.SUMMARIES, 0, 0, "d1", json.dumps(raw).encode(), T0))
    assert isinstance(bad, Refused)
    assert bad.reason == "bad_schema"
    applied = write_batch(engine, "b", OFFSET, [], [bad])
    assert applied.safe == [wire.Identity("d1", OUTBOX, 4)]
    assert reader.counts(engine)["undecodable"] == 1


@pytest.mark.parametrize("content", [body(1), body(1).replace(b'"windows":10', b'"windows":-1')])
def test_nobody_is_acknowledged_on_the_word_of_another_device(content: bytes) -> None:
    one = decode(Record(topics.SUMMARIES, 0, 0, "d2", content, T0))
    assert isinstance(one, Refused)
    assert one.identity is None


def test_full_store_keeps_neither_events_nor_offsets(tmp_path: Path) -> None:
    url, engine = new_store(tmp_path)
    write_batch(engine, "b", {(topics.SUMMARIES, 0): 5}, [received(1)])
    engine.dispose()
    engine = schema.open_store(url)
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")  # the pool gives this connection again
        connection.rollback()
    many = [received(seq) for seq in range(2, 200)]
    with pytest.raises(StoreError, match="full"):
        write_batch(engine, "b", {(topics.SUMMARIES, 0): 203}, many)
    assert load_offsets(engine, "b") == {(topics.SUMMARIES, 0): 5}
    assert reader.counts(engine)["events"] == 1


def test_offsets_belong_to_one_broker_instance(engine: Engine) -> None:
    write_batch(engine, "first", {(topics.ALARMS, 2): 41}, [])
    assert load_offsets(engine, "first") == {(topics.ALARMS, 2): 41}
    assert load_offsets(engine, "second") == {}


# Writes batches of ten from its stored offset on, and says so after each; the test kills it somewhere.
_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from cloud_events import received
from cloud.store.schema import open_store
from cloud.store.writer import load_offsets, write_batch
engine = open_store({url!r})
at = load_offsets(engine, "b").get(("covey.summaries", 0), 0)
while at < 3000:
    write_batch(engine, "b", {{("covey.summaries", 0): at + 10}}, [received(at + n) for n in range(1, 11)])
    at += 10
    print(at, flush=True)
"""


def test_killed_writer_loses_and_doubles_nothing_on_restart(engine: Engine, store_url: str) -> None:
    code = _WRITER.format(tests=str(__import__("cloud_events").__file__).rsplit("/", 1)[0], url=store_url)
    said = 0
    for batches in (3, 11, 1, 20, 7):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(batches):
                said = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        stored, offset = reader.counts(engine)["events"], load_offsets(engine, "b")[topics.SUMMARIES, 0]
        assert stored == offset >= said
    counts = reader.counts(engine)
    assert counts["windows"] == 10 * counts["events"]
    assert (counts["missing"], counts["duplicates_refused"]) == (0, 0)


def test_export_is_ordered_by_identity_with_the_hash_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    _, engine = new_store(tmp_path)
    write_batch(engine, "b", OFFSET, [received(10), received(2, device="d2"), received(2, received_s=T0 + 7.25)])
    lines = [json.loads(line) for line in reader.export(engine)]
    assert [(line["device"], line["seq"]) for line in lines] == [("d1", 2), ("d1", 10), ("d2", 2)]
    assert lines[0] == {
        "device": "d1",
        "outbox": OUTBOX,
        "seq": 2,
        "kind": "summary",
        "time": wire.rfc3339(T0 + 2),
        "sha256": hashlib.sha256(body(2)).hexdigest(),
        "received_s": T0 + 7.25,  # Kafka's timestamp
    }


@pytest.mark.parametrize("url", ["sqlite:////sys/covey.db", "/sys/covey.db", "nonsense://x"])
def test_store_that_cannot_be_written_is_one_line(url: str) -> None:
    with pytest.raises(StoreError) as told:
        schema.open_store(url)
    assert str(told.value).startswith("store ")
    assert "\n" not in str(told.value)


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        schema.open_store(str(tmp_path / "none.db"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_sqlite_is_synchronous_full_and_wal(tmp_path: Path) -> None:
    _, engine = new_store(tmp_path)
    with schema.read(engine) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()
    with sqlite3.connect(tmp_path / "store.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
