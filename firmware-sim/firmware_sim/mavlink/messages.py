"""What a simulated flight controller says in MAVLink 2: one pure function a message, from what it has measured.

Frames are those of mavlink/sight.py. Units, sentinels and fields follow common.xml and, for
ESC_TELEMETRY_1_TO_4, ardupilotmega.xml. What the vehicle has no sensor for is said to be unknown (magnetometer,
thermometer, air speed), never invented. No socket, no clock, no schedule: those are radio.py's.

ESC_INFO and ESC_STATUS are in common.xml but not in pymavlink's dialects (2.4.50), so that their frames are built here from
the published layout; who listens with pymavlink reads the same rotors in ESC_TELEMETRY_1_TO_4.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from pymavlink.dialects.v20 import ardupilotmega as dialect

from firmware_sim.mavlink.sight import ROTORS
from firmware_sim.world.atmosphere import altitude_m, degrees_per_metre

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_sim.mavlink.sight import Sight

ESC_INFO, ESC_STATUS = 290, 291  # message ids, common.xml
ESC_INFO_EXTRA, ESC_STATUS_EXTRA = 251, 10  # CRC_EXTRA of their definitions
FRESH_IMU = 0x3F | 0x200 | 0x800  # HIGHRES_IMU_UPDATED_FLAGS: accelerations, rates, pressure and its altitude
PRESENT = (
    0x1 | 0x2 | 0x8 | 0x20 | 0x8000 | 0x200000 | 0x2000000
)  # gyro, accelerometer, baro, GPS, motors, AHRS, battery
LOW_V, CRITICAL_V = 3.4, 3.2  # one cell under load
UNKNOWN_U16, UNKNOWN_I16 = 0xFFFF, 0x7FFF


def heartbeat(s: Sight) -> Any:
    """Once a second: what it is and whether it is armed. Autopilot GENERIC: ground stations expect no parameters of it."""
    base = (
        dialect.MAV_MODE_FLAG_STABILIZE_ENABLED
        | dialect.MAV_MODE_FLAG_GUIDED_ENABLED
        | dialect.MAV_MODE_FLAG_AUTO_ENABLED
    )
    if s.armed:
        base |= dialect.MAV_MODE_FLAG_SAFETY_ARMED
    status = (
        dialect.MAV_STATE_EMERGENCY if s.crashed else dialect.MAV_STATE_ACTIVE if s.armed else dialect.MAV_STATE_STANDBY
    )
    return dialect.MAVLink_heartbeat_message(
        dialect.MAV_TYPE_QUADROTOR, dialect.MAV_AUTOPILOT_GENERIC, base, 0, status, mavlink_version=3
    )


def sys_status(s: Sight) -> Any:
    """Sensors, battery; the load of the controller is not simulated: 0."""
    return dialect.MAVLink_sys_status_message(
        PRESENT, PRESENT, PRESENT, 0, _mv(s), _ca(s), round(100 * s.charge), 0, 0, 0, 0, 0, 0
    )


def system_time(s: Sight) -> Any:
    """Clock of the simulation."""
    return dialect.MAVLink_system_time_message(s.unix_us, s.boot_us // 1000)


def attitude(s: Sight) -> Any:
    """Euler angles and rates."""
    return dialect.MAVLink_attitude_message(s.boot_us // 1000, *s.attitude, *s.rates)


def attitude_quaternion(s: Sight) -> Any:
    """The same without its poles."""
    return dialect.MAVLink_attitude_quaternion_message(s.boot_us // 1000, *s.quaternion, *s.rates)


def highres_imu(s: Sight) -> Any:
    """IMU and barometer."""
    hpa = s.pressure_pa / 100
    height = float(altitude_m(np.array(s.pressure_pa)))
    return dialect.MAVLink_highres_imu_message(
        s.boot_us, *s.accel, *s.rates, 0.0, 0.0, 0.0, hpa, 0.0, height, 0.0, FRESH_IMU
    )


def scaled_pressure(s: Sight) -> Any:
    """Barometer, hPa; no thermometer: 0."""
    return dialect.MAVLink_scaled_pressure_message(s.boot_us // 1000, s.pressure_pa / 100, 0.0, 0)


def gps_raw_int(s: Sight) -> Any:
    """Receiver: 1e-7 degrees, mm, cm/s, centidegrees; dilutions unknown, accuracies in mm."""
    north, east, _ = s.gps_velocity
    return dialect.MAVLink_gps_raw_int_message(
        s.boot_us,
        s.fix,
        round(s.lat_deg * 1e7),
        round(s.lon_deg * 1e7),
        round(s.alt_m * 1e3),
        UNKNOWN_U16,
        UNKNOWN_U16,
        round(100 * math.hypot(north, east)),
        _centidegrees(math.atan2(east, north)),
        s.satellites,
        h_acc=round(1e3 * s.eph_m),
        v_acc=round(1e3 * s.epv_m),
    )


def global_position_int(s: Sight) -> Any:
    """Estimate of the position on the earth: home and what was flown from there."""
    north, east, below = s.position_m
    per_north, per_east = degrees_per_metre(np.array(s.home[0]))
    return dialect.MAVLink_global_position_int_message(
        s.boot_us // 1000,
        round((s.home[0] + north * float(per_north)) * 1e7),
        round((s.home[1] + east * float(per_east)) * 1e7),
        round((s.home[2] - below) * 1e3),
        round(-below * 1e3),
        *(_short(100 * v) for v in s.velocity),
        _centidegrees(s.attitude[2]),
    )


def local_position_ned(s: Sight) -> Any:
    """Estimate from home, m and m/s."""
    return dialect.MAVLink_local_position_ned_message(s.boot_us // 1000, *s.position_m, *s.velocity)


def battery_status(s: Sight) -> Any:
    """One cell."""
    state = (
        dialect.MAV_BATTERY_CHARGE_STATE_CRITICAL
        if s.battery_v < CRITICAL_V
        else dialect.MAV_BATTERY_CHARGE_STATE_LOW
        if s.battery_v < LOW_V
        else dialect.MAV_BATTERY_CHARGE_STATE_OK
    )
    return dialect.MAVLink_battery_status_message(
        0,
        dialect.MAV_BATTERY_FUNCTION_ALL,
        dialect.MAV_BATTERY_TYPE_LIPO,
        UNKNOWN_I16,
        [_mv(s)] + [UNKNOWN_U16] * 9,
        _ca(s),
        round(s.used_c / 3.6),
        round(s.used_j / 100),
        round(100 * s.charge),
        charge_state=state,
    )


def esc_telemetry(s: Sight) -> Any:
    """Rotors as ArduPilot tells them: centivolt, centiampere, rpm; no thermometer: 0."""
    return dialect.MAVLink_esc_telemetry_1_to_4_message(
        [0] * ROTORS,
        [round(100 * s.battery_v)] * ROTORS,
        [round(100 * float(a)) for a in s.esc_current_a],
        [round(s.used_c / 3.6 / ROTORS)] * ROTORS,
        [round(float(r)) for r in s.esc_rpm],
        [s.esc_rows & 0xFFFF] * ROTORS,
    )


def esc_status(s: Sight) -> tuple[int, int, bytes]:
    """Rotors as PX4 tells them: rpm, V, A. Wire order by size: time, rpm, voltage, current, index."""
    rpm = [round(float(r)) for r in s.esc_rpm]
    payload = struct.pack("<Q4i4f4fB", s.boot_us, *rpm, *[s.battery_v] * ROTORS, *s.esc_current_a, 0)
    return ESC_STATUS, ESC_STATUS_EXTRA, payload


def esc_info(s: Sight) -> tuple[int, int, bytes]:
    """Which speed controllers there are: four, on PPM (connection type 0), all online; temperature unknown (32767)."""
    counts = [0] * ROTORS
    payload = struct.pack(
        "<Q4IH4H4h4B", s.boot_us, *counts, s.esc_rows & 0xFFFF, *counts, *[UNKNOWN_I16] * ROTORS, 0, ROTORS, 0, 0b1111
    )
    return ESC_INFO, ESC_INFO_EXTRA, payload


def servo_output_raw(s: Sight) -> Any:
    """Commands as pulse lengths, 1000 to 2000 us; 0 on channels without a motor."""
    pulses = [round(1000 + 1000 * float(c)) for c in s.command]
    return dialect.MAVLink_servo_output_raw_message(s.boot_us & 0xFFFFFFFF, 0, *pulses, *[0] * 4)


def actuator_output_status(s: Sight) -> Any:
    """Commands, 0..1."""
    outputs = [float(c) for c in s.command] + [0.0] * (32 - ROTORS)
    return dialect.MAVLink_actuator_output_status_message(s.boot_us, 0b1111 if s.armed else 0, outputs)


def vibration(s: Sight) -> Any:
    """Level of vibration; the range of the accelerometer is not limited, so nothing clips."""
    return dialect.MAVLink_vibration_message(s.boot_us, *s.vibration, 0, 0, 0)


def extended_sys_state(s: Sight) -> Any:
    """On the ground or in the air."""
    landed = dialect.MAV_LANDED_STATE_IN_AIR if s.airborne else dialect.MAV_LANDED_STATE_ON_GROUND
    return dialect.MAVLink_extended_sys_state_message(dialect.MAV_VTOL_STATE_UNDEFINED, landed)


# Message id -> its function and its usual rate, Hz. GPS_RAW_INT comes as often as the receiver has a fix.
TELEMETRY: dict[int, tuple[Callable[[Sight], Any], float]] = {
    dialect.MAVLINK_MSG_ID_HEARTBEAT: (heartbeat, 1.0),
    dialect.MAVLINK_MSG_ID_SYS_STATUS: (sys_status, 1.0),
    dialect.MAVLINK_MSG_ID_SYSTEM_TIME: (system_time, 1.0),
    dialect.MAVLINK_MSG_ID_ATTITUDE: (attitude, 20.0),
    dialect.MAVLINK_MSG_ID_ATTITUDE_QUATERNION: (attitude_quaternion, 10.0),
    dialect.MAVLINK_MSG_ID_HIGHRES_IMU: (highres_imu, 50.0),
    dialect.MAVLINK_MSG_ID_SCALED_PRESSURE: (scaled_pressure, 5.0),
    dialect.MAVLINK_MSG_ID_GPS_RAW_INT: (gps_raw_int, 5.0),
    dialect.MAVLINK_MSG_ID_GLOBAL_POSITION_INT: (global_position_int, 10.0),
    dialect.MAVLINK_MSG_ID_LOCAL_POSITION_NED: (local_position_ned, 10.0),
    dialect.MAVLINK_MSG_ID_BATTERY_STATUS: (battery_status, 1.0),
    dialect.MAVLINK_MSG_ID_ESC_TELEMETRY_1_TO_4: (esc_telemetry, 10.0),
    ESC_STATUS: (esc_status, 10.0),
    ESC_INFO: (esc_info, 1.0),
    dialect.MAVLINK_MSG_ID_SERVO_OUTPUT_RAW: (servo_output_raw, 10.0),
    dialect.MAVLINK_MSG_ID_ACTUATOR_OUTPUT_STATUS: (actuator_output_status, 5.0),
    dialect.MAVLINK_MSG_ID_VIBRATION: (vibration, 2.0),
    dialect.MAVLINK_MSG_ID_EXTENDED_SYS_STATE: (extended_sys_state, 2.0),
}


def _mv(s: Sight) -> int:
    return round(1000 * s.battery_v)


def _ca(s: Sight) -> int:
    return round(100 * s.current_a)


def _short(value: float) -> int:
    return max(-32_768, min(32_767, round(value)))


def _centidegrees(radians: float) -> int:
    return round(math.degrees(radians) * 100) % 36_000
