"""The plan of a fleet: who flies what, when, with which fault, over which link; pure, from a scenario and a seed.

What a device gets depends on the scenario, the seed and its number alone, so the same arguments give an equal plan, and
adding devices, or giving the second half of the fleet to another process (`first`), changes nothing for the others. Only the
order of `recordings` follows the devices planned: they are numbered as they are first needed.

Flights come from a pool, because 10,000 devices cannot be flown one by one: healthy devices share the vehicles of the pool,
devices with the same change share `pool_faulty` variants of it (vehicle, size, moment in the flight), spread over the
scenario's ranges as a Latin hypercube. See schedule.py for the times and shares.py for who gets what.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim import schedule
from firmware_sim.pool import Planned, Pool
from firmware_sim.schedule import STREAM_DEVICE, STREAM_SHARES, Clock
from firmware_sim.shares import deal
from firmware_sim.world.faults import MotorLoss, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from firmware_sim.pool import Variant
    from firmware_sim.scenario import Body, Outage, Scenario
    from firmware_sim.world.faults import Fault

METRES_PER_DEGREE = 111_320.0  # of latitude, on a sphere of the earth's circumference
MAX_DEVICES = 1_000_000
CARRIES_ITSELF = (
    36.2 / 60.0
)  # share of its thrust with which a rotor still lifts its quarter: weighs 36.2 g, lifts 60 g


@dataclass(frozen=True, slots=True)
class Stretch:
    """A recording played from a moment on."""

    start_s: float
    recording: int  # index into FleetPlan.recordings


@dataclass(frozen=True, slots=True)
class TruthItem:
    """What is wrong with a device, and from when on.

    Attributes:
        kind: as in world/faults.py.
        category: "fault" or "drift".
        onset_s: exact, in scenario time.
        until_s: the end of the plan: nothing heals by itself.
        size: its parameters.
    """

    kind: str
    category: str
    onset_s: float
    until_s: float
    size: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device; times are seconds since the fleet started.

    Attributes:
        name: prefix and number, "sim-00001".
        body: "quadrotor" or "machine".
        vehicle: seed of the vehicle whose recordings it plays.
        link: name of its link profile.
        seed: for whatever else is random about it (its link, its backoff).
        stretches: in order of time, never overlapping; between them it is on the ground.
        truth: in order of onset; each onset lies in a stretch.
        clock: how wrong its clock is.
        off: (from, to), without power.
        cuts: its connection is cut, and it may reconnect at once.
        outages: (from, to), its link carries nothing; beside the outages of its profile.
        home: latitude and longitude, degrees.
    """

    name: str
    body: Body
    vehicle: int
    link: str
    seed: int
    stretches: tuple[Stretch, ...]
    truth: tuple[TruthItem, ...]
    clock: Clock
    off: tuple[tuple[float, float], ...]
    cuts: tuple[float, ...]
    outages: tuple[tuple[float, float], ...]
    home: tuple[float, float]


@dataclass(frozen=True)
class FleetPlan:
    """A whole fleet, or the part of it from device `first` on.

    Attributes:
        scenario: what it was drawn from.
        seed: of everything.
        duration_s: what ends it.
        devices: by number.
        recordings: what must be flown.
        commission: (body, vehicle) to the indices of its healthy commissioning recordings.
    """

    scenario: Scenario
    seed: int
    duration_s: float
    devices: tuple[DevicePlan, ...]
    recordings: tuple[Planned, ...]
    commission: Mapping[tuple[Body, int], tuple[int, ...]]


def plan_fleet(
    scenario: Scenario,
    devices: int | None = None,
    seed: int = 0,
    duration_s: float | None = None,
    first: int = 1,
) -> FleetPlan:
    """Plan `devices` devices from number `first` on.

    Args:
        scenario: checked already.
        devices: the scenario's number when None.
        seed: 0 or more.
        duration_s: the scenario's when None. Its times stay: what would begin after the end is left out.
        first: number of the first device, 1 or more.

    Raises:
        UsageError: a number is out of its bounds.
    """
    count = scenario.devices if devices is None else devices
    end_s = scenario.duration_s if duration_s is None else duration_s
    if count < 1 or first < 1 or first + count - 1 > MAX_DEVICES or seed < 0 or not 0 < end_s <= 86_400:
        raise UsageError(
            f"fleet: 1 to {MAX_DEVICES} devices, a first number from 1, a seed from 0 and a duration of at most 86400 s "
            f"expected; {count} devices from {first} on, seed {seed}, {end_s:g} s came"
        )
    return _Planner(scenario, seed, end_s, first + count - 1).plan(first)


