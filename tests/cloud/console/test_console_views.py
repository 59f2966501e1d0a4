"""What pages say of alarms, devices, runs and losses, by cases worked by hand; on each kind of store."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

import cloud_events as ev
import console_rig as rig
from cloud.console import alarm_view, device_view, files, learning_view, rows, system_view
from cloud.console.api_alarms import _whole as whole_alarm
from cloud.store import changes, schema, tables
from cloud.store.schema import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from cloud.console.why_view import Why


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = open_store(store_url)
    rig.fill(made)
    yield made
    made.dispose()


class _Given:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def why_of(engine: Engine) -> Why:
    return whole_alarm(_Given(engine), "d1", "a1").why  # type: ignore[arg-type]  # it asks for the engine only


def states(why: Why) -> dict[str, str]:
    return {step.what: step.state for step in why.steps}


def test_why_ticks_only_what_the_cloud_compared(engine: Engine):
    why = why_of(engine)
    assert why.cause == "motor.m1 drove d1 to 1.75 times its threshold"  # 3.5 / 2
    assert why.peers == "1 of 2 peers in default shows the same"
    assert why.event == f"d1/{ev.OUTBOX}/1"
    assert why.command == f"covey cloud why d1/{ev.OUTBOX}/1"
    assert states(why) == {
        "window": "told",
        "model": "checked",  # number and digest are those of a release signed here
        "score": "told",
        "alarm": "checked",  # the stored bytes have the hash they came with
        "gateway": "told",
        "context": "told",
        "route": "told",
        "you": "waiting",
    }
    by_name = {step.what: step for step in why.steps}
    assert by_name["model"].digest == ev.DIGEST
    assert by_name["route"].text == "high, by rule loud"
    assert by_name["route"].detail == "pager: delivered"
    assert by_name["context"].delay_s == pytest.approx(1.0)
    assert by_name["route"].delay_s == pytest.approx(1.0)
    assert by_name["window"].delay_s is None
    # The device's clock says a day of February, Kafka's says today.
    told = "later by two clocks, the device's and Kafka's: kept on the device until then, or its clock is behind"
    assert by_name["gateway"].detail == f"trace {'1' * 32}; {told}"


def test_why_says_that_a_devices_clock_is_ahead(engine: Engine):
    with schema.write(engine) as connection:
        written_s = ev.T0 + 1.0  # of the alarm's event, by its device
        connection.execute(sa.update(tables.alarms).values(received_s=written_s - 10.0))
    step = next(step for step in why_of(engine).steps if step.what == "gateway")
    assert step.detail.endswith("; the device's clock is at least 10 s ahead")
    assert step.delay_s == 0.0


def test_why_says_where_a_comparison_failed(engine: Engine):
    with schema.write(engine) as connection:
        event, release = tables.events, tables.releases
        connection.execute(sa.update(event).where(event.c.device == "d1", event.c.seq == 1).values(sha256="00" * 32))
        connection.execute(sa.update(release).values(digest="11" * 32))
    why = why_of(engine)
    assert states(why) | {"model": "failed", "alarm": "failed"} == states(why)
    assert why.checks.startswith(
        "the model is NOT one that this cloud signed; the stored bytes are NOT those that came"
    )


def test_why_without_the_event_or_the_stages_waits_and_claims_nothing(engine: Engine):
    with schema.write(engine) as connection:
        for table in (tables.events, tables.enrichments, tables.routings, tables.deliveries):
            connection.execute(sa.delete(table))
    why = why_of(engine)
    assert [step.what for step in why.steps if step.state == "checked"] == []
    assert (states(why)["context"], states(why)["route"]) == ("waiting", "waiting")
    assert why.checks == "nothing could be compared"


def test_an_alarms_row_has_its_context_and_level(engine: Engine):
    (row,), more = alarm_view.page(engine, alarm_view.Filter(), 10, None)
    assert more is None
    assert (row.ratio, row.level, row.rule, row.peers, row.peers_alarming, row.lift) == (
        1.75,
        "high",
        "loud",
        2,
        1,
        2.5,
    )


def test_filters_of_the_inbox_each_cut_what_they_name(engine: Engine):
    now = ev.now()
    with schema.write(engine) as connection:
        rig.put_alarm(connection, "d2", "b1", state="end", end_s=now, begin_s=now - 1000, top_channel="baro")
        rig.put_alarm(
            connection, "d3", "c1", verdict="confirmed", begin_s=now - 10, kind="sensor", received_s=now - 500
        )

    def ids(**which: object) -> list[str]:
        return [row.alarm_id for row in alarm_view.page(engine, alarm_view.Filter(**which), 10, None)[0]]  # type: ignore[arg-type]

    assert ids() == ["b1", "a1", "c1"]  # the last heard of first
    assert ids(open=True) == ["a1", "c1"]
    assert ids(open=False) == ["b1"]
    assert ids(unjudged=True) == ["b1", "a1"]
    assert ids(device="d3") == ["c1"]
    assert ids(group="default") == ["b1", "a1", "c1"]
    assert ids(group="other") == []
    assert ids(channel="baro") == ["b1", "c1"]
    assert ids(level="high") == ["a1"]
    assert ids(kind="sensor") == ["c1"]
    assert ids(from_s=now - 100) == ["c1"]
    assert ids(from_s=now - 2000, to_s=now - 100) == ["b1"]


def test_scores_are_put_together_without_losing_what_stood_out(engine: Engine):
    # Ten periods of d1, seq 2 to 11, end at T0 + seq + 1: p50 1, p99 1.8, max 2.5; one is made to stand out.
    with schema.write(engine) as connection:
        table = tables.summaries
        connection.execute(sa.update(table).where(table.c.device == "d1", table.c.seq == 5).values(max=9.0, p50=3.0))
    whole = device_view.scores(engine, "d1", ev.T0, ev.T0 + 100, 600)
    assert whole is not None
    assert (whole.resolution, whole.step_s, len(whole.t)) == ("period", 1.0, 10)
    assert whole.t == [ev.T0 + seq + 1 for seq in range(2, 12)]
    assert whole.max == [2.5, 2.5, 2.5, 9.0] + [2.5] * 6
    assert whole.alarms == [[ev.T0, None, "a1"]]
    few = device_view.scores(engine, "d1", ev.T0, ev.T0 + 100, 2)
    assert few is not None
    assert (few.t, few.max, few.p50) == ([ev.T0 + 7, ev.T0 + 12], [9.0, 2.5], [1.0, 1.0])
    assert device_view.scores(engine, "none", 0.0, 1.0, 5) is None


def test_hours_stand_for_periods_that_retention_has_taken(engine: Engine):
    start = int(ev.T0 // 3600) * 3600 - 7200
    with schema.write(engine) as connection:
        hour = {
            "summaries": 1,
            "windows": 5,
            "alarmed_windows": 0,
            "threshold": 2.0,
            "p50": 0.5,
            "p99": 1.0,
            "max": 4.0,
        }
        hour |= {"drift_input": 0.0, "drift_score": 1.0, "release": 1, "sketch": "[]"}
        connection.execute(
            sa.insert(tables.hours), [{"device": "d1", "hour_s": start + n * 3600, **hour} for n in (0, 1)]
        )
    told = device_view.scores(engine, "d1", start, ev.T0 + 100, 600)
    assert told is not None
    assert told.resolution == "hour"
    assert told.t[:2] == [start + 3600, start + 7200]
    assert told.max == [4.0, 4.0, 2.5]  # the ten periods lie in one hour


def test_a_run_is_what_its_lines_tell(engine: Engine):
    (one,) = learning_view.runs(engine)
    assert (one.run, one.family, one.engine, one.state, one.rounds, one.wanted, one.clients, one.loss) == (
        rig.RUN,
        "pca",
        "local",
        "running",
        1,
        2,
        1,
        0.5,
    )
    whole = learning_view.run(engine, rig.RUN)
    assert whole is not None
    assert [(line.round, line.clients, line.missing) for line in whole.lines] == [(1, 1, 1)]
    assert [(one.device, one.state, one.detail) for one in whole.devices] == [
        ("d1", "answered", ""),
        ("d2", "missing", "no answer"),
    ]


def test_the_system_says_in_one_sentence_whether_data_are_lost(engine: Engine):
    calm = system_view.system(engine, {})
    assert (calm.losing, calm.late, calm.dead_letters, calm.deliveries.delivered) == (False, False, {"not_json": 3}, 1)
    assert calm.text == "nothing is lost: 13 events stored, none missing"
    assert calm.store.size_bytes is not None
    assert calm.store.size_bytes > 0
    late = system_view.system(engine, {}, ev.now() + 31)
    assert late.stages[0].stale
    assert (late.losing, late.late) == (False, True)
    assert "stage store has not been heard of" in late.text
    with schema.write(engine) as connection:  # an instance that was taken away, beside one that is up
        more = {"stage": "store", "instance": "host:2", "partitions": 0, "lag": 0, "rate": 0.0, "wanted": 1}
        connection.execute(sa.insert(tables.stages).values(**more, seen_s=ev.now() + 30))
    fewer = system_view.system(engine, {}, ev.now() + 31)
    assert (len(fewer.stages), fewer.late, fewer.text) == (2, False, calm.text)
    lost = {**calm.counts, "dropped": 1200, "missing": 3}
    assert system_view.verdict(lost, calm.stages, system_view.Deliveries()) == (
        True,
        True,
        "1,200 events were given up by full devices; 3 events are on their way or lost",
    )


def test_the_system_is_not_calm_where_nothing_stores_what_arrives(engine: Engine):
    day_later = system_view.system(engine, {}, ev.now() + 86_401)  # no stage is listed any more
    assert day_later.stages == []
    assert (day_later.losing, day_later.late) == (False, True)
    assert day_later.text == "no store stage is up: what arrives waits in Kafka"
    with schema.write(engine) as connection:
        connection.execute(sa.update(tables.stages).values(stage="route", seen_s=ev.now()))
    assert system_view.system(engine, {}).text == "no store stage is up: what arrives waits in Kafka"


def test_what_changed_is_read_from_a_cursor_to_the_horizon_and_no_further(engine: Engine):
    whole = rows.everything(engine)
    assert sorted(one.device for one in whole.devices) == ["d1", "d2", "d3"]
    assert rows.changed(engine, whole.horizon).devices == []
    with schema.write(engine) as connection:
        rig.put_device(connection, "d2", last_seen_s=5.0)
    later = rows.changed(engine, whole.horizon)
    assert [(one.device, one.seen_s) for one in later.devices] == [("d2", 5.0)]
    with schema.write(engine) as connection:  # under way, while we look: it is read after its end, not before
        rig.put_device(connection, "d3", last_seen_s=6.0)
        between = rows.changed(engine, later.horizon)
        assert between.devices == []
    assert [one.device for one in rows.changed(engine, between.horizon).devices] == ["d3"]


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)  # SQLite has one writer at a time
@pytest.mark.broker
def test_changes_that_end_in_another_order_than_they_began_are_all_read(engine: Engine):
    cursor = rows.everything(engine).horizon
    with schema.write(engine) as early:
        rig.put_device(early, "d1", last_seen_s=7.0)
        assert changes.number(early) >= cursor
        with schema.write(engine) as late:
            rig.put_device(late, "d2", last_seen_s=8.0)
        first = rows.changed(engine, cursor)
        assert first.devices == []  # d2 waits for the older one
    second = rows.changed(engine, first.horizon)
    assert sorted(one.device for one in second.devices) == ["d1", "d2"]


def test_pages_and_files_are_found_and_compressed(tmp_path: Path):
    (tmp_path / "js").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>" + "x" * 1000)
    (tmp_path / "js" / "a.js").write_text("export const a = 1;" * 100)
    (tmp_path / ".hidden").write_text("no")
    found = files.read_all(tmp_path)
    assert set(found) == {"/index.html", "/js/a.js"}
    assert found["/js/a.js"].media_type == "text/javascript"
    assert gzip.decompress(found["/js/a.js"].compressed or b"") == found["/js/a.js"].body
    for page in ("/", "/inbox", "/why/d1/a1", "/devices/d1", "/rollouts", "/learning", "/system", "/login", "/inbox/"):
        assert files.address_of(page) == "/index.html", page
    for other in ("/js/a.js", "/api/me", "/../x", "/index.html/x", "/inboxes"):
        assert files.address_of(other) == other
