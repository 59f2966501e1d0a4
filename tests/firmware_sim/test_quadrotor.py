"""The physics against numbers worked by hand."""

import numpy as np
import pytest

from firmware_sim.world import quadrotor as q

STILL = np.zeros((1, 3))
OFF = np.zeros((1, 4))


def airborne(height_m=10.0, charge=0.6):
    state = q.State.at_rest(np.array([charge]))
    state.position_m[0, 2] = height_m
    return state


def test_hover_needs_the_square_root_of_a_quarter_weight_over_k_f():
    # 37 g: w = sqrt(m g / (4 k_f)), k_f = 3.16e-10 N/rpm^2 = 2.8816e-8 N s^2/rad^2; sqrt(0.36297 / 1.15264e-7) = 1774.6
    frame = q.Airframe.nominal(1)
    frame.mass_kg[:] = 0.037
    state = airborne()
    state.rotor[:] = 1774.57
    command = q.command_for_thrust(np.full((1, 4), 0.037 * 9.81 / 4))
    for _ in range(500):  # 1 s
        q.advance(frame, state, command, STILL, STILL, 0.002)
    assert state.rotor[0] == pytest.approx([1774.57] * 4, rel=1e-4)
    assert abs(state.velocity[0, 2]) < 0.01
    assert state.position_m[0, :2] == pytest.approx([0, 0], abs=1e-9)


def test_free_fall_follows_linear_drag():
    # v(t) = -(m g / d)(1 - exp(-d t / m)), m = 0.0362 kg, d = 0.015 N s/m, t = 0.2 s: 23.6748 * 0.079532 = 1.8829 m/s
    frame, state = q.Airframe.nominal(1), airborne()
    for _ in range(100):
        q.advance(frame, state, OFF, STILL, STILL, 0.002)
    assert state.velocity[0, 2] == pytest.approx(-1.8829, rel=2e-3)
    assert np.all(state.rates == 0)


def test_a_fall_without_drag_keeps_its_energy():
    frame, state = q.Airframe.nominal(1), airborne(100.0)
    frame.mass_kg[:] = 1e9  # drag is nothing beside it
    state.velocity[0] = 3.0, -2.0, 1.0
    before = 0.5 * 14.0 + 9.81 * 100.0
    for _ in range(500):
        q.advance(frame, state, OFF, STILL, STILL, 0.002)
    after = 0.5 * float((state.velocity[0] ** 2).sum()) + 9.81 * state.position_m[0, 2]
    assert after == pytest.approx(before, rel=2e-4)


def test_a_spinning_body_without_torque_keeps_its_angular_momentum():
    frame, state = q.Airframe.nominal(1), airborne(1000.0)
    state.rates[0] = 4.0, 3.0, 5.0
    before = state.attitude[0] @ (q.INERTIA * state.rates[0])
    for _ in range(500):
        q.advance(frame, state, OFF, STILL, STILL, 0.0005)
        q.square_up(state)
    after = state.attitude[0] @ (q.INERTIA * state.rates[0])
    assert not np.allclose(state.attitude[0], np.eye(3), atol=0.3)
    np.testing.assert_allclose(after, before, rtol=0.01)


def test_the_battery_sags_by_current_times_resistance():
    # charge 0.6 is 3.84 V open. 37 g: 37 (0.088 - 0.0006239 x 37) = 2.4019 V at the motor; 23 % of it over 0.9 ohm is
    # 0.6138 A a motor; duty 2.4019/3.84 = 0.6255; 4 x 0.6255 x 0.6138 + 0.12 = 1.6557 A; x 0.165 ohm = 0.2732 V
    frame, state = q.Airframe.nominal(1), airborne(charge=0.6)
    state.rotor[:] = 1774.57
    command = q.command_for_thrust(np.full((1, 4), 0.037 * 9.81 / 4))
    q.advance(frame, state, command, STILL, STILL, 1e-6)
    assert state.current_a[0] == pytest.approx(1.6557, rel=1e-3)
    assert state.battery_v[0] == pytest.approx(3.84 - 0.2732, abs=5e-4)


def test_an_empty_battery_limits_the_duty_to_one():
    frame, state = q.Airframe.nominal(1), airborne(charge=0.0)
    state.battery_v[:] = 2.0
    q.advance(frame, state, np.full((1, 4), q.FULL_COMMAND), STILL, STILL, 0.002)
    assert state.duty.max() == 1.0
    assert state.charge[0] == 0.0


def test_rotors_reach_63_percent_of_their_speed_after_one_lag():
    frame, state = q.Airframe.nominal(1), airborne()
    command = np.full((1, 4), 40_000.0)
    steps = round(q.ROTOR_LAG_S / 0.0005)
    for _ in range(steps):
        q.advance(frame, state, command, STILL, STILL, 0.0005)
    target = q.steady_speed(q.firmware_volts(command), np.ones((1, 4)), np.ones((1, 4)))
    assert state.rotor[0] == pytest.approx(target[0] * (1 - np.exp(-1)), rel=0.01)


@pytest.mark.parametrize(
    ("faster", "turn"),
    # more thrust right (M1, M2) rolls left up: negative x; more in front (M1, M4) pitches the nose up: negative y;
    # M1 and M3 turn so that their reaction is negative about z
    [((0, 1), (-1, 0, 0)), ((0, 3), (0, -1, 0)), ((0, 2), (0, 0, -1)), ((1, 3), (0, 0, 1))],
)
def test_pairs_of_rotors_turn_the_body_the_right_way(faster, turn):
    frame, state = q.Airframe.nominal(1), airborne()
    state.rotor[:] = 1700.0
    state.rotor[0, list(faster)] = 1750.0
    q.advance(frame, state, OFF, STILL, STILL, 1e-4)
    assert np.sign(np.round(state.rates[0], 9)).tolist() == list(turn)


def test_the_floor_holds_what_does_not_fly():
    frame, state = q.Airframe.nominal(2), q.State.at_rest(np.array([0.8, 0.8]))
    state.position_m[1, 2] = 1.0
    for _ in range(400):
        q.advance(frame, state, np.zeros((2, 4)), np.zeros((2, 3)), np.zeros((2, 3)), 0.002)
    assert state.position_m[:, 2].tolist() == [0.0, 0.0]
    assert np.all(state.velocity == 0)
    assert q.is_parked(state)
