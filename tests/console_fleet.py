"""Consoles with a fleet in their store, for the tests in a browser."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

import cloud_events as ev
import console_rig as rig
from cloud.store import changes, schema, tables
from cloud.store.writer import write_batch
from covey import wire

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

# Root needs no-sandbox; the others keep it from asking the network for what nobody here wants.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
GROUPS = ("harbour-east", "mine-04", "orchard-7")


def lively(engine: Engine, count: int) -> list[str]:
    """Devices of three groups with a summary each, six of mine-04 in alarm alike, and one alarm of harbour-east alone."""
    rng, now = random.Random(3), time.time()
    names = [f"cf-{number:05d}" for number in range(count)]
    batch = []
    for name in names:
        ratio = rng.uniform(0.3, 0.6)
        scores = wire.Scores(p50=ratio, p95=1.5 * ratio, p99=1.8 * ratio, max=2 * ratio, sketch=[[0, 0], [5, 10]])
        place = wire.Position(59 + rng.random(), 10 + rng.random())
        said = ev.summary(1, start_s=now - 30, end_s=now, score=scores, position=place)
        batch.append(ev.received(1, said, device=name, received_s=now))
    for start in range(0, count, 2000):
        write_batch(engine, "b", {}, batch[start : start + 2000])
    with schema.write(engine) as connection:
        change = changes.number(connection)
        for at, group in enumerate(GROUPS):
            mine = [name for number, name in enumerate(names) if number % len(GROUPS) == at]
            for start in range(0, len(mine), 500):
                part = mine[start : start + 500]
                table = tables.devices
                connection.execute(sa.update(table).where(table.c.device.in_(part)).values(group=group, changed=change))
    published = {"target": "mine-04/40.covey", "size_bytes": 61_000, "note": "conv-ae after 20 rounds", "wide": True}
    with schema.write(engine) as connection:
        row = {"group": "mine-04", "number": 40, "digest": ev.DIGEST, "created_s": now - 86_400, **published}
        connection.execute(sa.insert(tables.releases).values(row))
    for number in range(6):
        raise_alarm(engine, names[1 + 3 * number], f"alike-{number}", "baro", now - 60 - number)
    raise_alarm(engine, names[0], "alone", "motor.1", now - 30)
    return names


def raise_alarm(engine: Engine, device: str, alarm_id: str, channel: str, at_s: float, seq: int = 2) -> None:
    """An alarm as the store stage writes it."""
    shares = [wire.Share(channel, 0.6), wire.Share("acc.z", 0.2)]
    window = wire.WindowRef(at_s - 1, at_s, "cd" * 32)
    said = ev.alarm(alarm_id, window=window, top_channel=channel, attribution=shares)
    write_batch(engine, "b", {}, [ev.received(seq, said, device=device, received_s=at_s + 0.1)])


class of_fleet:  # noqa: N801  # reads as what it gives
    """A console with so many devices."""

    def __init__(self, folder: Path, count: int, *, accounts: bool = False) -> None:
        url, self.engine = ev.new_store(folder)
        self.names = lively(self.engine, count)
        if accounts:
            rig.add_accounts(self.engine)
        self.console = rig.Console(folder, url, requests_per_s=10_000)

    def __enter__(self) -> tuple[rig.Console, Engine, list[str]]:
        self.console.__enter__()
        return self.console, self.engine, self.names

    def __exit__(self, *_: object) -> None:
        self.console.__exit__()
        self.engine.dispose()
