"""The short form of `make chaos`: each part killed once, wires that break, bad messages, a crowd; and nothing is lost.

The long form is chaos.run; docs/chaos.md says what both cover.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from chaos import bad, badness, crowd
from chaos.faults import Blackout, Kill, Proxied
from chaos.loads import Agents, Fleet, Load, warm
from chaos.outcome import Outcome, troubles
from chaos.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(400)]

DRAIN_S = 200.0


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("chaos")
    with Rig(folder, "proxy", acl=badness.ACL, gateway_toml=badness.GATEWAY_TOML) as rig:
        yield rig


def judged(load: Load, written: int) -> None:
    load.finish(DRAIN_S)
    verdict = load.verdict()
    assert verdict["good"], verdict
    assert verdict["written"] == verdict["stored"] + verdict["given_up"]
    assert verdict["written"] >= written
    assert (verdict["disordered"], verdict["records"] >= verdict["stored"]) == (0, True)


def quiet(_text: str) -> None:
    """Nobody reads progress here."""


def test_every_part_killed_once_and_connections_reset_lose_and_double_nothing(rig: Rig) -> None:
    rng = random.Random(11)
    load = Agents(rig, "short", seed=11, devices=6)
    warm(rig, load)
    kills = rig.kills
    Blackout("blackout", hold_s=(0.5, 1.0)).inflict(rig, load, rng)
    for part in ("devices", "store"):
        Kill(f"kill-{part}", parts=(part,), hold_s=(1.0, 2.0)).inflict(rig, load, rng)
    Proxied("drop", wire="devices-mqtt", drops=2, hold_s=(0.5, 1.0)).inflict(rig, load, rng)
    assert rig.kills - kills == 5
    judged(load, 200)


def test_a_fleet_whose_gateway_is_killed_has_a_clean_ledger(rig: Rig, tmp_path: Path) -> None:
    rng = random.Random(12)
    load = Fleet(rig, "fleet", 12, "smoke", tmp_path)
    warm(rig, load)
    Kill("kill-gateway", parts=("gateway",), hold_s=(0.0, 1.0)).inflict(rig, load, rng)
    judged(load, 40)


def test_every_kind_of_bad_message_is_rejected_and_counted_and_the_next_good_one_is_through_at_once(rig: Rig) -> None:
    row = Outcome("agents+bad", "bad-messages")
    bad.run(rig, row, 13, 6 * len(badness.KINDS), quiet, strict=False)
    row.judge()
    assert row.good, troubles(row)
    assert row.figures["not_json"] >= 6


def test_a_thousand_clients_come_back_at_once_and_lose_nothing(rig: Rig) -> None:
    row = Outcome("crowd", "crowd")
    crowd.run(rig, row, 1_000, 1, quiet)
    row.judge()
    assert row.good, troubles(row)
    assert row.verdict["written"] >= 4_000
    assert row.figures["backlog"] >= 3_000
