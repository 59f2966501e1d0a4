"""A Jetson-class computer as physics: clocks, power, heat, fan. K machines at once, SI units, no randomness and no sensors.

    demand -> clock and utilisation -> power -> die -(R1)-> heatsink -(fan, air)-> ambient
                ^ capped while the die is too hot      ^ speed by the die's temperature, with hysteresis

Two heat nodes, die and heatsink, are advanced by backward Euler: stable for any step, and exact in its energy balance
(what the nodes gain is what went in less what the air took). No leakage that grows with temperature and no shutdown: with
the clocks at their floor, air up to 50 C and the fan at a standstill, the die stays below 95 C.

Sources: clocks of the 25 W mode (1344 and 918 MHz), fan profile `quiet` of the P3767 modules (nvfancontrol; margins below
105 C: off at 35 C, 4000 rpm from 74 to 94 C, 6000 rpm from 95 C), passive trip at 95 C, and the measured points that
R1, the air's share, the heat capacity and the powers are fitted to: 4.5 W idle; 12.8 W with CPU and GPU busy, 3.4 to 3.6 W
more when memory streams; 52.5 C at 5 W and 1756 rpm, 60 C at 15.3 W and 6000 rpm, 66 C at 20 W and 6296 rpm, settled after
about ten minutes ("Fan Curve Tuning on Jetson Orin: The Thermal-Margin Encoding Trap", 2026: an Orin Nano 8GB in a closed
case). Hysteresis: 9 K, the first step of NVIDIA's example profile for Jetson Orin. Clock choice: schedutil's rule,
1.25 x demand (Linux kernel, admin-guide/pm/cpufreq). The resistances are fits to one machine, not data sheet values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

CPU_MHZ = 1344.0  # highest clock of the 25 W mode
CPU_STEP_MHZ, CPU_LOW_MHZ, CPU_IDLE_MHZ = 76.8, 115.2, 729.6  # steps, their origin, the governor's floor
GPU_MHZ = 918.0
GPU_STEP_MHZ, GPU_LOW_MHZ, GPU_IDLE_MHZ = 102.0, 0.0, 306.0
HEADROOM = 1.25  # schedutil: clock for 80 % utilisation

IDLE_W = 4.5
CPU_W = 3.3  # all cores busy at the highest clock
GPU_W = 7.0  # busy with traffic to memory
VOLT_AT_ZERO = 0.6  # core voltage extrapolated to a clock of 0, as a part of that at the highest clock

DIE_SINK_KW = 0.6  # K/W, R1
DIE_J_K = 8.0
SINK_J_K = 180.0  # 200 g of aluminium
STILL_AIR_W_K = 0.12  # natural convection and the board
FAN_AIR_W_K = 0.94  # more at full speed, linear in the speed
HOT_SPOT_K_W = 0.15  # a block above the mean of the die, per watt of its own

FAN_FULL_RPM = 6000.0
FAN_CURVE_C = np.array([35.0, 74.0, 94.0, 95.0])
FAN_CURVE_RPM = np.array([0.0, 4000.0, 4000.0, 6000.0])
FAN_HYSTERESIS_K = 9.0
FAN_LAG_S = 1.5

THROTTLE_C = 95.0
RELEASE_C = 92.0  # clocks rise again below it
THROTTLE_PER_S = 0.05  # part of the highest clock given up each second, as the stepwise governor does ...
RELEASE_PER_S = 0.02  # ... and given back
CAP_FLOOR = 0.3


@dataclass
class Heat:
    """Where K machines are; changed in place by `advance`. All (K,).

    Attributes:
        die_c, sink_c: temperatures.
        held_c: what the fan curve is read at: follows the die up at once and down only HYSTERESIS_K behind it.
        fan_rpm: speed of the fan.
        cap: highest clock allowed, as a part of the highest there is.
    """

    die_c: Array
    sink_c: Array
    held_c: Array
    fan_rpm: Array
    cap: Array

    @classmethod
    def settled(cls, power_w: Array, ambient_c: Array, airflow: Array) -> Heat:
        """Machines that have drawn `power_w` for long: the fixed point of curve and heat, found by bisection."""
        low, high = ambient_c.copy(), np.full_like(ambient_c, 200.0)
        for _ in range(50):
            middle = (low + high) / 2
            steady = ambient_c + power_w * (DIE_SINK_KW + 1 / conductance(fan_target(middle), airflow))
            low, high = np.where(steady > middle, middle, low), np.where(steady > middle, high, middle)
        die = (low + high) / 2
        return cls(die, die - power_w * DIE_SINK_KW, die.copy(), fan_target(die), np.ones_like(die))


def conductance(fan_rpm: Array, airflow: Array) -> Array:
    """Heatsink to air, W/K.

    Args:
        fan_rpm: (K,).
        airflow: (K,) what fouling leaves of the fan's air, 0..1; still air takes its part all the same.
    """
    return np.asarray(STILL_AIR_W_K + FAN_AIR_W_K * (fan_rpm / FAN_FULL_RPM) * airflow)


def fan_target(held_c: Array) -> Array:
    """Speed that the fan's curve asks for, rpm."""
    return np.asarray(np.interp(held_c, FAN_CURVE_C, FAN_CURVE_RPM))


