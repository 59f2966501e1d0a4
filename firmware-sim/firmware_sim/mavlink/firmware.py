"""One simulated flight controller's side of MAVLink 2: what is due when, what a ground station is answered, what is told.

No socket and no clock: time is the sight's. It refuses to be flown: arming, parameters and missions are refused with the
answer the protocol has for that. Parameters are few and true.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pymavlink.dialects.v20 import ardupilotmega as dialect

from covey.errors import UsageError
from firmware_sim.mavlink.messages import LOW_V, TELEMETRY
from firmware_sim.world.quadrotor import CAPACITY_C, MASS_KG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from firmware_sim.mavlink.sight import Sight

COMPONENT = 1  # MAV_COMP_ID_AUTOPILOT1
MOST_VEHICLES = 250  # system ids 251 to 255 are left to ground stations
ROW_HZ = 100.0
# What a ground station may read; all REAL32, so that no client can mistake an encoding.
PARAMETERS = {
    "BAT_CAPACITY_MAH": CAPACITY_C / 3.6,
    "BAT_LOW_V": LOW_V,
    "BAT_N_CELLS": 1.0,
    "SIM_MASS_G": 1000 * MASS_KG,
    "SIM_ROW_HZ": ROW_HZ,
}
_ASKS_VERSION = {
    (dialect.MAV_CMD_REQUEST_MESSAGE, dialect.MAVLINK_MSG_ID_AUTOPILOT_VERSION),
    (dialect.MAV_CMD_REQUEST_AUTOPILOT_CAPABILITIES, 1),
}
_VERSION = 1 << 16  # 0.1.0 as major << 24 | minor << 16 | patch << 8 | type


class Firmware:
    """The protocol of one vehicle.

    Args:
        system: system id, 1 to 250.
        parameters: name -> value; read only on the wire.

    Attributes:
        told: answers given, by message name.
    """

    def __init__(self, system: int, parameters: Mapping[str, float] | None = None) -> None:
        if not 1 <= system <= MOST_VEHICLES:
            raise UsageError(f"mavlink: a system id from 1 to {MOST_VEHICLES} expected, {system} came")
        self.system = system
        self.told: dict[str, int] = {}
        self._parameters = dict(PARAMETERS if parameters is None else parameters)
        self._packer = dialect.MAVLink(None, srcSystem=system, srcComponent=COMPONENT)
        self._interval_us = {message: round(1e6 / rate) for message, (_, rate) in TELEMETRY.items()}
        self._next_us = dict.fromkeys(TELEMETRY, 0)
        self._before: Sight | None = None
        self._answers: dict[str, Callable[[Any, Sight], list[Any]]] = {
            "PARAM_REQUEST_LIST": self._on_list,
            "PARAM_REQUEST_READ": self._on_read,
            "PARAM_SET": self._on_set,
            "COMMAND_LONG": self._on_command,
            "COMMAND_INT": self._on_command,
            "MISSION_REQUEST_LIST": self._on_mission,
            "TIMESYNC": self._on_timesync,
            "PING": self._on_ping,
        }

    def is_due(self, boot_us: int) -> bool:
        """Whether any telemetry is due at a time, microseconds after the start."""
        return any(boot_us >= self._next_us[m] for m, interval in self._interval_us.items() if interval > 0)

    def messages(self, sight: Sight) -> list[bytes]:
        """Frames that are due at the sight's time, in order of their ids; events first."""
        frames = [self._frame(_text(*event)) for event in _events(self._before, sight)]
        self._before = sight
        for message, (build, _) in TELEMETRY.items():
            interval = self._interval_us[message]
            if interval <= 0 or sight.boot_us < self._next_us[message]:
                continue
            late = sight.boot_us - self._next_us[message]
            self._next_us[message] += interval * (1 + late // interval)
            frames.append(self._frame(build(sight)))
        return frames

    def answers(self, message: Any, sight: Sight) -> list[bytes]:
        """Frames that answer a ground station's message; none when it is for another vehicle or needs none."""
        target = getattr(message, "target_system", 0)
        if target not in {0, self.system}:
            return []
        kind = message.get_type()
        answer = self._answers.get(kind)
        if answer is None:
            return []
        self.told[kind] = self.told.get(kind, 0) + 1
        return [self._frame(reply) for reply in answer(message, sight)]

    def _frame(self, message: Any) -> bytes:
        """Pack with the next sequence number. A tuple is (id, CRC_EXTRA, payload) of a message the dialect lacks."""
        packer = self._packer
        frame = _pack(packer.seq, self.system, *message) if isinstance(message, tuple) else message.pack(packer)
        packer.seq = (packer.seq + 1) % 256
        return bytes(frame)

    def _value(self, index: int) -> Any:
        name = list(self._parameters)[index]
        return dialect.MAVLink_param_value_message(
            name.encode(), self._parameters[name], dialect.MAV_PARAM_TYPE_REAL32, len(self._parameters), index
        )

    def _on_list(self, _message: Any, _sight: Sight) -> list[Any]:
        return [self._value(i) for i in range(len(self._parameters))]

    def _on_read(self, message: Any, _sight: Sight) -> list[Any]:
        if message.param_index >= 0:
            return [self._value(message.param_index)] if message.param_index < len(self._parameters) else []
        names = list(self._parameters)
        return [self._value(names.index(message.param_id))] if message.param_id in names else []

    def _on_set(self, message: Any, sight: Sight) -> list[Any]:
        """Refused as the parameter protocol says it: the value as it stays."""
        message.param_index = -1
        return self._on_read(message, sight)

    def _on_command(self, message: Any, sight: Sight) -> list[Any]:
        result, replies = self._obey(message.command, message, sight)
        sender = {"target_system": message.get_srcSystem(), "target_component": message.get_srcComponent()}
        return [dialect.MAVLink_command_ack_message(message.command, result, **sender), *replies]

    def _obey(self, command: int, message: Any, sight: Sight) -> tuple[int, list[Any]]:
        """Result and what is sent after it."""
        wanted = round(message.param1)
        result, replies = dialect.MAV_RESULT_ACCEPTED, []
        if command == dialect.MAV_CMD_REQUEST_MESSAGE and wanted in TELEMETRY:
            replies = [TELEMETRY[wanted][0](sight)]
        elif (command, wanted) in _ASKS_VERSION:
            replies = [_version(self.system)]
        elif command == dialect.MAV_CMD_GET_MESSAGE_INTERVAL:
            interval = self._interval_us.get(wanted, 0)  # 0: not available
            replies = [dialect.MAVLink_message_interval_message(wanted, interval)]
        elif command == dialect.MAV_CMD_SET_MESSAGE_INTERVAL:
            result = self._set_interval(wanted, message.param2, sight)
        elif command == dialect.MAV_CMD_COMPONENT_ARM_DISARM:
            result = dialect.MAV_RESULT_DENIED
            replies = [_text(dialect.MAV_SEVERITY_WARNING, "arming refused: flies its mission")]
        else:
            result = dialect.MAV_RESULT_UNSUPPORTED
        return int(result), replies

    def _set_interval(self, message: int, interval_us: float, sight: Sight) -> int:
        if message not in TELEMETRY:
            return int(dialect.MAV_RESULT_UNSUPPORTED)
        if interval_us == 0:
            interval_us = 1e6 / TELEMETRY[message][1]
        if interval_us != -1 and not 1e6 / ROW_HZ <= interval_us <= 3.6e9:
            return int(dialect.MAV_RESULT_DENIED)
        self._interval_us[message] = round(interval_us)
        self._next_us[message] = sight.boot_us
        return int(dialect.MAV_RESULT_ACCEPTED)

    def _on_mission(self, message: Any, _sight: Sight) -> list[Any]:
        sender = message.get_srcSystem(), message.get_srcComponent()
        return [dialect.MAVLink_mission_count_message(*sender, 0, message.mission_type)]

    def _on_timesync(self, message: Any, sight: Sight) -> list[Any]:
        return [dialect.MAVLink_timesync_message(1000 * sight.boot_us, message.ts1)] if message.tc1 == 0 else []

    def _on_ping(self, message: Any, _sight: Sight) -> list[Any]:
        if message.target_system:
            return []  # an answer to somebody's ping
        sender = message.get_srcSystem(), message.get_srcComponent()
        return [dialect.MAVLink_ping_message(message.time_usec, message.seq, *sender)]


def _pack(seq: int, system: int, message: int, crc_extra: int, payload: bytes) -> bytes:
    """A MAVLink 2 frame without signature: trailing zeros cut, CRC-16/MCRF4XX over header, payload and CRC_EXTRA."""
    payload = payload.rstrip(b"\0") or b"\0"
    header = struct.pack(
        "<BBBBBBBHB", 0xFD, len(payload), 0, 0, seq, system, COMPONENT, message & 0xFFFF, message >> 16
    )
    crc = dialect.x25crc(header[1:] + payload + bytes([crc_extra]))
    return header + payload + struct.pack("<H", crc.crc)


def _version(system: int) -> Any:
    capabilities = dialect.MAV_PROTOCOL_CAPABILITY_MAVLINK2 | dialect.MAV_PROTOCOL_CAPABILITY_PARAM_FLOAT
    nothing = [0] * 8
    return dialect.MAVLink_autopilot_version_message(
        capabilities, _VERSION, 0, 0, 0, nothing, nothing, nothing, 0, 0, system
    )


def _text(severity: int, text: str) -> Any:
    return dialect.MAVLink_statustext_message(severity, text.encode()[:50])


def _events(before: Sight | None, now: Sight) -> list[tuple[int, str]]:
    """What happened between two sights, told to the pilot."""
    if before is None:
        return [(dialect.MAV_SEVERITY_INFO, "covey simulated quadrotor")]
    happened = [
        (now.armed and not before.armed, dialect.MAV_SEVERITY_INFO, "armed"),
        (now.airborne and not before.airborne, dialect.MAV_SEVERITY_INFO, "take-off"),
        (before.airborne and not now.airborne, dialect.MAV_SEVERITY_INFO, "landed"),
        (before.armed and not now.armed, dialect.MAV_SEVERITY_INFO, "disarmed"),
        (now.crashed and not before.crashed, dialect.MAV_SEVERITY_EMERGENCY, "crashed"),
        (now.charge < 0.2 <= before.charge, dialect.MAV_SEVERITY_WARNING, "battery low: a fifth is left"),
    ]
    return [(severity, text) for true, severity, text in happened if true]
