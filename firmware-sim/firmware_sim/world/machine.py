"""A Jetson-class computer that stands or drives: jobs, clocks, heat, fan, readings. Runs with the truth beside them.

Work arrives as a seeded process: a steady pipeline that wobbles, and jobs that come by chance, more by day than by night,
last tens of seconds and take their share of CPU, GPU and memory. What that does to clocks, power and heat is thermal.py's;
what is read of it is machine_sensors.py's; here are the load, the air around and the faults. Everything random comes from
two seeds: the machine's (how it was built and where it stands) and the run's (time of day, jobs, noise). The same seeds
give the same run; who runs beside it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.world import thermal as th
from firmware_sim.world.faults import (
    MACHINE,
    SENSORS,
    Fault,
    Firmware,
    Overheating,
    Season,
    SensorBias,
    SensorDropout,
    SensorStuck,
)
from firmware_sim.world.machine_sensors import CHANNELS, NORMALS, SENSOR_SPREAD_K, misread, read_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

STEP_S = 0.5  # longest step of heat and fan

# Load: parts of what CPU and GPU can do at their highest clocks.
PIPELINE = np.array([0.20, 0.16])  # the steady part of CPU, GPU
PIPELINE_WOBBLE = np.array([0.02, 0.02])
WOBBLE_S = 8.0
JOB = np.array([0.11, 0.14])  # one job more
JOBS = 2.0  # running at once, mean over the day
JOB_S = 45.0
DAY_SWING = 0.6  # jobs: this part more at 15 h, less at 3 h
LEAST, MOST = 0.02, 1.0

ROOM_C = 20.0  # mean over the day; Season names another
CASE_K = 13.0  # inside the closed case it is so much warmer
AIR_SWING_K = 3.0  # warmest at 15 h
DAY_S = 86_400.0
WARMEST_S = 15 * 3600.0

# Spread between machines.
PIPELINE_SPREAD = 0.12  # of the load, relative
AIR_SPREAD_K = 1.5
POWER_SPREAD = 0.03  # silicon: relative
MEMORY_MB, MEMORY_SPREAD_MB = 2_300.0, 120.0  # used without jobs


@dataclass(frozen=True)
class Machine:
    """One computer as it was built and where it stands.

    Attributes:
        seed: decides every deviation from the nominal machine.
        name: as in file names; "J07" for seed 7 when empty.
    """

    seed: int
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or one made from the seed."""
        return self.name or f"J{self.seed:02d}"


@dataclass(frozen=True)
class MachineTruth:
    """What really happened, per row.

    Attributes:
        faulty: (N,) bool, something of the category "fault" is active.
        drifting: (N,) bool, something of the category "drift" is active.
        die_c, sink_c, air_c: (N,) true temperatures.
        power_w: (N,) power of the module, mean over the row.
        cap: (N,) highest clock allowed by the throttle, 1 when cool.
        faults: faults and drifts of this run.
    """

    faulty: NDArray[np.bool_]
    drifting: NDArray[np.bool_]
    die_c: Array
    sink_c: Array
    air_c: Array
    power_w: Array
    cap: Array
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class MachineRun:
    """One run as a logger on the machine would hold it.

    Attributes:
        machine: its label.
        rate_hz: rows a second.
        channels: C names; units in CHANNELS.
        samples: (N, C) float64.
        truth: beside the samples, never in them.
    """

    machine: str
    rate_hz: float
    channels: tuple[str, ...]
    samples: Array
    truth: MachineTruth


def run_machines(
    machines: Sequence[Machine],
    run_seeds: Sequence[int],
    faults: Sequence[Sequence[Fault]] | None = None,
    duration_s: float = 600.0,
    rate_hz: float = 1.0,
) -> list[MachineRun]:
    """Run K machines side by side.

    Args:
        machines: K machines; the same one may run several times.
        run_seeds: K seeds, one per run.
        faults: K lists of faults and drifts of the body "machine"; none when None.
        duration_s: more than 0.
        rate_hz: rows a second, more than 0 and at most 10.

    Raises:
        UsageError: lengths differ, duration or rate cannot be used, a fault is none of a machine's.
    """
    faults = [()] * len(machines) if faults is None else faults
    if not len(machines) == len(run_seeds) == len(faults):
        raise UsageError(
            f"one run seed and one fault list per machine expected, {len(run_seeds)} and {len(faults)} came "
            f"for {len(machines)} machines"
        )
    if not 0 < rate_hz <= 10:
        raise UsageError(f"a rate of more than 0 and at most 10 rows a second expected, {rate_hz:g} came")
    rows = round(duration_s * rate_hz)
    if not machines or rows < 1:
        raise UsageError(f"a machine and at least one row expected, {len(machines)} machines and {rows} rows came")
    for of_machine in faults:
        for fault in of_machine:
            _check(fault)
    return _Room(machines, run_seeds, faults, rows, rate_hz).run()


