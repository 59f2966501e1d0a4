"""Simulated flight controllers on a network: flies all vehicles in step with real time and speaks MAVLink 2 over UDP.

One socket, one datagram a vehicle and row, system id n for vehicle n; who listens needs no configuration, as ground stations
wait at 14550. The protocol is mavlink/firmware.py's, the messages are mavlink/messages.py's. Waits are bounded; a listener
that is not there costs its datagrams only.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pymavlink.dialects.v20 import ardupilotmega as dialect

from covey.errors import LinkError, UsageError
from firmware_sim.mavlink.firmware import MOST_VEHICLES, ROW_HZ, Firmware
from firmware_sim.mavlink.sight import Shaking, Sight, see
from firmware_sim.world.air import Air
from firmware_sim.world.instruments import HOME
from firmware_sim.world.pilot import SHUTTLE, Mission
from firmware_sim.world.vehicle import Vehicle

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from firmware_sim.world.faults import Fault
    from firmware_sim.world.instruments import Measured

SPACING_DEG = 2e-4  # between two homes, northward: 22 m
LOOK_S = 0.05  # longest wait before the stop event is looked at
LATE_S = 1.0  # further behind than this, lost time is not caught up


@dataclass(frozen=True)
class MavlinkConfig:
    """What `run` flies and where it tells.

    Attributes:
        vehicles: system ids 1 to this.
        host, port: where telemetry goes; 14550 is where ground stations listen.
        faults: of every vehicle.
        seed: of vehicles and flights.
        seconds: of the simulation; for ever when None.
        speed: simulated over real time.
        start_s: what the clock of the vehicles shows at t = 0, seconds since the epoch; now when None.
    """

    vehicles: int = 1
    host: str = "127.0.0.1"
    port: int = 14550
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    seconds: float | None = None
    speed: float = 1.0
    start_s: float | None = None
    mission: Mission = field(default=SHUTTLE)


class Flock:
    """All vehicles of one process: flown row by row, frames out, answers back. No socket."""

    def __init__(self, config: MavlinkConfig) -> None:
        if not 1 <= config.vehicles <= MOST_VEHICLES:
            raise UsageError(f"mavlink: 1 to {MOST_VEHICLES} vehicles expected, {config.vehicles} came")
        count = config.vehicles
        draw = np.random.default_rng([7, config.seed])
        built = [Vehicle(int(s)) for s in draw.integers(2**31, size=MOST_VEHICLES)[:count]]
        self.homes = [(HOME[0] + k * SPACING_DEG, HOME[1], HOME[2]) for k in range(count)]
        faults: Sequence[Sequence[Fault]] = [config.faults] * count
        self.air = Air(built, [config.seed] * count, faults, config.mission, ROW_HZ, homes=self.homes)
        self.firmware = [Firmware(k + 1) for k in range(count)]
        self.measured: Measured | None = None
        self._start_s = time.time() if config.start_s is None else config.start_s
        self._shaking = Shaking(count, self.air.row_s)
        self._used = np.zeros((count, 2))  # A s, J
        self._level = np.zeros((count, 3))

    def row(self) -> list[bytes]:
        """Fly one row; returns one datagram a vehicle that has something to say."""
        measured = self.measured = self.air.row()
        self._used += (self.air.row_s * np.stack([measured.current_a, measured.current_a * measured.battery_v])).T
        self._level = self._shaking.feed(measured.accel)
        boot_us = round(measured.t_s * 1e6)
        datagrams = []
        for k, firmware in enumerate(self.firmware):
            if firmware.is_due(boot_us):
                datagrams.append(b"".join(firmware.messages(self.sight(k))))
        return datagrams

    def sight(self, k: int) -> Sight:
        """Vehicle k as it is now."""
        if self.measured is None:
            raise UsageError("mavlink: a row must be flown before anything is seen")
        used = float(self._used[k, 0]), float(self._used[k, 1])
        return see(self.measured, k, self.homes[k], self._start_s, used, self._level[k])

    def answer(self, datagram: bytes) -> list[bytes]:
        """Answers to what a ground station sent, one datagram a vehicle and message."""
        replies = []
        parser = dialect.MAVLink(
            None
        )  # a new one: no frame spans two datagrams, so garbage cannot swallow what follows
        parser.robust_parsing = True  # what is no frame is passed over
        for message in parser.parse_buffer(datagram) or []:
            for k, firmware in enumerate(self.firmware):
                frames = firmware.answers(message, self.sight(k))
                if frames:
                    replies.append(b"".join(frames))
        return replies


def run(config: MavlinkConfig, stop: threading.Event) -> dict[str, int]:
    """Fly and speak until `stop` is set or the time is over.

    Returns:
        rows, datagrams and bytes sent, messages answered.

    Raises:
        UsageError: the configuration cannot be flown.
        LinkError: the address cannot be reached.
    """
    flock = Flock(config)
    try:
        family, _, _, _, target = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            return _fly(flock, config, link, target, stop)
    except OSError as error:
        raise LinkError(
            f"mavlink: UDP to {config.host}:{config.port} expected, {error.strerror or error} came"
        ) from error


def _fly(
    flock: Flock, config: MavlinkConfig, link: socket.socket, target: Any, stop: threading.Event
) -> dict[str, int]:
    counts = {"rows": 0, "datagrams": 0, "bytes": 0, "answered": 0}
    rows = None if config.seconds is None else round(config.seconds * ROW_HZ)
    due = time.monotonic()
    while not stop.is_set() and (rows is None or counts["rows"] < rows):
        for datagram in flock.row():
            _send(link, datagram, target, counts)
        counts["rows"] += 1
        due += 1 / (ROW_HZ * config.speed)
        due = max(due, time.monotonic() - LATE_S)
        while not stop.is_set():
            left = due - time.monotonic()
            readable, _, _ = select.select([link], [], [], min(max(left, 0.0), LOOK_S))
            if readable:
                _answer(flock, link, counts)
            elif left <= 0:
                break
    return counts


def _answer(flock: Flock, link: socket.socket, counts: dict[str, int]) -> None:
    try:
        datagram, sender = link.recvfrom(65_535)
    except (BlockingIOError, ConnectionRefusedError):  # the second: nobody listened to an earlier datagram
        return
    for reply in flock.answer(datagram):
        counts["answered"] += 1
        _send(link, reply, sender, counts)


def _send(link: socket.socket, datagram: bytes, to: Any, counts: dict[str, int]) -> None:
    try:
        link.sendto(datagram, to)
    except (BlockingIOError, ConnectionRefusedError):
        return  # full or nobody there: UDP loses it, as a radio would
    counts["datagrams"] += 1
    counts["bytes"] += len(datagram)
