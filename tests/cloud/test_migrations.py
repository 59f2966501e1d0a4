"""Stores of older coveys: brought up to date without loss, on both databases, or left as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from cloud.store import migrations, reader, schema, tables
from cloud_events import DIGEST, OUTBOX, T0, alarm, body, cloud_command, health, reported, summary
from covey import wire
from covey.errors import StoreError

TESTS = str(Path(__file__).resolve().parent.parent)


def empty(url: str) -> sa.Engine:
    return schema._engine(url, create=True)


def old_store(url: str) -> sa.Engine:
    """What covey 0.1 left of two devices: d1 with two summaries and an alarm, d2 named by an operator only."""
    engine = empty(url)
    with schema.write(engine) as connection:
        migrations.upgrade(connection, to=1)
        connection.execute(sa.text("DROP TABLE alembic_version"))  # 0.1 knew no Alembic
        there = sa.MetaData()
        there.reflect(connection)

        def put(table: str, **values: Any) -> None:
            connection.execute(sa.insert(there.tables[table]).values(values))

        drift = wire.Drift(input=0.3, score=1.1, psi=0.4, channel="baro")
        events = {
            1: ("summary", summary(1)),
            2: ("alarm", alarm(kind="sensor", detail="baro stands still")),
            3: ("summary", summary(3, drift=drift, end_s=T0 + 13)),
            4: ("alarm", alarm(state="end")),
        }
        for seq, (kind, data) in events.items():
            content = body(seq, data)
            put("events", device="d1", outbox=OUTBOX, seq=seq, kind=kind, sha256="00" * 32, time="t", body=content,
                received_s=T0 + 100 + seq)  # fmt: skip
        put("outboxes", device="d1", outbox=OUTBOX, ordinal=1)
        last = wire.encode(reported(release=2, digest=DIGEST)).decode()
        rest = {"session": "", "position": ""}
        known = {"reported_ordinal": 1, "reported_seq": 3, "health_ordinal": 1, "health_seq": 3, "first_seen_s": T0}
        put("devices", device="d1", group="north", release=2, revision=5, reported=last, last_seen_s=T0 + 3,
            health=wire.encode(health(3)).decode(), **rest, **known)  # fmt: skip
        put("devices", device="d2", group="south", release=0, revision=0, reported="", health="", **rest,
            **dict.fromkeys(("reported_ordinal", "reported_seq", "health_ordinal", "health_seq"), 0))  # fmt: skip
        put("summaries", device="d1", outbox=OUTBOX, seq=3, start_s=T0 + 3, end_s=T0 + 13, windows=10, threshold=2.0,
            alarmed_windows=1, p50=1.0, p99=1.8, max=2.5, drift_input=0.3, drift_score=1.1, release=2,
            runtime="litert", flight="")  # fmt: skip
        put("alarms", device="d1", alarm_id="a1", outbox=OUTBOX, begin_seq=2, end_seq=4, begin_s=T0, end_s=T0 + 1,
            state="end", score=3.0, peak_score=3.5, threshold=2.0, confidence=0.99, top_channel="motor.m1", windows=3,
            attribution="[]", window_sha256="cd" * 32, release=1, digest=DIGEST, calibration="", runtime="litert",
            flight="", trace_id="1" * 32)  # fmt: skip
        put("offsets", broker="b", topic="covey.summaries", partition=0, next_offset=77)
        put("counters", name="conflicts", value=9)
        put("settings", name="base_url", value="http://x")
    return engine


def rows_of(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table of 0.1, in the columns it has now."""
    result = {}
    with schema.read(engine) as connection:
        there = sa.MetaData()
        there.reflect(connection)
        for name in sorted(there.tables.keys() - {"schema_version", "alembic_version"}):
            table = there.tables[name]
            order = list(table.primary_key.columns)
            result[name] = [dict(row) for row in connection.execute(sa.select(table).order_by(*order)).mappings()]
    return result


