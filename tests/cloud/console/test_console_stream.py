"""Snapshot and stream meet: what a browser rebuilds from both is what a fresh snapshot shows, also over a broken line."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import cloud_events as ev
import console_rig as rig
from cloud.desk import devices as desk
from cloud.desk import judge
from cloud.store.schema import open_store
from cloud.store.writer import write_batch
from servers import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

DEVICES = [f"s{number:02d}" for number in range(30)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture(params=["sqlite", "postgres"])
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[rig.Console, Engine]]:
    if request.param == "postgres":
        url = request.getfixturevalue("server").database()
        engine = open_store(url)
        rig.fill(engine)
    else:
        url, engine = rig.new_store(tmp_path)
    with rig.Console(tmp_path, url, requests_per_s=1000) as console:
        yield console, engine
    engine.dispose()


def write(engine: Engine, stop: threading.Event) -> None:
    """A lively fleet: summaries, alarms, verdicts, moves, devices that come and are retired."""
    seq = 100
    while not stop.is_set():
        seq += 1
        now = time.time()
        name = DEVICES[seq % len(DEVICES)]
        events = [ev.received(seq, ev.summary(seq, end_s=now), device=name, received_s=now)]
        if seq % 3 == 0:
            events.append(ev.received(100_000 + seq, ev.alarm(f"{name}-{seq}"), device=name, received_s=now))
        write_batch(engine, "b", {}, events)
        if seq % 3 == 0 and seq % 2:
            judge.judge(engine, [(name, f"{name}-{seq}")], "rejected", "", rig.HERE)
        if seq % 17 == 0:
            desk.move(engine, name, f"g{seq % 4}", "http://127.0.0.1:1", rig.HERE)
        if seq % 29 == 0:
            desk.set_state(engine, name, "retired" if seq % 2 else "active", rig.HERE)
        stop.wait(0.01)


def essence(view: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the moment: groups by name, since a fresh process numbers them anew."""
    names = [group["name"] for group in view["groups"]]
    return {
        "devices": {row[0]: (names[row[1]], *row[2:]) for row in view["devices"]},
        "counts": view["counts"],
        "alarms": sorted((one["device"], one["alarm_id"], one["state"]) for one in view["alarms"]),
    }


def test_nothing_is_missed_or_doubled_between_snapshot_and_stream_and_over_broken_lines(
    running: tuple[rig.Console, Engine],
) -> None:
    console, engine = running
    stop = threading.Event()
    writer = threading.Thread(target=write, args=(engine, stop))
    writer.start()
    try:
        with console.client() as client:
            view = client.get("/api/fleet").json()
            cursor, frames = view["cursor"], 0
            for part in range(4):  # the line breaks three times; each new one begins at the last id
                way = {"params": {"cursor": cursor}} if part == 0 else {"headers": {"Last-Event-ID": str(cursor)}}
                with client.stream("GET", "/api/stream", **way) as answer:
                    for name, number, data in rig.events_of(answer.iter_lines()):
                        assert name in ("hello", "fleet", "learning"), name
                        if name == "hello":
                            assert data["cursor"] == cursor
                            continue
                        assert number is not None
                        assert number == cursor + 1, "a frame is missing"
                        cursor = number
                        if name == "fleet":
                            view = rig.rebuilt(view, data)
                            frames += 1
                        if frames >= 4 * (part + 1):
                            break
            stop.set()
            writer.join(20)
            with client.stream("GET", "/api/stream", headers={"Last-Event-ID": str(cursor)}) as answer:
                deadline = time.monotonic() + 30
                for name, number, data in rig.events_of(answer.iter_lines()):
                    if name == "fleet":
                        view, cursor = rig.rebuilt(view, data), number
                    fresh = client.get("/api/fleet").json()
                    if fresh["cursor"] == cursor and essence(fresh) == essence(view):
                        break
                    assert time.monotonic() < deadline, "the rebuilt view does not become the fresh one"
    finally:
        stop.set()
        writer.join(20)


def test_a_cursor_that_is_too_old_or_anothers_gets_a_snapshot(running: tuple[rig.Console, Engine]) -> None:
    console, _ = running
    with console.client() as client:
        for cursor in (1, 2**52):
            with client.stream("GET", "/api/stream", params={"cursor": cursor}) as answer:
                events = rig.events_of(answer.iter_lines())
                assert next(events)[0] == "hello"
                name, number, data = next(events)
                assert (name, number) == ("snapshot", data["cursor"])
                assert {row[0] for row in data["devices"]} == {"d1", "d2", "d3"}


def test_an_alarm_that_is_written_is_on_the_stream_within_a_second(running: tuple[rig.Console, Engine]) -> None:
    console, engine = running
    with console.client() as client:
        cursor = client.get("/api/fleet").json()["cursor"]
        with client.stream("GET", "/api/stream", params={"cursor": cursor}) as answer:
            events = rig.events_of(answer.iter_lines())
            assert next(events)[0] == "hello"
            now = time.time()
            write_batch(engine, "b", {}, [ev.received(77, ev.alarm("new"), device="d2", received_s=now)])
            for _name, _number, data in events:
                if any(one["alarm_id"] == "new" for one in data.get("alarms", [])):
                    break
            row = next(row for row in data["devices"] if row[0] == "d2")
            assert row[2] == "alarm"
