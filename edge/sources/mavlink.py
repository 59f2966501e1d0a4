"""A flight controller's MAVLink as readings: whose messages count, when they were measured, what the vehicle is doing.

Listens to one system and its autopilot component: the first autopilot that is heard, or `system`. It decodes only messages in
which a wanted channel is, and those that tell of the vehicle. Bytes come from a link (mavlink_links.py) or a tlog; it reads
neither socket nor file. Every numeric field is a channel, "MESSAGE.field"; arrays "MESSAGE.field.0"; a further sensor of one
kind "MESSAGE[1].field". Values are as on the wire: no unit is converted, no "unknown" is guessed away.

Source: mavlink.io, common.xml; pymavlink's naming of instances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge.sources import Vehicle
from edge.sources.clock import SenderClock
from edge.sources.live import Reading
from edge.sources.mavlink_frames import Frames
from edge.sources.mavlink_layouts import Layout, layouts

if TYPE_CHECKING:
    from edge.sources.mavlink_frames import Frame

HEARTBEAT, SYS_STATUS, SYSTEM_TIME, GPS_RAW_INT, GLOBAL_POSITION_INT, BATTERY_STATUS = 0, 1, 2, 24, 33, 147
_INVALID_AUTOPILOT = 8  # MAV_AUTOPILOT_INVALID: a camera, a gimbal, a ground station
_ARMED = 128  # MAV_MODE_FLAG_SAFETY_ARMED
_FIX_3D = 3
_UNKNOWN_U16 = 0xFFFF
_MILLISECONDS, _WRAPPING = 0, 4  # sizes of stamps: 0 for any that counts milliseconds
_EPOCH_US = 1e15  # a stamp above it counts from 1970, one below from the start (mavlink.io, time_usec)
_WRAP_S = 2**32 * 1e-6  # SERVO_OUTPUT_RAW counts microseconds in 32 bits
_MOST_INSTANCES = 512
_ESTIMATE_S = 5.0  # so long the estimated position goes before the receiver's


_Tell = Callable[["Decoder", Layout, "tuple[Any, ...]", float], None]


class Decoder:
    """One autopilot's messages -> readings.

    Attributes:
        vehicle: see `edge.sources.Vehicle`; `armed` stays as it was last said when the link dies.
        counts: readings, others (frames of other systems and components), odd_time, bad, unknown, lost.
        system, component: whose messages are taken; 0 until an autopilot was heard.
        heartbeat_s: when the last heartbeat came; None before the first.
    """

    def __init__(self, system: int = 0, component: int = 0) -> None:
        """Nothing was heard, and nothing but the vehicle is wanted; 0: the first autopilot's.

        Raises:
            MissingExtra: pymavlink is not installed.
        """
        self._layouts = layouts()
        self.system, self.component = system, component
        self.vehicle = Vehicle()
        self.heartbeat_s: float | None = None
        self.clock = SenderClock()
        self._names: dict[tuple[int, object], tuple[str, ...]] = {}
        self._readings = self._others = self._odd = 0
        self._epoch_s: float | None = None  # of the autopilot's start, by what it says
        self._stamp_s = 0.0  # newest, by its clock; 0: none yet
        self._was_set = False
        self._sender = system << 8 | component if system and component else 0
        # Message -> where its time stamp is: begin, end, size (0 for milliseconds), unit in s.
        self._stamps = {
            number: (at, at + size, _MILLISECONDS if unit_s == 1e-3 else size, unit_s)
            for number, layout in self._layouts.items()
            if layout.clock is not None
            for at, size, unit_s in [layout.clock]
        }
        self._uses: dict[int, tuple[Layout, bool, _Tell | None]] = {}  # message -> layout, wanted, who looks at it
        self._untimed_s: dict[int, float] = {}
        self._estimate_s = -_ESTIMATE_S  # when the last estimated position came
        self._streams: dict[object, Frames] = {}

    def want(self, names: frozenset[str] | None) -> None:
        """Channels that are looked for; None: all."""
        messages = None if names is None else {name.partition(".")[0].partition("[")[0] for name in names}
        self._uses = {}
        for number, layout in self._layouts.items():
            wanted, tell = messages is None or layout.name in messages, _TELLING.get(number)
            if wanted or tell is not None:
                self._uses[number] = (layout, wanted, tell)

    @property
    def counts(self) -> dict[str, int]:
        """What was seen so far."""
        out = {"readings": self._readings, "others": self._others} | ({"odd_time": self._odd} if self._odd else {})
        for what in ("bad", "unknown", "lost"):
            out[what] = sum(getattr(frames, what) for frames in self._streams.values())
        return out

    def feed(self, data: bytes, arrived_s: float, sender: object = None) -> list[Reading]:
        """Readings in these bytes, which arrived at `arrived_s` (monotonic) from `sender` (bytes of several are not joined)."""
        frames = self._streams.get(sender)
        if frames is None:
            if len(self._streams) >= 8:  # many ports of one sender: the stream of one that is gone
                self._streams.pop(next(iter(self._streams)))
            frames = self._streams[sender] = Frames(self._layouts)
        out: list[Reading] = []
        ours = self._sender
        for frame in frames.feed(data):
            number, sender, payload = frame
            if sender != ours:
                if not self._is_ours(frame):
                    self._others += 1
                    continue
                ours = self._sender
            t_s = self._time(number, payload, arrived_s)
            use = self._uses.get(number)
            if use is None:
                continue
            if t_s is not None and self._was_set:
                self._was_set = False
                out.append(Reading(t_s, arrived_s, (), ()))
            layout, wanted, tell = use
            # A later revision of a message may be longer than ours (extensions), and zeros at its end are not sent.
            size = layout.size
            if len(payload) != size:
                payload = payload[:size].ljust(size, b"\0")
            values = layout.unpack(payload)
            if tell is not None:
                tell(self, layout, values, arrived_s)
            if wanted and t_s is None:
                self._odd += 1
            elif wanted and t_s is not None:
                self._readings += 1
                names = layout.fields if layout.instance < 0 else self._named(number, layout, values)
                out.append(Reading(t_s, arrived_s, names, values))
        return out

    @property
    def framed(self) -> int:
        """Frames that were whole, whoever's and of whatever kind."""
        return sum(frames.frames + frames.unknown for frames in self._streams.values())

    def forget(self) -> None:
        """Bytes that wait for the rest of their frame will not get it."""
        for frames in self._streams.values():
            frames.forget()

    def _is_ours(self, frame: Frame) -> bool:
        """Whether this is the autopilot that we listen to, found by its heartbeat."""
        number, sender, payload = frame
        system, component = sender >> 8, sender & 0xFF
        if (
            number != HEARTBEAT
            or self._sender
            or self.system not in {0, system}
            or self.component not in {0, component}
        ):
            return False
        layout = self._layouts[HEARTBEAT]
        values = layout.unpack(payload[: layout.size].ljust(layout.size, b"\0"))
        if values[layout.position("autopilot")] == _INVALID_AUTOPILOT:
            return False
        self.system, self.component, self._sender = system, component, sender
        return True

    def _named(self, number: int, layout: Layout, values: tuple[Any, ...]) -> tuple[str, ...]:
        instance = values[layout.instance]
        if instance == 0:
            return layout.fields
        names = self._names.get((number, instance))
        if names is None:
            shown = instance
            if isinstance(instance, bytes):
                shown = instance.partition(b"\0")[0].decode("ascii", errors="replace")
            begin = f"{layout.name}[{shown}]"
            names = tuple(name and begin + name[len(layout.name) :] for name in layout.fields)
            if len(self._names) >= _MOST_INSTANCES:
                self._names.clear()
            self._names[number, instance] = names
        return names

    def _time(self, number: int, payload: bytes, arrived_s: float) -> float | None:
        """When it was measured, on our time, None for a stamp that does not fit; `_was_set` where the autopilot's clock was set just before."""
        stamp = self._stamps.get(number)
        if stamp is not None:
            begin, end, size, unit_s = stamp
            raw = int.from_bytes(payload[begin:end], "little")
            stamp_s = raw * unit_s if size == _MILLISECONDS else self._since_start(raw, size)
            if stamp_s:
                clock = self.clock
                sets = clock.sets
                mapped_s = clock.stamp(stamp_s, arrived_s)
                if clock.sets != sets:
                    self._was_set, self._epoch_s, self._untimed_s, self._stamp_s = True, None, {}, stamp_s
                if mapped_s is not None:
                    self._stamp_s = max(self._stamp_s, stamp_s)
                return mapped_s
        # No time of its own: that of the newest before it; where nothing was stamped since its last one, its arrival.
        newest_s = self.clock.newest_s
        t_s = arrived_s if newest_s is None else newest_s
        if newest_s is not None and t_s <= self._untimed_s.get(number, t_s - 1.0):
            t_s = max(t_s, arrived_s - self.clock.delay_s)
        self._untimed_s[number] = t_s
        return t_s

    def _since_start(self, raw: int, size: int) -> float:
        """Microseconds as seconds since the autopilot's start; 0 for a stamp that says nothing."""
        known = self._stamp_s > 0
        if raw > _EPOCH_US:
            if self._epoch_s is None:
                if not known:
                    return 0.0
                self._epoch_s = raw * 1e-6 - self._stamp_s
            return raw * 1e-6 - self._epoch_s
        if size == _WRAPPING and raw:  # which turn it is, the other messages tell
            stamp_s = raw * 1e-6
            return stamp_s + _WRAP_S * round((self._stamp_s - stamp_s) / _WRAP_S) if known else 0.0
        return raw * 1e-6

    # -- the vehicle ----------------------------------------------------------------------------------------------

    def _on_heartbeat(self, layout: Layout, values: tuple[Any, ...], arrived_s: float) -> None:
        self.vehicle.armed = bool(_number(layout, values, "base_mode") & _ARMED)
        self.heartbeat_s = arrived_s

    def _on_status(self, layout: Layout, values: tuple[Any, ...], _arrived_s: float) -> None:
        self._battery(_number(layout, values, "voltage_battery"), _number(layout, values, "battery_remaining"))

    def _on_battery(self, layout: Layout, values: tuple[Any, ...], _arrived_s: float) -> None:
        if _number(layout, values, "id"):
            return  # a second one
        first = layout.position("voltages.0")
        cells = [v for v in values[first : first + 10] if isinstance(v, int) and v not in {0, _UNKNOWN_U16}]
        self._battery(sum(cells) or _UNKNOWN_U16, _number(layout, values, "battery_remaining"))

    def _battery(self, millivolts: int, percent: int) -> None:
        if millivolts not in {0, _UNKNOWN_U16}:
            self.vehicle.battery_v = millivolts / 1000.0
        if 0 <= percent <= 100:  # -1: unknown
            self.vehicle.battery_share = percent / 100.0

    def _on_position(self, layout: Layout, values: tuple[Any, ...], arrived_s: float) -> None:
        if self._position(layout, values):
            self._estimate_s = arrived_s

    def _on_gps(self, layout: Layout, values: tuple[Any, ...], arrived_s: float) -> None:
        if arrived_s - self._estimate_s > _ESTIMATE_S and _number(layout, values, "fix_type") >= _FIX_3D:
            self._position(layout, values)

    def _position(self, layout: Layout, values: tuple[Any, ...]) -> bool:
        lat, lon, alt = (_number(layout, values, name) for name in ("lat", "lon", "alt"))
        known = (lat or lon) and abs(lat) <= 900_000_000 and abs(lon) <= 1_800_000_000  # 1e-7 degrees
        if known:
            self.vehicle.position = (lat / 1e7, lon / 1e7, alt / 1e3)
        return bool(known)


def _number(layout: Layout, values: tuple[Any, ...], field: str) -> int:
    value = values[layout.position(field)]
    return value if isinstance(value, int) else 0


_TELLING: dict[int, _Tell] = {
    HEARTBEAT: Decoder._on_heartbeat,  # noqa: SLF001  # its own methods, by message
    SYS_STATUS: Decoder._on_status,  # noqa: SLF001  # see above
    BATTERY_STATUS: Decoder._on_battery,  # noqa: SLF001  # see above
    GLOBAL_POSITION_INT: Decoder._on_position,  # noqa: SLF001  # see above
    GPS_RAW_INT: Decoder._on_gps,  # noqa: SLF001  # see above
}
