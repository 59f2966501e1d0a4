"""What the store forgets: summaries become hours, identities stay refused, alarms live longer, and nothing else is touched."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa

from cloud.config import RetentionConfig
from cloud.store import hours, reader, retention, schema, tables
from cloud.store.retention import forget, ranges
from cloud.store.schema import open_store
from cloud.store.writer import write_batch
from cloud_events import T0, alarm, received, summary
from covey import wire
from covey.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

DAY_S = 86_400.0
NOW = T0 + 100 * DAY_S
KEEP = RetentionConfig(events_days=30, alarms_days=90)


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = open_store(store_url)
    yield made
    made.dispose()


def scored(seq: int, *scores: float, end_s: float = T0, **changes: Any) -> wire.Summary:
    sketch = Sketch()
    sketch.extend(scores)
    p50, p99 = sketch.quantile(0.5), sketch.quantile(0.99)
    told = wire.Scores(p50=p50, p95=p99, p99=p99, max=max(scores), sketch=sketch.to_wire())
    return summary(seq, start_s=end_s - 30, end_s=end_s, windows=len(scores), score=told, **changes)


def rows(engine: Engine, table: sa.Table) -> list[Any]:
    with schema.read(engine) as connection:
        return connection.execute(sa.select(table)).all()


def put(engine: Engine, age_days: float, *events: tuple[int, Any]) -> None:
    at_s = NOW - age_days * DAY_S
    write_batch(engine, "b", {}, [received(seq, data, received_s=at_s) for seq, data in events])


def test_an_hour_has_the_quantiles_of_all_its_scores(engine: Engine) -> None:
    parts = [[0.1 * n + 0.01 * part for n in range(1, 40)] for part in range(3)]
    put(engine, 60, *((n + 1, scored(n + 1, *some, end_s=T0 + 60 * n)) for n, some in enumerate(parts)))
    put(engine, 60, (9, scored(9, 5.0, end_s=T0 + 2 * hours.HOUR_S, threshold=7.0)))
    assert forget(KEEP, engine, NOW) == {"events": 4}
    assert rows(engine, tables.summaries) == []
    first, second = sorted(rows(engine, tables.hours), key=lambda row: row.hour_s)
    whole = Sketch()
    whole.extend(value for some in parts for value in some)
    assert (first.hour_s % 3600, first.summaries, first.windows) == (0, 3, 117)
    assert msgspec.json.decode(first.sketch) == whole.to_wire()
    assert (first.p50, first.p99) == (whole.quantile(0.5), whole.quantile(0.99))
    assert first.max == pytest.approx(3.92)
    assert (second.summaries, second.max, second.threshold) == (1, 5.0, 7.0)


def test_a_later_run_adds_to_the_hour_that_is_there(engine: Engine) -> None:
    put(engine, 60, (1, scored(1, 1.0, 2.0)))
    forget(KEEP, engine, NOW)
    put(engine, 59, (2, scored(2, 3.0, alarmed_windows=1)))
    forget(KEEP, engine, NOW)
    (hour,) = rows(engine, tables.hours)
    assert (hour.summaries, hour.windows, hour.max) == (2, 3, 3.0)


def test_what_was_forgotten_is_still_a_repeat(engine: Engine) -> None:
    put(engine, 60, *((seq, scored(seq, 1.0)) for seq in (1, 2, 3, 5)))
    forget(KEEP, engine, NOW)
    assert [(row.first, row.last) for row in rows(engine, tables.aged_out)] == [(1, 3), (5, 5)]
    again = [received(seq, scored(seq, 1.0), received_s=NOW) for seq in (1, 2, 3, 5)]
    applied = write_batch(engine, "b", {}, again)
    assert (applied.stored, applied.repeated) == (0, 4)
    late = write_batch(engine, "b", {}, [received(4, scored(4, 1.0), received_s=NOW - 60 * DAY_S)])
    assert late.stored == 1
    forget(KEEP, engine, NOW)
    assert [(row.first, row.last) for row in rows(engine, tables.aged_out)] == [(1, 5)]
    assert reader.counts(engine)["missing"] == 0


def test_young_events_and_alarms_events_stay_and_a_page_of_kept_ones_hides_nothing(engine: Engine) -> None:
    kept = [(seq, alarm(f"a{seq}", "end")) for seq in range(1, retention.PAGE + 10)]
    put(engine, 60, *kept)
    put(engine, 59, (2_000, scored(2_000, 1.0)))
    put(engine, 1, (2_001, scored(2_001, 1.0)))
    assert forget(KEEP, engine, NOW) == {"events": 1}
    assert [row.seq for row in rows(engine, tables.summaries)] == [2_001]
    assert len(rows(engine, tables.events)) == len(kept) + 1


def test_alarms_go_when_they_are_old_and_over_and_never_while_they_are_open(engine: Engine) -> None:
    put(engine, 95, (1, alarm("over")), (2, alarm("over", "end")), (3, alarm("open")))
    put(engine, 60, (4, alarm("young")), (5, alarm("young", "end")))
    found = forget(KEEP, engine, NOW)
    assert found["alarms"] == 1
    assert sorted(row.alarm_id for row in rows(engine, tables.alarms)) == ["open", "young"]


def test_a_dry_run_counts_what_a_run_then_deletes(engine: Engine) -> None:
    put(engine, 60, *((seq, scored(seq, 1.0)) for seq in range(1, 1_300)))
    put(engine, 95, (2_000, alarm("over")), (2_001, alarm("over", "end")))
    would = forget(KEEP, engine, NOW, dry_run=True)
    assert would["events"] == 1_301
    assert len(rows(engine, tables.events)) == 1_301
    assert rows(engine, tables.hours) == rows(engine, tables.aged_out) == []
    assert forget(KEEP, engine, NOW) == would


def test_for_ever_is_for_ever_and_a_stop_ends_it_between_two_steps(engine: Engine) -> None:
    put(engine, 3_000, (1, scored(1, 1.0)))
    for_ever = RetentionConfig(
        events_days=0, alarms_days=0, hours_days=0, learning_days=0, deliveries_days=0, dead_letters_days=0
    )
    assert forget(for_ever, engine, NOW) == {}
    stop = threading.Event()
    stop.set()
    assert forget(KEEP, engine, NOW, stop) == {}
    assert len(rows(engine, tables.events)) == 1


def test_totals_do_not_change_by_forgetting(engine: Engine) -> None:
    put(engine, 60, *((seq, scored(seq, 1.0, 2.0)) for seq in range(1, 20)))
    before = reader.counts(engine)
    forget(KEEP, engine, NOW)
    assert reader.counts(engine) == before


@pytest.mark.parametrize(
    ("seqs", "there", "expected"),
    [
        ([], [], []),
        ([3], [], [(3, 3)]),
        ([1, 2, 3], [], [(1, 3)]),
        ([4], [(1, 3), (5, 9)], [(1, 9)]),
        ([2, 7], [(4, 5)], [(2, 2), (4, 5), (7, 7)]),
        ([5], [(1, 9)], [(1, 9)]),
    ],
)
def test_ranges_by_hand(seqs: list[int], there: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert ranges(seqs, there) == expected


def test_alarms_kept_shorter_than_events_are_refused() -> None:
    with pytest.raises(ValueError, match="alarms_days not below events_days"):
        RetentionConfig(events_days=30, alarms_days=10)
