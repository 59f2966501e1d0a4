"""Wanting a release and beginning a run: each with its line in the audit log, or not at all; one run at a time."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from cloud.desk import audit, devices, learning
from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store import reader, schema, tables
from cloud_events import DIGEST, T0
from covey.errors import NameTaken, StoreError, UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

ME = audit.Actor("ada", "127.0.0.1")


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = schema.open_store(store_url)
    desired.record_releases(made, [Release("north", 1, DIGEST, "north/1.covey", 9, T0, "")])
    devices.add(made, "d1", "north", {}, ME)
    devices.add(made, "d2", "north", {}, ME)
    devices.add(made, "e1", "south", {}, ME)
    yield made
    made.dispose()


def wanted(engine: Engine) -> dict[str, int | None]:
    return {row["device"]: row["desired"] for row in reader.fleet(engine)}


def rename(engine: Engine, before: str, after: str) -> None:
    with schema.write(engine) as connection:
        connection.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))


def last(engine: Engine) -> tuple[str, str, str]:
    row = audit.entries(engine, 1)[0]
    return row["action"], row["target"], row["detail"]


def test_a_release_is_wanted_of_its_group_or_of_named_devices(engine: Engine) -> None:
    assert learning.want(engine, "north", 1, ["e1"], ME) == ["e1"]
    assert (wanted(engine), last(engine)) == ({"d1": None, "d2": None, "e1": 1}, ("want", "north 1", "e1"))
    assert learning.want(engine, "north", 1, [], ME) == ["d1", "d2", "e1"]  # e1 has joined the group
    assert last(engine) == ("want", "north 1", "3 devices")
    before = len(audit.entries(engine))
    with pytest.raises(UnknownName, match="north 2"):
        learning.want(engine, "north", 2, [], ME)
    with pytest.raises(UsageError, match="a device name expected"):
        learning.want(engine, "north", 1, ["a b"], ME)
    assert len(audit.entries(engine)) == before


def test_without_a_line_in_the_audit_log_nothing_is_wanted_and_no_run_begins(engine: Engine) -> None:
    rename(engine, "audit", "away")
    with pytest.raises(StoreError):
        learning.want(engine, "north", 1, [], ME)
    with pytest.raises(StoreError):
        learning.begin_run(engine, "one", ME)
    rename(engine, "away", "audit")
    assert wanted(engine) == {"d1": None, "d2": None, "e1": None}
    with schema.read(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.outgoing)).scalar_one() == 0
    learning.begin_run(engine, "two", ME)
    assert last(engine) == ("train", "run", "")


def test_one_run_at_a_time_until_it_is_over(engine: Engine) -> None:
    learning.begin_run(engine, "one", ME)
    with pytest.raises(NameTaken, match="one run at a time"):
        learning.begin_run(engine, "two", ME)
    assert learning.keep_run(engine, "one")
    assert not learning.keep_run(engine, "two")
    learning.end_run(engine, "two")  # not its own
    with pytest.raises(NameTaken):
        learning.begin_run(engine, "two", ME)
    learning.end_run(engine, "one")
    learning.begin_run(engine, "two", ME)
    assert [row["action"] for row in audit.entries(engine, 2)] == ["train", "train"]
    learning.end_run(engine, "two", "no such file", ME)
    assert last(engine) == ("train_failed", "run", "no such file")


def test_the_run_of_a_console_that_was_killed_is_in_the_way_for_a_minute_only(engine: Engine) -> None:
    learning.begin_run(engine, "killed", ME)
    table = tables.settings
    with schema.write(engine) as connection:
        row = connection.execute(sa.select(table).where(table.c.value.like("%killed%"))).one()
        held = json.loads(row.value)
        assert 0 < held["until_s"] - time.time() <= 60
        past = json.dumps({**held, "until_s": time.time() - 0.001})
        connection.execute(sa.update(table).where(table.c.name == row.name).values(value=past))
    learning.begin_run(engine, "next", ME)
    assert not learning.keep_run(engine, "killed")
    assert learning.keep_run(engine, "next")
