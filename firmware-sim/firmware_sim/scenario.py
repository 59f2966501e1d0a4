"""Scenarios: what a fleet is, what befalls it and when, as frozen structs read from TOML. docs/scenarios.md holds every key.

Nothing is drawn here: a scenario says ranges and shares, plan.py draws from them. Times are seconds since the fleet started.
Unknown keys are refused and one message names every bad key by its path; the rules between keys are in scenario_rules.py.
"""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec
import tomllib
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from covey.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from firmware_sim.links import LinkProfile

DAY_S = 86_400
_STAND_IN = {"title": "-", "duration_s": float(DAY_S), "devices": 1}
Seconds = Annotated[float, Meta(gt=0, le=DAY_S)]
Time = Annotated[float, Meta(ge=0, le=DAY_S)]  # s since the fleet started
Times = tuple[Time, Time]  # from, to
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1000)]
Body = Literal["quadrotor", "machine"]


class Vehicles(Struct, frozen=True, kw_only=True):
    """The bodies of the fleet, and the pool of recordings that its devices share."""

    pool_quadrotors: Count = 12  # different quadrotors that are flown
    pool_machines: Count = 6  # different machines that are run
    machine_share: Share = 0.0  # of the devices; the others are quadrotors
    flight_s: Annotated[float, Meta(ge=10, le=600)] = 26.0  # a flight's recording, with its seconds on the ground
    rest_s: Times = (15.0, 45.0)  # on the ground between two flights
    first_flight_s: Times = (1.0, 30.0)  # first take-off of a device whose flights nothing else decides
    missions: tuple[str, ...] = ("shuttle",)  # flown in turn
    commission_flights: Annotated[int, Meta(ge=1, le=20)] = 3  # known healthy, to calibrate on
    flights_per_vehicle: Annotated[int, Meta(ge=1, le=20)] = 3  # different recordings of one vehicle and condition
    commission_run_s: Annotated[float, Meta(ge=30, le=7200)] = 300.0  # a machine's commissioning recording


class Link(Struct, frozen=True, kw_only=True):
    """A share of the devices on one link profile."""

    profile: str
    share: Share = 1.0


class Outage(Struct, frozen=True, kw_only=True):
    """Links that carry nothing for a while; of all profiles, or of one."""

    at_s: Time
    for_s: Seconds
    share: Share = 1.0
    link: str = ""


class Change(Struct, frozen=True, kw_only=True):
    """A fault or a drift that a share of the devices of one body gets."""

    kind: str
    share: Share
    onset_s: Times
    params: dict[str, Any] = {}  # a value, [low, high], a list of choices, or {one_of = [...]}
    body: Literal["", "quadrotor", "machine"] = ""  # empty: the only one that fits
    pool_faulty: Annotated[int, Meta(ge=1, le=50)] = 6  # different sizes and vehicles that its devices share


class Storm(Struct, frozen=True, kw_only=True):
    """Connections cut at one moment; the devices come back as fast as their backoff allows."""

    at_s: Time
    share: Share = 1.0


class Reboot(Struct, frozen=True, kw_only=True):
    """Devices without power for a while."""

    at_s: Time
    share: Share = 1.0
    off_s: Times = (5.0, 15.0)
    spread_s: Time = 0.0  # a device's begins within this time after at_s


class Jump(Struct, frozen=True, kw_only=True):
    """A step of devices' clocks; negative is backwards."""

    at_s: Time
    share: Share = 1.0
    by_s: tuple[
        Annotated[float, Meta(ge=-DAY_S, le=DAY_S)],
        Annotated[float, Meta(ge=-DAY_S, le=DAY_S)],
    ]


class Clocks(Struct, frozen=True, kw_only=True):
    """How wrong the devices' clocks are; uniform within plus and minus each spread."""

    offset_s: Annotated[float, Meta(ge=0, le=DAY_S)] = 0.0
    drift_ppm: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    jumps: tuple[Jump, ...] = ()


class Site(Struct, frozen=True, kw_only=True):
    """Where the devices' homes lie; evenly over a disc."""

    lat_deg: Annotated[float, Meta(ge=-85, le=85)] = 47.397742  # the home of PX4's own simulation
    lon_deg: Annotated[float, Meta(ge=-180, le=180)] = 8.545594
    radius_m: Annotated[float, Meta(ge=0, le=1_000_000)] = 2000.0