def test_a_store_of_covey_0_1_is_upgraded_without_loss(store_url: str) -> None:
    old = old_store(store_url)
    before = rows_of(old)
    old.dispose()
    engine = schema.open_store(store_url)
    after = rows_of(engine)
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        for was, now in zip(rows, after[table], strict=True):
            assert {name: now[name] for name in was} == was, table
    first, second = after["devices"]
    assert (first["period_end_s"], first["period_s"], first["score_p50"]) == (T0 + 13, 10.0, 1.0)
    assert (first["score_max"], first["threshold"]) == (2.5, 2.0)
    assert (first["drift_psi"], first["drift_channel"]) == (0.4, "baro")
    assert (second["period_end_s"], second["labels"], second["state"], second["changed"]) == (None, "{}", "active", 0)
    (box,) = after["outboxes"]
    assert (box["newest"], box["stored"], box["alarms"], box["statuses"]) == (4, 4, 2, 0)
    assert (first["windows"], first["alarmed_windows"], second["windows"]) == (10, 1, 0)
    (one,) = after["alarms"]
    assert (one["received_s"], one["kind"], one["detail"]) == (T0 + 102, "sensor", "baro stands still")
    assert reader.counts(engine)["conflicts"] == 9
    engine.dispose()
    schema.open_store(store_url, create=False).dispose()


def defaults_differ(
    _context: Any, _there: Any, column: Any, found: str | None, default: Any, _text: Any
) -> bool | None:
    """Alembic's own comparison takes SQLite's '' for another default than ''."""
    if found is not None and found.startswith("nextval("):
        return not column.autoincrement
    wanted = None if default is None else str(getattr(default.arg, "text", default.arg))
    plain = None if found is None else found.split("::")[0].strip("()'")
    return plain not in {wanted, "0" if wanted == "false" else wanted}


@pytest.mark.parametrize("how", ["made", "upgraded"])
def test_migrated_schema_and_metadata_agree(store_url: str, how: str) -> None:
    if how == "upgraded":
        old_store(store_url).dispose()
    engine = schema.open_store(store_url)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": defaults_differ}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "0002"
        # covey 0.1 refuses what is above 1.
        assert connection.execute(sa.text("SELECT version FROM schema_version")).scalar_one() == 2
    engine.dispose()


def test_a_reader_refuses_an_old_store_and_says_what_upgrades_it(store_url: str) -> None:
    old_store(store_url).dispose()
    with pytest.raises(StoreError, match="version 2 expected, 1 found; `covey cloud store upgrade") as told:
        schema.open_store(store_url, create=False)
    assert "\n" not in str(told.value)
    upgraded = subprocess.run(
        cloud_command("store", "upgrade", "--store", store_url, "--json"), capture_output=True, check=True, timeout=60
    )
    assert json.loads(upgraded.stdout) == {"before": 1, "version": 2}
    schema.open_store(store_url, create=False).dispose()


@pytest.mark.parametrize("create", [True, False])
def test_newer_store_is_refused(store_url: str, create: bool) -> None:
    engine = schema.open_store(store_url)
    with schema.write(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0003'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer covey"):
        schema.open_store(store_url, create=create)


def test_a_store_without_its_number_is_refused(store_url: str) -> None:
    engine = schema.open_store(store_url)
    with schema.write(engine) as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    engine.dispose()
    with pytest.raises(StoreError, match="not a store of ours"):
        schema.open_store(store_url)


# Upgrades, and stands still for good at the last statement of the step, where the test kills it.
_UPGRADER = """
import sys, time
sys.path.insert(0, {tests!r})
import sqlalchemy as sa
from cloud.store import schema
def stand(_connection, _cursor, statement, *_):
    if statement.startswith("UPDATE schema_version"):
        print("here", flush=True)
        sys.stdin.read()
sa.event.listen(sa.Engine, "after_cursor_execute", stand)
schema.open_store({url!r})
"""


def test_an_upgrade_killed_in_the_middle_leaves_the_old_store(store_url: str) -> None:
    old = old_store(store_url)
    before = rows_of(old)
    code = _UPGRADER.format(tests=TESTS, url=store_url)
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as upgrader:
            assert upgrader.stdout is not None
            assert upgrader.stdout.readline() == "here\n"
            os.kill(upgrader.pid, signal.SIGKILL)
        assert rows_of(old) == before
    old.dispose()
    schema.open_store(store_url).dispose()
