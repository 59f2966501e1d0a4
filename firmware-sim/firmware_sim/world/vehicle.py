"""A vehicle = body + pilot + sensors + faults: whole flights with the truth beside them.

Everything random comes from two seeds: the vehicle's (how it was built: stays over its flights) and the flight's (wind,
charge, how it was handled that day). The same seeds give the same flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from firmware_sim.world import quadrotor as q
from firmware_sim.world import sensors
from firmware_sim.world.effects import active_factors
from firmware_sim.world.pilot import SHUTTLE, Mission, Pilot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from firmware_sim.world.faults import Fault

    Array = NDArray[np.float64]

CHANNELS = (
    *(f"motor.m{i}" for i in range(1, 5)),
    *(f"pwm.m{i}_pwm" for i in range(1, 5)),
    "pm.vbatMV",
    *(f"stateEstimate.{n}" for n in ("x", "y", "z", "vx", "vy", "vz", "ax", "ay", "az", "roll", "yaw")),
)
STEP_S = 0.002  # integration step

# Spread between vehicles (standard deviations), from the two CrazyPAD drones and what two can tell.
MOTOR_SPREAD = 0.02
THRUST_SPREAD = 0.025
MASS_SPREAD_KG = 0.0007
CENTRE_SPREAD_M = 0.0008
TWIST_SPREAD_NM = 4e-4
BIAS_SPREAD_G = 0.011
IMBALANCE_KGM = 2.5e-8  # mean residual imbalance of a healthy propeller
# Spread between the flights of one vehicle (session drift).
SESSION_MOTOR = 0.005
SESSION_TWIST_NM = 5e-5
SESSION_BIAS_G = 0.0025
# Air: gusts and the torques that turbulence puts on the frame, first order in time.
GUST = np.array([0.25, 0.25, 0.10])  # m/s
GUST_S = 1.2
TURBULENCE_NM = np.array([1.1e-4, 1.1e-4, 1.0e-4])
TURBULENCE_S = 0.4


@dataclass(frozen=True)
class Vehicle:
    """One drone as it was built.

    Attributes:
        seed: decides every deviation from the nominal vehicle.
        name: as in file names; "V07" for seed 7 when empty.
    """

    seed: int
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or one made from the seed."""
        return self.name or f"V{self.seed:02d}"


@dataclass(frozen=True)
class Truth:
    """What really happened, per row.

    Attributes:
        faulty: (N,) bool, a fault is active.
        position_m: (N, 3).
        rotor: (N, 4) rad/s.
        charge: (N,) state of charge, 0..1.
        current_a: (N,) battery current.
        faults: the faults of this flight.
    """

    faulty: NDArray[np.bool_]
    position_m: Array
    rotor: Array
    charge: Array
    current_a: Array
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Flight:
    """One flight as the log would hold it.

    Attributes:
        vehicle: its label.
        mission: name of the mission.
        rate_hz: rows a second.
        channels: C names as in a Crazyflie log.
        samples: (N, C) float64; motor and pwm 0..65535, mV, m, m/s, g (world axes, gravity removed), degrees.
        truth: beside the samples, never in them.
    """

    vehicle: str
    mission: str
    rate_hz: float
    channels: tuple[str, ...]
    samples: Array
    truth: Truth


def fly(
    vehicles: Sequence[Vehicle],
    flight_seeds: Sequence[int],
    faults: Sequence[Sequence[Fault]] | None = None,
    mission: Mission = SHUTTLE,
    duration_s: float = 26.0,
    rate_hz: float = 100.0,
) -> list[Flight]:
    """Fly K vehicles side by side, each in its own air.

    Args:
        vehicles: K vehicles; the same one may fly several times.
        flight_seeds: K seeds, one per flight.
        faults: K lists; none when None.
        mission: flown by all, repeated when the duration is longer.
        duration_s: more than 0.
        rate_hz: of the log, a divisor of 500.

    Raises:
        UsageError: lengths differ, or duration or rate cannot be used.
    """
    faults = [()] * len(vehicles) if faults is None else faults
    if not len(vehicles) == len(flight_seeds) == len(faults):
        raise UsageError(
            f"one flight seed and one fault list per vehicle expected, {len(flight_seeds)} and {len(faults)} came "
            f"for {len(vehicles)} vehicles"
        )
    substeps = round(1 / (STEP_S * rate_hz)) if rate_hz > 0 else 0
    if substeps < 1 or abs(substeps * STEP_S * rate_hz - 1) > 1e-9:
        raise UsageError(f"a log rate that divides {1 / STEP_S:.0f} Hz expected, {rate_hz} Hz came")
    rows = round(duration_s * rate_hz)
    if not vehicles or rows < 1:
        raise UsageError(f"a vehicle and at least one row expected, {len(vehicles)} vehicles and {rows} rows came")
    return _Air(vehicles, flight_seeds, faults, rows, substeps).run(mission)


