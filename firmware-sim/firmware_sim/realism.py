"""How alike simulated and real flights are: figures of single flights, of groups by damage, and their ratios. Pure but for reading.

Real flights come as CrazyPAD logs (a manifest beside them); simulated ones are flown with the same damage, on vehicles that
the simulator built, not on copies of the real drones: what is compared are levels and spreads, never single traces. Part of
the simulator's constants was chosen with these very logs in sight: TUNED says which figures that touches; agreement there
shows that the fit worked, not that the physics is right.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from edge.sources.crazyflie import read_crazyflie
from firmware_sim.world.faults import PropellerCut
from firmware_sim.world.vehicle import Vehicle, fly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]

READ = (
    *(f"motor.m{i}" for i in range(1, 5)),
    *(f"stateEstimate.{n}" for n in ("ax", "ay", "az")),
    "pm.vbatMV",
    "stateEstimate.z",
    "stateEstimate.roll",
)
BANDS_HZ = ((0.5, 5.0), (5.0, 15.0), (15.0, 30.0), (30.0, 50.0))
SEGMENT = 128  # samples of a Welch segment: 0.78 Hz at 100 Hz
AIRBORNE_M, TURNING = 0.2, 5000.0  # height and motor command of a vehicle in the air
HEALTHY = "healthy"  # the group without damage
OFF = 2.0  # a figure off by more than this factor is called off
# Figure -> unit, and how the simulator's constants depend on the real logs.
TUNED = {
    "motor command, mean": ("%", "mass chosen for it"),
    "rotor ratios, spread over the four": ("%", "spread of motors and propellers chosen for it"),
    "rotor ratios, between flights": ("%", "session drift chosen for it"),
    "ratio of the damaged rotor, change": ("%", ""),
    "motor command within 1 s": ("%", ""),
    "acceleration x within 1 s": ("mg", "sensor noise and blade mass chosen for it"),
    "acceleration y within 1 s": ("mg", "sensor noise and blade mass chosen for it"),
    "acceleration z within 1 s": ("mg", "sensor noise and blade mass chosen for it"),
    **{f"acceleration x, y {low:g} to {high:g} Hz": ("mg", "") for low, high in BANDS_HZ},
    **{f"acceleration z {low:g} to {high:g} Hz": ("mg", "") for low, high in BANDS_HZ},
    "battery slope": ("mV/s", "resistances chosen for it"),
    "roll, spread": ("deg", ""),
    "airborne": ("s", "mission taken from the logs"),
}


@dataclass(frozen=True)
class Source:
    """One flight before it is looked at.

    Attributes:
        drone: who flew.
        cut_mm: (first, second) blade of M3; None for a healthy flight.
        rate_hz: rows a second.
        samples: (N, 10) in the order of READ.
    """

    drone: str
    cut_mm: tuple[float, float] | None
    rate_hz: float
    samples: Array


@dataclass(frozen=True)
class Row:
    """One figure of one group.

    Attributes:
        group: "healthy" or "cut 1.5 + 1 mm".
        figure: a key of TUNED.
        sim, real: medians over the flights.
        ratio: sim over real; NaN when real is 0.
        off: the ratio is above OFF or below 1/OFF.
    """

    group: str
    figure: str
    sim: float
    real: float

    @property
    def ratio(self) -> float:
        """Sim over real."""
        return self.sim / self.real if self.real else math.nan

    @property
    def off(self) -> bool:
        """Apart by more than the factor OFF, or of another sign."""
        return not 1 / OFF <= self.ratio <= OFF


@dataclass(frozen=True)
class Group:
    """All flights with the same damage, of one kind.

    Attributes:
        name: as in `Row`.
        figures: name -> median.
        per_flight: one dict a flight, for plots.
        spectra: frequencies (F,), densities of x, y and z (3, F) in g^2/Hz, mean over the flights.
    """

    name: str
    figures: dict[str, float]
    per_flight: tuple[dict[str, float], ...]
    spectra: tuple[Array, Array]


@dataclass(frozen=True)
class Comparison:
    """Groups of both kinds and the table of their figures."""

    sim: tuple[Group, ...]
    real: tuple[Group, ...]
    rows: tuple[Row, ...]


def welch(signal: Array, rate_hz: float, segment: int = SEGMENT) -> tuple[Array, Array]:
    """Power spectral density by averaged periodograms: Hann window, half overlap, mean removed.

    Args:
        signal: (N,), N >= segment.
        rate_hz: samples a second.
        segment: even.

    Returns:
        Frequencies (segment/2 + 1,) in Hz and one-sided densities in unit^2/Hz: their sum times the frequency step is the
        variance.

    Source: Welch, IEEE Trans. Audio Electroacoust. 15(2), 1967.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(segment) / segment)
    starts = range(0, len(signal) - segment + 1, segment // 2)
    blocks = np.stack([signal[s : s + segment] for s in starts])
    blocks = (blocks - blocks.mean(axis=1, keepdims=True)) * window
    density = (np.abs(np.fft.rfft(blocks, axis=1)) ** 2).mean(axis=0) / (rate_hz * (window**2).sum())
    density[1:-1] *= 2
    return np.fft.rfftfreq(segment, 1 / rate_hz), density


def band_rms(frequencies: Array, density: Array, low_hz: float, high_hz: float) -> float:
    """Root of the power between two frequencies, in the signal's unit."""
    inside = (frequencies >= low_hz) & (frequencies < high_hz)
    return float(np.sqrt(density[inside].sum() * (frequencies[1] - frequencies[0])))


def figures_of(source: Source) -> tuple[dict[str, float], Array, tuple[Array, Array]] | None:
    """Figures of one flight, its four mean rotor ratios, and its spectra; None when it was never in the air for 2 s."""
    samples, rate = source.samples, source.rate_hz
    motors, accelerations = samples[:, :4], samples[:, 4:7]
    air = (samples[:, 8] > AIRBORNE_M) & (motors.min(axis=1) > TURNING)
    stretches = [s for s in _runs(air) if s.stop - s.start >= max(SEGMENT, 2 * rate)]
    if not stretches:
        return None
    second = round(rate)
    seconds = [slice(a, a + second) for s in stretches for a in range(s.start, s.stop - second + 1, second // 2)]
    mean = np.stack([motors[w].mean(axis=0) for w in seconds])  # (W, 4)
    ratios = (mean / mean.mean(axis=1, keepdims=True) - 1).mean(axis=0)
    within = np.median([motors[w].std(axis=0) / motors[w].mean() for w in seconds], axis=0)
    shaking = 1e3 * np.median([accelerations[w].std(axis=0) for w in seconds], axis=0)
    spectra = [[welch(accelerations[s, i], rate) for s in stretches] for i in range(3)]
    frequencies = spectra[0][0][0]
    weights = [s.stop - s.start for s in stretches]
    density = np.stack([np.average([d for _, d in of], axis=0, weights=weights) for of in spectra])
    flat = density[:2].mean(axis=0)
    rows = np.flatnonzero(air)
    found = {
        "motor command, mean": 100 * float(motors[air].mean()) / 65535,
        "rotor ratios, spread over the four": 100 * float(ratios.std()),
        "motor command within 1 s": 100 * float(within.mean()),
        **{f"acceleration {axis} within 1 s": float(v) for axis, v in zip("xyz", shaking, strict=True)},
        **{f"acceleration x, y {a:g} to {b:g} Hz": 1e3 * band_rms(frequencies, flat, a, b) for a, b in BANDS_HZ},
        **{f"acceleration z {a:g} to {b:g} Hz": 1e3 * band_rms(frequencies, density[2], a, b) for a, b in BANDS_HZ},
        "battery slope": float(np.polyfit(rows / rate, samples[air, 7], 1)[0]),
        "roll, spread": float(samples[air, 9].std()),
        "airborne": float(air.sum() / rate),
    }
    return found, ratios, (frequencies, density)


def group_of(name: str, flights: Sequence[Source], healthy: Mapping[str, float]) -> Group | None:
    """Medians over the flights of one group; None when none of them was in the air.

    Args:
        name: as in `Row`.
        flights: of the group.
        healthy: drone -> mean ratio of its M3 in healthy flights, %; the change by damage is counted from there.
    """
    seen = [(source.drone, found) for source in flights if (found := figures_of(source)) is not None]
    if not seen:
        return None
    change = "ratio of the damaged rotor, change"
    for drone, (each_figures, ratios, _) in seen:
        each_figures[change] = 100 * float(ratios[2]) - healthy.get(drone, math.nan)
    each = tuple(figures for _, (figures, _, _) in seen)
    figures = {key: float(np.median([f[key] for f in each])) for key in each[0]}
    if name == HEALTHY:
        del figures[change]
        between = [
            np.var([r for d, (_, r, _) in seen if d == drone], axis=0, ddof=1)
            for drone in sorted({d for d, _ in seen})
            if sum(d == drone for d, _ in seen) > 1
        ]
        if between:
            figures["rotor ratios, between flights"] = 100 * float(np.sqrt(np.mean(between)))
    frequencies = seen[0][1][2][0]
    return Group(name, figures, each, (frequencies, np.mean([s[1] for _, (_, _, s) in seen], axis=0)))


def compare(sim: Mapping[str, Sequence[Source]], real: Mapping[str, Sequence[Source]]) -> Comparison:
    """Both kinds, group by group; groups and figures that only one kind has are left out of the table.

    Args:
        sim: group name -> flights.
        real: the same; its order is the table's.
    """
    groups = {}
    for kind, of in (("s", sim), ("r", real)):
        healthy = _healthy_ratio(of.get(HEALTHY, ()))
        groups[kind] = {name: group for name, flights in of.items() if (group := group_of(name, flights, healthy))}
    rows = [
        Row(name, figure, groups["s"][name].figures[figure], group.figures[figure])
        for name, group in groups["r"].items()
        if name in groups["s"]
        for figure in TUNED
        if figure in group.figures and figure in groups["s"][name].figures
    ]
    return Comparison(tuple(groups["s"].values()), tuple(groups["r"].values()), tuple(rows))


def _healthy_ratio(flights: Sequence[Source]) -> dict[str, float]:
    ratios: dict[str, list[float]] = {}
    for source in flights:
        if (found := figures_of(source)) is not None:
            ratios.setdefault(source.drone, []).append(100 * float(found[1][2]))
    return {drone: float(np.mean(of)) for drone, of in ratios.items()}


def read_real(folder: Path) -> dict[str, list[Source]]:
    """Healthy flights and flights with a cut propeller of M3 of a CrazyPAD folder; other damage is left out.

    Raises:
        DataError: no manifest, or a log that it names cannot be read.
    """
    manifest = folder / "manifest.csv"
    try:
        with manifest.open(newline="", encoding="utf-8") as lines:
            listed = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{manifest}: the flights' manifest expected, {error}") from error
    flights: dict[str, list[Source]] = {}
    for number, row in enumerate(listed, start=2):
        try:
            family, condition, drone, file = row["family"], row["condition"], row["drone"], row["file"]
        except KeyError as error:
            raise DataError(f"{manifest}: line {number}: a column {error} expected, none came") from error
        if family not in {"normal", "cut"} or (family == "cut" and row.get("motors") != "M3"):
            continue
        cut = None if family == "normal" else _cut_of(condition)
        recording = read_crazyflie(folder / file, READ)
        samples = recording.samples.astype(np.float64)
        flights.setdefault(group_name(cut), []).append(Source(drone, cut, recording.rate_hz, samples))
    if not flights:
        raise DataError(f"{manifest}: healthy flights or cuts of M3 expected, none came")
    return dict(sorted(flights.items(), key=lambda item: sum(item[1][0].cut_mm or (0.0, 0.0))))


def fly_like(
    real: Mapping[str, Sequence[Source]], flights: int, seed: int = 0, duration_s: float = 26.0
) -> dict[str, list[Source]]:
    """Simulated flights for every group of real ones: `flights` each, by a third as many vehicles (two at least).

    Vehicles are the same in every group, as the real drones are.
    """
    draw = np.random.default_rng([8, seed])
    vehicles = [Vehicle(int(s)) for s in draw.integers(2**31, size=max(2, flights // 3))]
    flown: dict[str, list[Source]] = {}
    for name, like in real.items():
        cut = like[0].cut_mm
        faults: list[Fault] = [] if cut is None else [PropellerCut(3, cut[0], cut[1])]
        who = [vehicles[n % len(vehicles)] for n in range(flights)]
        seeds = [int(s) for s in draw.integers(2**31, size=flights)]
        done = fly(who, seeds, [faults] * flights, duration_s=duration_s)
        flown[name] = [
            Source(f.vehicle, cut, f.rate_hz, f.samples[:, [f.channels.index(c) for c in READ]]) for f in done
        ]
    return flown


def group_name(cut_mm: tuple[float, float] | None) -> str:
    """What a group is called."""
    if cut_mm is None:
        return HEALTHY
    return f"cut {cut_mm[0]:g}" + (f" + {cut_mm[1]:g}" if cut_mm[1] else "") + " mm"


def _cut_of(condition: str) -> tuple[float, float]:
    """`cut_propeller_M3_1.5mm_1mm_44.5mm`: first blade, second blade, what is left of the diameter."""
    parts = condition.removeprefix("cut_propeller_M3_").split("_")
    try:
        cuts = [float(part.removesuffix("mm")) for part in parts]
    except ValueError as error:
        raise DataError(f"manifest: a condition such as cut_propeller_M3_3mm expected, {condition!r} came") from error
    return cuts[0], cuts[1] if len(cuts) > 1 else 0.0


def _runs(true: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
