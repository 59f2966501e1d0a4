"""Which device is wanted to run which release, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store import reader, schema, tables
from cloud.store.writer import write_batch
from cloud_events import DIGEST, T0, received, reported, summary
from covey import topics, wire
from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

URL = "http://127.0.0.1:1"


def release(number: int, group: str = "default") -> Release:
    return Release(group, number, DIGEST, f"{group}/{number}.covey", 99, T0, "note")


def hear(engine: Engine, *devices: str, revision: int = 0) -> None:
    for device in devices:
        said = summary(1, reported=reported(revision=revision))
        write_batch(engine, "b", {}, [received(1, said, device=device)])


def wanted(engine: Engine) -> dict[str, tuple[int, int]]:
    return {row["device"]: (row["desired"], row["desired_revision"]) for row in reader.fleet(engine)}


def told(engine: Engine, topic: str) -> list[wire.Desired | wire.Learning]:
    kind = wire.Desired if topic == topics.DESIRED else wire.Learning
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(tables.outgoing).order_by(tables.outgoing.c.id)).all()
    return [wire.decode(kind, row.value) for row in rows if row.topic == topic]


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """A new store on each database."""
    made = schema.open_store(store_url)
    yield made
    made.dispose()


def test_a_release_is_wanted_of_every_device_of_its_group(engine: Engine) -> None:
    hear(engine, "d1", "d2")
    assert desired.assign(engine, release(1), URL) == ["d1", "d2"]
    assert desired.assign(engine, release(2), URL) == ["d1", "d2"]
    assert wanted(engine) == {"d1": (2, 2), "d2": (2, 2)}
    first = told(engine, topics.DESIRED)[0]
    assert first == wire.Desired("d1", 1, "default", 1, "default/1.covey", DIGEST, 99, URL)
    steps = [(one.kind, one.device, one.release) for one in told(engine, topics.LEARNING)]
    assert steps[:3] == [("release", "", 1), ("desired", "d1", 1), ("desired", "d2", 1)]


def test_named_devices_only_and_they_join_the_group(engine: Engine) -> None:
    hear(engine, "d1", "d2")
    assert desired.assign(engine, release(1, "north"), URL, ["d2", "unheard"]) == ["d2", "unheard"]
    assert {row["device"]: row["group"] for row in reader.fleet(engine)} == {
        "d1": "default",
        "d2": "north",
        "unheard": "north",
    }
    with pytest.raises(UsageError, match="device name"):
        desired.assign(engine, release(2, "north"), URL, ["a/b"])


def test_a_device_that_appears_gets_the_newest_group_wide_release(engine: Engine) -> None:
    assert desired.adopt(engine, URL) == []
    desired.assign(engine, release(1), URL)
    desired.assign(engine, release(2), URL)
    hear(engine, "d1")
    desired.assign(engine, release(3), URL, ["d1"])  # a first ring
    hear(engine, "d2")
    assert desired.adopt(engine, URL) == ["d2"]
    assert desired.adopt(engine, URL) == []
    assert wanted(engine) == {"d1": (3, 1), "d2": (2, 1)}


def test_releases_of_a_cut_short_add_belong_to_nobody(engine: Engine) -> None:
    hear(engine, "d1")
    desired.record_releases(engine, [release(1)])
    assert desired.adopt(engine, URL) == []
    desired.assign(engine, release(2), URL)
    desired.record_releases(engine, [release(1), release(2)])
    hear(engine, "d2")
    assert desired.adopt(engine, URL) == ["d2"]


def test_revisions_go_on_above_what_the_device_acted_on(engine: Engine) -> None:
    # a store that was lost: the device remembers revision 41
    hear(engine, "d1", revision=41)
    desired.assign(engine, release(1), URL)
    assert wanted(engine) == {"d1": (1, 42)}


def test_all_desired_are_told_again_and_follow_the_repository(engine: Engine) -> None:
    hear(engine, "d1")
    desired.assign(engine, release(1), URL)
    assert desired.republish(engine, URL) == 1
    assert desired.republish(engine, "http://10.0.0.5:8200") == 1
    said = [(one.revision, one.url) for one in told(engine, topics.DESIRED)]
    assert said == [(1, URL), (1, URL), (2, "http://10.0.0.5:8200")]


def test_releases_show_who_wants_and_who_runs_them(engine: Engine) -> None:
    hear(engine, "d1", "d2")
    desired.assign(engine, release(1), URL)
    write_batch(engine, "b", {}, [received(2, summary(2, reported=reported(release=1, digest=DIGEST)))])
    (row,) = reader.releases(engine)
    assert (row["number"], row["wanted"], row["running"], row["waiting"]) == (1, 2, 1, 1)


def test_who_runs_a_release_unasked_does_not_hide_who_still_has_to_take_it(engine: Engine) -> None:
    hear(engine, "d1", "d2")
    desired.assign(engine, release(1), URL)
    said = summary(2, reported=reported(release=1, digest=DIGEST))
    write_batch(engine, "b", {}, [received(2, said, device=name) for name in ("d1", "d3")])
    (row,) = reader.releases(engine)
    assert (row["wanted"], row["running"], row["waiting"]) == (2, 2, 1)  # d2 is who waits; d3 came later and runs it


def test_base_url_is_what_run_was_told(engine: Engine) -> None:
    assert desired.known_base_url(engine) == "http://127.0.0.1:8200"
    desired.say_base_url(engine, URL)
    assert desired.known_base_url(engine) == URL