class _Planner:
    """One call of `plan_fleet`: who gets what, for all devices up to the last, then device by device."""

    def __init__(self, scenario: Scenario, seed: int, end_s: float, last: int) -> None:
        self.scenario, self.seed, self.end_s, self.last = scenario, seed, end_s, last
        self.pool = Pool(scenario, seed, end_s)
        self.machine = self._deal([scenario.vehicles.machine_share], 0) == 0
        self.rank = np.where(self.machine, np.cumsum(self.machine), np.cumsum(~self.machine)) - 1  # within its body
        self.links = [*(link.profile for link in scenario.links), "ethernet"]
        self.link = self._deal([link.share for link in scenario.links], 1)
        self.variants = self._variants()
        self.drawn = np.random.default_rng([STREAM_DEVICE, seed]).random((last, 9))  # row by row: more rows change none
        self.outages = [self._cut_off(1000 + i, outage) for i, outage in enumerate(scenario.outages)]
        self.storms = self._hit(2000, [storm.share for storm in scenario.storms])
        self.reboots = self._hit(3000, [reboot.share for reboot in scenario.reboots])
        self.jumps = self._hit(4000, [jump.share for jump in scenario.clocks.jumps])

    def plan(self, first: int) -> FleetPlan:
        devices = tuple(self._device(number) for number in range(first, self.last + 1))
        return FleetPlan(self.scenario, self.seed, self.end_s, devices, self.pool.recordings(), self.pool.commission())

    def _deal(self, shares: Sequence[float], question: int, count: int | None = None) -> NDArray[np.int64]:
        return deal(shares, self.last if count is None else count, [STREAM_SHARES, self.seed, question])

    def _hit(self, question: int, shares: Sequence[float]) -> list[NDArray[np.bool_]]:
        """For each event: which devices it befalls."""
        return [self._deal([share], question + i) == 0 for i, share in enumerate(shares)]

    def _cut_off(self, question: int, outage: Outage) -> NDArray[np.bool_]:
        """Which devices an outage befalls: a share of all, or of those on its profile."""
        on = [i for i, profile in enumerate(self.links) if outage.link in {"", profile}]
        able = np.flatnonzero(np.isin(self.link, on))
        hit = np.zeros(self.last, dtype=np.bool_)
        if len(able):
            hit[able] = self._deal([outage.share], question, len(able)) == 0
        return hit

    def _variants(self) -> list[list[Variant]]:
        """For each device: the variants of changes that it gets, at most `changes_per_device`."""
        scenario = self.scenario
        given: list[list[Variant]] = [[] for _ in range(self.last)]
        for body in ("quadrotor", "machine"):
            mine = np.flatnonzero(self.machine == (body == "machine"))
            changes = [i for i, change in enumerate(scenario.changes) if scenario.body_of(change) == body]
            shares = [scenario.changes[i].share for i in changes]
            if scenario.changes_per_device == 1:
                dealt = self._deal(shares, 2 + (body == "machine"), len(mine))
                chosen = [np.flatnonzero(dealt == k) for k in range(len(changes))]
            else:
                chosen = [
                    np.flatnonzero(self._deal([share], 100 + i, len(mine)) == 0)
                    for i, share in zip(changes, shares, strict=True)
                ]
            for change, ranks in zip(changes, chosen, strict=True):
                for n, device in enumerate(mine[ranks]):
                    if len(given[device]) < scenario.changes_per_device:
                        given[device].append(self.pool.variant(change, n % scenario.changes[change].pool_faulty))
        return given

    def _device(self, number: int) -> DevicePlan:
        scenario, i = self.scenario, number - 1
        body: Body = "machine" if self.machine[i] else "quadrotor"
        u = self.drawn[i].tolist()
        variants = self.variants[i]
        vehicle = variants[0].vehicle if variants else self.pool.vehicle(body, int(self.rank[i]))
        self.pool.commissioned(body, vehicle)
        if body == "machine":
            stretches, truth = self._run(vehicle, variants, u)
        else:
            stretches, truth = self._flights(number, vehicle, variants, u)
        off = schedule.off_times(scenario, self.end_s, [hit[i] for hit in self.reboots], self.seed, number)
        return DevicePlan(
            name=f"{scenario.prefix}-{number:05d}",
            body=body,
            vehicle=self.pool.seed_of(body, vehicle),
            link=self.links[self.link[i]],
            seed=int(u[8] * 2**53),
            stretches=stretches,
            truth=truth,
            clock=schedule.clock_of(scenario, self.end_s, [hit[i] for hit in self.jumps], self.seed, number),
            off=off,
            cuts=tuple(
                sorted(
                    storm.at_s
                    for storm, hit in zip(scenario.storms, self.storms, strict=True)
                    if hit[i] and storm.at_s < self.end_s
                )
            ),
            outages=schedule.merged(
                (o.at_s, o.at_s + o.for_s)
                for o, hit in zip(scenario.outages, self.outages, strict=True)
                if hit[i] and o.at_s < self.end_s
            ),
            home=self._home(u[6], u[7]),
        )

    def _home(self, far: float, round_: float) -> tuple[float, float]:
        site = self.scenario.site
        metres, angle = site.radius_m * math.sqrt(far), 2 * math.pi * round_  # evenly over the disc
        lat = site.lat_deg + metres * math.cos(angle) / METRES_PER_DEGREE
        lon = site.lon_deg + metres * math.sin(angle) / (METRES_PER_DEGREE * math.cos(math.radians(site.lat_deg)))
        return round(lat, 7), round(lon, 7)

    def _run(
        self, vehicle: int, variants: list[Variant], u: Sequence[float]
    ) -> tuple[tuple[Stretch, ...], tuple[TruthItem, ...]]:
        """A machine plays one recording from its start to the end; its changes begin within it."""
        start_s = round(u[0] * min([schedule.MACHINE_START_S, *(v.spare_s for v in variants)]), 3)
        faults = [v.fault for v in variants if start_s + v.fault.onset_s < self.end_s]
        slot = 0 if variants else int(u[1] * self.scenario.vehicles.flights_per_vehicle)
        recording = self.pool.recording("machine", vehicle, slot, faults)
        truth = [self._truth(fault, start_s + fault.onset_s) for fault in faults]
        return (Stretch(start_s, recording),), _by_onset(truth)

    def _flights(
        self, number: int, vehicle: int, variants: list[Variant], u: Sequence[float]
    ) -> tuple[tuple[Stretch, ...], tuple[TruthItem, ...]]:
        """A quadrotor flies, rests and flies again; each change begins in one of the flights and stays."""
        starts = schedule.flight_starts(self.scenario, self.end_s, variants, u, [self.seed, number])
        begins = schedule.onset_flights(self.scenario, starts, variants, u)  # flight of each variant, None: never
        slots, shift = self.scenario.vehicles.flights_per_vehicle, int(u[1] * 1000)
        stretches: list[Stretch] = []
        truth: list[TruthItem] = []
        for n, start_s in enumerate(starts):
            faults: list[Fault] = []
            for variant, begin in zip(variants, begins, strict=True):
                if begin is not None and begin <= n:
                    faults.append(variant.fault if begin == n else dataclasses.replace(variant.fault, onset_s=0.0))
                if begin == n:
                    truth.append(self._truth(variant.fault, start_s + variant.fault.onset_s))
            slot = 0 if any(f.onset_s > 0 for f in faults) else (n + shift) % slots
            stretches.append(Stretch(start_s, self.pool.recording("quadrotor", vehicle, slot, faults)))
            if any(_grounds(fault) for fault in faults):
                break
        return tuple(stretches), _by_onset(truth)

    def _truth(self, fault: Fault, onset_s: float) -> TruthItem:
        return TruthItem(fault.kind, fault.category, onset_s, self.end_s, size_of(fault))


def _grounds(fault: Fault) -> bool:
    """Whether nobody flies this vehicle again: it fell."""
    return isinstance(fault, MotorLoss) and fault.left_share < CARRIES_ITSELF


def _by_onset(truth: list[TruthItem]) -> tuple[TruthItem, ...]:
    return tuple(sorted(truth, key=lambda item: item.onset_s))
