"""Two consoles beside each other on one store, as behind a proxy that sends a browser now to one, now to the other."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

import console_rig as rig
from cloud.store.schema import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

Pair = tuple[rig.Console, rig.Console]


@pytest.fixture
def consoles(tmp_path: Path, store_url: str) -> Iterator[Pair]:
    engine = open_store(store_url)
    rig.fill(engine)
    rig.add_accounts(engine)
    engine.dispose()
    with rig.Console(tmp_path, store_url) as one, rig.Console(tmp_path, store_url) as other:
        yield one, other


def at(console: rig.Console, client: httpx.Client) -> httpx.Client:
    """The same browser, sent to another console: its cookies and its CSRF token."""
    moved = console.client(cookies=dict(client.cookies))
    moved.headers["X-CSRF-Token"] = client.headers["X-CSRF-Token"]
    return moved


def alarm_told(events: Iterator[tuple[str, int | None, Any]]) -> dict[str, Any]:
    """Goes on with a stream until it tells of alarm a1."""
    for _name, _number, data in events:
        for one in data.get("alarms", []):
            if one["alarm_id"] == "a1":
                return dict(one)
    raise AssertionError("the stream ended")


def test_a_browser_may_be_sent_from_one_to_the_other(consoles: Pair) -> None:
    one, other = consoles
    with ExitStack() as stack:
        here = stack.enter_context(closing(one.logged_in("operator")))
        there = stack.enter_context(closing(at(other, here)))
        assert there.get("/api/me").json()["name"] == "operator"
        cursor = there.get("/api/fleet").json()["cursor"]
        stream = stack.enter_context(there.stream("GET", f"/api/stream?cursor={cursor}"))
        events = rig.events_of(stream.iter_lines())
        assert next(events)[0] == "hello"
        # What is done at one is live at the other.
        done = here.post("/api/alarms/d1/a1/verdict", json={"verdict": "acknowledged"})
        assert done.status_code == 201, done.text
        assert alarm_told(events)["seen_by"] == "operator"
        # The token of a session holds at both, and no other does.
        assert there.post("/api/alarms/d1/a1/verdict", json={"verdict": "confirmed"}).status_code == 201
        assert here.get("/api/alarms/d1/a1").json()["verdict"] == "confirmed"
        there.headers["X-CSRF-Token"] = "0" * 64
        assert there.post("/api/alarms/d1/a1/verdict", json={"verdict": "undone"}).status_code == 403
        # A session that is ended at one is ended at both.
        assert here.post("/api/logout").status_code in (200, 204)
        assert there.get("/api/fleet").status_code == 401


def test_a_stream_that_goes_on_at_the_other_begins_with_a_snapshot(consoles: Pair) -> None:
    """Each counts its own frames: going on from the other's would leave out what came between."""
    one, other = consoles
    with ExitStack() as stack:
        here = stack.enter_context(closing(one.logged_in("viewer")))
        there = stack.enter_context(closing(at(other, here)))
        cursor = here.get("/api/fleet").json()["cursor"]
        stream = stack.enter_context(there.stream("GET", "/api/stream", headers={"Last-Event-ID": str(cursor)}))
        events = rig.events_of(stream.iter_lines())
        assert next(events)[0] == "hello"
        name, _, whole = next(events)
        assert name == "snapshot"
        fresh = there.get("/api/fleet").json()
        assert [row[0] for row in whole["devices"]] == [row[0] for row in fresh["devices"]] == ["d1", "d2", "d3"]