def _check(fault: Fault) -> None:
    """A fault that no machine can have is told, not passed over."""
    known = [name for name, sensor in SENSORS.items() if MACHINE in sensor.bodies]
    if MACHINE not in fault.bodies:
        raise UsageError(f"fault {fault.kind}: one of a machine's expected, it is {' and '.join(fault.bodies)}'s")
    if isinstance(fault, (SensorStuck, SensorBias, SensorDropout)) and fault.sensor not in known:
        raise UsageError(f"fault {fault.kind}: sensor: one of {', '.join(known)} expected, {fault.sensor!r} came")


class _Room:
    """One call of `run_machines`: the arrays of all K runs."""

    def __init__(
        self,
        machines: Sequence[Machine],
        run_seeds: Sequence[int],
        faults: Sequence[Sequence[Fault]],
        rows: int,
        rate_hz: float,
    ) -> None:
        self.machines, self.run_seeds, self.faults, self.rows = machines, run_seeds, faults, rows
        self.row_s = 1 / rate_hz
        count = len(machines)
        self.chance = np.empty((rows, 2, count), dtype=np.float32)  # a job comes, a job ends
        self.noise = np.empty((rows, count, 2 + NORMALS), dtype=np.float32)
        self.pipeline = np.empty((2, count))
        self.air_offset, self.silicon, self.memory_mb = np.empty(count), np.empty(count), np.empty(count)
        self.sensor_offset = np.empty((3, count))
        self.day_s, self.jobs = np.empty(count), np.empty(count)  # time of day at the start, jobs running
        for k, (machine, seed) in enumerate(zip(machines, run_seeds, strict=True)):
            built = np.random.default_rng([4, machine.seed])
            today = np.random.default_rng([5, machine.seed, seed])
            spread = built.standard_normal(8)
            self.pipeline[:, k] = PIPELINE * np.exp(PIPELINE_SPREAD * spread[0:2])
            self.air_offset[k] = AIR_SPREAD_K * spread[2]
            self.sensor_offset[:, k] = SENSOR_SPREAD_K * spread[3:6]
            self.silicon[k] = 1 + POWER_SPREAD * spread[6]
            self.memory_mb[k] = MEMORY_MB + MEMORY_SPREAD_MB * spread[7]
            self.day_s[k] = today.uniform(0, DAY_S)
            self.jobs[k] = today.poisson(JOBS * float(_rhythm(self.day_s[k])))
            self.chance[:, :, k] = today.random((rows, 2), dtype=np.float32)
            self.noise[:, k] = today.standard_normal((rows, 2 + NORMALS), dtype=np.float32)
        self.wobble = np.zeros((2, count))
        self.airflow, self.load_share = np.ones(count), np.ones(count)
        self.room_c = np.full(count, ROOM_C)
        self.changes = sorted({0.0, *(f.onset_s for of in faults for f in of)})
        self.substeps = max(1, int(np.ceil(self.row_s / STEP_S)))

    def run(self) -> list[MachineRun]:
        count = len(self.machines)
        log = np.empty((self.rows, count, len(CHANNELS)))
        truth = np.empty((self.rows, 5, count))
        whole = np.ones(count)
        heat: th.Heat | None = None
        for n in range(self.rows):
            t_s = n * self.row_s
            self._apply(t_s)
            air = self._air_c(t_s)
            demand = self._demand(t_s, self.chance[n], self.noise[n])
            if heat is None:  # it has been on for long, with its fan clean
                heat = th.Heat.settled(self._draw(demand, whole)[0][0], air, whole)
            power, clocks, loads = self._draw(demand, heat.cap)
            drawn = np.zeros(count)
            for i in range(self.substeps):
                if i and heat.cap.min() < 1.0:  # the throttle moves within a row
                    power, clocks, loads = self._draw(demand, heat.cap)
                th.advance(heat, power[0], air, self.airflow, self.row_s / self.substeps)
                drawn += power[0]
            drawn /= self.substeps
            seen = (drawn, power[1], power[2])
            read_row(
                log[n], heat, seen, clocks, loads, self.jobs, self.sensor_offset, self.memory_mb, self.noise[n, :, 2:]
            )
            truth[n] = heat.die_c, heat.sink_c, air, drawn, heat.cap
        return [self._one(k, log[:, k].copy(), truth[:, :, k]) for k in range(count)]

    def _air_c(self, t_s: float) -> Array:
        """Air that the heatsinks breathe: room, case, daily sine, and where each stands."""
        angle = 2 * np.pi * (self.day_s + t_s - WARMEST_S) / DAY_S
        return np.asarray(self.room_c + CASE_K + AIR_SWING_K * np.cos(angle) + self.air_offset)

    def _apply(self, t_s: float) -> None:
        while self.changes and t_s >= self.changes[0]:
            self.changes.pop(0)
            for k, of_machine in enumerate(self.faults):
                for fault in of_machine:
                    if t_s < fault.onset_s:
                        continue
                    if isinstance(fault, Overheating):
                        self.airflow[k] = fault.airflow_share
                    elif isinstance(fault, Season):
                        self.room_c[k] = fault.temperature_c
                    elif isinstance(fault, Firmware):
                        self.load_share[k] = fault.load_share

    def _demand(self, t_s: float, chance: Array, noise: Array) -> Array:
        """(2, K) what CPU and GPU are asked for, of what they can do at their highest clocks.

        Jobs are a birth-death process: one comes with probability rate x dt, one of n ends with n dt / JOB_S.
        """
        come = chance[0] < self.row_s / JOB_S * JOBS * _rhythm(self.day_s + t_s)
        end = chance[1] < self.row_s / JOB_S * self.jobs
        self.jobs += come
        self.jobs -= end
        kept = np.exp(-self.row_s / WOBBLE_S)
        self.wobble = kept * self.wobble + np.sqrt(1 - kept * kept) * PIPELINE_WOBBLE[:, None] * noise[:, 0:2].T
        asked = (self.pipeline + self.wobble) + JOB[:, None] * self.jobs
        return np.minimum(np.maximum(self.load_share * asked, LEAST), MOST)

    def _draw(
        self, demand: Array, cap: Array
    ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array], tuple[Array, Array]]:
        """Power of module, CPU and GPU in W, clocks in MHz and utilisation of CPU and GPU, each (K,)."""
        clocks = th.cpu_clock(demand[0], cap), th.gpu_clock(demand[1], cap)
        loads = th.utilisation(demand[0], clocks[0], th.CPU_MHZ), th.utilisation(demand[1], clocks[1], th.GPU_MHZ)
        cpu_w = self.silicon * th.dynamic_w(loads[0], clocks[0], th.CPU_MHZ, th.CPU_W)
        gpu_w = self.silicon * th.dynamic_w(loads[1], clocks[1], th.GPU_MHZ, th.GPU_W)
        return (self.silicon * th.IDLE_W + cpu_w + gpu_w, cpu_w, gpu_w), clocks, loads

    def _one(self, k: int, samples: Array, truth: Array) -> MachineRun:
        times_s = np.arange(self.rows) * self.row_s
        broken, changed = np.zeros(self.rows, dtype=bool), np.zeros(self.rows, dtype=bool)
        for i, fault in enumerate(self.faults[k]):
            active = times_s >= fault.onset_s
            if fault.category == "drift":
                changed |= active
            else:
                broken |= active
            misread(samples, fault, active, np.random.default_rng([6, self.machines[k].seed, self.run_seeds[k], i]))
        die_c, sink_c, air_c, power_w, cap = np.ascontiguousarray(truth.T)
        return MachineRun(
            machine=self.machines[k].label,
            rate_hz=1 / self.row_s,
            channels=CHANNELS,
            samples=samples,
            truth=MachineTruth(broken, changed, die_c, sink_c, air_c, power_w, cap, tuple(self.faults[k])),
        )


def _rhythm(day_s: Array | float) -> Array:
    """Jobs over their daily mean: most at 15 h."""
    return np.asarray(1 + DAY_SWING * np.cos(2 * np.pi * (np.asarray(day_s) - WARMEST_S) / DAY_S))