class _Air:
    """One call of `fly`: the arrays of all K flights."""

    def __init__(
        self,
        vehicles: Sequence[Vehicle],
        flight_seeds: Sequence[int],
        faults: Sequence[Sequence[Fault]],
        rows: int,
        substeps: int,
    ) -> None:
        self.vehicles, self.faults, self.rows, self.substeps = vehicles, faults, rows, substeps
        count = len(vehicles)
        self.row_s = STEP_S * substeps
        self.frame = q.Airframe.nominal(count)
        self.bias_g = np.zeros((count, 3))
        self.imbalance = np.zeros((count, 4))
        charge = np.zeros(count)
        self.phase = np.zeros((count, 4))
        self.noise = np.empty((rows, count, 18), dtype=np.float32)  # white, one row of the log at a time
        for k, (vehicle, seed) in enumerate(zip(vehicles, flight_seeds, strict=True)):
            built = np.random.default_rng([1, vehicle.seed])
            today = np.random.default_rng([2, vehicle.seed, seed])
            self._build(k, built, today)
            charge[k] = today.uniform(0.45, 0.92)
            self.phase[k] = today.uniform(0, 2 * np.pi, 4)
            self.noise[:, k] = today.standard_normal((rows, 18), dtype=np.float32)
        self.whole = (self.frame.thrust_gain.copy(), self.frame.torque_gain.copy(), self.imbalance.copy())
        self.state = q.State.at_rest(charge)
        self.pilot = Pilot(count)
        self.filter = sensors.AccelerationFilter(count, STEP_S)
        self.gust = np.zeros((count, 3))
        self.turbulence = np.zeros((count, 3))
        self.rotor_change = sorted({0.0, *(f.onset_s for of in faults for f in of)})

    def _build(self, k: int, built: np.random.Generator, today: np.random.Generator) -> None:
        frame = self.frame
        frame.mass_kg[k] += MASS_SPREAD_KG * built.standard_normal()
        frame.thrust_gain[k] += THRUST_SPREAD * built.standard_normal(4)
        frame.motor_gain[k] += MOTOR_SPREAD * built.standard_normal(4) + SESSION_MOTOR * today.standard_normal(4)
        frame.torque_gain[k] = frame.thrust_gain[k]
        frame.centre_m[k] = CENTRE_SPREAD_M * built.standard_normal(2)
        frame.twist_nm[k] = TWIST_SPREAD_NM * built.standard_normal() + SESSION_TWIST_NM * today.standard_normal()
        frame.capacity_c[k] *= 0.88 + 0.05 * built.standard_normal()
        frame.ohm[k] *= 1 + 0.06 * built.standard_normal() + 0.02 * today.standard_normal()
        self.bias_g[k] = BIAS_SPREAD_G * built.standard_normal(3) + SESSION_BIAS_G * today.standard_normal(3)
        self.imbalance[k] = IMBALANCE_KGM * np.abs(built.standard_normal(4))

    def run(self, mission: Mission) -> list[Flight]:
        count = len(self.vehicles)
        log = np.empty((self.rows, count, len(CHANNELS)))
        truth = np.empty((self.rows, count, 9))
        for n in range(self.rows):
            t_s = n * self.row_s
            self._apply_faults(t_s)
            self._blow(self.noise[n])
            command = self._row(mission, t_s, self.noise[n])
            log[n] = self._measure(command, self.noise[n])
            state = self.state
            truth[n] = np.concatenate(
                [state.position_m, state.rotor, state.charge[:, None], state.current_a[:, None]], axis=1
            )
        times_s = np.arange(self.rows) * self.row_s
        return [
            Flight(
                vehicle=vehicle.label,
                mission=mission.name,
                rate_hz=1 / self.row_s,
                channels=CHANNELS,
                samples=log[:, k],
                truth=Truth(
                    faulty=np.array([times_s >= f.onset_s for f in faults], dtype=bool)
                    .reshape(-1, self.rows)
                    .any(axis=0),
                    position_m=truth[:, k, :3],
                    rotor=truth[:, k, 3:7],
                    charge=truth[:, k, 7],
                    current_a=truth[:, k, 8],
                    faults=tuple(faults),
                ),
            )
            for k, (vehicle, faults) in enumerate(zip(self.vehicles, self.faults, strict=True))
        ]

    def _apply_faults(self, t_s: float) -> None:
        while self.rotor_change and t_s >= self.rotor_change[0]:
            self.rotor_change.pop(0)
            thrust, torque, imbalance = active_factors(self.faults, t_s)
            self.frame.thrust_gain = self.whole[0] * thrust
            self.frame.torque_gain = self.whole[1] * torque
            self.imbalance = self.whole[2] + imbalance

    def _blow(self, noise: Array) -> None:
        """First-order gusts and turbulence, advanced by one row of the log."""
        part = self.row_s / GUST_S
        self.gust += -part * self.gust + GUST * np.sqrt(2 * part) * noise[:, 0:3]
        part = self.row_s / TURBULENCE_S
        self.turbulence += -part * self.turbulence + TURBULENCE_NM * np.sqrt(2 * part) * noise[:, 3:6]

    def _row(self, mission: Mission, t_s: float, noise: Array) -> Array:
        state = self.state
        setpoint, on = mission.setpoint(t_s)
        estimate = state.position_m + sensors.POSITION_NOISE_M * noise[:, 6:9]
        velocity = state.velocity + sensors.VELOCITY_NOISE * noise[:, 9:12]
        self.pilot.steer(setpoint, on, estimate, velocity, self.row_s)
        if not on and q.is_parked(state):
            q.stand_by(self.frame, state, self.row_s)
            for _ in range(self.substeps):
                self.filter.feed(state.force - _UP)
            return np.zeros_like(state.rotor)
        rate_noise = sensors.RATE_NOISE * noise[:, 12:15]
        flying = state.position_m[:, 2:] > 0
        wind, torque = self.gust * flying, self.turbulence * flying
        for _ in range(self.substeps):
            command = self.pilot.command(state.attitude, state.rates + rate_noise, STEP_S)
            q.advance(self.frame, state, command, wind, torque, STEP_S)
            self.filter.feed(state.force - _UP)
            self.phase += state.rotor * STEP_S
        q.square_up(state)
        return command

    def _measure(self, command: Array, noise: Array) -> Array:
        state = self.state
        shake = sensors.vibration_g(self.imbalance, state.rotor, self.phase, self.frame.mass_kg)
        shake += sensors.ACCELERATION_NOISE_G * noise[:, 15:18] + self.bias_g
        acceleration = self.filter.value / q.GRAVITY + (state.attitude @ shake[:, :, None])[:, :, 0]
        roll = np.arctan2(state.attitude[:, 2, 1], state.attitude[:, 2, 2])
        yaw = np.arctan2(state.attitude[:, 1, 0], state.attitude[:, 0, 0])
        return np.concatenate(
            [
                np.rint(command),
                np.rint(state.duty * q.FULL_COMMAND),
                sensors.battery_mv(state.battery_v)[:, None],
                state.position_m + sensors.POSITION_NOISE_M * noise[:, 6:9],
                state.velocity + sensors.VELOCITY_NOISE * noise[:, 9:12],
                acceleration,
                np.degrees(np.stack([roll, yaw], axis=1)),
            ],
            axis=1,
        )


_UP = np.array([0.0, 0.0, q.GRAVITY])
