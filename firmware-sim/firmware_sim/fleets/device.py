"""One device of a running fleet, and what it says of itself: state that the loop keeps, and the parts of its messages."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from covey import wire

if TYPE_CHECKING:
    from edge.resend import SendWindow
    from firmware_sim.fleets.agents import Agents
    from firmware_sim.scene.plan import DevicePlan

METRES_PER_DEGREE = 111_320.0  # of latitude, and of longitude at the equator
KEPT_COMMANDS = 64  # ids answered; QoS 1 may bring a command twice


class Device:
    """What the loop keeps of one device.

    Attributes:
        plan: who it is and what befalls it.
        outbox: id of its outbox.
        window: what it may send now.
        interval_s: between two summaries; the cloud may set it.
        on: it has power.
        connected: messages flow both ways.
        late_due: a look after its oldest row in flight is on the agenda.
        raw_bytes: samples scored.
        sent_bytes: payload bytes published, repeats included.
        revision: of the `desired` last followed.
        waiting: seq -> size in bytes of what is not acknowledged.
    """

    __slots__ = (
        "answered", "connected", "interval_s", "late_due", "on", "outbox", "plan", "raw_bytes", "revision", "sent_bytes",
        "waiting", "window",
    )  # fmt: skip

    def __init__(self, plan: DevicePlan, outbox: str, window: SendWindow, interval_s: float) -> None:
        self.plan, self.outbox, self.window, self.interval_s = plan, outbox, window, interval_s
        self.on = self.connected = self.late_due = False
        self.raw_bytes = self.sent_bytes = self.revision = 0
        self.waiting: dict[int, int] = {}
        self.answered: list[str] = []

    def answers(self, command: wire.Command, device_s: float) -> bool:
        """Whether a command is to be obeyed: it is new and has not expired; it counts as answered from now on."""
        if command.id in self.answered or command.expires_s < device_s:
            return False
        self.answered = [*self.answered, command.id][-KEPT_COMMANDS:]
        return True

    def acknowledged(self, ranges: list[tuple[int, int]]) -> None:
        """The cloud has these rows."""
        self.window.acknowledged(ranges)
        for first, last in ranges:
            for seq in [seq for seq in self.waiting if first <= seq <= last]:
                del self.waiting[seq]


def reported(device: Device, agents: Agents, i: int) -> wire.Reported:
    """What the device has."""
    model = agents.cores[i].model
    return wire.Reported(
        release=model.release,
        digest=model.digest,
        runtime=model.runtime,
        provider=model.provider,
        calibration=agents.calibration_digest(i),
        slot="a",
        revision=device.revision,
    )


def health(device: Device, agents: Agents, i: int, t_s: float, memory_bytes: int) -> wire.Health:
    """State of the device and its queue at a scenario time; memory and CPU are its share of this process."""
    battery_v = temperature_c = None
    playing = agents.playing(i)
    if playing is not None:
        recording, begin_s = playing
        battery_v = recording.at(recording.battery_v, t_s - begin_s)
        temperature_c = recording.at(recording.temperature_c, t_s - begin_s)
    return wire.Health(
        memory_bytes=memory_bytes,
        cpu_s=round(time.process_time() / len(agents.cores), 6),
        outbox_rows=len(device.waiting),
        outbox_bytes=sum(device.waiting.values()),
        raw_bytes=device.raw_bytes,
        uplink_bytes=device.sent_bytes,
        temperature_c=None if temperature_c is None else float(temperature_c),
        battery_v=None if battery_v is None else float(battery_v),
    )


def place(device: Device, agents: Agents, i: int, t_s: float) -> wire.Position:
    """Where the device is at a scenario time: its home, and what it has flown from there."""
    lat_deg, lon_deg = device.plan.home
    playing = agents.playing(i)
    if playing is None or playing[0].position_m is None:
        return wire.Position(lat_deg, lon_deg)
    north_m, west_m, up_m = playing[0].at(playing[0].position_m, t_s - playing[1])
    east_deg = -float(west_m) / (METRES_PER_DEGREE * math.cos(math.radians(lat_deg)))
    return wire.Position(lat_deg + float(north_m) / METRES_PER_DEGREE, lon_deg + east_deg, round(float(up_m), 2))
