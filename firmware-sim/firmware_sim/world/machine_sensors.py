"""What a Jetson-class computer tells of itself: channels, steps, noise, and sensors that fail. Pure given its random numbers.

Readings have the steps of the real ones: temperatures 1/32 C (tegrastats on Orin), bus voltage 8 mV and shunt current 8 mA
(INA3221: 40 uV on 5 mohm), loads in whole percent, clocks as the governor sets them. A failing sensor misleads who reads
the log; the machine's own fan and throttle go by the true temperature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_sim.world import thermal as th
from firmware_sim.world.faults import SensorBias, SensorDropout, SensorStuck

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]

CHANNELS = (
    "cpu.load",  # %
    "gpu.load",  # %
    "clock.cpu_mhz",
    "clock.gpu_mhz",
    "temp.cpu",  # C
    "temp.gpu",
    "temp.heatsink",
    "fan.rpm",
    "power.total_mw",  # voltage times current as read
    "supply.mv",
    "supply.ma",
    "mem.used_mb",
    "disk.write_kb_s",
)

SUPPLY_V = 5.08
SUPPLY_OHM = 0.030  # regulator and plane
MEMORY_MB, MEMORY_JOB_MB = 7_620.0, 380.0
DISK_KB_S, DISK_JOB_KB_S = 140.0, 60.0

SENSOR_SPREAD_K = 0.4  # between machines
# Noise of one reading.
TEMPERATURE_NOISE_K = 0.12
FAN_NOISE_RPM = 18.0
SUPPLY_NOISE_V = 0.006
CURRENT_NOISE = 0.012  # relative: the load within the second
MEMORY_NOISE_MB = 6.0
DISK_NOISE = 0.35  # of the logarithm

TEMPERATURE_STEP = 1 / 32
VOLTAGE_STEP_MV = 8.0
CURRENT_STEP_MA = 8.0
FAN_STALL_RPM = 100.0  # below it the tachometer tells nothing
NORMALS = 8  # random numbers a row takes


def read_row(
    out: Array,
    heat: th.Heat,
    power_w: tuple[Array, Array, Array],
    clocks: tuple[Array, Array],
    loads: tuple[Array, Array],
    jobs: Array,
    offset_k: Array,
    memory_mb: Array,
    noise: NDArray[np.float32],
) -> None:
    """One row of readings of K machines, written into `out` (K, C).

    Args:
        out: filled in the order of CHANNELS.
        heat: true temperatures and fan.
        power_w: module, CPU and GPU, each (K,).
        clocks: CPU and GPU, MHz.
        loads: CPU and GPU, 0..1.
        jobs: (K,) running now.
        offset_k: (3, K) what each temperature sensor reads too much, as built.
        memory_mb: (K,) used without jobs.
        noise: (K, NORMALS) standard normal, of this row alone.
    """
    whole_w, cpu_w, gpu_w = power_w
    out[:, 0] = np.rint(100 * loads[0])
    out[:, 1] = np.rint(100 * loads[1])
    out[:, 2], out[:, 3] = clocks
    true_c = (heat.die_c + th.HOT_SPOT_K_W * cpu_w, heat.die_c + th.HOT_SPOT_K_W * gpu_w, heat.sink_c)
    for i, c in enumerate(true_c):
        out[:, 4 + i] = _step(c + offset_k[i] + TEMPERATURE_NOISE_K * noise[:, i], TEMPERATURE_STEP)
    turning = heat.fan_rpm > FAN_STALL_RPM
    out[:, 7] = np.rint(turning * np.maximum(heat.fan_rpm + FAN_NOISE_RPM * noise[:, 3], 0.0))
    wanted = whole_w * (1 + CURRENT_NOISE * noise[:, 4])
    volts = SUPPLY_V - SUPPLY_OHM / SUPPLY_V * wanted + SUPPLY_NOISE_V * noise[:, 5]
    out[:, 9] = _step(1000 * volts, VOLTAGE_STEP_MV)
    out[:, 10] = _step(1000 * wanted / volts, CURRENT_STEP_MA)
    out[:, 8] = np.rint(out[:, 9] * out[:, 10] / 1000)
    out[:, 11] = np.rint(np.minimum(memory_mb + MEMORY_JOB_MB * jobs + MEMORY_NOISE_MB * noise[:, 6], MEMORY_MB))
    out[:, 12] = np.rint((DISK_KB_S + DISK_JOB_KB_S * jobs) * np.exp(DISK_NOISE * noise[:, 7]))


def misread(samples: Array, fault: Fault, active: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Change the readings (N, C) of one run in place where a sensor fault is `active` (N,)."""
    if not isinstance(fault, (SensorStuck, SensorBias, SensorDropout)) or not active.any():
        return
    column = CHANNELS.index(fault.sensor)
    first = int(np.argmax(active))
    if isinstance(fault, SensorBias):
        samples[active, column] += fault.size
        return
    lost = active if isinstance(fault, SensorStuck) else active & (rng.random(len(active)) < fault.share)
    # A lost reading repeats the last one that came; before the first there is none, so that one is always there.
    kept = np.where(lost, 0, np.arange(len(lost)))
    samples[first:, column] = samples[np.maximum.accumulate(kept)[first:], column]


def _step(values: NDArray[Any], step: float) -> Array:
    return np.asarray(np.rint(values / step) * step)
