"""Simulated flight controllers on the wire, heard by pymavlink and, frame by frame, by hand."""

import math
import socket
import struct
import threading
from collections import Counter, defaultdict

import numpy as np
import pytest
import typer
from pymavlink import mavutil
from pymavlink.dialects.v20 import ardupilotmega as dialect
from typer.testing import CliRunner

from covey.errors import UsageError
from firmware_sim import mavlink_cli
from firmware_sim.mavlink.firmware import MOST_VEHICLES, PARAMETERS
from firmware_sim.mavlink.messages import ESC_INFO, ESC_STATUS, TELEMETRY
from firmware_sim.mavlink.radio import Flock, MavlinkConfig, run
from firmware_sim.mavlink.sight import Shaking, attitude_of, quaternion_of
from firmware_sim.world.faults import PropellerCut

SECONDS = 12.0
START_S = 1_800_000_000.0


def x25(data):
    """CRC-16/MCRF4XX bit by bit, from its parameters: reflected 0x1021, initial 0xFFFF."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


def crc_extra(name, fields):
    """The seed of a message definition, as the MAVLink guide describes it: fields in wire order."""
    text = f"{name} ".encode()
    for kind, field, length in fields:
        text += f"{kind} {field} ".encode()
        if length:
            text += bytes([length])
    crc = x25(text)
    return crc & 0xFF ^ crc >> 8


def frames_of(datagram):
    """(system, component, sequence, message id, payload, bytes, crc) of each frame; cut by hand from the packet format."""
    found = []
    while datagram:
        assert datagram[0] == 0xFD
        length, incompatible, compatible, seq, system, component = datagram[1:7]
        assert incompatible == compatible == 0
        message = int.from_bytes(datagram[7:10], "little")
        size = 10 + length + 2
        crc = int.from_bytes(datagram[10 + length : size], "little")
        found.append((system, component, seq, message, datagram[10 : 10 + length], datagram[:size], crc))
        datagram = datagram[size:]
    return found


@pytest.fixture(scope="module")
def heard():
    """What two vehicles say in 12 s, with the truth of every row."""
    flock = Flock(MavlinkConfig(vehicles=2, seed=3, start_s=START_S))
    datagrams, truth = [], []
    for _ in range(round(SECONDS * 100)):
        datagrams += flock.row()
        state = flock.air.state
        truth.append((flock.measured.t_s, state.position_m.copy(), flock.measured))
    return flock, datagrams, truth


@pytest.fixture(scope="module")
def decoded(heard):
    parser = dialect.MAVLink(None)
    messages = defaultdict(list)
    for datagram in heard[1]:
        for message in parser.parse_buffer(datagram):
            messages[message.get_srcSystem(), message.get_type()].append(message)
    return messages


def times(messages):
    return np.array([getattr(m, "time_boot_ms", 0) / 1e3 or getattr(m, "time_usec", 0) / 1e6 for m in messages])


def test_a_frame_is_what_the_packet_format_says(heard):
    extras = {
        0: crc_extra(
            "HEARTBEAT",
            [("uint32_t", "custom_mode", 0)]
            + [("uint8_t", f, 0) for f in ("type", "autopilot", "base_mode", "system_status", "mavlink_version")],
        ),
        30: crc_extra(
            "ATTITUDE",
            [("uint32_t", "time_boot_ms", 0)]
            + [("float", f, 0) for f in ("roll", "pitch", "yaw", "rollspeed", "pitchspeed", "yawspeed")],
        ),
        ESC_STATUS: crc_extra(
            "ESC_STATUS",
            [("uint64_t", "time_usec", 0), ("int32_t", "rpm", 4), ("float", "voltage", 4), ("float", "current", 4)]
            + [("uint8_t", "index", 0)],
        ),
        ESC_INFO: crc_extra(
            "ESC_INFO",
            [("uint64_t", "time_usec", 0), ("uint32_t", "error_count", 4), ("uint16_t", "counter", 0)]
            + [("uint16_t", "failure_flags", 4), ("int16_t", "temperature", 4)]
            + [("uint8_t", f, 0) for f in ("index", "count", "connection_type", "info")],
        ),
    }
    assert (extras[0], extras[30]) == (50, 39)  # as published in every MAVLink library
    checked = Counter()
    for datagram in heard[1][:400]:
        for _, _, _, message, _, whole, crc in frames_of(datagram):
            if message in extras:
                assert crc == x25(whole[1:-2] + bytes([extras[message]]))
                checked[message] += 1
    assert set(checked) == set(extras)


def test_every_message_is_decoded_or_known_to_lack_a_decoder(heard, decoded):
    kinds = {kind for _, kind in decoded}
    assert "BAD_DATA" not in kinds
    assert kinds - {"STATUSTEXT", "UNKNOWN_290", "UNKNOWN_291"} == {
        dialect.mavlink_map[m].msgname for m in TELEMETRY if m not in {ESC_INFO, ESC_STATUS}
    }
    total = sum(len(frames_of(d)) for d in heard[1])
    assert sum(len(m) for m in decoded.values()) == total


def test_sequence_numbers_have_no_gap_and_systems_their_own(heard):
    sequences = defaultdict(list)
    for datagram in heard[1]:
        for system, component, seq, *_ in frames_of(datagram):
            assert component == 1
            sequences[system].append(seq)
    assert sorted(sequences) == [1, 2]
    for seen in sequences.values():
        assert len(seen) > 1000
        assert seen == [n % 256 for n in range(len(seen))]


def test_each_message_comes_at_its_rate(heard):
    counts = Counter((system, message) for datagram in heard[1] for system, _, _, message, *_ in frames_of(datagram))
    for system in (1, 2):
        for message, (_, rate) in TELEMETRY.items():
            # by the time of the simulation, from 0 on: within one message
            assert counts[system, message] == pytest.approx(SECONDS * rate, abs=1), message


def test_time_stamps_are_those_of_the_simulation(decoded):
    seen = times(decoded[1, "ATTITUDE"])
    np.testing.assert_allclose(np.diff(seen), 0.05, atol=0.0011)
    clock = decoded[2, "SYSTEM_TIME"][-1]
    assert clock.time_unix_usec / 1e6 - clock.time_boot_ms / 1e3 == pytest.approx(START_S, abs=2e-3)


def test_the_heartbeat_is_one_of_a_quadrotor_that_arms(decoded):
    beats = decoded[1, "HEARTBEAT"]
    assert {(b.type, b.mavlink_version) for b in beats} == {(mavutil.mavlink.MAV_TYPE_QUADROTOR, 3)}
    armed = [bool(b.base_mode & mavutil.mavlink.MAV_MODE_FLAG_SAFETY_ARMED) for b in beats]
    assert any(armed)
    assert [b.system_status for b in beats] == [4 if a else 3 for a in armed]


def test_position_agrees_with_the_truth_in_north_east_down(heard, decoded):
    flock, _, truth = heard
    for k in (0, 1):
        local, earth = decoded[k + 1, "LOCAL_POSITION_NED"], decoded[k + 1, "GLOBAL_POSITION_INT"]
        by_time = {round(t, 2): position for t, position, _ in truth}
        for m, g in zip(local, earth, strict=True):
            east, north, up = by_time[round(m.time_boot_ms / 1e3, 2)][:, k]
            assert (m.x, m.y, m.z) == pytest.approx((north, east, -up), abs=0.03)
            # a degree of latitude is 111.19 km on the sphere of the mean radius: 0.2 % off at most
            latitude = flock.homes[k][0] + north / 111_190
            longitude = flock.homes[k][1] + east / (111_190 * math.cos(math.radians(latitude)))
            assert g.lat / 1e7 == pytest.approx(latitude, abs=0.05 / 111_190)
            assert g.lon / 1e7 == pytest.approx(longitude, abs=0.07 / 111_190)
            assert g.relative_alt / 1e3 == pytest.approx(up, abs=0.03)
    height = max(-m.z for m in decoded[1, "LOCAL_POSITION_NED"])
    assert height > 0.3  # it flew


def test_gps_is_a_receiver_near_the_truth(heard, decoded):
    flock = heard[0]
    for k in (0, 1):
        fixes = decoded[k + 1, "GPS_RAW_INT"]
        assert {f.fix_type for f in fixes} == {3}
        north = np.array([f.lat / 1e7 - flock.homes[k][0] for f in fixes]) * 111_190
        assert np.abs(north).max() < 4 * 1.8 + 2  # 1.8 m standard deviation, and what it flew
        assert np.ptp(north) > 0.1  # not the truth itself
    assert decoded[1, "GPS_RAW_INT"][0].lat != decoded[2, "GPS_RAW_INT"][0].lat


def test_attitude_and_quaternion_tell_the_same_and_agree_with_the_truth(heard, decoded):
    rotations = {round(t, 2): measured for t, _, measured in heard[2]}
    euler = {m.time_boot_ms: m for m in decoded[1, "ATTITUDE"]}
    compared = 0
    for q in decoded[1, "ATTITUDE_QUATERNION"]:
        m = euler.get(q.time_boot_ms)
        if m is None:
            continue
        w, x, y, z = q.q1, q.q2, q.q3, q.q4
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(2 * (w * y - z * x))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        assert (roll, pitch, yaw) == pytest.approx((m.roll, m.pitch, m.yaw), abs=1e-4)
        truth = rotations[round(q.time_boot_ms / 1e3, 2)].euler[0]
        assert (m.roll, m.pitch) == pytest.approx((truth[0], -truth[1]), abs=1e-5)
        compared += 1
    assert compared > 50
    # the nose points east at the start: 90 degrees
    assert math.degrees(decoded[1, "ATTITUDE"][0].yaw) == pytest.approx(90, abs=1)
    assert decoded[1, "GLOBAL_POSITION_INT"][0].hdg == pytest.approx(9000, abs=100)


def test_frames_turn_as_matrices_turn_them():
    # second method: R in (forward, left, up) -> (east, north, up) becomes T R F with T = [[0,1,0],[1,0,0],[0,0,-1]], F = diag(1,-1,-1)
    rng = np.random.default_rng(1)
    turn, flip = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]), np.diag([1, -1, -1])

    def matrix(q):
        w, x, y, z = q
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )

    for q in rng.standard_normal((50, 4)):
        unit = q / np.linalg.norm(q)
        want = turn @ matrix(unit) @ flip
        found = quaternion_of(unit)
        assert found[0] >= 0
        np.testing.assert_allclose(matrix(found), want, atol=1e-12)
        r = matrix(unit)
        euler = np.array([math.atan2(r[2, 1], r[2, 2]), -math.asin(r[2, 0]), math.atan2(r[1, 0], r[0, 0])])
        roll, pitch, yaw = attitude_of(euler)
        assert roll == pytest.approx(math.atan2(want[2, 1], want[2, 2]))
        assert pitch == pytest.approx(-math.asin(want[2, 0]))
        assert yaw == pytest.approx(math.atan2(want[1, 0], want[0, 0]))


def test_gravity_points_up_in_the_imu_at_rest(decoded):
    first = decoded[1, "HIGHRES_IMU"][0]
    # forward, right, down: the floor pushes up, so z is -9.81; level within the biases
    assert (first.xacc, first.yacc, first.zacc) == pytest.approx((0, 0, -9.81), abs=0.5)
    assert first.fields_updated == 0b1010_0011_1111  # no magnetometer, no thermometer
    # 408 m over the sea: 1013.25 hPa x exp(-408 / 8430) = 965.4 by the scale height
    assert first.abs_pressure == pytest.approx(965.4, abs=2)


def test_battery_counts_what_was_drawn(heard, decoded):
    truth = [measured for _, _, measured in heard[2]]
    drawn_mah = sum(m.current_a[0] for m in truth) * 0.01 / 3.6
    last = decoded[1, "BATTERY_STATUS"][-1]
    assert last.current_consumed == pytest.approx(drawn_mah, rel=0.12, abs=1)  # the last one is up to a second old
    assert last.voltages[1:] == [65_535] * 9
    assert decoded[1, "SYS_STATUS"][-1].voltage_battery == last.voltages[0]


def test_pulses_and_rotors_follow_the_motors(heard, decoded):
    by_time = {round(measured.t_s, 2): measured for _, _, measured in heard[2]}
    for m in decoded[1, "SERVO_OUTPUT_RAW"]:
        measured = by_time[round(m.time_usec / 1e6, 2)]
        motors = [measured.samples[0, measured.channels.index(f"motor.m{i}")] for i in range(1, 5)]
        pulses = [m.servo1_raw, m.servo2_raw, m.servo3_raw, m.servo4_raw]
        assert pulses == pytest.approx([1000 + 1000 * c / 65_535 for c in motors], abs=0.51)
    for _, _, _, message, payload, *_ in (f for d in heard[1] for f in frames_of(d)):
        if message == ESC_STATUS:
            time_us, *rest = struct.unpack("<Q4i4f4fB", payload.ljust(57, b"\0"))
            measured = by_time[round(time_us / 1e6, 2)]
            k = int(np.abs(measured.rotor[:, 0] * 30 / math.pi - rest[0]).argmin())
            assert rest[:4] == pytest.approx(measured.rotor[k] * 30 / math.pi, abs=0.51)
            assert sum(rest[8:12]) <= measured.current_a[k] + 1e-6


def test_events_are_told_once(decoded):
    texts = [m.text for m in decoded[1, "STATUSTEXT"]]
    assert texts[:3] == ["covey simulated quadrotor", "armed", "take-off"]
    states = [m.landed_state for m in decoded[1, "EXTENDED_SYS_STATE"]]
    assert states[0] == 1
    assert 2 in states


def test_vibration_is_the_root_mean_square_above_five_hertz():
    shaking = Shaking(1, 0.01)
    t = np.arange(1000) * 0.01
    for x in 2.0 * np.sin(2 * np.pi * 23.0 * t):
        level = shaking.feed(np.array([[x, 0.0, 9.81]]))
    # 2/sqrt(2) = 1.414 rms; x less its one-pole mean (p = 1 - exp(-2 pi 5/100) = 0.2696) passes at 23 Hz
    # 0.7304 x |1 - e^-iw| / |1 - 0.7304 e^-iw| with w = 1.445: 0.7304 x 1.3226 / 1.1620 = 0.8313: 1.176; gravity takes no part
    assert level[0] == pytest.approx([1.176, 0.0, 0.0], abs=0.06)


def test_a_cut_propeller_turns_faster_on_the_wire():
    def speeds(faults):
        flock = Flock(MavlinkConfig(seed=5, faults=faults, start_s=START_S))
        parser = dialect.MAVLink(None)
        said = [(flock.row(), flock.measured.t_s) for _ in range(800)]
        messages = [m for row, t_s in said if t_s > 4 for d in row for m in parser.parse_buffer(d)]
        rpm = [m.rpm for m in messages if m.get_type() == "ESC_TELEMETRY_1_TO_4"]
        return np.mean(rpm, axis=0)

    whole, cut = speeds(()), speeds((PropellerCut(3, 3.0),))
    # 3 mm off one of two blades leaves 0.831922 of k_f: 1/sqrt = 1.0964 times the speed for the same thrust
    assert cut[2] / whole[2] == pytest.approx(1.0964, abs=0.012)
    assert cut[[0, 1, 3]] / whole[[0, 1, 3]] == pytest.approx([1, 1, 1], abs=0.03)


class Station:
    """A ground station without a network."""

    def __init__(self, vehicles=2):
        self.flock = Flock(MavlinkConfig(vehicles=vehicles, seed=3, start_s=START_S))
        self.flock.row()
        self.me = dialect.MAVLink(None, srcSystem=255, srcComponent=190)
        self.parser = dialect.MAVLink(None)

    def ask(self, message):
        datagram = message.pack(self.me)
        return [m for reply in self.flock.answer(datagram) for m in self.parser.parse_buffer(reply)]

    def command(self, command, *params, target=1):
        params = [*params, *[0.0] * (7 - len(params))]
        return self.ask(dialect.MAVLink_command_long_message(target, 1, command, 0, *params))


def test_parameters_are_listed_and_read():
    station = Station()
    values = station.ask(dialect.MAVLink_param_request_list_message(2, 1))
    assert {v.get_srcSystem() for v in values} == {2}
    assert [(v.param_id, v.param_index, v.param_count) for v in values] == [
        (name, i, len(PARAMETERS)) for i, name in enumerate(PARAMETERS)
    ]
    by_name = station.ask(dialect.MAVLink_param_request_read_message(1, 1, b"SIM_MASS_G", -1))
    assert [round(v.param_value, 3) for v in by_name] == [36.2]
    by_index = station.ask(dialect.MAVLink_param_request_read_message(1, 1, b"", 0))
    assert [v.param_value for v in by_index] == [250.0]
    assert station.ask(dialect.MAVLink_param_request_read_message(1, 1, b"NO_SUCH", -1)) == []
    assert station.ask(dialect.MAVLink_param_request_read_message(1, 1, b"", 99)) == []
    kept = station.ask(dialect.MAVLink_param_set_message(1, 1, b"SIM_MASS_G", 99.0, 9))
    assert [round(v.param_value, 3) for v in kept] == [36.2]


def test_a_broadcast_is_answered_by_all():
    station = Station(vehicles=3)
    values = station.ask(dialect.MAVLink_param_request_list_message(0, 0))
    assert Counter(v.get_srcSystem() for v in values) == {n: len(PARAMETERS) for n in (1, 2, 3)}


def test_commands_are_acknowledged_and_arming_is_refused():
    station = Station()
    ack, version = station.command(dialect.MAV_CMD_REQUEST_AUTOPILOT_CAPABILITIES, 1)
    assert (ack.command, ack.result) == (520, 0)
    assert (ack.target_system, ack.target_component) == (255, 190)
    assert version.get_type() == "AUTOPILOT_VERSION"
    assert version.capabilities & dialect.MAV_PROTOCOL_CAPABILITY_MAVLINK2
    ack, attitude = station.command(dialect.MAV_CMD_REQUEST_MESSAGE, 30)
    assert (ack.result, attitude.get_type()) == (0, "ATTITUDE")
    (ack,) = station.command(dialect.MAV_CMD_REQUEST_MESSAGE, 12_345)
    assert ack.result == dialect.MAV_RESULT_UNSUPPORTED
    ack, text = station.command(dialect.MAV_CMD_COMPONENT_ARM_DISARM, 1)
    assert (ack.result, text.get_type()) == (dialect.MAV_RESULT_DENIED, "STATUSTEXT")
    (ack,) = station.command(dialect.MAV_CMD_NAV_TAKEOFF)
    assert ack.result == dialect.MAV_RESULT_UNSUPPORTED


def test_message_intervals_are_set_told_and_bounded():
    station = Station(vehicles=1)
    assert [m.result for m in station.command(dialect.MAV_CMD_SET_MESSAGE_INTERVAL, 30, 20_000)] == [0]
    _, told = station.command(dialect.MAV_CMD_GET_MESSAGE_INTERVAL, 30)
    assert told.interval_us == 20_000
    assert [m.result for m in station.command(dialect.MAV_CMD_SET_MESSAGE_INTERVAL, 105, -1)] == [0]
    assert [m.result for m in station.command(dialect.MAV_CMD_SET_MESSAGE_INTERVAL, 30, 10)] == [2]
    assert [m.result for m in station.command(dialect.MAV_CMD_SET_MESSAGE_INTERVAL, 9999, 20_000)] == [3]
    counts = Counter()
    for _ in range(200):
        for datagram in station.flock.row():
            counts.update(message for _, _, _, message, *_ in frames_of(datagram))
    assert counts[30] == pytest.approx(100, abs=1)  # 50 a second
    assert counts[105] == 0


def test_missions_clocks_and_pings_are_answered():
    station = Station(vehicles=1)
    (count,) = station.ask(dialect.MAVLink_mission_request_list_message(1, 1, 0))
    assert (count.get_type(), count.count, count.target_system) == ("MISSION_COUNT", 0, 255)
    (sync,) = station.ask(dialect.MAVLink_timesync_message(0, 77))
    assert (sync.ts1, sync.tc1) == (77, 1000 * round(1e6 * station.flock.measured.t_s))
    assert station.ask(dialect.MAVLink_timesync_message(5, 77)) == []
    (ping,) = station.ask(dialect.MAVLink_ping_message(9, 4, 0, 0))
    assert (ping.seq, ping.time_usec, ping.target_system) == (4, 9, 255)


def test_noise_on_the_port_is_passed_over():
    station = Station(vehicles=1)
    assert station.flock.answer(b"\x00garbage\xfd\xfe" * 20) == []
    good = dialect.MAVLink_ping_message(9, 4, 0, 0).pack(station.me)
    assert station.flock.answer(good[:-1] + bytes([good[-1] ^ 0xFF])) == []
    assert len(station.ask(dialect.MAVLink_ping_message(9, 5, 0, 0))) == 1


def test_more_vehicles_than_system_ids_are_refused():
    for count in (0, MOST_VEHICLES + 1):
        with pytest.raises(UsageError, match="1 to 250 vehicles expected"):
            Flock(MavlinkConfig(vehicles=count))


@pytest.mark.timeout(60)
def test_a_pymavlink_listener_hears_two_vehicles_and_is_answered():
    listener = mavutil.mavlink_connection("udpin:127.0.0.1:0", source_system=254, dialect="ardupilotmega")
    listener.port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    port = listener.port.getsockname()[1]
    stop, results = threading.Event(), []
    config = MavlinkConfig(vehicles=2, port=port, seed=3, speed=5.0)
    flying = threading.Thread(target=lambda: results.append(run(config, stop)), daemon=True)
    flying.start()
    try:
        beats = Counter()
        for _ in range(6):
            beat = listener.recv_match(type="HEARTBEAT", blocking=True, timeout=20)
            assert beat is not None
            beats[beat.get_srcSystem()] += 1
        assert beats == {1: 3, 2: 3}
        listener.mav.param_request_list_send(1, 1)
        names = set()
        while len(names) < len(PARAMETERS):
            value = listener.recv_match(type="PARAM_VALUE", blocking=True, timeout=20)
            assert value is not None
            names.add(value.param_id)
        assert names == set(PARAMETERS)
        attitude = listener.recv_match(type="ATTITUDE", blocking=True, timeout=20)
        assert attitude is not None
    finally:
        stop.set()
        flying.join(20)
        listener.close()
    assert not flying.is_alive()
    assert results[0]["answered"] == 1
    assert results[0]["datagrams"] > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "nowhere"), "HOST:PORT expected"),
        (("--to", "127.0.0.1:70000"), "HOST:PORT expected"),
        (("--fault", "overheating:airflow_share=0.5"), "quadrotor"),
        (("--fault", "rust"), "propeller-cut"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(arguments, message):
    app = typer.Typer()
    app.callback()(lambda: None)
    mavlink_cli.register(app)
    result = CliRunner().invoke(app, ["mavlink", "--seconds", "0.1", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
