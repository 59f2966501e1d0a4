"""A run's figures for Prometheus: sums over its whole rounds, the last round's loss, and a port while it goes."""

from __future__ import annotations

import urllib.request

from covey import wire
from covey.exposition import text
from covey.rounds import Progress
from federated import metrics
from processes import free_port, wait_for

RUN = "0" * 16


def line(seq: int, kind: str, number: int = 0, detail: str = "", **figures: float) -> wire.RoundEvent:
    return wire.RoundEvent(RUN, seq, 1.0, kind, round=number, detail=detail, figures=figures)


LINES = [
    line(1, "started", detail="pca local", rounds=3.0),
    line(2, "asked", 1, devices=4.0),
    line(3, "round", 1, clients=3.0, refused=1.0, bytes_up=100.0, bytes_down=10.0, seconds=1.5, loss=2.0),
    line(4, "round", 2, clients=4.0, refused=0.0, bytes_up=50.0, bytes_down=5.0, seconds=0.5, loss=1.0),
]


def values(body: str) -> dict[str, float]:
    rows = [row.rsplit(" ", 1) for row in body.splitlines() if not row.startswith("#")]
    return {name.removeprefix("covey_federated_"): float(value) for name, value in rows}


def test_rounds_are_summed_and_the_last_ones_loss_is_told() -> None:
    seen = Progress()
    for one in LINES:
        seen.take(one)
    told = values(text(metrics.families(seen)))
    expected = {"rounds_total": 2, "rounds_wanted": 3, "uplink_bytes_total": 150, "downlink_bytes_total": 15}
    expected |= {"refused_total": 1, "round_seconds_total": 2, "loss": 1, "clients": 4, "over": 0, "devices_asked": 4}
    assert {name: told[name] for name in expected} == expected
    assert told[f'info{{run="{RUN}",what="pca local"}}'] == 1
    seen.take(line(5, "failed", detail="no quorum"))
    assert values(text(metrics.families(seen)))["over"] == 1


def test_the_port_tells_them_while_the_run_goes() -> None:
    port = free_port()

    def got() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return values(answer.read().decode())

    with metrics.served(port) as take:
        assert got()["rounds_total"] == 0
        for one in LINES[:3]:
            take(wire.encode(one) + b"\n")
        take(b"no line of a run\n")
        wait_for(lambda: got()["rounds_total"] == 1, 10.0, "the round is told")
