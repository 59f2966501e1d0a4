"""The recordings a fleet plays: flown once with real physics, cut into windows, and the calibration of each who flew.

A fleet of ten thousand devices shares a few hundred flights; each device plays them through an agent's core of its own.
Flown in blocks of equal mission and length, since physics is fastest many at a time. Nothing here knows a network or a
clock: times count from a recording's first sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import DataError
from edge.scoring.calibration import calibrate
from edge.scoring.windows import Cutter, Windows, join, plain_features
from firmware_sim.world.machine import Machine, run_machines
from firmware_sim.world.pilot import MISSIONS
from firmware_sim.world.vehicle import Vehicle, fly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from covey.bundle import Calibration, Inputs
    from edge.core import Loaded
    from firmware_sim.scene.pool import Planned
    from firmware_sim.scene.scenario import Body

RATE_TOLERANCE = 0.05  # as edge/scoring/windows.py cuts files
BLOCK = 512  # flights at a time: bounds memory at some 400 MB for 26 s
_BATTERY = "pm.vbatMV"
_TEMPERATURE = "temp.cpu"


@dataclass(frozen=True)
class Flown:
    """One recording as its sensors gave it.

    Attributes:
        name: who and which flight.
        channels: C names.
        rate_hz: rows a second.
        samples: (R, C) float64.
        position_m: (R, 3) true place, x forward (north), y left (west), z up; None for what stands still.
    """

    name: str
    channels: tuple[str, ...]
    rate_hz: float
    samples: NDArray[np.float64]
    position_m: NDArray[np.float64] | None


@dataclass(frozen=True)
class Recording:
    """One recording cut for a model.

    Attributes:
        name: who and which flight.
        channels: the C' channels the model looks at, in its order.
        duration_s: from the first sample to the end.
        rows: (R, C') float32.
        blocks: (R - T + 1, T, C') view of the rows: the window that begins at each.
        hop: rows from one window to the next within a stretch in the air.
        start_row: (N,) first row of each window.
        flight: (N,) stretches in the air, as the cutter numbers them.
        due_s: (N,) when each window's last sample is there.
        phi: (N, D) features.
        row_bytes: size of a row as the source gave it.
        rate_hz: rows a second.
        position_m, battery_v, temperature_c: one value a second, where there is one.
    """

    name: str
    channels: tuple[str, ...]
    duration_s: float
    rows: NDArray[np.float32]
    blocks: NDArray[np.float32]
    hop: int
    start_row: NDArray[np.int64]
    flight: NDArray[np.int64]
    due_s: NDArray[np.float64]
    phi: NDArray[np.float32]
    row_bytes: int
    rate_hz: float
    position_m: NDArray[np.float32] | None
    battery_v: NDArray[np.float32] | None
    temperature_c: NDArray[np.float32] | None

    def windows(self, first: int, last: int, begin_s: float, flight: int) -> Windows:
        """Windows first..last-1, with device times.

        Args:
            first: number of the first window.
            last: one past the last.
            begin_s: device clock of the recording's first sample.
            flight: added to the flights' numbers, so that two plays of a recording differ.
        """
        start = self.start_row[first:last]
        if len(start) and start[-1] - start[0] == (len(start) - 1) * self.hop:  # one stretch: nothing is copied
            samples = self.blocks[start[0] : start[-1] + 1 : self.hop]
        else:
            samples = self.blocks[start]
        length = self.blocks.shape[1]
        return Windows(samples, start + length - 1, self.flight[first:last] + flight, begin_s + start / self.rate_hz)

    def at(self, series: NDArray[np.float32] | None, t_s: float) -> Any:
        """The value of one of the series at a time; None where there is no series."""
        return None if series is None else series[min(max(int(t_s), 0), len(series) - 1)]


def fly_pool(planned: Sequence[Planned], told: Callable[[int], None]) -> list[Flown]:
    """Fly everything that was planned, in blocks.

    Args:
        planned: recordings; the result keeps their order.
        told: called with the number of recordings done since the last call.
    """
    done: dict[int, Flown] = {}
    for block in _blocks(planned):
        kind = planned[block[0]]
        run = _fly_drones if kind.body == "quadrotor" else _run_machines
        done |= zip(block, run([planned[n] for n in block]), strict=True)
        told(len(block))
    return [done[n] for n in range(len(planned))]


def cut_pool(flown: Sequence[Flown], planned: Sequence[Planned], inputs: Mapping[str, Inputs]) -> list[Recording]:
    """Cut each recording for its body's model.

    Args:
        flown: as `fly_pool` gave them.
        planned: in the same order.
        inputs: body -> what its model looks at.

    Raises:
        DataError: a model looks at a channel that its body does not have, or at another rate.
    """
    return [_cut(one, inputs[plan.body]) for one, plan in zip(flown, planned, strict=True)]


def calibrations(
    recordings: Sequence[Recording],
    commission: Mapping[tuple[Body, int], Sequence[int]],
    models: Mapping[str, Loaded],
) -> dict[tuple[Body, int], Calibration | None]:
    """Calibrate each body's model on the commissioning recordings of each who flew; None where they are too short."""
    made: dict[tuple[Body, int], Calibration | None] = {}
    for (body, vehicle), numbers in commission.items():
        model = models[body]
        parts = [recordings[n].windows(0, len(recordings[n].due_s), 0.0, 1000 * k) for k, n in enumerate(numbers)]
        windows = join(parts, model.manifest.inputs)
        enough = len(windows) >= model.manifest.scoring.commission_windows
        networks = {model.runtime: model.network}
        made[body, vehicle] = calibrate(model.manifest, model.digest, windows, networks, 0.0) if enough else None
    return made


def _blocks(planned: Sequence[Planned]) -> Iterator[list[int]]:
    alike: dict[tuple[str, str, float], list[int]] = {}
    for n, one in enumerate(planned):
        alike.setdefault((one.body, one.mission, one.duration_s), []).append(n)
    for numbers in alike.values():
        yield from (numbers[i : i + BLOCK] for i in range(0, len(numbers), BLOCK))


def _fly_drones(block: Sequence[Planned]) -> list[Flown]:
    flights = fly(
        [Vehicle(one.vehicle) for one in block],
        [one.flight_seed for one in block],
        [one.faults for one in block],
        MISSIONS[block[0].mission],
        block[0].duration_s,
    )
    return [
        Flown(f"V{one.vehicle}-{one.flight_seed}", f.channels, f.rate_hz, f.samples, f.truth.position_m)
        for one, f in zip(block, flights, strict=True)
    ]


def _run_machines(block: Sequence[Planned]) -> list[Flown]:
    runs = run_machines(
        [Machine(one.vehicle) for one in block],
        [one.flight_seed for one in block],
        [one.faults for one in block],
        block[0].duration_s,
    )
    return [
        Flown(f"M{one.vehicle}-{one.flight_seed}", r.channels, r.rate_hz, r.samples, None)
        for one, r in zip(block, runs, strict=True)
    ]


def _blocks_of(rows: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    if len(rows) < window:
        return np.empty((0, window, rows.shape[1]), np.float32)
    return np.lib.stride_tricks.sliding_window_view(rows, window, axis=0).transpose(0, 2, 1)


def _cut(flown: Flown, inputs: Inputs) -> Recording:
    if inputs.padded:
        raise DataError(f"recording {flown.name}: a bundle of features lag or drone expected, temporal ones found")
    missing = [name for name in inputs.channels if name not in flown.channels]
    if missing or abs(flown.rate_hz - inputs.rate_hz) > RATE_TOLERANCE * inputs.rate_hz:
        wanted = f"{', '.join(inputs.channels)} at {inputs.rate_hz:g} Hz"
        raise DataError(
            f"recording {flown.name}: the bundle's channels {wanted} expected; "
            f"there are {', '.join(flown.channels)} at {flown.rate_hz:g} Hz"
        )
    columns = [flown.channels.index(name) for name in inputs.channels]
    rows = np.ascontiguousarray(flown.samples[:, columns], np.float32)
    windows = Cutter(inputs).push(rows, 0.0)
    second = slice(None, None, max(1, round(flown.rate_hz)))

    def series(name: str, factor: float) -> NDArray[np.float32] | None:
        if name not in flown.channels:
            return None
        return (flown.samples[second, flown.channels.index(name)] * factor).astype(np.float32)

    return Recording(
        name=flown.name,
        channels=tuple(inputs.channels),
        duration_s=len(rows) / flown.rate_hz,
        rows=rows,
        blocks=_blocks_of(rows, inputs.window),
        hop=inputs.hop,
        start_row=windows.end_row - inputs.window + 1,
        flight=windows.flight,
        due_s=(windows.end_row + 1) / flown.rate_hz,
        phi=plain_features(windows.samples, inputs),
        row_bytes=4 * len(columns),
        rate_hz=flown.rate_hz,
        position_m=None if flown.position_m is None else flown.position_m[second].astype(np.float32),
        battery_v=series(_BATTERY, 0.001),
        temperature_c=series(_TEMPERATURE, 1.0),
    )
