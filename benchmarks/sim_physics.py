"""How many integration steps of vehicles a second does the simulator make on one core?

A step is 2 ms of one vehicle: gyroscope, pilot, battery, rotors, rigid body, floor, accelerometer filter; per five steps
comes one row of the log with gusts, turbulence, faults and noise. `physics` is the body alone, `flight` all of it, in the
air. With one thread (OMP_NUM_THREADS=1); nothing here uses BLAS.

What it does not show: parked vehicles (faster), and what uses the rows (detection, files).

    .venv/bin/python benchmarks/sim_physics.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

GOAL = 1_000_000.0
TAKEN_OFF_ROW = 600  # 6 s into the mission


def measure_steps(count: int, seconds: float) -> dict[str, float]:
    """Vehicle-steps a second of CPU time with `count` vehicles side by side, measured over about so many seconds each."""
    import numpy as np

    from firmware_sim.world import quadrotor as q
    from firmware_sim.world.air import STEP_S, Air
    from firmware_sim.world.faults import BearingWear, PropellerCut
    from firmware_sim.world.physics import Physics
    from firmware_sim.world.pilot import HOVER
    from firmware_sim.world.vehicle import Vehicle

    frame, state = q.Airframe.nominal(count), q.State.at_rest(np.full(count, 0.9))
    state.position_m[2] = 100.0
    hover = q.command_for_thrust(np.full((4, count), q.MASS_KG * q.GRAVITY / 4))
    physics, still = Physics(frame, state), np.zeros((3, count))

    def body() -> int:
        for _ in range(50):
            physics.advance(hover, still, still, STEP_S)
        return 50 * count

    faults = [
        [PropellerCut(1, 2.0, onset_s=8.0), BearingWear(3, 0.3, 20.0, onset_s=5.0)] if k % 8 == 0 else []
        for k in range(count)
    ]
    air = Air([Vehicle(k) for k in range(count)], range(count), faults, HOVER)
    for _ in range(TAKEN_OFF_ROW):
        air.advance()

    def flight() -> int:
        before = air.rows
        for _ in range(10):
            air.advance()
        return (air.rows - before) * round(air.row_s / STEP_S) * count

    return {"physics": _rate(body, seconds), "flight": _rate(flight, seconds)}


def _rate(work: Any, seconds: float) -> float:
    work()
    begun, done = time.process_time(), 0
    while (spent := time.process_time() - begun) < seconds:
        done += work()
    return done / spent


def figures(seconds: float) -> dict[str, dict[str, Any]]:
    """All figures as every benchmark prints them."""
    told = {}
    for count in (256, 1024):
        for name, rate in measure_steps(count, seconds).items():
            told[f"sim_{name}_steps_{count}"] = {
                "value": round(rate),
                "unit": "vehicle-steps/s/core",
                "goal": GOAL,
                "met": rate >= GOAL,
            }
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU time for each figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded
    told = figures(options.seconds)
    if options.json:
        print(json.dumps(told))
        return
    for name, f in told.items():
        print(f"{name:26} {f['value']:>12,} {f['unit']}  goal {f['goal']:,.0f}: {'met' if f['met'] else 'missed'}")


if __name__ == "__main__":
    main()
