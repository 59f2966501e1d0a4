"""MAVLink as a source: frames out of any bytes, the autopilot's clock, the vehicle, UDP, a serial port, tlogs; against pymavlink and our simulator."""

import contextlib
import math
import os
import pty
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest
from pymavlink.dialects.v20 import ardupilotmega as dialect

from covey.errors import ConfigError, DataError
from edge.sources import Begin, End, Missing, Samples
from edge.sources.files import read_recording
from edge.sources.links import Chunk
from edge.sources.live import Live
from edge.sources.mavlink import Decoder
from edge.sources.mavlink_frames import Frames, frame
from edge.sources.mavlink_layouts import layouts
from edge.sources.mavlink_link import MavlinkReader
from edge.sources.names import ChannelFrom
from edge.sources.open import describe, open_source
from firmware_sim.mavlink.radio import Flock, MavlinkConfig, run
from processes import free_port, wait_for

DRONE = {f"motor.m{i}": ChannelFrom(f"SERVO_OUTPUT_RAW.servo{i}_raw", 65.535, -65535.0) for i in range(1, 5)} | {
    "stateEstimate.ax": ChannelFrom("HIGHRES_IMU.xacc"),
    "stateEstimate.ay": ChannelFrom("HIGHRES_IMU.yacc", -1.0),
    "stateEstimate.az": ChannelFrom("HIGHRES_IMU.zacc", -1.0),
}


class Autopilot:
    """pymavlink's packer: the other end."""

    def __init__(self, system=1, component=1, version=2):
        self.packer = dialect.MAVLink(None, srcSystem=system, srcComponent=component)
        self.version = version

    def say(self, *messages):
        out = b""
        for message in messages:
            out += bytes(message.pack(self.packer, force_mavlink1=self.version == 1))
            self.packer.seq = (self.packer.seq + 1) % 256
        return out

    def heartbeat(self, armed=False, autopilot=dialect.MAV_AUTOPILOT_PX4):
        return self.say(dialect.MAVLink_heartbeat_message(2, autopilot, 128 if armed else 0, 0, 4, 3))

    def attitude(self, t_s, roll):
        return self.say(dialect.MAVLink_attitude_message(round(t_s * 1000), roll, 0.5, 0, 0, 0, 0))


class Wire:
    """A byte link that a test fills."""

    label, problem, dropped = "wire", "", 0

    def __init__(self):
        self.chunks, self.sent = [], b""

    def put(self, data, arrived_s, sender=None):
        self.chunks.append(Chunk(data, arrived_s, sender))

    def read(self, now_s):
        out, self.chunks = self.chunks, []
        return out

    def write(self, data):
        self.sent += data
        return True

    def close(self):
        pass


def live_on(wire, columns, rate_hz=10.0, hold_s=0.5, **more):
    live = Live(MavlinkReader(wire, **more), rate_hz=rate_hz, hold_s=hold_s)
    live.columns = columns
    return live


def samples_of(items):
    return [item for item in items if isinstance(item, Samples)]


def parsed(data):
    parser = dialect.MAVLink(None)
    parser.robust_parsing = True
    return [m for m in parser.parse_buffer(data) or [] if m.get_type() != "BAD_DATA"]


# -- frames and fields ------------------------------------------------------------------------------------------------


def test_every_message_of_the_dialect_is_laid_out_as_pymavlink_unpacks_it():
    rng = random.Random(5)
    ours = layouts()
    for number, message in dialect.mavlink_map.items():
        layout = ours[number]
        payload = rng.randbytes(message.unpacker.size)
        [decoded] = parsed(frame(number, message.crc_extra, payload, 7, 1, 1))
        values = dict(zip(layout.fields, layout.unpack(payload), strict=True))
        for field in message.ordered_fieldnames:
            wanted = getattr(decoded, field)
            if isinstance(wanted, str | bytes):
                continue
            many = wanted if isinstance(wanted, list | tuple) else [wanted]
            name = f"{message.msgname}.{field}"
            got = [values[name]] if name in values else [values[f"{name}.{i}"] for i in range(len(many))]
            np.testing.assert_array_equal(got, many)


