"""The live stepper and its instruments: noise as published, gravity, frames, faults."""

import numpy as np
import pytest

from covey.errors import UsageError
from firmware_sim.world import atmosphere
from firmware_sim.world.faults import GpsSpoof, MotorLoss, SensorBias, SensorDropout, SensorStuck
from firmware_sim.world.instruments import euler_of, quaternion_of
from firmware_sim.world.pilot import HOVER, SQUARE
from firmware_sim.world.vehicle import Air, Vehicle, fly

HOMES = [(47.0, 8.0, 400.0), (-33.0, 151.0, 20.0)]


def record(air, rows):
    return [air.row() for _ in range(rows)]


def stack(rows, name, k=0):
    return np.array([getattr(row, name)[k] for row in rows])


@pytest.fixture(scope="module")
def standing():
    """2.8 s on the floor, two vehicles at two places, after three missions' worth of nothing else."""
    return record(Air([Vehicle(1), Vehicle(2)], [0, 0], homes=HOMES), 280)


@pytest.fixture(scope="module")
def hovering():
    """One vehicle whole and one per sensor fault, from 6 s on; 9 s."""
    faults = [
        [],
        [SensorStuck("accel", onset_s=6.0)],
        [SensorBias("baro", 100.0, onset_s=6.0)],
        [SensorDropout("gyro-y", 0.5, onset_s=6.0)],
        [SensorStuck("gps", onset_s=6.0)],
        [GpsSpoof(10.0, 5.0, onset_s=6.0)],
        [SensorBias("battery", -0.2, onset_s=6.0)],
        [SensorStuck("baro", onset_s=0.0)],
        [MotorLoss(1, 0.0, onset_s=6.0)],
    ]
    count = len(faults)
    return record(Air([Vehicle(1)] * count, [0] * count, faults, HOVER), 900)


def test_rows_are_those_of_the_log():
    air = Air([Vehicle(1), Vehicle(2)], [3, 4], None, SQUARE)
    flights = fly([Vehicle(1), Vehicle(2)], [3, 4], None, SQUARE, 5.0)
    rows = record(air, 500)
    for k in (0, 1):
        np.testing.assert_array_equal(stack(rows, "samples", k), flights[k].samples)
    assert [row.t_s for row in rows[:3]] == pytest.approx([0.0, 0.01, 0.02])
    assert rows[0].channels == flights[0].channels


def test_at_rest_the_accelerometer_feels_gravity_upwards(standing):
    accel, gyro = stack(standing, "accel"), stack(standing, "gyro")
    assert accel.mean(axis=0) == pytest.approx([0, 0, 9.81], abs=4 * 0.0115 * 9.81)  # bias: 11 mg, 1 sigma
    assert np.abs(gyro.mean(axis=0)).max() < np.radians(0.5)
    # 0.014 deg/s/sqrt(Hz) over 64 Hz: 0.112 deg/s = 1.955e-3 rad/s; 280 x 3 samples know it within 5 %, 4 sigma 10 %
    assert np.diff(gyro, axis=0).std() / np.sqrt(2) == pytest.approx(1.955e-3, rel=0.1)
    # 6 mg white of the log beside 160 ug/sqrt(Hz) x sqrt(30 Hz) = 0.88 mg: 6.06 mg = 0.0595 m/s^2
    assert np.diff(accel[:, :2], axis=0).std() / np.sqrt(2) == pytest.approx(0.0595, rel=0.12)


def test_the_barometer_reads_the_pressure_of_its_home(standing):
    for k, (_, _, altitude_m) in enumerate(HOMES):
        pressure = stack(standing, "pressure_pa", k)
        right = float(atmosphere.pressure_pa(np.array(altitude_m)))
        assert pressure.mean() == pytest.approx(right, abs=120)  # 25 Pa offset, 4 Pa drift: 4 sigma
        assert np.diff(pressure).std() / np.sqrt(2) == pytest.approx(1.2, rel=0.2)


def test_gps_fixes_come_five_times_a_second_near_home(standing):
    assert [n for n, row in enumerate(standing) if row.gps_new] == list(range(0, 280, 20))
    for k, (latitude, longitude, altitude_m) in enumerate(HOMES):
        north_m = (stack(standing, "gps_lat_deg", k) - latitude) * 111_200
        east_m = (stack(standing, "gps_lon_deg", k) - longitude) * 111_320 * np.cos(np.radians(latitude))
        up_m = stack(standing, "gps_alt_m", k) - altitude_m
        assert max(np.abs(north_m).max(), np.abs(east_m).max()) < 4 * 1.8 + 1
        assert np.abs(up_m).max() < 4 * 3 + 1
        assert np.ptp(north_m) < 3  # slow: nothing jumps within seconds
        assert np.all(stack(standing, "gps_fix", k) == 3)
        assert 9 <= stack(standing, "gps_satellites", k)[0] <= 14


def test_the_slow_error_of_gps_has_its_spread_over_many_flights():
    air = Air([Vehicle(1)] * 400, range(400), homes=[HOMES[0]] * 400)
    row = air.row()
    north_m = (row.gps_lat_deg - 47.0) / atmosphere.degrees_per_metre(np.array(47.0))[0]
    assert north_m.std() == pytest.approx(np.hypot(1.8, 0.15), rel=0.15)  # 400 draws: 3.5 %, 4 sigma
    assert (row.gps_alt_m - 400.0).std() == pytest.approx(np.hypot(3.0, 0.3), rel=0.15)


