"""When things befall a device: flights, onsets, reboots, clocks. Pure; times are seconds since the fleet started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firmware_sim.pool import Variant
    from firmware_sim.scenario import Scenario
    from firmware_sim.world.pilot import Mission

# First number of the seeds, so that no two questions share a stream (1 to 3: vehicle.py and flights.py).
STREAM_SHARES, STREAM_DEVICE, STREAM_POOL, STREAM_CHANGE, STREAM_POWER, STREAM_CLOCK, STREAM_FLIGHT = range(40, 47)
ONSET_SHARES = (0.3, 0.6)  # of the time in the air: there is a before and an after to see
MACHINE_START_S = 10.0  # machines begin to be sampled within this time


@dataclass(frozen=True, slots=True)
class Clock:
    """A device's clock.

    Attributes:
        offset_s: ahead of the true time at the start; negative: behind.
        drift_ppm: gained each second, in microseconds.
        jumps: (at_s, by_s) in order of time.
    """

    offset_s: float = 0.0
    drift_ppm: float = 0.0
    jumps: tuple[tuple[float, float], ...] = ()

    def device_s(self, true_s: float, t_s: float) -> float:
        """What the clock shows at the true time `true_s`, which is `t_s` of scenario time."""
        return true_s + self.offset_s + self.drift_ppm * 1e-6 * t_s + sum(by for at, by in self.jumps if at <= t_s)


def airborne_s(mission: Mission, duration_s: float) -> tuple[tuple[float, float], ...]:
    """When the motors are on, (from, to), while a mission is flown again and again for a time."""
    spans: list[tuple[float, float]] = []
    for turn in range(int(np.ceil(duration_s / mission.period_s))):
        ends = [*mission.points[1:], (mission.period_s, *mission.points[-1][1:])]
        for start, end in zip(mission.points, ends, strict=True):
            if start[3] > 0 or end[3] > 0:
                spans.append((turn * mission.period_s + start[0], min(turn * mission.period_s + end[0], duration_s)))
    return merged(span for span in spans if span[0] < duration_s)


def at_airborne_share(spans: Sequence[tuple[float, float]], share: float) -> float:
    """The moment when this share of the time in the air is over."""
    left_s = share * sum(end - start for start, end in spans)
    for start, end in spans:
        if left_s <= end - start:
            return start + left_s
        left_s -= end - start
    return spans[-1][1]


def flight_starts(
    scenario: Scenario, end_s: float, variants: Sequence[Variant], u: Sequence[float], stream: Sequence[int]
) -> list[float]:
    """Starts of a device's flights, each over before the end.

    A healthy device takes off first within `first_flight_s`. One with a change is planned around the flight in which its
    first change begins, so that the change begins within its times however rarely the device flies.

    Args:
        scenario: its `vehicles` and the times of its changes.
        end_s: of the plan.
        variants: what befalls the device, the first of them in the flight that all others are planned around.
        u: the device's own numbers in [0, 1).
        stream: seed of its rests.
    """
    vehicles = scenario.vehicles
    flight_s, (rest_low, rest_high) = vehicles.flight_s, vehicles.rest_s
    latest_s = end_s - flight_s
    low, high = vehicles.first_flight_s
    anchor_s = low + u[0] * (high - low)
    planned_round = None
    if variants:
        onset_s = variants[0].fault.onset_s
        begin, end = scenario.changes[variants[0].change].onset_s
        earliest = max(begin, onset_s)
        if earliest <= min(end, latest_s + onset_s):
            anchor_s = earliest + u[2] * (min(end, latest_s + onset_s) - earliest) - onset_s
            planned_round = anchor_s
    if anchor_s > latest_s:
        return []
    rng = np.random.default_rng([STREAM_FLIGHT, *stream])
    starts = [anchor_s]
    while planned_round is not None:
        before_s = starts[0] - flight_s - float(rng.uniform(rest_low, rest_high))
        if before_s < low:
            break
        starts.insert(0, before_s)
    while True:
        after_s = starts[-1] + flight_s + float(rng.uniform(rest_low, rest_high))
        if after_s > latest_s:
            return [round(start, 3) for start in starts]
        starts.append(after_s)


def onset_flights(
    scenario: Scenario, starts: Sequence[float], variants: Sequence[Variant], u: Sequence[float]
) -> list[int | None]:
    """The flight in which each variant begins: of those within the change's times the nearest to a moment drawn in them.

    None: no flight lies within the times; the device stays without it.
    """
    flights: list[int | None] = []
    for k, variant in enumerate(variants):
        begin, end = scenario.changes[variant.change].onset_s
        wanted_s = begin + u[2 + k] * (end - begin)
        onsets = [(n, start + variant.fault.onset_s) for n, start in enumerate(starts)]
        inside = [(abs(onset - wanted_s), n) for n, onset in onsets if begin - 0.002 <= onset <= end + 0.002]
        flights.append(min(inside)[1] if inside else None)
    return flights


def off_times(
    scenario: Scenario, end_s: float, hit: Sequence[bool], seed: int, number: int
) -> tuple[tuple[float, float], ...]:
    """When a device has no power: the listed reboots that hit it, and those of the rate."""
    if not any(hit) and not scenario.reboots_per_device_hour:
        return ()
    rng = np.random.default_rng([STREAM_POWER, seed, number])
    spans = []
    for reboot, mine in zip(scenario.reboots, hit, strict=True):
        later, long = rng.random(2)
        at_s = reboot.at_s + later * reboot.spread_s
        if mine and at_s < end_s:
            spans.append((at_s, at_s + _between(reboot.off_s, long)))
    if scenario.reboots_per_device_hour:
        mean_s = 3600.0 / scenario.reboots_per_device_hour
        at_s = float(rng.exponential(mean_s))  # Poisson: power fails without memory
        while at_s < end_s:
            spans.append((at_s, at_s + _between(scenario.reboot_off_s, rng.random())))
            at_s = spans[-1][1] + float(rng.exponential(mean_s))
    return merged((round(float(a), 3), round(float(b), 3)) for a, b in spans)


def clock_of(scenario: Scenario, end_s: float, hit: Sequence[bool], seed: int, number: int) -> Clock:
    """How wrong a device's clock is."""
    clocks = scenario.clocks
    if not (clocks.offset_s or clocks.drift_ppm or any(hit)):
        return Clock()
    rng = np.random.default_rng([STREAM_CLOCK, seed, number])
    offset, drift = rng.uniform(-1, 1, 2)
    jumps = []
    for jump, mine in zip(clocks.jumps, hit, strict=True):
        part = rng.random()
        if mine and jump.at_s < end_s:
            jumps.append((jump.at_s, round(_between(jump.by_s, part), 3)))
    return Clock(
        round(float(offset) * clocks.offset_s, 3), round(float(drift) * clocks.drift_ppm, 3), tuple(sorted(jumps))
    )


def merged(spans: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The same times without overlaps, in order."""
    whole: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if whole and start <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(end, whole[-1][1]))
        else:
            whole.append((start, end))
    return tuple(whole)


def _between(pair: tuple[float, float], part: float) -> float:
    return pair[0] + float(part) * (pair[1] - pair[0])
