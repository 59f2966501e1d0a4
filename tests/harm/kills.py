"""An agent is killed with -9 at random instants, from its first moment on, while the cloud acknowledges only at times."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import TYPE_CHECKING

from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from processes import wait_for
from servers import Mosquitto

if TYPE_CHECKING:
    from pathlib import Path

    from covey.wire import Identity

KINDS = ("summary", "status", "alarm")
DEVICE = "d1"


def on_disk(state: Path) -> set[bytes]:
    """Events that are on disk and not acknowledged, as the next process will find them."""
    path = state / "outbox.db"
    if not path.exists():
        return set()
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as db:
            return {bytes(body) for (body,) in db.execute("SELECT body FROM rows")}
    except sqlite3.OperationalError:  # killed before its tables were there
        return set()


def check_order(events: list[tuple[Identity, str, bytes]]) -> int:
    """Each identity has one content, and what came first came in order: kind by kind, and over all kinds; how many."""
    bodies: dict[Identity, bytes] = {}
    for identity, _, body in events:
        assert bodies.setdefault(identity, body) == body, f"{identity} came with two contents"
    first = list(dict.fromkeys(identity for identity, _, _ in events))
    boxes = list(dict.fromkeys(identity.outbox for identity in first))
    for outbox in boxes:
        seqs = [identity.seq for identity in first if identity.outbox == outbox]
        assert seqs == list(range(1, len(seqs) + 1)), f"outbox {outbox}: out of order, or holes: {_strange(seqs)}"
    assert [identity.outbox for identity in first] == sorted(
        (identity.outbox for identity in first), key=boxes.index
    ), "the rows of an outbox came behind a newer one's"
    return len(first)


def _strange(seqs: list[int]) -> list[int]:
    return [seq for at, seq in enumerate(seqs, 1) if seq != at][:9]


def trial(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """So many kills; returns the figures.

    Raises:
        AssertionError: something is lost, changed or out of order.
    """
    rng = random.Random(seed)
    make_bundle(folder / "m.covey")
    calm = write_flight(folder / "calm.csv", 400, 1)
    bad = write_flight(folder / "bad.csv", 400, 3, bad=(200, 260))
    (folder / "agent.toml").write_text("repeat = true\nack_timeout_s = 1\nflush_s = 0.1\n")
    words = ["--bundle", str(folder / "m.covey"), "--config", str(folder / "agent.toml"), "--commission", str(calm)]
    words += ["--source", str(bad), "--speed", "400", "--summary-interval-s", "0.05"]
    state, promised, depths = folder / DEVICE, set(), 0
    with Mosquitto(folder / "mosquitto") as broker, Cloud(broker.port) as cloud:
        for n in range(kills):
            cloud.acknowledging = rng.random() < 0.6
            agent = start_agent(folder, broker.port, DEVICE, *words)
            if n == 0:
                wait_status(folder, DEVICE, connected=True)
            time.sleep(rng.uniform(0, 2.0))  # the instant is drawn, it waits for nothing
            assert agent.alive, agent.tail()
            agent.kill9()
            assert agent.wait(5) == -9
            waiting = on_disk(state)
            depths += bool(waiting)
            promised |= waiting
        cloud.acknowledging = True
        agent = start_agent(folder, broker.port, DEVICE, *words, "--summary-interval-s", "600")
        wait_status(folder, DEVICE, pid=agent.pid, connected=True)
        wait_for(lambda: promised <= {body for _, _, body in list(cloud.events)}, 60, "what was on disk at the kills")
        agent.stop()
        events = list(cloud.events)
        assert "Traceback" not in (folder / "agent.log").read_text()
    boxes = len({identity.outbox for identity, _, _ in events})
    figures = {"kills": kills, "on_disk": len(promised), "kills_with_rows": depths, "outboxes": boxes}
    return {**figures, "events": check_order(events), "deliveries": len(events)}