def cpu_clock(demand: Array, cap: Array) -> Array:
    """CPU clock in MHz for a demand, 0..1 of what the highest clock can do."""
    return _clock(demand, cap, CPU_MHZ, CPU_STEP_MHZ, CPU_LOW_MHZ, CPU_IDLE_MHZ)


def gpu_clock(demand: Array, cap: Array) -> Array:
    """GPU clock in MHz for a demand, 0..1."""
    return _clock(demand, cap, GPU_MHZ, GPU_STEP_MHZ, GPU_LOW_MHZ, GPU_IDLE_MHZ)


def _clock(demand: Array, cap: Array, top: float, step: float, low: float, idle: float) -> Array:
    """The lowest step that serves 1.25 x demand, within floor and cap; the cap beats the floor."""
    wanted = np.ceil((np.maximum(HEADROOM * demand * top, idle) - low) / step - 1e-9)
    allowed = np.floor((cap * top - low) / step + 1e-9)
    return np.asarray(low + step * np.minimum(wanted, allowed))


def utilisation(demand: Array, clock_mhz: Array, top_mhz: float) -> Array:
    """Busy part of the time, 0..1, at a clock."""
    return np.minimum(demand * top_mhz / clock_mhz, 1.0)


def dynamic_w(load: Array, clock_mhz: Array, top_mhz: float, full_w: float) -> Array:
    """Switching power, W: proportional to activity, clock and voltage squared; the voltage is linear in the clock."""
    share = clock_mhz / top_mhz
    volts = VOLT_AT_ZERO + (1 - VOLT_AT_ZERO) * share
    return np.asarray(full_w * load * share * volts**2)


def advance(heat: Heat, power_w: Array, ambient_c: Array, airflow: Array, step_s: float) -> None:
    """One step of all machines: heat, then fan, then throttle.

    Args:
        heat: changed in place.
        power_w: (K,) all of it enters the die.
        ambient_c: (K,) air that the heatsink breathes.
        airflow: (K,) 0..1, see `conductance`.
        step_s: any; 0.5 follows fan and die well.
    """
    to_air = conductance(heat.fan_rpm, airflow)
    a, b = step_s / (DIE_SINK_KW * DIE_J_K), step_s / (DIE_SINK_KW * SINK_J_K)
    c = to_air * (step_s / SINK_J_K)
    right_die = heat.die_c + power_w * (step_s / DIE_J_K)
    right_sink = heat.sink_c + c * ambient_c
    det = (1 + a) * (1 + b + c) - a * b
    heat.die_c = (right_die * (1 + b + c) + a * right_sink) / det
    heat.sink_c = ((1 + a) * right_sink + b * right_die) / det

    heat.held_c = np.clip(heat.held_c, heat.die_c, heat.die_c + FAN_HYSTERESIS_K)
    heat.fan_rpm = heat.fan_rpm + (fan_target(heat.held_c) - heat.fan_rpm) * -np.expm1(-step_s / FAN_LAG_S)
    heat.cap = np.where(
        heat.die_c > THROTTLE_C,
        np.maximum(heat.cap - THROTTLE_PER_S * step_s, CAP_FLOOR),
        np.where(heat.die_c < RELEASE_C, np.minimum(heat.cap + RELEASE_PER_S * step_s, 1.0), heat.cap),
    )
