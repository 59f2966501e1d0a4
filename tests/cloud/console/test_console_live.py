"""The live loop among several writers and several browsers: what they are told is what the store holds, and nobody holds up another."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import sqlalchemy as sa

import console_rig as rig
from cloud.console import rows
from cloud.console.fleet import Fleet
from cloud.console.live import QUEUE_FRAMES, Live
from cloud.desk import devices, erase, judge
from cloud.store import changes, schema, tables
from covey import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

DEVICES = 60


class Site:
    def __init__(self, console: rig.Console, engine: Engine) -> None:
        self.console, self.engine = console, engine


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stream")
    url, engine = rig.new_store(folder)
    with rig.Console(folder, url, requests_per_s=1000) as console:
        yield Site(console, engine)
    engine.dispose()


class Writers:
    """Several threads that write as stages and people do, until they are told to stop."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._stop = engine, threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(seed,)) for seed in range(3)]
        self.failed: list[Exception] = []
        self.written = 0

    def __enter__(self) -> Writers:  # noqa: PYI034  # not subclassed
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.failed, self.failed

    def _write(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not self._stop.wait(0.002):
                self._once(rng, f"w{seed}-{rng.randrange(DEVICES)}")
                self.written += 1
        except Exception as error:  # noqa: BLE001  # told to the test
            self.failed.append(error)

    def _once(self, rng: random.Random, name: str) -> None:
        kind, now = rng.randrange(8), time.time()
        if kind < 4:
            with schema.write(self._engine) as connection:
                for _ in range(rng.randrange(1, 5)):
                    seen = {"last_seen_s": now, "first_seen_s": now - 1e6, "score_max": rng.random(), "threshold": 1.0}
                    rig.put_device(connection, name, group=f"g{rng.randrange(4)}", **seen)
                    if rng.random() < 0.5:
                        state = rng.choice(["begin", "end"])
                        rig.put_alarm(connection, name, f"{name}-{rng.randrange(3)}", state=state, begin_s=now)
            return
        with schema.read(self._engine) as connection:
            have = connection.execute(sa.select(tables.devices.c.device).where(tables.devices.c.device == name)).first()
            query = sa.select(tables.alarms.c.alarm_id).where(tables.alarms.c.device == name)
            raised = connection.execute(query).scalars().first()
        if have is None:
            return
        if kind == 4 and raised:
            judge.judge(self._engine, [(name, raised)], rng.choice(["confirmed", "rejected", "undone"]), "", rig.HERE)
        elif kind == 5:
            devices.set_state(self._engine, name, rng.choice(["active", "retired"]), rig.HERE)
        elif kind == 6 and rng.random() < 0.1:
            erase.forget(self._engine, name, rig.HERE)


def settled(site: Site, view: dict[str, Any], events: Iterator[tuple[str, int | None, Any]]) -> dict[str, Any]:
    """Go on with the stream until it stands where a fresh snapshot stands."""
    deadline = time.monotonic() + 20
    with site.console.client() as client:
        fresh = client.get("/api/fleet").json()
        while view["cursor"] < fresh["cursor"]:
            name, _, data = next(events)
            assert name in ("fleet", "learning")
            view = rig.rebuilt(view, data) if name == "fleet" else {**view, "cursor": view["cursor"] + 1}
            if time.monotonic() > deadline:
                break
            fresh = client.get("/api/fleet").json()
    assert {**view, "now_s": 0} == {**fresh, "now_s": 0}
    return view


def told_of(view: dict[str, Any]) -> dict[str, Any]:
    """What a view says, in words that do not depend on when its groups were met first."""
    names = [group["name"] for group in view["groups"]]
    return {
        "devices": {row[0]: (names[row[1]], *row[2:]) for row in view["devices"]},
        "counts": view["counts"],
        "groups": {group["name"]: group["devices"] for group in view["groups"] if group["devices"]},
        "incidents": {one["id"]: sorted(one["alarms"]) for one in view["incidents"]},
        "alarms": [(one["device"], one["alarm_id"], one["state"]) for one in view["alarms"]],
    }


def truth(site: Site) -> dict[str, Any]:
    """What the store holds, read at once by a view that has seen nothing before."""
    fleet, whole = Fleet(), rows.everything(site.engine)
    fleet.replace(whole.devices, whole.alarms, time.time())
    return told_of(json.loads(msgspec.json.encode(fleet.snapshot())))


def quiet(site: Site) -> None:
    """Wait until the console has read what is written: two looks apart, the same cursor."""
    with site.console.client() as client:
        before = -1
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            cursor = client.get("/api/fleet").json()["cursor"]
            if cursor == before:
                return
            before = cursor
            time.sleep(0.6)


def test_snapshot_and_stream_meet_under_concurrent_writes(site: Site):
    with ExitStack() as stack:
        client = stack.enter_context(site.console.client())
        views: list[dict[str, Any]] = []
        streams: list[Iterator[tuple[str, int | None, Any]]] = []
        with Writers(site.engine) as writers:
            while len(views) < 4:
                time.sleep(0.3)
                views.append(client.get("/api/fleet").json())
                time.sleep(0.4)  # what comes between the two must be in the stream
                opened = stack.enter_context(client.stream("GET", f"/api/stream?cursor={views[-1]['cursor']}"))
                streams.append(rig.events_of(opened.iter_lines()))
            cursors: list[list[int]] = [[] for _ in views]
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                for number, events in enumerate(streams):
                    name, cursor, data = next(events)
                    if name == "hello":
                        assert data["cursor"] == views[number]["cursor"]
                    else:
                        assert (name, cursor) == ("fleet", data["cursor"])
                        cursors[number].append(data["cursor"])
                        views[number] = rig.rebuilt(views[number], data)
        assert writers.written > 100
        quiet(site)
        for number, events in enumerate(streams):
            assert told_of(settled(site, views[number], events)) == truth(site)
            seen = cursors[number]
            assert len(seen) > 5
            assert seen == list(range(seen[0], seen[0] + len(seen)))  # none missed, none twice


def test_a_line_of_a_training_run_is_told(site: Site):
    with site.console.client() as client:
        cursor = client.get("/api/fleet").json()["cursor"]
        with client.stream("GET", f"/api/stream?cursor={cursor}") as answer:
            events = rig.events_of(answer.iter_lines())
            next(events)
            with schema.write(site.engine) as connection:
                line = wire.RoundEvent(rig.RUN, 6, time.time(), "released", detail="done")
                row = {name: getattr(line, name) for name in ("run", "seq", "time_s", "kind", "round")}
                values = {**row, "body": wire.encode(line), "changed": changes.number(connection)}
                connection.execute(sa.insert(tables.rounds).values(values))
            name, _, data = next(events)
            while name != "learning":
                name, _, data = next(events)
        assert data == {"run": rig.RUN, "kind": "released", "round": 0}
        assert client.get(f"/api/runs/{rig.RUN}").json()["state"] == "released"


def test_an_alarm_comes_by_the_stream_alone(site: Site):
    with site.console.client() as client:
        cursor = client.get("/api/fleet").json()["cursor"]
        with client.stream("GET", f"/api/stream?cursor={cursor}") as answer:
            events = rig.events_of(answer.iter_lines())
            next(events)
            waits = []
            for number in range(8):
                with schema.write(site.engine) as connection:
                    rig.put_alarm(connection, "d2", f"quick-{number}")
                written = time.monotonic()
                name, _, data = next(events)
                while name != "fleet" or not any(a["alarm_id"] == f"quick-{number}" for a in data.get("alarms", [])):
                    name, _, data = next(events)
                waits.append(time.monotonic() - written)
    assert sorted(waits)[len(waits) // 2] < 5.0, (
        waits
    )  # of a loaded machine; benchmarks/bench_console.py has the figure


def test_a_browser_that_takes_nothing_is_cut_off_and_holds_nobody_up(site: Site):
    with socket.create_connection(("127.0.0.1", site.console.port)) as lazy:
        lazy.sendall(b"GET /api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with site.console.client() as client, Writers(site.engine):
            cursor = client.get("/api/fleet").json()["cursor"]
            with client.stream("GET", f"/api/stream?cursor={cursor}") as answer:
                events = rig.events_of(answer.iter_lines())
                begin, frames = time.monotonic(), 0
                while time.monotonic() - begin < 3:
                    frames += next(events)[0] == "fleet"
                assert 3 <= frames <= 13  # at most four a second, and the lazy one holds nobody up


def test_a_listener_holds_so_many_frames_and_is_then_let_go(site: Site):
    live = Live(site.engine)
    listener = live.listen(None)
    for number in range(QUEUE_FRAMES + 10):
        live._send("fleet", {"n": number})
    assert listener.cut
    assert live.listeners == 0
    assert live.figures.cut_off == 1
    assert listener._frames.qsize() == 1  # its end
    live.dispose()
