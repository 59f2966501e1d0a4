"""The physics against numbers worked by hand."""

import numpy as np
import pytest

from firmware_sim.world import quadrotor as q
from firmware_sim.world.physics import Physics, is_parked, square_up

STILL = np.zeros((3, 1))
OFF = np.zeros((4, 1))


def airborne(height_m=10.0, charge=0.6):
    """One nominal vehicle in the air, with what moves it."""
    frame, state = q.Airframe.nominal(1), q.State.at_rest(np.array([charge]))
    state.position_m[2] = height_m
    return frame, state, Physics(frame, state)


def run(physics, command, steps, step_s=0.002):
    for _ in range(steps):
        physics.advance(command, STILL, STILL, step_s)


def rotation(state):
    """Body to world, (3, 3), of the only vehicle."""
    return state.axes[:, :, 0].T


def test_hover_needs_the_square_root_of_a_quarter_weight_over_k_f():
    # 37 g: w = sqrt(m g / (4 k_f)), k_f = 3.16e-10 N/rpm^2 = 2.8816e-8 N s^2/rad^2; sqrt(0.36297 / 1.15264e-7) = 1774.6
    frame, state, physics = airborne()
    frame.mass_kg[:] = 0.037
    physics.refresh()
    state.rotor[:] = 1774.57
    run(physics, q.command_for_thrust(np.full((4, 1), 0.037 * 9.81 / 4)), 500)  # 1 s
    assert state.rotor[:, 0] == pytest.approx([1774.57] * 4, rel=1e-4)
    assert abs(state.velocity[2, 0]) < 0.01
    assert state.position_m[:2, 0] == pytest.approx([0, 0], abs=1e-9)


def test_free_fall_follows_linear_drag():
    # v(t) = -(m g / d)(1 - exp(-d t / m)), m = 0.0362 kg, d = 0.015 N s/m, t = 0.2 s: 23.6748 * 0.079532 = 1.8829 m/s
    _, state, physics = airborne()
    run(physics, OFF, 100)
    assert state.velocity[2, 0] == pytest.approx(-1.8829, rel=2e-3)
    assert np.all(state.rates == 0)


def test_a_long_fall_ends_at_terminal_velocity():
    # m g = d v: 0.0362 x 9.81 / 0.015 = 23.675 m/s; after 30 s, 12 time constants of m/d = 2.41 s, 4e-6 are missing
    _, state, physics = airborne(2000.0)
    run(physics, OFF, 3000, 0.01)
    assert state.velocity[2, 0] == pytest.approx(-23.675, rel=1e-4)
    assert state.force[2, 0] == pytest.approx(9.81, rel=1e-4)  # what an accelerometer feels: held up by the air alone


def test_side_wind_carries_along():
    # vx' = (d/m)(wind - vx), d = 0.010: after 1 s of 5 m/s, 5 (1 - exp(-0.27624)) = 1.2070 m/s
    _, state, physics = airborne(100.0)
    wind = np.array([[5.0], [0.0], [0.0]])
    for _ in range(500):
        physics.advance(OFF, wind, STILL, 0.002)
    assert state.velocity[0, 0] == pytest.approx(1.2070, rel=2e-3)


def test_a_fall_without_drag_keeps_its_energy():
    frame, state, physics = airborne(100.0)
    frame.mass_kg[:] = 1e9  # drag is nothing beside it
    physics.refresh()
    state.velocity[:, 0] = 3.0, -2.0, 1.0
    before = 0.5 * 14.0 + 9.81 * 100.0
    run(physics, OFF, 500)
    after = 0.5 * float((state.velocity**2).sum()) + 9.81 * state.position_m[2, 0]
    assert after == pytest.approx(before, rel=2e-4)


def test_a_spinning_body_without_torque_keeps_its_angular_momentum():
    _, state, physics = airborne(1000.0)
    state.rates[:, 0] = 4.0, 3.0, 5.0
    before = rotation(state) @ (q.INERTIA * state.rates[:, 0])
    for _ in range(500):
        run(physics, OFF, 1, 0.0005)
        square_up(state)
    after = rotation(state) @ (q.INERTIA * state.rates[:, 0])
    assert not np.allclose(rotation(state), np.eye(3), atol=0.3)
    np.testing.assert_allclose(after, before, rtol=0.01)


