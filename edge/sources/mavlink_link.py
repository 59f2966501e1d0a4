"""A MAVLink link as a reader: bytes of UDP or a serial port through the decoder.

It is a listener. It sends nothing but, where it has to speak first (`mavlink+udp-out`) a heartbeat a second, and, only when `ask=1` was
given, the request to send the wanted messages at the model's rate (MAV_CMD_SET_MESSAGE_INTERVAL). It never commands a vehicle.

Source: mavlink.io, "Heartbeat/Connection Protocol", "Message Interval".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from edge.sources.mavlink import Decoder
from edge.sources.mavlink_frames import frame
from edge.sources.mavlink_layouts import layouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.sources import Vehicle
    from edge.sources.links import ByteLink
    from edge.sources.live import Reading

_COMPONENT = 191  # MAV_COMP_ID_ONBOARD_COMPUTER
_HEARTBEAT = struct.pack("<IBBBBB", 0, 18, 8, 0, 4, 3)  # an onboard controller, no autopilot, active; MAVLink 2
_HEARTBEAT_ID, _HEARTBEAT_EXTRA, _EVERY_S = 0, 50, 1.0
_COMMAND_LONG_ID, _COMMAND_LONG_EXTRA = 76, 152
_SET_MESSAGE_INTERVAL = 511
_ASK_EVERY_S = 10.0  # an autopilot that was restarted has forgotten
_QUIET_S = 3.0  # three heartbeats


class MavlinkReader:
    """See `edge.sources.live.Reader`."""

    exact = False
    done = False

    def __init__(
        self, link: ByteLink, *, system: int = 0, component: int = 0, speak: bool = False, ask_hz: float = 0.0
    ) -> None:
        """Opens nothing that can fail.

        Args:
            link: the bytes.
            system: whose messages; 0: the first autopilot's that is heard.
            component: of it; 0: the same.
            speak: send a heartbeat every second.
            ask_hz: ask for the wanted messages at this rate; 0: take what comes.

        Raises:
            MissingExtra: pymavlink is not installed.
        """
        self._link = link
        self._decoder = Decoder(system, component)
        self._speak = speak or ask_hz > 0
        self._ask_hz = ask_hz
        self._wanted: frozenset[str] | None = None
        self._next_heartbeat_s = self._next_ask_s = 0.0
        self._sequence = 0
        self._began_s: float | None = None
        self._problem = ""

    @property
    def label(self) -> str:
        """Whose flight it is."""
        system = self._decoder.system
        return f"mavlink system {system}" if system else f"mavlink {self._link.label}".replace("/", "-")

    @property
    def vehicle(self) -> Vehicle:
        """As the decoder knows it."""
        return self._decoder.vehicle

    @property
    def counts(self) -> dict[str, int]:
        """The decoder's, and chunks that the link dropped."""
        return self._decoder.counts | ({"dropped": self._link.dropped} if self._link.dropped else {})

    @property
    def problem(self) -> str:
        """The link's, or that no autopilot speaks."""
        return self._link.problem or self._problem

    def want(self, names: frozenset[str] | None) -> None:
        """Decode these only."""
        self._wanted = names
        self._decoder.want(names)

    def read(self, now_s: float) -> Sequence[Reading]:
        """Readings that have come; `now_s` is monotonic."""
        if self._began_s is None:
            self._began_s = now_s
        out: list[Reading] = []
        for data, arrived_s, sender in self._link.read(now_s):
            out += self._decoder.feed(data, arrived_s, sender)
        self._say(now_s)
        heard_s = self._decoder.heartbeat_s
        if now_s - (self._began_s if heard_s is None else heard_s) <= _QUIET_S:
            self._problem = ""
        else:
            whose = f" of system {self._decoder.system}" if self._decoder.system else ""
            self._problem = f"{self._link.label}: no heartbeat{whose}" + ("" if heard_s is None else " any more")
            self.vehicle.battery_v = self.vehicle.battery_share = self.vehicle.position = None
        return out

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """Our clock when the autopilot measured, its link's smallest delay taken for none."""
        return t_s + self._decoder.clock.delay_s + (clock_s - now_s)

    def close(self) -> None:
        """Close the link."""
        self._link.close()

    def _say(self, now_s: float) -> None:
        if self._speak and now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + _EVERY_S
            self._send(_HEARTBEAT_ID, _HEARTBEAT_EXTRA, _HEARTBEAT)
        target = self._decoder.system
        if self._ask_hz and target and self._wanted and now_s >= self._next_ask_s:
            self._next_ask_s = now_s + _ASK_EVERY_S
            messages = {name.partition(".")[0].partition("[")[0] for name in self._wanted}
            for number, layout in layouts().items():
                if layout.name in messages:
                    interval_us = 1e6 / self._ask_hz
                    parameters = (float(number), interval_us, 0.0, 0.0, 0.0, 0.0, 0.0)
                    payload = struct.pack(
                        "<7fHBBB", *parameters, _SET_MESSAGE_INTERVAL, target, self._decoder.component, 0
                    )
                    self._send(_COMMAND_LONG_ID, _COMMAND_LONG_EXTRA, payload)

    def _send(self, number: int, extra: int, payload: bytes) -> None:
        system = self._decoder.system or 1  # a companion computer shares its vehicle's number
        if self._link.write(frame(number, extra, payload, self._sequence, system, _COMPONENT)):
            self._sequence = (self._sequence + 1) & 0xFF
