"""The short form of `make chaos`: each part of the real stack is killed once, on wires that break, and nothing is lost.

The long form is chaos.run; docs/chaos.md says what both cover.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from chaos.faults import Blackout, Kill, Proxied
from chaos.loads import Agents, Fleet, Load, warm
from chaos.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(400)]

DRAIN_S = 200.0


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("chaos"), "proxy") as rig:
        yield rig


def judged(load: Load, written: int) -> None:
    load.finish(DRAIN_S)
    verdict = load.verdict()
    assert verdict["good"], verdict
    assert verdict["written"] == verdict["stored"] + verdict["given_up"]
    assert verdict["written"] >= written


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
