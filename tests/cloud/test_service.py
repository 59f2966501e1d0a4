"""The process of the stages as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from cloud.store import schema
from servers import Postgres, free_port

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import gc, json, sys, threading
from cloud import service
from cloud.config import CloudConfig
from covey.runtime import poll

before, stop = gc.get_threshold()[0], threading.Event()

def look():
    poll(gc.get_freeze_count, 20.0)
    print(json.dumps([before, gc.get_threshold()[0], gc.get_freeze_count()]))
    stop.set()

config = CloudConfig(kafka=sys.argv[1], store=sys.argv[2], stages="store", instance="one")
threading.Thread(target=look).start()
service.run(config, stop)
"""


def test_a_running_stage_spares_the_collector(tmp_path: Path) -> None:
    """A third of the time of a full load went into looking for cycles among what a batch is made of."""
    command = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{free_port()}", f"sqlite:///{tmp_path}/store.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    before, while_running, frozen = json.loads(done.stdout)
    assert while_running >= 200_000 > before  # a batch of 20,000 summaries makes about 140,000 objects
    assert frozen > 10_000  # whatever was imported


@pytest.mark.broker
def test_a_connection_that_went_with_its_server_costs_nobody_a_request(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres") as server:
        engine = schema.open_store(server.database())
        with schema.read(engine) as connection:
            before = connection.execute(sa.text("SELECT 1")).scalar_one()
        server.kill9()
        server.start()
        with schema.read(engine) as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == before
        engine.dispose()
