"""Two consoles beside each other on one store, as behind a proxy that sends a browser now to one, now to the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

import console_rig as rig
from cloud.desk import accounts
from cloud.store.schema import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

Pair = tuple[rig.Console, rig.Console]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.broker)])
def consoles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("several")
    url = f"sqlite:///{folder / 'store.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").database()
    engine = open_store(url)
    rig.fill(engine)
    rig.add_accounts(engine)
    accounts.add(engine, "eve", "viewer", rig.PASSWORD, rig.HERE)
    engine.dispose()
    with rig.Console(folder, url) as one, rig.Console(folder, url) as other:
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


def test_tries_to_log_in_are_counted_over_both(consoles: Pair) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(console.client())) for console in consoles]
        told = [rig.log_in(clients[n % 2], "eve", "wrong wrong wrong").status_code for n in range(12)]
        assert told == [401] * 10 + [429] * 2
        assert [rig.log_in(client, "eve").status_code for client in clients] == [429, 429]  # with the right one, too
        assert rig.log_in(clients[1], "operator").status_code == 200


def test_what_both_change_at_once_reaches_both_streams_whole(consoles: Pair) -> None:
    """Two browsers each judge at their own console and see the other's verdicts; in the end both views are what the store holds."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(console.logged_in("operator"))) for console in consoles]
        views = [client.get("/api/fleet").json() for client in clients]
        streams = []
        for client, view in zip(clients, views, strict=True):
            answer = stack.enter_context(client.stream("GET", f"/api/stream?cursor={view['cursor']}"))
            streams.append(rig.events_of(answer.iter_lines()))
            assert next(streams[-1])[0] == "hello"

        def work(number: int) -> None:
            for n in range(20):
                name = f"n{number}-{n:02d}"
                assert clients[number].post("/api/devices", json={"device": name}).status_code == 201
                verdict = ("confirmed", "undone")[n % 2]
                assert clients[number].post("/api/alarms/d1/a1/verdict", json={"verdict": verdict}).status_code == 201
                assert clients[number].patch(f"/api/devices/{name}", json={"group": f"g{n % 3}"}).status_code == 200

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work, number) for number in range(2)]:
                done.result(60)
        last = clients[0].post("/api/devices", json={"device": "last"})
        assert last.status_code == 201
        rebuilt = []
        for events, start in zip(streams, views, strict=True):
            view, cursor = start, start["cursor"]
            while "last" not in {row[0] for row in view["devices"]}:
                name, number, data = next(events)
                assert (name, number) == ("fleet", cursor + 1), "a frame is missing"
                view, cursor = rig.rebuilt(view, data), cursor + 1
            rebuilt.append(view)
    want = {"d1", "d2", "d3", "last"} | {f"n{number}-{n:02d}" for number in range(2) for n in range(20)}
    for view in rebuilt:
        groups = [group["name"] for group in view["groups"]]
        found = {row[0]: groups[row[1]] for row in view["devices"]}
        assert found.keys() == want
        assert all(found[f"n{number}-{n:02d}"] == f"g{n % 3}" for number in range(2) for n in range(20))


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
        names = [row[0] for row in whole["devices"]]
        assert {"d1", "d2", "d3"} <= set(names)
        assert sorted(names) == sorted(row[0] for row in fresh["devices"])