def test_what_pymavlink_lacks_is_laid_out_by_the_published_definition():
    esc = layouts()[291]
    payload = struct.pack("<Q4i4f4fB", 5, 1, 2, 3, 4, *[11.5] * 4, *[0.25] * 4, 4)
    values = dict(zip(esc.fields, esc.unpack(payload), strict=True))
    assert (values["ESC_STATUS.rpm.2"], values["ESC_STATUS.voltage.0"], values["ESC_STATUS.index"]) == (3, 11.5, 4)
    info = layouts()[290]
    assert (info.size, info.position("index")) == (8 + 16 + 2 + 8 + 8 + 4, 14)


@pytest.mark.parametrize("version", [1, 2])
def test_frames_cut_anywhere_in_garbage_are_those_that_pymavlink_finds(version):
    pilot, rng = Autopilot(version=version), random.Random(3)
    stream, sent = b"", 0
    for k in range(300):
        stream += pilot.attitude(k * 0.1, 0.1) if k % 3 else pilot.heartbeat()
        sent += 1
        if k % 5 == 0:  # what cannot begin a frame, so that nobody can be led astray
            stream += bytes(rng.choice(b"\x00\x01\x7fabc") for _ in range(rng.randrange(1, 40)))
    frames, found = Frames(layouts()), []
    at = 0
    while at < len(stream):
        size = rng.randrange(1, 50)
        found += frames.feed(stream[at : at + size])
        at += size
    assert len(found) == sent == len(parsed(stream))
    assert (frames.bad, frames.lost, frames.frames) == (60, 0, sent)
    assert {sender for _, sender, _ in found} == {0x101}


def test_a_damaged_frame_is_counted_and_costs_no_other():
    pilot = Autopilot()
    good = [pilot.attitude(k * 0.1, 0.1) for k in range(20)]
    bad = bytearray(good[7])
    bad[-1] ^= 0x40
    frames = Frames(layouts())
    found = frames.feed(b"".join([*good[:7], bytes(bad), *good[8:]]))
    assert len(found) == 19
    assert (frames.bad, frames.lost) == (1, 1)


def test_a_begin_that_promises_a_long_frame_swallows_nothing():
    pilot = Autopilot()
    frames = Frames(layouts())
    found = frames.feed(b"\xfd\xff\x00\x00" + pilot.attitude(1.0, 0.1))
    for k in range(20):
        found += frames.feed(pilot.attitude(1.1 + k, 0.1))
    assert len(found) == 21


def test_signed_frames_are_read_and_unknown_flags_are_not():
    pilot = Autopilot()
    pilot.packer.signing.secret_key = bytes(32)
    pilot.packer.signing.sign_outgoing = True
    pilot.packer.signing.timestamp = 1
    signed = pilot.attitude(1.0, 0.1) + pilot.attitude(1.1, 0.1)
    frames = Frames(layouts())
    assert len(frames.feed(signed)) == 2
    strange = bytearray(frame(30, 39, bytes(28), 0, 1, 1))
    strange[2] = 0x02
    assert frames.feed(bytes(strange)) == []


def test_any_bytes_are_survived_in_bounded_memory():
    rng = random.Random(11)
    pilot = Autopilot()
    decoder = Decoder()
    decoder.want(None)
    for k in range(3000):
        data = bytearray(pilot.heartbeat(armed=True) + pilot.attitude(k * 0.1, 0.1))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if k % 3 == 0:
            data = bytearray(rng.choice(b"\xfd\xfe\x00\xff") for _ in range(rng.randrange(300)))
        decoder.feed(bytes(data), k * 0.01, k % 50)
    for number, layout in layouts().items():  # every message with every bit set and with none
        for payload in (b"\xff" * layout.size, b"\0" * layout.size, b"\xff" * 255):
            decoder.feed(frame(number, layout.extra, payload, 0, 1, 1), 40.0)
    assert len(decoder._streams) <= 8
    assert all(len(frames._rest) < 300 for frames in decoder._streams.values())
    assert decoder.counts["bad"] > 0


# -- whose, when ------------------------------------------------------------------------------------------------------