class Scenario(Struct, frozen=True, kw_only=True):
    """One scenario; see docs/scenarios.md for every key."""

    name: str = ""  # the file's, when it says none
    title: str
    description: str = ""  # what happens and what that shows
    expect: str = ""  # what a healthy system does
    duration_s: Seconds
    devices: Annotated[int, Meta(ge=1, le=1_000_000)]
    prefix: str = "sim"  # of device names: sim-00001
    summary_interval_s: Seconds = 10.0
    idle_summary_interval_s: Time = 0.0  # on the ground; 0: as summary_interval_s
    keepalive_s: Annotated[int, Meta(ge=1, le=65_535)] = 30
    connect_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 500.0  # ramp of the first connects
    changes_per_device: Annotated[int, Meta(ge=1, le=3)] = 1
    reboots_per_device_hour: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    reboot_off_s: Times = (5.0, 15.0)  # of those
    vehicles: Vehicles = Vehicles()
    links: tuple[Link, ...] = ()  # what is left of 1 is on ethernet
    profiles: dict[str, dict[str, Any]] = {}  # own link profiles by name; they go before the built-in ones
    outages: tuple[Outage, ...] = ()
    changes: tuple[Change, ...] = ()
    storms: tuple[Storm, ...] = ()
    reboots: tuple[Reboot, ...] = ()
    clocks: Clocks = Clocks()
    site: Site = Site()

    def __post_init__(self) -> None:
        if not self.idle_summary_interval_s:
            force_setattr(self, "idle_summary_interval_s", self.summary_interval_s)

    def body_of(self, change: Change) -> Body:
        """Whom a change befalls: what it says, else the body that its kind fits, else the only one in the fleet."""
        from firmware_sim.world.faults import KINDS

        fits = KINDS[change.kind].bodies
        if change.body:
            return change.body
        if "machine" not in fits:
            return "quadrotor"
        if "quadrotor" not in fits:
            return "machine"
        return "machine" if self.vehicles.machine_share == 1.0 else "quadrotor"

    def link_profile(self, name: str) -> LinkProfile:
        """A link profile by its name: the scenario's own, else the built-in one."""
        from firmware_sim.links import PROFILES, LinkProfile

        if name in self.profiles:
            return msgspec.convert({"name": name, **self.profiles[name]}, LinkProfile)
        return PROFILES[name]


def library() -> dict[str, Traversable]:
    """The scenarios that come with covey, by name."""
    folder = resources.files("firmware_sim") / "scenarios"
    return {f.name.removesuffix(".toml"): f for f in sorted(folder.iterdir(), key=str) if f.name.endswith(".toml")}


def load_scenario(path_or_name: str | Path) -> Scenario:
    """Read and check one scenario: a TOML file, or the name of a library scenario.

    Raises:
        ConfigError: there is no such file or name, it is not TOML, or keys are wrong; names each of them by its path.
    """
    known = library()
    text = str(path_or_name)
    if isinstance(path_or_name, str) and text in known:
        where, data = text, known[text].read_bytes()
    else:
        path = Path(path_or_name)
        if not path.exists() and not path.suffix and path.parent == Path():
            raise ConfigError(f"scenario {text}: no such file, and the library has only {', '.join(known)}")
        where, data = text, _read(path)
    return parse_scenario(data, where, Path(text).name.removesuffix(".toml"))


def parse_scenario(data: bytes, where: str, name: str) -> Scenario:
    """The scenario of a TOML text; `where` names it in errors, `name` is used when it says none.

    Raises:
        ConfigError: it is not TOML, or keys are wrong; names each of them by its path.
    """
    from firmware_sim.scenario_rules import problems_of

    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not TOML: UTF-8 text expected, byte {error.start} is none") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from error
    bad: dict[str, str] = {}
    table = {"name": name, **table}
    scenario = _build(Scenario, table, "", bad)
    if scenario is None:  # a required key is bad: the rules look at the others with one that hinders nobody
        stand_in = {key: value for key, value in _STAND_IN.items() if key in bad}
        scenario = _build(Scenario, {**table, **stand_in}, "", {})
    rules = problems_of(scenario) if isinstance(scenario, Scenario) else {}
    if bad or rules or not isinstance(scenario, Scenario):
        problems = [f"{key}: {problem}" for key, problem in {**rules, **bad}.items()]
        raise ConfigError(f"{where}: " + "; ".join(problems))
    return scenario


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a TOML file expected, a folder came") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error


def _build(kind: type[Any], table: object, path: str, bad: dict[str, str]) -> Any:
    """A struct from a table; what is wrong goes to `bad` by path, and stands at its default. None: cannot be built."""
    if not isinstance(table, dict):
        bad[path] = f"a table expected, {table!r} came"
        return None
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    for key in table.keys() - fields.keys():
        bad[_join(path, key)] = f"unknown key ({', '.join(fields)} exist)"
    ready: dict[str, Any] = {}
    for name, field in fields.items():
        here = _join(path, name)
        if name not in table:
            if field.required:
                bad[here] = "missing"
            continue
        value = _value(field.type, table[name], here, bad)
        if value is not None:
            ready[name] = value
    if any(f.required and name not in ready for name, f in fields.items()):
        return None
    return kind(**ready)


def _value(kind: Any, value: object, path: str, bad: dict[str, str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _build(kind, value, path, bad)
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,) and not get_origin(get_args(kind)[0]):
        inner = get_args(kind)[0]
        if issubclass(inner, Struct) and isinstance(value, list):
            built = [_build(inner, item, f"{path}[{i}]", bad) for i, item in enumerate(value)]
            return tuple(built)  # None where one is bad: the others keep their numbers
    for where, number in _floats(value, path):
        if not math.isfinite(number):
            bad[where] = f"a finite number expected, {number} came"
            return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, inside = str(error).partition(" - at `$")
        bad[path + inside.removesuffix("`")] = f"{message[:1].lower()}{message[1:]}, {value!r} came"
        return None


def _floats(value: object, path: str) -> list[tuple[str, float]]:
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _floats(item, f"{path}[{i}]")]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _floats(item, _join(path, key))]
    return [(path, value)] if isinstance(value, float) else []


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
