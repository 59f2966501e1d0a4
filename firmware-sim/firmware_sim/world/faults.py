"""What can break or change in a vehicle: kind, size, onset and bounds. Truth for the ledger; no randomness, no effect.

A *fault* is something broken, a *drift* something that changed and is no fault (season, payload, firmware): an alarm about
it is neither a hit nor simply false. What each does to the physics is said where it acts: world/effects.py for bodies and
batteries, world/sensors.py for what is measured, world/machine.py for machines.

This file only declares and checks: the field's metadata holds unit and bounds, so that messages, `covey sim faults` and the
constructors agree.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

QUADROTOR, MACHINE = "quadrotor", "machine"


class Sensor(NamedTuple):
    """A sensor that can fail."""

    bodies: tuple[str, ...]
    unit: str
    largest_bias: float


SENSORS = {
    "accel": Sensor((QUADROTOR,), "m/s^2", 50.0),  # all three axes; the single ones below
    "accel-x": Sensor((QUADROTOR,), "m/s^2", 50.0),
    "accel-y": Sensor((QUADROTOR,), "m/s^2", 50.0),
    "accel-z": Sensor((QUADROTOR,), "m/s^2", 50.0),
    "gyro": Sensor((QUADROTOR,), "rad/s", 5.0),
    "gyro-x": Sensor((QUADROTOR,), "rad/s", 5.0),
    "gyro-y": Sensor((QUADROTOR,), "rad/s", 5.0),
    "gyro-z": Sensor((QUADROTOR,), "rad/s", 5.0),
    "baro": Sensor((QUADROTOR,), "Pa", 5000.0),
    "gps": Sensor((QUADROTOR,), "m east", 1000.0),
    "battery": Sensor((QUADROTOR,), "V", 2.0),
    "temp.cpu": Sensor((MACHINE,), "K", 100.0),  # the machine's are named as its channels
    "temp.gpu": Sensor((MACHINE,), "K", 100.0),
    "temp.heatsink": Sensor((MACHINE,), "K", 100.0),
    "fan.rpm": Sensor((MACHINE,), "1/min", 10_000.0),
    "power.total_mw": Sensor((MACHINE,), "mW", 100_000.0),
    "supply.mv": Sensor((MACHINE,), "mV", 20_000.0),
    "supply.ma": Sensor((MACHINE,), "mA", 10_000.0),
}


def quantity(unit: str, low: float, high: float, what: str, default: float | None = None) -> Any:
    """A float field with its unit and bounds; without a default it must be given."""
    told = {"unit": unit, "low": low, "high": high, "what": what}
    return field(metadata=told) if default is None else field(default=default, metadata=told)


def _motor() -> Any:
    return field(metadata={"unit": "", "low": 1, "high": 4, "what": "which rotor", "whole": True})


def _sensor() -> Any:
    return field(metadata={"unit": "", "choices": tuple(SENSORS), "what": "which sensor"})


@dataclass(frozen=True)
class Fault:
    """What all have in common.

    Attributes:
        onset_s: seconds after the start of the recording, 0 or later.

    Raises:
        UsageError: a parameter is of another kind, or out of its bounds.
    """

    kind: ClassVar[str] = ""
    category: ClassVar[str] = "fault"
    bodies: ClassVar[tuple[str, ...]] = (QUADROTOR,)

    onset_s: float = field(
        default=0.0, kw_only=True, metadata={"unit": "s", "low": 0.0, "high": 1e9, "what": "when it begins"}
    )

    def __post_init__(self) -> None:
        for parameter in fields(self):
            _check(self.kind, parameter, getattr(self, parameter.name))


def _check(kind: str, parameter: Field[Any], value: object) -> None:
    told, where = parameter.metadata, f"fault {kind}: {parameter.name}"
    if "choices" in told:
        if value not in told["choices"]:
            raise UsageError(f"{where}: one of {', '.join(told['choices'])} expected, {value!r} came")
        return
    if "longest" in told:
        if not isinstance(value, str) or len(value) > told["longest"] or not value.isprintable():
            raise UsageError(f"{where}: a text of at most {told['longest']} characters expected, {value!r} came")
        return
    wanted = f"{told['low']:g} to {told['high']:g} {told['unit']}".rstrip()
    if told.get("whole"):
        right = isinstance(value, int) and not isinstance(value, bool) and told["low"] <= value <= told["high"]
        if not right:
            raise UsageError(f"{where}: a whole number {wanted} expected, {value!r} came")
        return
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not told["low"] <= number <= told["high"]:
        raise UsageError(f"{where}: {wanted} expected, {value!r} came")


RADIUS_MM = 23.5  # CrazyPAD names 44.5 mm for a propeller that lost 1.5 + 1 mm: 47 mm in all
BLADE_KG = 0.10e-3  # an estimate: with it a 3 mm cut shakes the accelerations as the CrazyPAD flights of E9 do
MAX_CUT_MM = 8.0


@dataclass(frozen=True)
class PropellerCut(Fault):
    """One or both blades of one rotor shortened; by blade-element reasoning.

    On a blade of constant chord and lift coefficient the lift of an element grows with r^2 and its drag torque with r^3, so
    a blade of radius R shortened by c keeps ((R - c) / R)^3 of its thrust and ((R - c) / R)^4 of its torque. A propeller has
    two blades: its k_f and k_m are the mean of both. To carry the same weight the rotor turns faster by 1/sqrt(thrust
    factor). The cut mass is missing on one side only: m_c = (blade mass / R) c at r = R - c/2 from the axis pulls with
    m_c r w^2 at rotor frequency. Equal cuts leave the propeller balanced.
    """

    kind = "propeller-cut"
    motor: int = _motor()
    cut_mm: float = quantity("mm", 0.0, MAX_CUT_MM, "taken from the first blade")
    other_cut_mm: float = quantity("mm", 0.0, MAX_CUT_MM, "taken from the second blade", 0.0)

    @property
    def thrust_factor(self) -> float:
        """What is left of k_f."""
        return (_left(self.cut_mm) ** 3 + _left(self.other_cut_mm) ** 3) / 2

    @property
    def torque_factor(self) -> float:
        """What is left of k_m."""
        return (_left(self.cut_mm) ** 4 + _left(self.other_cut_mm) ** 4) / 2

    @property
    def imbalance_kgm(self) -> float:
        """Missing mass times its radius, kg m; multiplied by w^2 it is the rotating force."""
        return abs(_moment(self.cut_mm) - _moment(self.other_cut_mm))


def _left(cut_mm: float) -> float:
    return (RADIUS_MM - cut_mm) / RADIUS_MM


def _moment(cut_mm: float) -> float:
    return BLADE_KG * (cut_mm / RADIUS_MM) * (RADIUS_MM - cut_mm / 2) * 1e-3


@dataclass(frozen=True)
class PropellerImbalance(Fault):
    """Mass off the axis without loss of thrust (dirt, a dent): shakes with m r w^2 at rotor frequency."""

    kind = "propeller-imbalance"
    motor: int = _motor()
    imbalance_gmm: float = quantity("g mm", 0.0, 5.0, "mass times radius; a 3 mm cut is 0.28, a good propeller 0.03")


@dataclass(frozen=True)
class MotorLoss(Fault):
    """A rotor that keeps a share of its thrust and torque at a speed: a loose propeller; at 0 it is gone and the body falls."""

    kind = "motor-loss"
    motor: int = _motor()
    left_share: float = quantity("", 0.0, 1.0, "share of k_f and k_m that is left", 0.0)


@dataclass(frozen=True)
class BearingWear(Fault):
    """Friction in one motor, growing in a straight line from 0 at the onset: more current, a slower rotor, broad shaking."""

    kind = "bearing-wear"
    motor: int = _motor()
    friction_share: float = quantity("", 0.0, 2.0, "friction torque over aerodynamic torque, when fully grown")
    grow_s: float = quantity("s", 0.0, 1e6, "time from the onset to full size", 0.0)

    def share_at(self, t_s: float) -> float:
        """Friction over aerodynamic torque at a time."""
        since_s = t_s - self.onset_s
        if since_s < 0:
            return 0.0
        return self.friction_share * (1.0 if since_s >= self.grow_s else since_s / self.grow_s)


@dataclass(frozen=True)
class _SensorFault(Fault):
    """A fault of one sensor; the body it belongs to has it."""

    bodies = (QUADROTOR, MACHINE)
    sensor: str = _sensor()


@dataclass(frozen=True)
class SensorStuck(_SensorFault):
    """The reading stays at its last value before the onset."""

    kind = "sensor-stuck"


@dataclass(frozen=True)
class SensorBias(_SensorFault):
    """A constant is added to the reading."""

    kind = "sensor-bias"
    size: float = quantity("unit of the sensor", -100_000.0, 100_000.0, "added to the reading")

    def __post_init__(self) -> None:
        super().__post_init__()
        _, unit, largest = SENSORS[self.sensor]
        if abs(self.size) > largest:
            raise UsageError(
                f"fault {self.kind}: size: {-largest:g} to {largest:g} {unit} expected for {self.sensor}, {self.size!r} came"
            )


@dataclass(frozen=True)
class SensorDropout(_SensorFault):
    """Samples are lost at random; the last one that came is repeated, as a register that nobody writes is read again."""

    kind = "sensor-dropout"
    share: float = quantity("", 0.0, 1.0, "share of the samples that is lost")


@dataclass(frozen=True)
class BatterySag(Fault):
    """A worn cell: more resistance (ohmic and slow), less capacity; the state of charge at the onset stays."""

    kind = "battery-sag"
    ohm_factor: float = quantity("", 1.0, 5.0, "resistance over that of the healthy cell")
    capacity_share: float = quantity("", 0.05, 1.0, "share of the capacity that is left", 1.0)


@dataclass(frozen=True)
class GpsSpoof(Fault):
    """A false position that leaves the true one eastward at a constant speed up to an offset; the vehicle follows it."""

    kind = "gps-spoof"
    offset_m: float = quantity("m", -1000.0, 1000.0, "false minus true position, fully grown, eastward")
    speed_ms: float = quantity("m/s", 0.01, 50.0, "how fast the offset grows", 1.0)

    def offset_at(self, t_s: float) -> float:
        """Metres east of the true position at a time."""
        size = min(max(t_s - self.onset_s, 0.0) * self.speed_ms, abs(self.offset_m))
        return math.copysign(size, self.offset_m)


@dataclass(frozen=True)
class Overheating(Fault):
    """Cooling air is blocked: a share of the air flow is left (world/machine.py)."""

    kind = "overheating"
    bodies = (MACHINE,)
    airflow_share: float = quantity("", 0.0, 1.0, "share of the healthy air flow that is left")


@dataclass(frozen=True)
class Season(Fault):
    """Another air temperature than the 20 degrees Celsius of the nominal vehicle: density, and resistance of the cell."""

    kind = "season"
    category = "drift"
    bodies = (QUADROTOR, MACHINE)
    temperature_c: float = quantity("deg C", -30.0, 55.0, "air temperature")


@dataclass(frozen=True)
class Payload(Fault):
    """A mass that is carried, in the plane of the rotors, so far before (or behind) the centre."""

    kind = "payload"
    category = "drift"
    mass_g: float = quantity("g", 0.0, 15.0, "mass carried; the vehicle weighs 36.2 g and lifts 60 g")
    x_mm: float = quantity("mm", -20.0, 20.0, "forward of the centre", 0.0)


@dataclass(frozen=True)
class Firmware(Fault):
    """Another firmware: other gains of the rate loop, base thrust, filter (quadrotor); another load (machine)."""

    kind = "firmware"
    category = "drift"
    bodies = (QUADROTOR, MACHINE)
    version: str = field(default="", metadata={"unit": "", "longest": 40, "what": "its name"})
    gain_share: float = quantity("", 0.6, 1.4, "rate loop: gains over those before", 1.0)
    base_thrust_share: float = quantity("", 0.8, 1.2, "base thrust over that before", 1.0)
    cutoff_hz: float = quantity("Hz", 5.0, 100.0, "accelerometer low-pass", 30.0)
    load_share: float = quantity("", 0.1, 5.0, "machine: load over that before", 1.0)


KINDS: dict[str, type[Fault]] = {
    fault.kind: fault
    for fault in (
        PropellerCut,
        PropellerImbalance,
        MotorLoss,
        BearingWear,
        SensorStuck,
        SensorBias,
        SensorDropout,
        BatterySag,
        GpsSpoof,
        Overheating,
        Season,
        Payload,
        Firmware,
    )
}


def parameters_of(kind: str) -> tuple[Field[Any], ...]:
    """Fields of a kind without the onset, in order.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"fault: one of {', '.join(KINDS)} expected, {kind!r} came")
    return tuple(f for f in fields(KINDS[kind]) if f.name != "onset_s")