def test_only_the_first_autopilot_that_is_heard_counts_and_others_are_counted():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll"])
    camera, second, first = Autopilot(7, 100), Autopilot(3), Autopilot(1)
    wire.put(camera.heartbeat(autopilot=dialect.MAV_AUTOPILOT_INVALID) + first.heartbeat(armed=True), 0.0)
    for k in range(20):
        t = k * 0.1
        wire.put(first.attitude(50 + t, 1.0) + second.attitude(9 + t, 2.0) + second.heartbeat(), t)
    rows = np.concatenate([item.rows for item in samples_of(live.take(2.0, 1000.0))])
    assert (rows == 1.0).all()
    assert live.counts["others"] == 41
    assert live.counts["readings"] == 20
    assert live.vehicle.armed is True


def test_a_system_that_was_asked_for_is_the_one_that_counts():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll"], system=3)
    first, third = Autopilot(1), Autopilot(3)
    for k in range(20):
        wire.put(first.heartbeat() + third.heartbeat() + first.attitude(k, 1.0) + third.attitude(k * 0.1, 3.0), k * 0.1)
    rows = np.concatenate([item.rows for item in samples_of(live.take(2.0, 1000.0))])
    assert (rows == 3.0).all()


def test_jitter_of_the_link_does_not_distort_and_the_label_has_the_smallest_delay():
    wire, rng = Wire(), random.Random(2)
    live = live_on(wire, ["ATTITUDE.roll"])
    pilot = Autopilot()
    out = []
    wire.put(pilot.heartbeat(), 0.0)
    for k in range(100):  # roll says the time; the link takes 20 to 400 ms, in order
        sent_s = 3.0 + k * 0.1
        arrived_s = sent_s + 0.02 + (rng.uniform(0, 0.08) if k % 10 else 0.0)
        wire.put(pilot.attitude(sent_s + 100.0, k * 0.1), arrived_s)
        out += live.take(arrived_s, arrived_s + 5000.0)
    got = samples_of(out)
    values = np.concatenate([item.rows[:, 0] for item in got])
    np.testing.assert_allclose(np.diff(values), 0.1, atol=1e-5)  # no row twice, none left out
    # the row at the middle behind reading k is labelled with the time it was sent + 20 ms + half a period
    last = got[-1]
    assert last.start_s - 5000.0 == pytest.approx(3.0 + float(last.rows[0, 0]) + 0.05 + 0.02, abs=2e-3)


def test_a_restart_of_the_autopilot_is_a_gap_and_no_error():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll"], hold_s=2.0)
    pilot, out = Autopilot(), []
    wire.put(pilot.heartbeat(), 0.0)
    for k in range(40):
        boot_s = 500 + k * 0.1 if k < 20 else 0.1 + (k - 20) * 0.1
        wire.put(pilot.attitude(boot_s, float(k)), k * 0.1)
        out += live.take(k * 0.1, 9000.0 + k * 0.1)
    got = samples_of(out)
    assert [item.gap for item in got].count(True) == 1
    before, after = got[: [i.gap for i in got].index(True)], got[[i.gap for i in got].index(True) :]
    assert float(before[-1].rows[-1, 0]) == 19.0
    assert float(after[0].rows[0, 0]) >= 24.0  # five stamps agree before they are believed
    assert after[0].start_s - 9000.0 == pytest.approx(2.45, abs=0.06)
    assert live.counts["clock_set"] == 1


