"""Two who change the same at the same moment, on PostgreSQL, where transactions run beside each other: as if one came after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from cloud.config import RetentionConfig
from cloud.console.tries import Tries
from cloud.desk import accounts, audit, devices, erase, judge
from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store import reader, retention, schema, tables
from cloud.store.writer import write_batch
from cloud_events import DIGEST, T0, alarm, received
from covey import topics, wire
from covey.errors import CoveyError, NameTaken, UsageError
from processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

    from servers import Postgres

pytestmark = pytest.mark.broker

ADA, BOB = audit.Actor("ada"), audit.Actor("bob")
PASSWORD = "correct horse battery"
URL = "http://127.0.0.1:1"
NOW = T0 + 100 * 86_400.0

_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    made = schema.open_store(postgres.database())
    yield made
    made.dispose()


def at_once(engine: Engine, table: sa.Table, *calls: Callable[[], Any]) -> list[Any]:
    """What each returns or raises. All come as far as they can before any may write to `table`, and only then go on."""

    def told(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except CoveyError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool, engine.connect() as holding, engine.connect() as looking:
        with holding.begin():
            holding.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE MODE")
            under_way = [pool.submit(told, call) for call in calls]

            def all_wait() -> bool:
                with looking.begin():
                    return bool(looking.exec_driver_sql(_WAITING).scalar_one() == len(calls))

            wait_for(all_wait, 20, f"{len(calls)} transactions wait")
        return [one.result(20) for one in under_way]


def count(engine: Engine, table: sa.Table, *which: sa.ColumnElement[bool]) -> int:
    with schema.read(engine) as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*which)).scalar_one())


def test_two_admins_who_remove_each_other_leave_one(engine: Engine) -> None:
    accounts.add(engine, "ada", "admin", PASSWORD, ADA)
    accounts.add(engine, "bob", "admin", PASSWORD, ADA)
    accounts.add(engine, "eve", "viewer", PASSWORD, ADA)
    done = at_once(
        engine,
        tables.audit,
        lambda: accounts.remove(engine, "bob", ADA),
        lambda: accounts.change(engine, "ada", BOB, role="viewer"),
    )
    assert sorted(type(one) for one in done if one is not None) == [UsageError]
    assert sum(row["role"] == "admin" for row in accounts.all_accounts(engine)) == 1


def test_the_same_verdict_of_two_people_is_told_once(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(1, alarm())])
    done = at_once(
        engine,
        tables.audit,
        *(lambda who=who: judge.judge(engine, [("d1", "a1")], "rejected", "", who) for who in (ADA, BOB)),
    )
    assert sorted(done) == [0, 1]
    assert count(engine, tables.outgoing, tables.outgoing.c.topic == topics.FEEDBACK) == 1
    assert count(engine, tables.outgoing, tables.outgoing.c.topic == topics.COMMANDS) == 1
    assert len(audit.entries(engine)) == 1


def test_a_verdict_that_waits_in_a_circle_with_a_batch_is_said_all_the_same(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(1, alarm(), device=name) for name in ("d1", "d2")])
    table = tables.alarms
    with ThreadPoolExecutor(1) as pool, engine.connect() as batch, engine.connect() as looking:
        with batch.begin():
            # Whoever looks first finds the circle: this one waits for longer than the other.
            batch.exec_driver_sql("SET LOCAL deadlock_timeout = '20s'")
            batch.execute(sa.update(table).where(table.c.device == "d2").values(windows=7))
            said = pool.submit(judge.judge, engine, [("d1", "a1"), ("d2", "a1")], "confirmed", "", ADA)

            def waits() -> bool:
                with looking.begin():
                    return bool(looking.exec_driver_sql(_WAITING).scalar_one())

            wait_for(waits, 20, "the verdict has the first and waits for the second")
            batch.execute(sa.update(table).where(table.c.device == "d1").values(windows=7))
        assert said.result(20) == 2
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(table.c.verdict, table.c.windows)).all()
    assert [tuple(row) for row in rows] == [("confirmed", 7)] * 2
    assert len(audit.entries(engine)) == 2


def test_labels_of_two_people_are_both_kept(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ADA)
    at_once(
        engine,
        tables.audit,
        lambda: devices.label(engine, "d1", {"site": "quay"}, ADA),
        lambda: devices.label(engine, "d1", {"owner": "x"}, BOB),
    )
    (row,) = reader.fleet(engine)
    assert row["labels"] == {"site": "quay", "owner": "x"}


def test_a_device_that_two_people_add_is_the_first_ones(engine: Engine) -> None:
    done = at_once(
        engine,
        tables.audit,
        lambda: devices.add(engine, "d1", "north", {}, ADA),
        lambda: devices.add(engine, "d1", "south", {}, BOB),
    )
    assert sorted(type(one) for one in done if one is not None) == [NameTaken]
    assert len(audit.entries(engine)) == 1


def test_what_two_want_of_a_device_has_two_revisions_and_the_greater_one_holds(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ADA)
    at_once(
        engine,
        tables.learning,
        *(
            lambda number=number: desired.assign(
                engine, Release("north", number, DIGEST, f"north/{number}.covey", 9, T0, ""), URL
            )
            for number in (1, 2)
        ),
    )
    table = tables.outgoing
    with schema.read(engine) as connection:
        values = connection.execute(sa.select(table.c.value).where(table.c.topic == topics.DESIRED)).scalars()
        said = {one.revision: one.release for one in (wire.decode(wire.Desired, value) for value in values)}
    assert sorted(said) == [1, 2]
    row = reader.device(engine, "d1")
    assert row is not None
    assert (row["desired_revision"], row["desired"]) == (2, said[2])


def test_tries_to_log_in_at_once_are_each_counted(engine: Engine) -> None:
    tries = Tries(engine, 10, 86_400.0)
    with ThreadPoolExecutor(5) as pool:
        waits = list(pool.map(lambda _: tries.wait_s("ada", "192.0.2.7", T0), range(25)))
    assert sum(wait == 0.0 for wait in waits) == 10
    assert max(waits) == pytest.approx(8640.0)  # one comes back in a tenth of the window
    tries.forgive("ada")
    # The address has had 25 of its 30.
    assert [tries.wait_s(f"n{n}", "192.0.2.7", T0) == 0.0 for n in range(6)] == [True] * 5 + [False]


def test_two_instances_that_forget_the_same_hour_count_it_once(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(seq, received_s=T0) for seq in range(1, 6)])
    keep = RetentionConfig(events_days=30, alarms_days=90)
    done = at_once(engine, tables.aged_out, *(lambda: retention.forget(keep, engine, NOW) for _ in range(2)))
    assert sorted(one.get("events", 0) for one in done) == [0, 5]
    with schema.read(engine) as connection:
        hours = connection.execute(sa.select(tables.hours)).all()
    # Five summaries of ten windows each, from T0 + 2 to T0 + 6: of one hour.
    assert [(row.summaries, row.windows) for row in hours] == [(5, 50)]


def test_a_batch_beside_an_erasure_leaves_nothing_that_came_before_it(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(1), received(1, device="d2")])
    # The batch has put its event in and waits to put in the summary; the erasure comes meanwhile.
    done = at_once(
        engine,
        tables.summaries,
        lambda: write_batch(engine, "b", {}, [received(2), received(2, device="d2")]).stored,
        lambda: erase.forget(engine, "d1", ADA)["erased"].get("events"),
    )
    batch, erased = done
    assert batch == 2
    left = count(engine, tables.events, tables.events.c.device == "d1")
    known = count(engine, tables.devices, tables.devices.c.device == "d1")
    # Either the erasure was the last, and nothing is left, or the device spoke again after it, and is a new one with that event.
    assert (erased, left, known) in {(2, 0, 0), (1, 1, 1)}
    assert count(engine, tables.events, tables.events.c.device == "d2") == 2
