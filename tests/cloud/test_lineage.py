"""Lineage as OpenLineage events: training run -> bundle -> release -> alarm, each told the same twice."""

from __future__ import annotations

import io
import json
import threading
import uuid
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from cloud.cli import app
from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store import schema, tables
from cloud.store.writer import write_batch
from cloud_events import DIGEST, T0, alarm, new_store, received
from covey import wire
from covey.cli import one_line

if TYPE_CHECKING:
    from pathlib import Path

RUN = "00112233445566aa"


@pytest.fixture
def store(tmp_path: Path) -> str:
    url, engine = new_store(tmp_path)
    lines = [
        wire.RoundEvent(RUN, 1, T0 - 100, "started", detail="pca simulation"),
        wire.RoundEvent(RUN, 2, T0 - 90, "round", round=1),
        wire.RoundEvent(RUN, 3, T0 - 80, "released", detail=DIGEST),
    ]
    with schema.write(engine) as connection:
        for line in lines:
            values = {"run": RUN, "seq": line.seq, "time_s": line.time_s, "kind": line.kind, "round": line.round}
            connection.execute(sa.insert(tables.rounds).values(**values, body=wire.encode(line)))
    desired.assign(engine, Release("default", 1, DIGEST, "default/1.covey", 9, T0 - 50, "first"), "http://127.0.0.1:1")
    begun = received(1, alarm("a1"), received_s=T0 + 2)
    write_batch(engine, "b", {}, [begun, received(2, alarm("a1", "end"), received_s=T0 + 9)])
    with schema.write(engine) as connection:
        connection.execute(sa.update(tables.alarms).values(received_s=T0 + 2))
    engine.dispose()
    return url


def cloud(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with one_line():
                code = app(list(words), standalone_mode=False)
        except SystemExit as end:
            code = end.code
    return (code if isinstance(code, int) else 0), out.getvalue(), err.getvalue()


def told(store: str, *words: str) -> list[dict[str, Any]]:
    code, out, _ = cloud("lineage", "--out", "-", "--store", store, *words)
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (one["namespace"], one["name"], one.get("facets", {}).get("version", {}).get("datasetVersion", ""))
        for one in datasets
    ]


def test_the_chain_from_training_to_alarm_hangs_together(store: str) -> None:
    started, released, release, raised = told(store)
    assert [one["eventType"] for one in (started, released, release, raised)] == ["START", "COMPLETE"] + [
        "COMPLETE"
    ] * 2
    assert started["run"]["runId"] == released["run"]["runId"]
    assert [one["job"]["name"] for one in (released, release, raised)] == ["train", "release.default", "score.default"]
    assert names(released["outputs"]) == names(release["inputs"]) == [("covey://bundles", DIGEST, "")]
    assert names(release["outputs"]) == [("covey://releases", "default", "1")]
    assert names(raised["inputs"]) == [("covey://windows", "d1", "cd" * 32), ("covey://releases", "default", "1")]
    assert names(raised["outputs"]) == [("covey://alarms", "d1", "a1")]
    assert raised["eventTime"] == "2026-02-02T02:40:02.000Z"


def test_an_alarms_run_is_its_trace_and_carries_score_and_verdict(store: str) -> None:
    raised = told(store)[-1]
    assert raised["run"]["runId"] == str(uuid.UUID(hex="1" * 32))
    tags = {tag["key"]: tag["value"] for tag in raised["run"]["facets"]["tags"]["tags"]}
    assert tags["score"] == "3"
    assert tags["channel"] == "motor.m1"
    assert tags["verdict"] == "none"


def test_telling_again_tells_the_same(store: str) -> None:
    assert told(store) == told(store)


def test_a_range_of_time_is_half_open(store: str) -> None:
    assert [one["job"]["name"] for one in told(store, "--from", "2026-02-02T02:40:02")] == ["score.default"]
    assert len(told(store, "--to", "2026-02-02T02:40:02")) == 3
    assert cloud("lineage", "--out", "-", "--from", "soon", "--store", store)[0] == 2


def test_events_are_posted_to_a_server_in_order(store: str) -> None:
    got: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        code, _, err = cloud("lineage", "--url", url, "--store", store)
        assert (code, err) == (0, "4 events told\n")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
    assert [path for path, _ in got] == ["/api/v1/lineage"] * 4
    assert [body for _, body in got] == told(store)
    code, _, err = cloud("lineage", "--url", url, "--store", store)
    assert (code, err.count("\n")) == (1, 1)


def test_a_file_is_written_whole_and_one_goal_is_asked_for(store: str, tmp_path: Path) -> None:
    path = tmp_path / "lineage.jsonl"
    assert cloud("lineage", "--out", str(path), "--store", store)[0] == 0
    assert [json.loads(line) for line in path.read_text().splitlines()] == told(store)
    assert cloud("lineage", "--store", store)[0] == 2
    assert cloud("lineage", "--store", store, "--out", "-", "--url", "http://127.0.0.1:1")[0] == 2
