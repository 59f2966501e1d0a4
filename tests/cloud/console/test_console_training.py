"""A training run started by the API, for real: its process, its lines over Kafka into the store, one at a time over two consoles."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

import cloud_events as ev
import console_rig as rig
from cloud.desk import audit, learning
from cloud.store.schema import open_store
from covey import topics
from covey.errors import NameTaken
from federated_rigs import walk, write_csv
from processes import wait_for
from servers import Tansu

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


def may_begin(engine: Engine) -> bool:
    try:
        learning.begin_run(engine, "test", rig.HERE)
    except NameTaken:
        return False
    return True


def test_a_run_that_an_admin_starts_trains_is_seen_at_both_consoles_and_is_the_only_one(
    tmp_path: Path, store_url: str
) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        write_csv(tmp_path / "data" / f"m{number}.csv", walk(400, seed=number))
    engine = open_store(store_url)
    rig.add_accounts(engine)
    out = tmp_path / "model.covey"
    words = ["--data", str(tmp_path / "data"), "--window", "4", "--family", "pca", "--engine", "simulation"]
    with ExitStack() as stack:
        broker = stack.enter_context(Tansu(tmp_path / "tansu"))
        broker.create_topics(topics.KAFKA_TOPICS, 1)
        cloud = {"kafka": broker.bootstrap, "kafka_kind": "embedded", "broker_instance": "one"}
        options = ["--kafka", broker.bootstrap, "--kafka-kind", "embedded", "--broker-instance", "one"]
        options += ["--stages", "store", "--store", store_url, "--repository-dir", str(tmp_path / "repo")]
        store = ev.cloud_process(tmp_path, "store", "run", *options).start()
        stack.callback(store.stop)
        one, other = (
            stack.enter_context(rig.Console(tmp_path, store_url, training=[*words, "--out", str(out)], cloud=cloud))
            for _ in range(2)
        )
        admin, there = (stack.enter_context(closing(console.logged_in("admin"))) for console in (one, other))
        operator = stack.enter_context(closing(one.logged_in("operator")))
        assert operator.post("/api/runs").status_code == 403
        started = admin.post("/api/runs")
        assert (started.status_code, started.json()) == (202, {"started": True})
        for again in (admin, there):
            refused = again.post("/api/runs")
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
            assert "one run at a time" in refused.json()["error"]
        assert [(row["action"], row["actor"]) for row in audit.entries(engine, 1)] == [("train", "admin")]

        def ended() -> bool:
            runs = there.get("/api/runs").json()["runs"]
            return bool(runs) and runs[0]["state"] != "running"

        wait_for(ended, 120, f"the run ends: {one.process.tail()}")
        (run,) = there.get("/api/runs").json()["runs"]
        assert (run["state"], run["family"], run["engine"], run["clients"]) == ("released", "pca", "simulation", 3)
        whole = there.get(f"/api/runs/{run['run']}").json()
        assert len(whole["lines"]) == run["rounds"] >= 1
        assert ev.is_zip(out.read_bytes())
        wait_for(lambda: may_begin(engine), 20, "another run may begin")
    engine.dispose()