def test_motion_is_felt_and_told_in_the_right_frames():
    # SQUARE goes 1 m along x (east) from 5.4 to 9.5 s, then along y (north); the receiver's velocity says so
    rows = record(Air([Vehicle(1)], [0], None, SQUARE, homes=[HOMES[0]]), 1200)
    velocity = stack(rows, "gps_velocity")
    assert velocity[700:800].mean(axis=0) == pytest.approx([0.45, 0, 0], abs=0.1)
    assert velocity[1130:1200].mean(axis=0) == pytest.approx([0, 0.4, 0], abs=0.12)
    # to speed up forward the nose goes down: positive pitch about y (left); roll and yaw are those of the log
    euler, samples = stack(rows, "euler"), stack(rows, "samples")
    assert euler[570:650, 1].mean() > 0.005
    np.testing.assert_allclose(np.degrees(euler[:, 0]), samples[:, 18], atol=1e-9)
    np.testing.assert_allclose(np.degrees(euler[:, 2]), samples[:, 19], atol=1e-9)


def axes_of(roll, pitch, yaw):
    """Rz(yaw) Ry(pitch) Rx(roll) by multiplying matrices; as State holds it."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return (z @ y @ x).T[:, :, None]


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (0.3, -0.2, 1.0), (3.0, 0.1, -2.5), (-1.5, 1.4, 3.1), (np.pi, 0, 0), (0, 0, np.pi - 1e-9)]
)
def test_quaternion_and_euler_angles_are_the_rotation(angles):
    axes = axes_of(*angles)
    assert euler_of(axes)[0] == pytest.approx(angles, abs=1e-7)
    w, *v = quaternion_of(axes)[0]
    assert w >= 0
    assert w * w + np.dot(v, v) == pytest.approx(1)
    for vector in np.eye(3):
        turned = vector + 2 * np.cross(v, np.cross(v, vector) + w * vector)  # q v q*
        np.testing.assert_allclose(turned, axes[:, :, 0].T @ vector, atol=1e-7)


def test_a_stuck_sensor_is_constant_from_its_onset_on(hovering):
    accel = stack(hovering, "accel", 1)
    assert np.ptp(accel[:600], axis=0).min() > 0
    np.testing.assert_array_equal(accel[600:], np.repeat(accel[599:600], 300, axis=0))
    np.testing.assert_array_equal(accel[:600], stack(hovering, "accel", 0)[:600])
    pressure = stack(hovering, "pressure_pa", 7)
    assert np.all(pressure == pressure[0])  # stuck from the start: its first value


def test_a_bias_is_added_from_its_onset_on(hovering):
    for k, name, size in ((2, "pressure_pa", 100.0), (6, "battery_v", -0.2)):
        values = stack(hovering, name, k) - stack(hovering, name, 0)
        assert np.all(values[:600] == 0)
        assert values[600:610] == pytest.approx(size, abs=0.05 * abs(size) + 2e-3)


def test_lost_samples_repeat_and_the_others_are_right(hovering):
    lost = stack(hovering, "gyro", 3)
    repeats = np.diff(lost[600:, 1]) == 0
    assert repeats.mean() == pytest.approx(0.5, abs=0.12)
    assert np.all(np.diff(lost[600:, 0]) != 0)


def test_a_stuck_receiver_repeats_its_fix(hovering):
    fixes = stack(hovering, "gps_lat_deg", 4)
    assert len(set(fixes[600:])) == 1
    assert len(set(fixes[:600])) > 20


def test_spoofing_moves_the_fix_and_then_the_vehicle(hovering):
    # the receiver says offset + true position: 3 s after the onset the offset is full, 10 m, and the vehicle has gone west
    east_m = (stack(hovering, "gps_lon_deg", 5) - stack(hovering, "gps_lon_deg", 0)) / atmosphere.degrees_per_metre(
        np.array(47.3977)
    )[1]
    assert np.abs(east_m[:600]).max() < 1e-6
    assert east_m[640] == pytest.approx(2.0, abs=0.35)  # 0.4 s at 5 m/s
    assert 2.0 < east_m[899] < 8.5


def test_a_crashed_vehicle_disarms(hovering):
    assert not stack(hovering, "armed", 8)[-1]
    assert stack(hovering, "crashed", 8)[-1]
    assert stack(hovering, "armed", 0)[-1]
    assert not stack(hovering, "armed", 0)[0]


def test_rows_do_not_change_when_the_next_one_comes():
    air = Air([Vehicle(1)], [0])
    first = air.row()
    kept = {name: np.array(value) for name, value in vars(first).items() if isinstance(value, np.ndarray)}
    record(air, 400)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)


def test_the_same_seeds_give_the_same_rows_and_neighbours_do_not_matter():
    alone = record(Air([Vehicle(7)], [2], None, HOVER), 500)
    beside = record(Air([Vehicle(3), Vehicle(7)], [2, 2], [[SensorDropout("accel", 0.5)], []], HOVER), 500)
    for name in ("accel", "gyro", "pressure_pa", "gps_lat_deg", "gps_velocity", "quaternion", "battery_v"):
        np.testing.assert_array_equal(stack(alone, name), stack(beside, name, 1), err_msg=name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"flight_seeds": [1, 2]}, "one flight seed and one fault list per vehicle expected"),
        ({"rate_hz": 70.0}, "divides 500 Hz"),
        ({"homes": []}, "one home per vehicle expected, 0 came"),
        ({"vehicles": [], "flight_seeds": []}, "vehicles, and one flight seed"),
    ],
)
def test_impossible_air_is_refused(options, expected):
    with pytest.raises(UsageError, match=expected):
        Air(**{"vehicles": [Vehicle(1)], "flight_seeds": [1], **options})