def test_pulses_that_count_microseconds_in_32_bits_run_on_over_their_end():
    decoder = Decoder()
    decoder.want(None)
    pilot = Autopilot()
    decoder.feed(pilot.heartbeat(), 0.0)
    got = []
    for k in range(40):
        boot_us = 2**32 + (k - 20) * 100_000
        pulses = dialect.MAVLink_servo_output_raw_message(boot_us % 2**32, 0, *[1500] * 8)
        data = pilot.say(dialect.MAVLink_attitude_message(boot_us // 1000, 0, 0, 0, 0, 0, 0), pulses)
        got += [r.t_s for r in decoder.feed(data, 10 + k * 0.1) if r.names[0].startswith("SERVO")]
    np.testing.assert_allclose(np.diff(got), 0.1, atol=1e-3)
    assert decoder.clock.sets == 0


def test_stamps_since_1970_and_messages_without_one_fit_in_with_the_rest():
    decoder = Decoder()
    decoder.want(None)
    pilot = Autopilot()
    decoder.feed(pilot.heartbeat(), 0.0)
    imu, rpm = [], []
    for k in range(30):
        since_1970_us = 1_800_000_000_000_000 + k * 100_000
        data = pilot.attitude(7 + k * 0.1, 0.0) + pilot.say(
            dialect.MAVLink_raw_imu_message(since_1970_us, *[0] * 9),
            dialect.MAVLink_rpm_message(1.0, 2.0),
        )
        for reading in decoder.feed(data, 20 + k * 0.1 + (0.05 if k % 2 else 0.0)):
            if reading.names[0].startswith("RAW_IMU"):
                imu.append(reading.t_s)
            elif reading.names[0].startswith("RPM"):
                rpm.append(reading.t_s)
    np.testing.assert_allclose(np.diff(imu), 0.1, atol=1e-3)
    np.testing.assert_allclose(rpm, imu, atol=1e-3)
    assert decoder.clock.sets == 0


def test_further_sensors_of_one_kind_have_names_of_their_own():
    decoder = Decoder()
    decoder.want(None)
    pilot = Autopilot()
    battery = [dialect.MAVLink_battery_status_message(n, 0, 0, 0, [n + 1] * 10, 0, 0, 0, 50) for n in range(2)]
    named = dialect.MAVLink_named_value_float_message(5, b"flow", 2.5)
    readings = decoder.feed(pilot.heartbeat() + pilot.say(*battery, named), 0.0)
    found = {n: v for r in readings for n, v in zip(r.names, r.values, strict=True) if n}
    assert found["BATTERY_STATUS.voltages.3"] == 1
    assert found["BATTERY_STATUS[1].voltages.3"] == 2
    assert found["NAMED_VALUE_FLOAT[flow].value"] == 2.5


def test_the_vehicle_is_told_and_unknown_stays_unknown():
    decoder, pilot = Decoder(), Autopilot()
    decoder.want(frozenset())
    unknown = dialect.MAVLink_sys_status_message(0, 0, 0, 0, 0xFFFF, -1, -1, 0, 0, 0, 0, 0, 0)
    nowhere = dialect.MAVLink_global_position_int_message(1, 0, 0, 0, 0, 0, 0, 0, 0)
    blind = dialect.MAVLink_gps_raw_int_message(1, 1, 10, 10, 10, 0, 0, 0, 0, 0)
    decoder.feed(pilot.heartbeat() + pilot.say(unknown, nowhere, blind), 0.0)
    seen = decoder.vehicle
    assert (seen.armed, seen.battery_v, seen.battery_share, seen.position) == (False, None, None, None)
    cells = dialect.MAVLink_battery_status_message(0, 0, 0, 0, [4000, 3900, 4100] + [0xFFFF] * 7, 0, 0, 0, 63)
    fix = dialect.MAVLink_gps_raw_int_message(1, 3, 473_977_000, 85_456_000, 408_000, 0, 0, 0, 0, 9)
    decoder.feed(pilot.heartbeat(armed=True) + pilot.say(cells, fix), 1.0)
    assert (seen.armed, seen.battery_v, seen.battery_share) == (True, 12.0, 0.63)
    assert seen.position == pytest.approx((47.3977, 8.5456, 408.0))
    estimate = dialect.MAVLink_global_position_int_message(1, -331_000_000, 1_511_000_000, -2_000, 0, 0, 0, 0, 0)
    decoder.feed(pilot.say(estimate, fix), 2.0)  # the estimate goes before the receiver
    assert seen.position == pytest.approx((-33.1, 151.1, -2.0))


# -- the source -------------------------------------------------------------------------------------------------------


def test_a_silent_channel_is_missing_then_back_and_no_row_was_made_between():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll", "VIBRATION.vibration_x"])
    pilot, out = Autopilot(), []
    for k in range(60):
        t = k * 0.1
        data = pilot.heartbeat() + pilot.attitude(5 + t, float(k))
        if not 20 <= k < 40:
            data += pilot.say(dialect.MAVLink_vibration_message(round((5 + t) * 1e6), float(k), 0, 0, 0, 0, 0))
        wire.put(data, t)
        out += live.take(t, 100.0 + t)
    missing = [item for item in out if isinstance(item, Missing)]
    assert [(m.channel, m.back) for m in missing] == [("VIBRATION.vibration_x", False), ("VIBRATION.vibration_x", True)]
    assert missing[0].since_s == pytest.approx(101.9)
    assert missing[1].since_s == pytest.approx(104.0)
    at = [k for k, item in enumerate(out) if isinstance(item, Missing)]
    assert samples_of(out[at[0] : at[1]]) == []
    after = samples_of(out[at[1] :])
    assert after[0].gap
    assert after[0].rows[0].tolist() == [40.0, 40.0]
    before = np.concatenate([item.rows for item in samples_of(out[: at[0]])])
    assert before[:, 1].tolist() == [float(k) for k in range(20)]


def test_a_link_that_dies_makes_every_channel_missing_and_says_so():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll", "ATTITUDE.pitch"])
    pilot, out = Autopilot(), []
    for k in range(20):
        wire.put(pilot.heartbeat(armed=True) + pilot.attitude(5 + k * 0.1, 1.0), k * 0.1)
        out += live.take(k * 0.1, 100.0 + k * 0.1)
    assert live.problem == ""
    out = live.take(2.3, 102.3)
    assert [type(item) for item in out] in ([], [Samples])
    out = live.take(2.6, 102.6)
    assert [(m.channel, m.back) for m in out] == [("ATTITUDE.roll", False), ("ATTITUDE.pitch", False)]
    live.take(5.0, 105.0)
    assert live.problem == "wire: no heartbeat of system 1 any more"
    assert live.vehicle.armed is True  # nobody said that it landed
    assert live.playing


def test_a_channel_that_never_comes_is_missing_after_a_while_and_named():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll", "NO_SUCH.field"])
    pilot, out = Autopilot(), []
    for k in range(80):
        wire.put(pilot.heartbeat() + pilot.attitude(5 + k * 0.1, 1.0), k * 0.1)
        out += live.take(k * 0.1, 100.0 + k * 0.1)
    [told] = out
    assert (told.channel, told.back) == ("NO_SUCH.field", False)
    assert live.problem == "mavlink system 1: never came: NO_SUCH.field"


def test_disarming_ends_a_flight_and_samples_go_on_in_another_that_is_not_played():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll"])
    pilot, out, playing = Autopilot(), [], []
    for k in range(60):
        wire.put(pilot.heartbeat(armed=10 <= k < 30) + pilot.attitude(5 + k * 0.1, 1.0), k * 0.1)
        out += live.take(k * 0.1, 100.0 + k * 0.1)
        playing.append(live.playing)
    kinds = [item for item in out if isinstance(item, Begin | End)]
    assert [type(item) for item in kinds] == [Begin, End, Begin]
    assert [item.name for item in kinds] == ["mavlink system 1 flight 1"] * 2 + ["mavlink system 1 flight 2"]
    assert kinds[0].channels == ("ATTITUDE.roll",)
    assert playing[12:29] == [True] * 17
    assert not any(playing[:10] + playing[31:])


def test_other_columns_begin_another_stretch():
    wire = Wire()
    live = live_on(wire, ["ATTITUDE.roll"])
    pilot, out = Autopilot(), []
    for k in range(40):
        if k == 20:
            live.columns = ["ATTITUDE.pitch", "ATTITUDE.roll"]
        wire.put(pilot.heartbeat() + pilot.attitude(5 + k * 0.1, 1.0), k * 0.1)
        out += live.take(k * 0.1, 100.0 + k * 0.1)
    begun = [item.channels for item in out if isinstance(item, Begin)]
    assert begun == [("ATTITUDE.roll",), ("ATTITUDE.pitch", "ATTITUDE.roll")]
    assert samples_of(out)[-1].rows[-1].tolist() == [0.5, 1.0]


def test_asking_for_messages_is_a_choice_and_says_what_it_says():
    wire, pilot = Wire(), Autopilot()
    live = live_on(wire, ["ATTITUDE.roll"])
    wire.put(pilot.heartbeat(), 0.0)
    live.take(0.0, 0.0)
    assert wire.sent == b""
    live = live_on(wire, ["ATTITUDE.roll", "VIBRATION.vibration_x"], ask_hz=50.0)
    for now_s in (0.0, 0.1, 0.2):
        wire.put(pilot.heartbeat(), now_s)
        live.take(now_s, now_s)
    said = parsed(wire.sent)
    assert [m.get_type() for m in said] == ["HEARTBEAT", "COMMAND_LONG", "COMMAND_LONG"]
    assert {(m.command, m.param1, m.param2, m.target_system) for m in said[1:]} == {
        (511, 30.0, 20_000.0, 1),
        (511, 241.0, 20_000.0, 1),
    }
    assert (said[0].type, said[0].autopilot) == (dialect.MAV_TYPE_ONBOARD_CONTROLLER, dialect.MAV_AUTOPILOT_INVALID)


@contextlib.contextmanager
def opened(*specs, **options):
    source = open_source(specs, **options)
    try:
        yield source
    finally:
        source.close()


def taken_until(source, enough, timeout_s=20.0):
    out = []

    def step():
        out.extend(source.take(time.monotonic(), time.time()))
        return enough(out)

    wait_for(step, timeout_s, f"enough of the source ({source.problem or 'no problem'})")
    return out


def rows_in(out):
    return sum(len(item.rows) for item in samples_of(out))


@pytest.mark.timeout(60)
def test_our_simulator_is_heard_over_udp_in_the_units_of_the_map():
    with opened("mavlink+udp://127.0.0.1:0", rate_hz=50.0, channel_map=DRONE) as source:
        source.columns = list(DRONE)
        source.take(time.monotonic(), time.time())
        _, port = source._reader._link.address
        stop = threading.Event()
        config = MavlinkConfig(port=port, seed=3)
        radio = threading.Thread(target=run, args=(config, stop), daemon=True)
        radio.start()
        try:
            out = taken_until(source, lambda out: rows_in(out) >= 150 and source.vehicle.position)
        finally:
            stop.set()
            radio.join(10.0)
    rows = np.concatenate([item.rows for item in samples_of(out)])
    assert out[0].channels == tuple(DRONE)
    assert not [item for item in out if isinstance(item, Missing)]
    # 36.2 g hover on four motors; the floor or the air pushes up with 9.81
    assert rows[:, :4].min() >= 0
    assert rows[:, :4].max() <= 65_535
    assert float(np.median(rows[:, 6])) == pytest.approx(9.81, abs=0.7)
    late_s = time.time() - samples_of(out)[-1].start_s
    assert 0.0 <= late_s < 30.0
    assert source.vehicle.position == pytest.approx((47.3977, 8.5456, 408.0), abs=5.0)
    assert 3.0 < source.vehicle.battery_v < 4.3


@pytest.mark.timeout(60)
def test_a_peer_that_waits_to_be_spoken_to_is_spoken_to():
    pilot = Autopilot()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(10.0)
        port = peer.getsockname()[1]
        with opened(f"mavlink+udp-out://127.0.0.1:{port}", rate_hz=10.0) as source:
            source.columns = ["ATTITUDE.roll"]
            source.take(time.monotonic(), time.time())
            data, sender = peer.recvfrom(1000)
            assert [m.get_type() for m in parsed(data)] == ["HEARTBEAT"]
            peer.sendto(pilot.heartbeat(), sender)
            for k in range(20):
                peer.sendto(pilot.attitude(5 + k * 0.1, float(k)), sender)
            out = taken_until(source, lambda out: rows_in(out) >= 18)
    assert np.concatenate([i.rows[:, 0] for i in samples_of(out)])[:18].tolist() == [float(k) for k in range(18)]


@pytest.mark.timeout(60)
def test_a_port_in_use_is_a_problem_and_taken_when_it_is_free():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        source = open_source([f"mavlink+udp://127.0.0.1:{port}"], rate_hz=10.0)
        source.columns = ["ATTITUDE.roll"]
        source.take(time.monotonic(), time.time())
        assert source.problem == f"UDP 127.0.0.1:{port}: Address already in use"
    pilot = Autopilot()
    with contextlib.closing(source), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        k = 0

        def heard(out):
            nonlocal k
            k += 1
            peer.sendto(pilot.heartbeat() + pilot.attitude(5 + k * 0.1, 1.0), ("127.0.0.1", port))
            return rows_in(out) > 2

        taken_until(source, heard)
        assert source.problem == ""


@pytest.mark.timeout(60)
def test_a_serial_port_is_read_and_read_again_after_it_was_gone(tmp_path):
    device = tmp_path / "ttyFC"
    pilot = Autopilot()
    with opened(f"mavlink+serial://{device}?baud=921600", rate_hz=10.0) as source:
        source.columns = ["ATTITUDE.roll"]
        wait_for(
            lambda: source.take(time.monotonic(), time.time()) or "No such file" in source.problem, 10.0, "a problem"
        )
        for base in (5.0, 50.0):  # the second time the autopilot was restarted with the cable
            master, slave = pty.openpty()
            device.unlink(missing_ok=True)
            device.symlink_to(os.ttyname(slave))
            wait_for(lambda: source._reader._link._port is not None, 20.0, "the port is open")
            for k in range(20):
                os.write(master, pilot.heartbeat() + pilot.attitude(base + k * 0.1, float(k)))
            taken_until(source, lambda out: rows_in(out) >= 10)
            os.close(slave)
            os.close(master)
            wait_for(lambda: source._reader._link._port is None, 20.0, "the port is gone")
        assert source.counts["bad"] == 0


# -- tlogs ------------------------------------------------------------------------------------------------------------


def tlog_of(messages):
    return b"".join(round(t * 1e6).to_bytes(8, "big") + data for t, data in messages)


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """8 s of our simulator, written as a ground station writes it, and what was measured in each row."""
    flock = Flock(MavlinkConfig(vehicles=2, seed=3, start_s=1_800_000_000.0))
    path = tmp_path_factory.mktemp("tlog") / "flight.tlog"
    truth, out = [], b""
    for k in range(800):
        datagrams = flock.row()
        truth.append(flock.measured)
        for datagram in datagrams:
            at = 0
            while at < len(datagram):  # one record a frame
                size = datagram[at + 1] + 12
                out += tlog_of([(1_800_000_000.0 + k * 0.01 + 0.03, datagram[at : at + size])])
                at += size
    path.write_bytes(out)
    return path, truth


def test_a_tlog_is_the_flight_that_was_measured(flown):
    path, truth = flown
    recording = read_recording(path, ["HIGHRES_IMU.xacc", "HIGHRES_IMU.zacc"])
    assert recording.rate_hz == 50.0
    assert recording.segments == ((0, len(recording.samples)),)
    # the IMU speaks in every second row, from the first: row k was measured in row 2 k
    accel = np.array([m.accel[0] for m in truth[: 2 * len(recording.samples) : 2]])
    assert len(recording.samples) == pytest.approx(400, abs=55)  # from the first heartbeat on
    offset = 400 - len(recording.samples)
    accel = np.array([m.accel[0] for m in truth[2 * offset :: 2]])
    np.testing.assert_allclose(recording.samples[:, 0], accel[:, 0], rtol=1e-5)
    np.testing.assert_allclose(recording.samples[:, 1], -accel[:, 2], rtol=1e-5)
    assert recording.start_s == pytest.approx(1_800_000_000.03 + (2 * offset) * 0.01 + 0.01, abs=0.011)


def test_a_tlog_without_its_suffix_is_known_by_its_first_bytes_and_takes_the_rate_that_is_asked_for(flown, tmp_path):
    path, _ = flown
    copy = tmp_path / "flight"
    copy.write_bytes(path.read_bytes())
    recording = read_recording(copy, list(DRONE), rate_hz=100.0, channel_map=DRONE)
    assert recording.channels == tuple(DRONE)
    assert recording.rate_hz == 100.0
    assert len(recording.samples) == pytest.approx(800, abs=110)
    assert 0 <= recording.samples[:, :4].min() <= recording.samples[:, :4].max() <= 65_535
    first = read_recording(copy, None)
    assert "ATTITUDE.roll" in first.channels
    assert np.isfinite(first.samples).all()


def test_a_tlog_with_a_hole_and_garbage_has_two_segments(flown, tmp_path):
    data = flown[0].read_bytes()
    third = len(data) // 3
    broken = tmp_path / "broken.tlog"
    broken.write_bytes(data[:third] + bytes(1000) + b"\xfd\xff" * 50 + data[2 * third :])
    recording = read_recording(broken, ["HIGHRES_IMU.xacc"])
    assert len(recording.segments) == 2
    whole = len(read_recording(flown[0], ["HIGHRES_IMU.xacc"]).samples)
    assert len(recording.samples) == pytest.approx(whole * 2 / 3, abs=15)


def test_a_tlog_that_cannot_be_used_is_told_in_one_line(flown, tmp_path):
    with pytest.raises(DataError, match=r"no column HIGHRES_IMU\.none; there are ACTUATOR.*ATTITUDE\.pitch"):
        read_recording(flown[0], ["HIGHRES_IMU.none"])
    junk = tmp_path / "junk.tlog"
    junk.write_bytes(random.Random(1).randbytes(20_000))
    with pytest.raises(DataError, match="an autopilot's heartbeat expected, none came in 20000 bytes"):
        read_recording(junk)
    (tmp_path / "empty.tlog").write_bytes(b"")
    with pytest.raises(DataError, match="heartbeat expected"):
        read_recording(tmp_path / "empty.tlog")


def test_a_tlog_is_played_as_any_recording(flown):
    with opened(str(flown[0]), rate_hz=50.0, speed=0.0, channel_map=DRONE) as source:
        source.columns = list(DRONE)
        out = []
        while not source.done:
            out += source.take(0.0, 1000.0)
    assert out[0].channels == tuple(DRONE)
    assert out[0].rate_hz == 50.0
    assert rows_in(out) > 300


def test_describe_tells_every_channel_with_its_rate_and_last_value(flown):
    found = {one["channel"]: one for one in describe(str(flown[0]), 1.0)}
    assert math.isfinite(found["HIGHRES_IMU.zacc"]["last"])
    port = free_port()
    stop, pilot = threading.Event(), Autopilot()

    def speak():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            k = 0
            while not stop.wait(0.02):
                k += 1
                link.sendto(pilot.heartbeat() + pilot.attitude(k * 0.02, 0.25), ("127.0.0.1", port))

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        found = {one["channel"]: one for one in describe(f"mavlink+udp://127.0.0.1:{port}", 1.5)}
    finally:
        stop.set()
        speaker.join(5.0)
    assert found["ATTITUDE.roll"] == {
        "channel": "ATTITUDE.roll",
        "rate_hz": pytest.approx(50.0, rel=0.02),
        "last": 0.25,
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (["mavlink+udp://14550"], "host:port"),
        (["mavlink+udp://drone.local:14550"], "an IP address"),
        (["mavlink+udp://0.0.0.0:14550?sytem=1"], "no other option"),
        (["mavlink+udp://0.0.0.0:14550?system=300"], "system from 0 to 255"),
        (["mavlink+serial://ttyACM0"], "mavlink\\+serial:///path"),
        (["mqtt://127.0.0.1"], "mqtt://host:port/topic"),
        (["mqtt://127.0.0.1/a/b#"], "whole levels"),
        (["stdin:", "flight.log"], "one live source"),
        (["http://x/y"], "a path or one of"),
        (["system:?interval_s=nan"], "interval_s as seconds"),
        (["tail:///x?from=middle"], "from=start or from=end"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_in_one_line(spec, said):
    with pytest.raises(ConfigError, match=said) as told:
        open_source(spec, rate_hz=10.0)
    assert "\n" not in str(told.value)
