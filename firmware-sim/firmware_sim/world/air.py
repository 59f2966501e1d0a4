"""K vehicles in flight, advanced row by row: body, pilot, sensors, air and faults put together.

The order within a row: what is due to break breaks, the air moves, the pilot looks where it is, and then for each
integration step gyroscope, pilot, physics, filter. The row is what the log holds at the end of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.world import quadrotor as q
from firmware_sim.world import sensors
from firmware_sim.world.build import LOST, Fleet
from firmware_sim.world.effects import Effects
from firmware_sim.world.estimate import Misled
from firmware_sim.world.faults import QUADROTOR, check_body
from firmware_sim.world.instruments import (
    FIX_3D,
    GPS_EPH_M,
    GPS_EPV_M,
    HOME,
    Instruments,
    Measured,
    euler_of,
    quaternion_of,
)
from firmware_sim.world.physics import Physics, is_parked, square_up
from firmware_sim.world.pilot import SHUTTLE, Mission, Pilot
from firmware_sim.world.readings import Readings
from firmware_sim.world.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault
    from firmware_sim.world.vehicle import Vehicle
    from firmware_sim.world.weather import Wind

    Array = NDArray[np.float64]

CHANNELS = (
    *(f"motor.m{i}" for i in range(1, 5)),
    *(f"pwm.m{i}_pwm" for i in range(1, 5)),
    "pm.vbatMV",
    *(f"stateEstimate.{n}" for n in ("x", "y", "z", "vx", "vy", "vz", "ax", "ay", "az", "roll", "yaw")),
)
STEP_S = 0.002  # integration step


class Air:
    """K vehicles in flight, advanced row by row for as long as one likes.

    Args:
        vehicles: K vehicles.
        flight_seeds: K seeds.
        faults: K lists; none when None.
        mission: flown by all, again and again.
        rate_hz: rows a second, a divisor of 500.
        wind: none but a room's gusts when None.
        homes: K places of (degrees north, degrees east, m over the sea); HOME for all when None.

    Attributes:
        state: the true state; read only.
        rows: how many rows were flown.
        row_s: time between two rows.

    Raises:
        UsageError: lengths differ, a fault is not one of quadrotors, or the rate cannot be used.
    """

    def __init__(
        self,
        vehicles: Sequence[Vehicle],
        flight_seeds: Sequence[int],
        faults: Sequence[Sequence[Fault]] | None = None,
        mission: Mission = SHUTTLE,
        rate_hz: float = 100.0,
        wind: Wind | None = None,
        homes: Sequence[tuple[float, float, float]] | None = None,
    ) -> None:
        self.faults: Sequence[Sequence[Fault]] = [()] * len(vehicles) if faults is None else faults
        count = len(vehicles)
        if not vehicles or not count == len(flight_seeds) == len(self.faults):
            raise UsageError(
                "vehicles, and one flight seed and one fault list per vehicle expected, "
                f"{len(flight_seeds)} and {len(self.faults)} came for {count} vehicles"
            )
        if homes is not None and len(homes) != count:
            raise UsageError(f"one home per vehicle expected, {len(homes)} came for {count} vehicles")
        self._substeps = round(1 / (STEP_S * rate_hz)) if rate_hz > 0 else 0
        if self._substeps < 1 or abs(self._substeps * STEP_S * rate_hz - 1) > 1e-9:
            raise UsageError(f"a log rate that divides {1 / STEP_S:.0f} Hz expected, {rate_hz} Hz came")
        for of in self.faults:
            for fault in of:
                check_body(fault, QUADROTOR)
        self.row_s = STEP_S * self._substeps
        self.rows = 0
        self._mission = mission
        self._seeds = [(v.seed, seed) for v, seed in zip(vehicles, flight_seeds, strict=True)]
        self._homes = np.array([HOME] * count if homes is None else homes, dtype=np.float64)
        fleet = Fleet([v.seed for v in vehicles], flight_seeds)
        self._noise, self._phase, self._bias_g = fleet.noise, fleet.phase, fleet.bias_g
        self._effects = Effects(self.faults, fleet.frame, fleet.imbalance)
        self.state = q.State.at_rest(fleet.charge)
        self._physics = Physics(self._effects.frame, self.state)
        self._pilot = Pilot(count)
        self._filter = sensors.AccelerationFilter(count, STEP_S)
        self._weather = Weather(self._seeds, self.row_s, wind)
        lost = [(LOST, *seed) for seed in self._seeds]
        self._misled = Misled(self.faults, lost)
        self._gyro, self._accel, self._volts = (Readings(s, self.faults, lost) for s in ("gyro", "accel", "battery"))
        self._instruments: Instruments | None = None
        self._armed = False
        self._turned = np.empty((4, count))
        self._body_accel = np.zeros((3, count))  # what the accelerometer reads, m/s^2
        self._battery_v = np.zeros(count)

    def advance(self) -> Array:
        """Fly one row further; returns the log's row, (C, K)."""
        t_s = self.rows * self.row_s
        self.rows += 1
        if self._effects.update(t_s, self._pilot):
            self._physics.refresh()
            self._filter.tune(self._effects.cutoff_hz)
        noise = self._noise.row()
        self._weather.blow(noise)
        self._misled.follow(self.state.position_m, t_s, self.row_s)
        command = self._move(t_s, noise)
        return self._measure(command, noise, t_s)

    def row(self) -> Measured:
        """Fly one row further; returns what the flight controllers know."""
        if self._instruments is None:
            self._instruments = Instruments(self._seeds, self.faults, self.row_s, self._homes)
        t_s = self.rows * self.row_s
        samples = self.advance().T.copy()
        state, instruments = self.state, self._instruments
        accel, gyro = instruments.imu(self._body_accel, state.rates, t_s)
        pressure = instruments.pressure(state.position_m[2], t_s)
        latitude, longitude, altitude, velocity = instruments.fix(state, self._misled.spoof_m, t_s)
        count = len(samples)
        return Measured(
            t_s=t_s,
            channels=CHANNELS,
            samples=samples,
            accel=accel.T,
            gyro=gyro.T,
            pressure_pa=pressure,
            gps_lat_deg=latitude,
            gps_lon_deg=longitude,
            gps_alt_m=altitude,
            gps_velocity=velocity.T,
            gps_fix=np.full(count, FIX_3D),
            gps_satellites=instruments.satellites.copy(),
            gps_eph_m=GPS_EPH_M,
            gps_epv_m=GPS_EPV_M,
            gps_new=instruments.gps_new,
            quaternion=quaternion_of(state.axes),
            euler=euler_of(state.axes),
            position_m=samples[:, 9:12],
            velocity=samples[:, 12:15],
            rotor=state.rotor.T.copy(),
            battery_v=self._battery_v.copy(),
            current_a=state.current_a.copy(),
            charge=state.charge.copy(),
            armed=self._armed & ~state.crashed,
            crashed=state.crashed.copy(),
        )

    def _move(self, t_s: float, noise: NDArray[np.float32]) -> Array:
        state, physics, pilot = self.state, self._physics, self._pilot
        setpoint, on = self._mission.setpoint(t_s)
        self._armed = on
        estimate = state.position_m + sensors.POSITION_NOISE_M * noise[6:9]
        if self._misled.any:
            estimate += self._misled.error_m
        velocity = state.velocity + sensors.VELOCITY_NOISE * noise[9:12]
        pilot.steer(setpoint, on, estimate, velocity, self.row_s)
        if not on and is_parked(state):
            for _ in range(self._substeps):
                physics.stand_by(STEP_S)
                self._filter.feed(state.force)
            return np.zeros_like(state.rotor)
        rate_noise = sensors.RATE_NOISE * noise[12:15]
        flying = state.position_m[2] > 0
        wind, torque = self._weather.wind * flying, self._weather.torque * flying
        rates = np.empty_like(state.rates)
        for n in range(self._substeps):
            np.add(state.rates, rate_noise, out=rates)
            if self._gyro.vehicles:
                self._gyro.read(rates, t_s + n * STEP_S)
            command = pilot.command(state.axes, rates, STEP_S)
            if state.crashed.any():
                command[:, state.crashed] = 0.0
            physics.advance(command, wind, torque, STEP_S)
            self._filter.feed(state.force)
            np.multiply(state.rotor, STEP_S, out=self._turned)
            self._phase += self._turned
        square_up(state)
        return command

    def _measure(self, command: Array, noise: NDArray[np.float32], t_s: float) -> Array:
        state, effects = self.state, self._effects
        shake = sensors.vibration_g(
            effects.imbalance, state.rotor, self._phase, effects.frame.mass_kg, effects.cutoff_hz
        )
        floor = np.hypot(sensors.ACCELERATION_NOISE_G, effects.bearing_g)
        shake += floor * noise[15:18] + self._bias_g
        row = np.empty((len(CHANNELS), len(self._seeds)))
        np.rint(command, out=row[0:4])
        np.rint(state.duty * q.FULL_COMMAND, out=row[4:8])
        self._battery_v = self._volts.read(state.battery_v.copy(), t_s)
        row[8] = sensors.battery_mv(self._battery_v)
        row[9:12] = state.position_m + sensors.POSITION_NOISE_M * noise[6:9]
        if self._misled.any:
            row[9:12] += self._misled.error_m
        row[12:15] = state.velocity + sensors.VELOCITY_NOISE * noise[9:12]
        row[15:18] = self._filter.value / q.GRAVITY
        row[15:18] += _rotate(state.axes, shake)
        self._read_accelerometer(row[15:18], t_s)
        row[18] = np.degrees(np.arctan2(state.axes[1, 2], state.axes[2, 2]))
        row[19] = np.degrees(np.arctan2(state.axes[0, 1], state.axes[0, 0]))
        return row

    def _read_accelerometer(self, acceleration_g: Array, t_s: float) -> None:
        """Lets the accelerometer's faults, in body axes, into the log's accelerations (3, K), world, g, without gravity."""
        if self._instruments is None and not self._accel.vehicles:
            return
        axes, felt = self.state.axes, acceleration_g.copy()
        felt[2] += 1.0
        felt *= q.GRAVITY
        body = (axes * felt).sum(axis=1)
        if self._accel.vehicles:
            right = body.copy()
            self._accel.read(body, t_s)
            acceleration_g += _rotate(axes, body - right) / q.GRAVITY
        self._body_accel = body


def _rotate(axes: Array, vector: Array) -> Array:
    """From body (3, K) to world."""
    return np.asarray(axes[0] * vector[0] + axes[1] * vector[1] + axes[2] * vector[2])