def test_a_symmetric_top_precesses_at_eulers_rate():
    # I1 = I2: w2' = (I3 - I1)/I1 w3 w1: the transverse rate turns in the body with 12.7/16.6 x 10 = 7.65060 rad/s
    frame, state, physics = airborne(1000.0)
    frame.inertia[:, 0] = 16.6e-6, 16.6e-6, 29.3e-6
    physics.refresh()
    state.rates[:, 0] = 1.0, 0.0, 10.0
    run(physics, OFF, 2000, 0.0001)  # 0.2 s: 1.53012 rad
    x, y, z = state.rates[:, 0]
    assert z == pytest.approx(10.0)
    assert np.arctan2(y, x) == pytest.approx(1.53012, abs=2e-3)


def test_a_quarter_turn_turns_the_axes():
    # pi/2 rad/s about z for 1 s: x points where y was
    _, state, physics = airborne(100.0)
    state.rates[2] = np.pi / 2
    run(physics, OFF, 500)
    np.testing.assert_allclose(rotation(state)[:, 0], [0.0, 1.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(rotation(state)[:, 1], [-1.0, 0.0, 0.0], atol=1e-5)


def test_yaw_follows_the_reaction_torque():
    # M2, M4 at 1800, M1, M3 at 1700 rad/s: k_m = 7.94e-12 / 0.1047198^2 = 7.24043e-10; 2 x k_m (1800^2 - 1700^2) =
    # 2 x 7.24043e-10 x 350000 = 5.06830e-4 N m over 29.3e-6 kg m^2: 17.298 rad/s^2, in 1 ms 0.017298 rad/s
    _, state, physics = airborne()
    state.rotor[:, 0] = 1700.0, 1800.0, 1700.0, 1800.0
    command = q.command_for_thrust(2.88164e-8 * state.rotor**2)  # holds them nearly
    run(physics, command, 100, 1e-5)
    assert state.rates[2, 0] == pytest.approx(0.017298, rel=5e-3)
    assert state.rates[:2, 0] == pytest.approx([0, 0], abs=1e-9)


def test_the_battery_sags_by_current_times_resistance():
    # charge 0.6 is 3.84 V open. 37 g: 37 (0.088 - 0.0006239 x 37) = 2.4019 V at the motor; 23 % of it over 0.9 ohm is
    # 0.6138 A a motor; duty 2.4019/3.84 = 0.6255; 4 x 0.6255 x 0.6138 + 0.12 = 1.6557 A; x 0.165 ohm = 0.2732 V
    _, state, physics = airborne(charge=0.6)
    state.rotor[:] = 1774.57
    run(physics, q.command_for_thrust(np.full((4, 1), 0.037 * 9.81 / 4)), 1, 1e-6)
    assert state.current_a[0] == pytest.approx(1.6557, rel=1e-3)
    assert state.battery_v[0] == pytest.approx(3.84 - 0.2732, abs=5e-4)


def test_the_charge_that_leaves_is_current_times_time():
    # standing, avionics alone: 0.12 A for 60 s of 900 A s: 0.008; open at 0.592: 3.84 - 0.008 x 0.4 = 3.8368 V; the slow
    # part of the sag has come in, 0.06 ohm x 0.12 A, and the ohmic one, 0.165 ohm x 0.12 A: together 0.027 V
    state = q.State.at_rest(np.array([0.6]))
    physics = Physics(q.Airframe.nominal(1), state)
    for _ in range(6000):
        physics.stand_by(0.01)
    assert state.charge[0] == pytest.approx(0.592, abs=1e-9)
    assert state.battery_v[0] == pytest.approx(3.8368 - 0.027, abs=1e-5)


@pytest.mark.parametrize("charge", [1.0, 0.95, 0.6, 0.41, 0.4, 0.39, 0.05, 0.0])
def test_the_piece_of_the_voltage_curve_is_the_curve(charge):
    base, slope = q.open_circuit_line(np.array([charge]))
    assert base + slope * charge == pytest.approx(q.open_circuit_v(np.array([charge])), abs=1e-12)


def test_standing_by_is_the_same_as_integrating_parked_vehicles():
    states = [q.State.at_rest(np.array([0.7, 0.3])) for _ in range(2)]
    short, full = (Physics(q.Airframe.nominal(2), state) for state in states)
    for _ in range(50):
        short.stand_by(0.002)
        full.advance(np.zeros((4, 2)), np.zeros((3, 2)), np.zeros((3, 2)), 0.002)
    for name, values in vars(states[0]).items():
        np.testing.assert_array_equal(values, getattr(states[1], name), err_msg=name)


def test_an_empty_battery_limits_the_duty_to_one():
    _, state, physics = airborne(charge=0.0)
    state.battery_v[:] = 2.0
    run(physics, np.full((4, 1), q.FULL_COMMAND), 1)
    assert state.duty.max() == 1.0
    assert state.charge[0] == 0.0


def test_rotors_reach_63_percent_of_their_speed_after_one_lag():
    _, state, physics = airborne()
    command = np.full((4, 1), 40_000.0)
    run(physics, command, round(q.ROTOR_LAG_S / 0.0005), 0.0005)
    target = q.steady_speed(q.firmware_volts(command), np.ones((4, 1)), np.ones((4, 1)))
    assert state.rotor == pytest.approx(target * (1 - np.exp(-1)), rel=0.01)


def test_a_rotor_without_load_turns_with_volts_over_back_emf():
    # e = 0.77 x 2.4019 V / 1774.57 rad/s = 1.04220e-3 V s/rad: 2 V / e = 1919.0 rad/s; with its load the quadratic is right
    speed = q.steady_speed(np.array([2.0]), np.array([0.0]), np.array([1.0]))
    assert speed == pytest.approx([1919.0], rel=1e-3)
    loaded = q.steady_speed(np.array([2.0]), np.array([1.0]), np.array([1.0]))[0]
    assert q.VOLT_PER_SPEED * loaded + q.VOLT_PER_SPEED2 * loaded**2 == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(
    ("faster", "turn"),
    # more thrust right (M1, M2) rolls left up: negative x; more in front (M1, M4) pitches the nose up: negative y;
    # M1 and M3 turn so that their reaction is negative about z
    [((0, 1), (-1, 0, 0)), ((0, 3), (0, -1, 0)), ((0, 2), (0, 0, -1)), ((1, 3), (0, 0, 1))],
)
def test_pairs_of_rotors_turn_the_body_the_right_way(faster, turn):
    _, state, physics = airborne()
    state.rotor[:] = 1700.0
    state.rotor[list(faster)] = 1750.0
    run(physics, OFF, 1, 1e-4)
    assert np.sign(np.round(state.rates[:, 0], 9)).tolist() == list(turn)


def test_a_centre_of_mass_off_the_middle_tips_towards_itself():
    # 1 mm forward under 0.37 N of thrust: nose down, which is a positive turn about y (left): 3.7e-4 N m / 16.7e-6 = 22.2
    frame, state, physics = airborne()
    frame.centre_m[0] = 0.001
    physics.refresh()
    state.rotor[:] = np.sqrt(0.37 / 4 / 2.88164e-8)
    run(physics, OFF, 1, 1e-4)
    assert state.rates[:, 0] == pytest.approx([0.0, 22.2e-4, 0.0], rel=0.01)


def stand(count=2):
    frame, state = q.Airframe.nominal(count), q.State.at_rest(np.full(count, 0.8))
    return state, Physics(frame, state)


def drop(physics, count, steps):
    for _ in range(steps):
        physics.advance(np.zeros((4, count)), np.zeros((3, count)), np.zeros((3, count)), 0.002)


def test_the_floor_holds_what_does_not_fly():
    state, physics = stand()
    state.position_m[2, 1] = 0.15  # sqrt(2 g h) = 1.72 m/s: a hard landing
    drop(physics, 2, 400)
    assert state.position_m[2].tolist() == [0.0, 0.0]
    assert np.all(state.velocity == 0)
    assert is_parked(state)
    assert not state.crashed.any()


def test_a_fall_from_a_metre_breaks_it_for_good():
    state, physics = stand()
    state.position_m[2, 1] = 1.0  # 4.4 m/s
    drop(physics, 2, 400)
    assert state.crashed.tolist() == [False, True]
    assert physics.crashed
    for _ in range(200):
        physics.advance(np.full((4, 2), 60_000.0), np.zeros((3, 2)), np.zeros((3, 2)), 0.002)
    assert state.position_m[2, 0] > 0.1
    assert state.position_m[2, 1] == 0.0


def test_touching_the_floor_on_its_side_breaks_it_where_it_lies():
    state, physics = stand(1)
    angle = np.radians(80)
    state.position_m[2] = 0.05
    state.axes[:, :, 0] = [[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]]
    drop(physics, 1, 100)
    assert state.crashed.tolist() == [True]
    assert state.axes[2, 2, 0] == pytest.approx(np.cos(angle))
