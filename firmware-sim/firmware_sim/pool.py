"""The pool of recordings that a fleet shares: vehicles, their healthy flights, and the variants of each change. Pure.

A recording is planned when a device first needs it; two devices that need the same one get the same index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firmware_sim import params
from firmware_sim.schedule import (
    MACHINE_START_S,
    ONSET_SHARES,
    STREAM_CHANGE,
    STREAM_POOL,
    airborne_s,
    at_airborne_share,
)
from firmware_sim.world.faults import KINDS, make_fault
from firmware_sim.world.pilot import MISSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firmware_sim.scenario import Body, Scenario
    from firmware_sim.world.faults import Fault

RUN_MARGIN_S = 60.0  # a machine's recording outlives the plan: the last summary may be late
COMMISSION = 1000  # flight seeds from here on are commissioning flights


@dataclass(frozen=True)
class Planned:
    """A recording to be flown or run.

    Attributes:
        body: "quadrotor" or "machine".
        vehicle: its seed: how it was built.
        flight_seed: wind, charge, load of that day.
        faults: with their onset inside the recording; 0: from its start.
        mission: name; empty for a machine.
        duration_s: of the recording.
    """

    body: Body
    vehicle: int
    flight_seed: int
    faults: tuple[Fault, ...]
    mission: str
    duration_s: float


@dataclass(frozen=True)
class Variant:
    """One of the sizes of a change that its devices share.

    Attributes:
        change: index into the scenario's changes.
        vehicle: number in the pool of its body.
        fault: with its onset inside the recording in which it begins.
        spare_s: a machine's recording may start so late and still keep the change's times.
    """

    change: int
    vehicle: int
    fault: Fault
    spare_s: float = 0.0


class Pool:
    """Collects the recordings that devices ask for.

    Args:
        scenario: what is shared how widely.
        seed: of the fleet.
        end_s: of the plan; a machine's recordings last a little longer.
    """

    def __init__(self, scenario: Scenario, seed: int, end_s: float) -> None:
        self._scenario, self._seed = scenario, seed
        self._run_s = float(np.ceil(end_s)) + RUN_MARGIN_S
        self._index: dict[Planned, int] = {}
        self._asked: dict[tuple[Body, int, int, tuple[Fault, ...]], int] = {}
        self._commission: dict[tuple[Body, int], tuple[int, ...]] = {}
        self._variants: dict[int, list[Variant]] = {}
        vehicles = scenario.vehicles
        self._seeds: dict[Body, list[int]] = {
            "quadrotor": _distinct([STREAM_POOL, seed, 0], vehicles.pool_quadrotors),
            "machine": _distinct([STREAM_POOL, seed, 1], vehicles.pool_machines),
        }

    def seed_of(self, body: Body, vehicle: int) -> int:
        """Seed of a vehicle by its number in the pool."""
        return self._seeds[body][vehicle]

    def vehicle(self, body: Body, rank: int) -> int:
        """Number in the pool of the `rank`-th healthy device's vehicle."""
        return rank % len(self._seeds[body])

    def recordings(self) -> tuple[Planned, ...]:
        """All that was asked for, by index."""
        return tuple(self._index)

    def commission(self) -> Mapping[tuple[Body, int], tuple[int, ...]]:
        """Commissioning recordings by body and vehicle seed."""
        return dict(self._commission)

    def commissioned(self, body: Body, vehicle: int) -> None:
        """Plan a vehicle's commissioning recordings, unless they are."""
        key = (body, self._seeds[body][vehicle])
        if key in self._commission:
            return
        vehicles = self._scenario.vehicles
        seconds = vehicles.flight_s if body == "quadrotor" else vehicles.commission_run_s
        self._commission[key] = tuple(
            self._planned(Planned(body, key[1], COMMISSION + n, (), self._mission(body, vehicle, n), seconds))
            for n in range(vehicles.commission_flights)
        )

    def recording(self, body: Body, vehicle: int, slot: int, faults: Sequence[Fault]) -> int:
        """Index of a vehicle's recording number `slot` with these faults."""
        asked = (body, vehicle, slot, tuple(faults))
        if asked not in self._asked:
            seconds = self._scenario.vehicles.flight_s if body == "quadrotor" else self._run_s
            mission = self._mission(body, vehicle, slot)
            self._asked[asked] = self._planned(
                Planned(body, self._seeds[body][vehicle], slot, asked[3], mission, seconds)
            )
        return self._asked[asked]

    def variant(self, change: int, number: int) -> Variant:
        """Variant `number` of a change, of `pool_faulty`."""
        if change not in self._variants:
            self._variants[change] = self._draw(change)
        return self._variants[change][number]

    def _mission(self, body: Body, vehicle: int, slot: int) -> str:
        missions = self._scenario.vehicles.missions
        return missions[(vehicle + slot) % len(missions)] if body == "quadrotor" else ""

    def _planned(self, planned: Planned) -> int:
        return self._index.setdefault(planned, len(self._index))

    def _draw(self, number: int) -> list[Variant]:
        """Latin hypercube: in each parameter every variant has a part of the range of its own (McKay et al., 1979)."""
        change = self._scenario.changes[number]
        body, count = self._scenario.body_of(change), change.pool_faulty
        rng = np.random.default_rng([STREAM_CHANGE, self._seed, number])
        shift, vehicles = int(rng.integers(2**31)), len(self._seeds[body])
        onset = (rng.permutation(count) + rng.random(count)) / count
        parts = {key: (rng.permutation(count) + rng.random(count)) / count for key in sorted(change.params)}
        variants = []
        for v in range(count):
            vehicle, spare_s = (shift + v) % vehicles, 0.0
            if body == "machine":
                spare_s = min(MACHINE_START_S, (change.onset_s[1] - change.onset_s[0]) / 2)
                onset_s = change.onset_s[0] + onset[v] * (change.onset_s[1] - spare_s - change.onset_s[0])
            elif KINDS[change.kind].category == "drift":
                onset_s = (
                    0.0  # payload, firmware and weather change on the ground: the next flight has it from its start
                )
            else:
                low, high = ONSET_SHARES
                mission = MISSIONS[self._mission(body, vehicle, 0)]
                air = airborne_s(mission, self._scenario.vehicles.flight_s)
                onset_s = at_airborne_share(air, low + (high - low) * onset[v])
            drawn = {
                key: params.draw(change.kind, key, value, float(parts[key][v])) for key, value in change.params.items()
            }
            variants.append(Variant(number, vehicle, make_fault(change.kind, round(float(onset_s), 2), drawn), spare_s))
        return variants


def _distinct(stream: list[int], count: int) -> list[int]:
    """Seeds of `count` vehicles, all different; a larger pool begins with the smaller one's."""
    rng, seeds = np.random.default_rng(stream), dict[int, None]()
    while len(seeds) < count:
        seeds[int(rng.integers(2**31))] = None
    return list(seeds)