def make_fault(kind: str, onset_s: float, params: Mapping[str, object]) -> Fault:
    """A fault by its name.

    Args:
        kind: a key of KINDS.
        onset_s: seconds after the start of the recording.
        params: by parameter name; those with a default may be left out.

    Raises:
        UsageError: one line that names the kind, the key, what was expected and what came.
    """
    known = {f.name: f for f in parameters_of(kind)}
    for key in params:
        if key not in known:
            raise UsageError(f"fault {kind}: one of {', '.join(known)} expected, {key!r} came")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in params]
    if missing:
        raise UsageError(f"fault {kind}: {', '.join(missing)} expected, {', '.join(params) or 'nothing'} came")
    given: dict[str, Any] = {
        name: int(value)
        if known[name].metadata.get("whole") and isinstance(value, float) and value.is_integer()
        else value
        for name, value in params.items()
    }
    return KINDS[kind](**given, onset_s=onset_s)


def check_body(fault: Fault, body: str) -> None:
    """Refuse a fault that such a body cannot have.

    Raises:
        UsageError: it belongs to another body, or its sensor does.
    """
    bodies = SENSORS[fault.sensor].bodies if isinstance(fault, _SensorFault) else fault.bodies
    if body not in bodies:
        what = f" of {fault.sensor}" if isinstance(fault, _SensorFault) else ""
        raise UsageError(f"fault {fault.kind}{what}: a {body} expected, one of a {' or '.join(bodies)} came")


def size_of(fault: Fault) -> dict[str, float | int | str]:
    """The parameters without the onset."""
    return {f.name: getattr(fault, f.name) for f in parameters_of(fault.kind)}
