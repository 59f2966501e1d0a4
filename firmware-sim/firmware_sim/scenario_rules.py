"""The rules between a scenario's keys: shares, times, names of kinds, missions and links. Each problem by its path; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from covey import topics
from firmware_sim import params
from firmware_sim.links import PROFILES, LinkProfile
from firmware_sim.schedule import ONSET_SHARES, airborne_s, at_airborne_share
from firmware_sim.world.faults import KINDS
from firmware_sim.world.pilot import MISSIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firmware_sim.scenario import Change, Jump, Outage, Reboot, Scenario, Storm

Problem = tuple[str, str]
T = TypeVar("T")
LARGEST = 10_000_000  # the longest device number that names are checked for


def problems_of(scenario: Scenario) -> dict[str, str]:
    """Every broken rule, by the path of its key. Entries that could not be built at all are None and are passed over."""
    problems: dict[str, str] = {}
    for rules in (_fleet, _links, _events, _changes):
        for path, problem in rules(scenario):
            problems.setdefault(path, problem)
    return problems


def _fleet(scenario: Scenario) -> Iterator[Problem]:
    if not topics.is_device(f"{scenario.prefix}-{LARGEST}"):
        yield "prefix", f"letters, digits, '.', '_', '-' (at most 55) expected, {scenario.prefix!r} came"
    if not scenario.name.strip() or not scenario.name.isprintable():
        yield "name", f"a name expected, {scenario.name!r} came"
    yield from _rising("reboot_off_s", scenario.reboot_off_s, above=0.0)
    vehicles = scenario.vehicles
    yield from _rising("vehicles.rest_s", vehicles.rest_s)
    yield from _rising("vehicles.first_flight_s", vehicles.first_flight_s)
    if not vehicles.missions:
        yield "vehicles.missions", f"at least one of {', '.join(MISSIONS)} expected, an empty list came"
    for i, mission in enumerate(vehicles.missions):
        if mission not in MISSIONS:
            yield f"vehicles.missions[{i}]", f"one of {', '.join(MISSIONS)} expected, {mission!r} came"
    if vehicles.commission_flights < len(vehicles.missions):
        yield (
            "vehicles.commission_flights",
            f"a flight of each of the {len(vehicles.missions)} missions expected, {vehicles.commission_flights} came",
        )


def _links(scenario: Scenario) -> Iterator[Problem]:
    known = {**PROFILES, **scenario.profiles}
    for name, table in scenario.profiles.items():
        if not name.strip():
            yield f"profiles.{name}", "a name expected, an empty text came"
        for key, value in table.items():
            if key == "name" or key not in LinkProfile.__struct_fields__:
                there = ", ".join(f for f in LinkProfile.__struct_fields__ if f != "name")
                yield f"profiles.{name}.{key}", f"unknown key ({there} exist)"
                continue
            try:
                msgspec.convert({"name": name, key: value}, LinkProfile)
            except msgspec.ValidationError as error:
                if "beside" not in str(error) and "less than" not in str(error):
                    yield f"profiles.{name}.{key}", f"{_plain(error)}, {value!r} came"
        try:
            scenario.link_profile(name)
        except msgspec.ValidationError as error:
            if not any(f"`$.{key}`" in str(error) for key in table):
                yield f"profiles.{name}", _plain(error)
    for i, link in _there(scenario.links):
        if link.profile not in known:
            yield f"links[{i}].profile", f"one of {', '.join(known)} expected, {link.profile!r} came"
    yield from _at_most_one("links", [link.share for _, link in _there(scenario.links)])
    for i, outage in _there(scenario.outages):
        if outage.link and outage.link not in known:
            yield f"outages[{i}].link", f"one of {', '.join(known)} expected, {outage.link!r} came"


def _events(scenario: Scenario) -> Iterator[Problem]:
    timed: dict[str, Sequence[Outage | Storm | Reboot | Jump | None]] = {
        "outages": scenario.outages,
        "storms": scenario.storms,
        "reboots": scenario.reboots,
        "clocks.jumps": scenario.clocks.jumps,
    }
    for where, entries in timed.items():
        for i, entry in enumerate(entries):
            if entry is not None and entry.at_s >= scenario.duration_s:
                yield f"{where}[{i}].at_s", _within(scenario, entry.at_s)
    for i, reboot in _there(scenario.reboots):
        yield from _rising(f"reboots[{i}].off_s", reboot.off_s, above=0.0)
    for i, jump in _there(scenario.clocks.jumps):
        yield from _rising(f"clocks.jumps[{i}].by_s", jump.by_s)


def _changes(scenario: Scenario) -> Iterator[Problem]:
    shares: dict[str, list[float]] = {}
    for i, change in _there(scenario.changes):
        here = f"changes[{i}]"
        yield from _rising(f"{here}.onset_s", change.onset_s)
        if change.onset_s[1] > scenario.duration_s:
            yield f"{here}.onset_s", _within(scenario, change.onset_s[1])
        if change.kind not in KINDS:
            yield f"{here}.kind", f"one of {', '.join(KINDS)} expected, {change.kind!r} came"
            continue
        problem = _body(scenario, change)
        if problem is not None:
            yield f"{here}.body", problem
            continue
        body = scenario.body_of(change)
        shares.setdefault(body, []).append(change.share)
        for key, wrong in params.problems(change.kind, body, change.params).items():
            yield f"{here}.params" + (f".{key}" if key else ""), wrong
        if body == "quadrotor":
            yield from _fits_flights(scenario, change, f"{here}.onset_s")
    if scenario.changes_per_device == 1:
        for of, of_body in shares.items():
            yield from _at_most_one(f"changes of {of}s", of_body)


def _fits_flights(scenario: Scenario, change: Change, path: str) -> Iterator[Problem]:
    """A flight must begin early enough before the end, and the change must have had time to begin in one."""
    flight_s = scenario.vehicles.flight_s
    if scenario.duration_s < flight_s:
        yield "duration_s", f"room for a flight of {flight_s:g} s expected, {scenario.duration_s:g} came"
        return
    earliest, latest = 0.0, scenario.duration_s - flight_s
    if KINDS[change.kind].category == "fault":
        missions = [MISSIONS[name] for name in scenario.vehicles.missions if name in MISSIONS] or [*MISSIONS.values()]
        air = [airborne_s(mission, flight_s) for mission in missions]
        earliest = max(at_airborne_share(spans, ONSET_SHARES[1]) for spans in air)
        latest += min(at_airborne_share(spans, ONSET_SHARES[0]) for spans in air)
    if change.onset_s[1] < earliest or change.onset_s[0] > latest:
        yield (
            path,
            (
                f"times that flights of {flight_s:g} s can have, to at least {earliest:.1f} and from at most {latest:.1f}, "
                f"expected, [{change.onset_s[0]:g}, {change.onset_s[1]:g}] came"
            ),
        )


def _body(scenario: Scenario, change: Change) -> str | None:
    fits, share = params.bodies_of(change.kind), scenario.vehicles.machine_share
    fleet = [body for body, part in (("quadrotor", 1 - share), ("machine", share)) if part > 0]
    if change.body and change.body not in fits:
        return f"{change.kind} is a change of {' or '.join(fits)} only, {change.body!r} came"
    able = [body for body in fleet if body in ((change.body,) if change.body else fits)]
    if not able:
        return f"{change.kind} needs a {change.body or fits[0]}, the fleet has only {fleet[0]}s (vehicles.machine_share {share:g})"
    if len(able) > 1:
        return f"quadrotor or machine expected for {change.kind}, since the fleet has both, nothing came"
    return None


def _rising(path: str, pair: tuple[float, float], above: float | None = None) -> Iterator[Problem]:
    if pair[0] > pair[1]:
        yield path, f"[from, to] in this order expected, [{pair[0]:g}, {pair[1]:g}] came"
    elif above is not None and pair[0] <= above:
        yield path, f"times above {above:g} s expected, {pair[0]:g} came"


def _at_most_one(path: str, shares: Iterable[float]) -> Iterator[Problem]:
    total = sum(shares)
    if total > 1 + 1e-9:
        yield path, f"shares of at most 1 together expected, {total:g} came"


def _within(scenario: Scenario, time_s: float) -> str:
    return f"a time within the {scenario.duration_s:g} s of the scenario expected, {time_s:g} came"


def _there(entries: Sequence[T | None]) -> list[tuple[int, T]]:
    return [(i, entry) for i, entry in enumerate(entries) if entry is not None]


def _plain(error: msgspec.ValidationError) -> str:
    message = str(error).partition(" - at `$")[0]
    return f"{message[:1].lower()}{message[1:]}"
