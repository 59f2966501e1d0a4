"""What faults do to the vehicles' constants and to whole flights, by hand and by what must follow."""

import numpy as np
import pytest

from covey.errors import UsageError
from firmware_sim.world import quadrotor as q
from firmware_sim.world.effects import Effects
from firmware_sim.world.faults import (
    KINDS,
    QUADROTOR,
    BatterySag,
    BearingWear,
    Firmware,
    GpsSpoof,
    MotorLoss,
    Overheating,
    Payload,
    PropellerCut,
    PropellerImbalance,
    Season,
    SensorBias,
    SensorDropout,
    SensorStuck,
)
from firmware_sim.world.physics import Physics
from firmware_sim.world.pilot import HOVER, Pilot
from firmware_sim.world.sensors import vibration_g
from firmware_sim.world.vehicle import CHANNELS, Vehicle, fly

ONSET_S = 7.0
ONSET_ROW = 700
FAULTS = (
    PropellerCut(3, 3.0, onset_s=ONSET_S),
    PropellerImbalance(1, 0.5, onset_s=ONSET_S),
    MotorLoss(2, 0.0, onset_s=ONSET_S),
    BearingWear(4, 0.8, onset_s=ONSET_S),
    SensorStuck("accel-x", onset_s=ONSET_S),
    SensorBias("accel-z", 1.0, onset_s=ONSET_S),
    SensorDropout("accel", 0.7, onset_s=ONSET_S),
    BatterySag(2.0, 0.5, onset_s=ONSET_S),
    GpsSpoof(4.0, 2.0, onset_s=ONSET_S),
    Season(-10.0, onset_s=ONSET_S),
    Payload(6.0, 10.0, onset_s=ONSET_S),
    Firmware("2", 1.3, 1.1, 10.0, onset_s=ONSET_S),
)


def column(flight, name):
    return flight.samples[:, CHANNELS.index(name)]


@pytest.fixture(scope="module")
def hovers():
    """One vehicle in one air: whole, and with each fault at 7 s; 12 s long."""
    faults = [[], *([fault] for fault in FAULTS)]
    flights = fly([Vehicle(1)] * len(faults), [0] * len(faults), faults, HOVER, 12.0)
    return {"": flights[0], **{f.truth.faults[0].kind: f for f in flights[1:]}}


def at(faults, t_s, count=1):
    """Effects on nominal vehicles at a time."""
    effects = Effects(faults, q.Airframe.nominal(count), np.zeros((4, count)))
    effects.update(t_s, Pilot(count))
    return effects


def test_nothing_differs_before_the_onset_and_something_after(hovers):
    assert set(hovers) - {""} == {kind for kind, fault in KINDS.items() if QUADROTOR in fault.bodies}
    for kind, flight in hovers.items():
        whole = hovers[""]
        np.testing.assert_array_equal(flight.samples[:ONSET_ROW], whole.samples[:ONSET_ROW], err_msg=kind)
        if kind:
            assert not np.array_equal(
                flight.samples[ONSET_ROW : ONSET_ROW + 20], whole.samples[ONSET_ROW : ONSET_ROW + 20]
            )
            drift = KINDS[kind].category == "drift"
            active = [False] * ONSET_ROW + [True] * 500
            assert flight.truth.drifting.tolist() == (active if drift else [False] * 1200), kind
            assert flight.truth.faulty.tolist() == ([False] * 1200 if drift else active), kind


def test_a_cut_begins_at_its_onset_and_touches_one_rotor():
    faults = [[PropellerCut(2, 4.0, onset_s=5.0)], []]
    before, after = at(faults, 4.99, 2), at(faults, 5.0, 2)
    assert np.all(before.frame.thrust_gain == 1)
    assert np.all(before.imbalance == 0)
    assert (after.frame.thrust_gain[:, 0] < 1).tolist() == [False, True, False, False]
    assert (after.frame.torque_gain[:, 0] < after.frame.thrust_gain[:, 0]).tolist() == [False, True, False, False]
    assert (after.imbalance > 0).T.tolist() == [[False, True, False, False], [False] * 4]
    assert np.all(after.frame.thrust_gain[:, 1] == 1)


def test_faults_add_up_and_a_growing_one_does_not_pile_up():
    effects = at([[PropellerCut(1, 2.0), PropellerImbalance(1, 0.3), BearingWear(1, 0.4, 10.0)]], 0.0)
    for t_s in np.arange(0.0, 20.0, 0.05):
        effects.update(float(t_s), Pilot(1))
    assert effects.frame.friction[0, 0] == pytest.approx(0.4)
    assert effects.bearing_g[0] == pytest.approx(0.4 * 0.05)
    cut = PropellerCut(1, 2.0)
    assert effects.frame.thrust_gain[0, 0] == pytest.approx(cut.thrust_factor)
    assert effects.imbalance[0, 0] == pytest.approx(cut.imbalance_kgm + 3e-7)


def test_imbalance_pulls_with_m_r_w_squared_through_the_filter():
    # 2.8085e-7 kg m x 1900^2 = 1.01387 N on 36.2 g: 2.855 g; 1/(1 + (1900/188.496)^2) = 1/102.60: 0.02783 g
    imbalance, rotor = np.array([[2.8085e-7], [0], [0], [0]]), np.full((4, 1), 1900.0)
    mass, cutoff = np.array([0.0362]), np.array([30.0])
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    shaken = np.array([vibration_g(imbalance, rotor, np.full((4, 1), a), mass, cutoff)[:, 0] for a in angles])
    assert np.linalg.norm(shaken[:, :2], axis=1) == pytest.approx(0.02783, rel=1e-3)
    assert shaken[:, 2].max() == pytest.approx(0.35 * 0.02783, rel=0.01)
    # and the same at an angle many turns on
    again = vibration_g(imbalance, rotor, np.full((4, 1), angles[7] + 9000 * 2 * np.pi), mass, cutoff)[:, 0]
    assert again == pytest.approx(shaken[7], abs=1e-7)


def test_an_unbalanced_propeller_shakes_by_its_force_in_flight(hovers):
    # 5e-7 kg m at 1800 rad/s or so: 1.62 N / 0.355 N = 4.6 g, through the filter 1/92: 0.05 g amplitude, 0.035 g rms
    row = slice(ONSET_ROW, 1150)
    extra = [
        np.sqrt(column(hovers["propeller-imbalance"], a)[row].var() - column(hovers[""], a)[row].var())
        for a in ("stateEstimate.ax", "stateEstimate.ay")
    ]
    assert extra == pytest.approx([0.035, 0.035], rel=0.2)


def test_worn_bearings_draw_current_by_the_torque_balance():
    # At 2.4 V: e w + o (1 + f) w^2 = 2.4 with e = 1.04220e-3, o = 0.23 x 2.4019 / 1774.57^2 = 1.75427e-7:
    # f = 0: w = 1773.4; f = 0.5 (o = 2.63141e-7): w = 1631.3; current o (1 + f) w^2 / 0.9 ohm: 0.6130 and 0.7781 A
    frame, state = q.Airframe.nominal(1), q.State.at_rest(np.array([0.6]))
    effects = Effects([[BearingWear(2, 0.5)]], frame, np.zeros((4, 1)))
    effects.update(0.0, Pilot(1))
    physics = Physics(effects.frame, state)
    state.position_m[2] = 100.0
    command = q.command_for_thrust(np.full((4, 1), 0.037 * 9.81 / 4))  # 2.4019 V
    for _ in range(250):
        physics.advance(command, np.zeros((3, 1)), np.zeros((3, 1)), 0.002)
    assert state.rotor[[0, 1], 0] == pytest.approx([1774.57, 1632.4], rel=1e-3)
    motors = state.current_a[0] - q.AVIONICS_A
    assert motors == pytest.approx(state.duty[0, 0] * (3 * 0.6138 + 0.7791), rel=2e-3)
    # the body feels the aerodynamic torque only: less on M2 by the square of its speed
    assert effects.frame.torque_gain[1, 0] == 1.0


def test_worn_bearings_ask_for_more_command_and_more_charge(hovers):
    worn, whole = hovers["bearing-wear"], hovers[""]
    row = slice(900, 1150)
    ratio = (worn.samples[row, :4] / whole.samples[row, :4]).mean(axis=0)
    assert ratio.argmax() == 3
    assert ratio[3] > 1.1
    assert ratio[:3] == pytest.approx([1, 1, 1], abs=0.02)
    assert worn.truth.current_a[row].mean() > whole.truth.current_a[row].mean() + 0.2
    assert worn.truth.rotor[row, 3].mean() == pytest.approx(whole.truth.rotor[row, 3].mean(), rel=0.01)


def test_without_a_rotor_it_falls_slower_than_a_stone_and_stays_down(hovers):
    fallen = hovers["motor-loss"].truth
    height_m = fallen.position_m[:, 2]
    landed = int(np.flatnonzero(height_m[ONSET_ROW:] <= 0)[0]) + ONSET_ROW
    stone_s = np.sqrt(2 * height_m[ONSET_ROW] / 9.81)
    assert stone_s < (landed - ONSET_ROW) / 100 < 3 * stone_s
    assert np.all(height_m[landed:] == 0)
    motors = hovers["motor-loss"].samples[landed + 2 :, :4]
    assert np.all(motors == 0)  # the pilot cut them
    assert np.all(fallen.rotor[landed + 2 :] == 0)


def test_a_worn_battery_sags_more_and_empties_faster(hovers):
    sag, whole = hovers["battery-sag"], hovers[""]
    row = ONSET_ROW + 20
    # the ohmic part doubles at once: about 0.165 ohm x 1.7 A more
    drop_mv = column(whole, "pm.vbatMV")[row] - column(sag, "pm.vbatMV")[row]
    assert drop_mv == pytest.approx(165 * whole.truth.current_a[row], rel=0.25)
    row = slice(ONSET_ROW + 100, ONSET_ROW + 400)
    used = [(f.truth.charge[row][0] - f.truth.charge[row][-1]) / f.truth.current_a[row].sum() for f in (sag, whole)]
    assert used[0] / used[1] == pytest.approx(2.0, rel=1e-3)  # per ampere second, of half the capacity
    assert sag.truth.charge[ONSET_ROW] == pytest.approx(whole.truth.charge[ONSET_ROW], abs=1e-4)


def test_cold_air_carries_with_slower_rotors(hovers):
    # density 293.15/263.15 = 1.1140: the same thrust at 1/sqrt(1.1140) = 0.9475 of the speed
    row = slice(900, 1150)
    ratio = hovers["season"].truth.rotor[row].mean(axis=0) / hovers[""].truth.rotor[row].mean(axis=0)
    assert ratio == pytest.approx([0.9475] * 4, rel=0.01)
    assert column(hovers["season"], "pm.vbatMV")[row].mean() < column(hovers[""], "pm.vbatMV")[row].mean() - 200


def test_a_payload_is_carried_by_more_thrust_in_front():
    # 6 g at 10 mm on 36.2 g: 42.2 g; centre 60/42.2 = 1.4218 mm forward; about the new centre 36.2 x 6/42.2 g x (10 mm)^2
    # = 5.1469e-7 kg m^2 more about y and z
    frame = at([[Payload(6.0, 10.0)]], 0.0).frame
    assert frame.mass_kg[0] == pytest.approx(0.0422)
    assert frame.centre_m[:, 0] == pytest.approx([1.4218e-3, 0.0], rel=1e-4)
    assert frame.inertia[:, 0] - q.INERTIA == pytest.approx([0.0, 5.1469e-7, 5.1469e-7], rel=1e-4)


def test_a_payload_shows_in_rotor_speeds_by_weight_and_lever(hovers):
    # weight 42.2/36.2 = 1.1657 of before: sum of squares; front share grows by centre/arm = 1.4218/32.527 = 0.0437 of all
    row = slice(950, 1150)
    squares = [(f.truth.rotor[row] ** 2).mean(axis=0) for f in (hovers["payload"], hovers[""])]
    heavy, light = squares
    assert heavy.sum() / light.sum() == pytest.approx(1.1657, rel=0.02)
    front = [(s[0] + s[3] - s[1] - s[2]) / s.sum() for s in squares]
    assert front[0] - front[1] == pytest.approx(0.0437, abs=0.012)


def test_a_spoofed_vehicle_leaves_its_place_while_its_log_stays(hovers):
    spoofed = hovers["gps-spoof"]
    # The estimate's error follows with 2 s: after the ramp of 2 m/s for 2 s 2 (2 - 2 (1 - 1/e)) = 1.4715 m; 3 s later
    # 4 - 2.5285 exp(-1.5) = 3.436 m, and still 0.28 m/s, which the position loop follows a second later or less
    assert -3.436 < spoofed.truth.position_m[-1, 0] < -3.436 + 0.4
    assert abs(column(spoofed, "stateEstimate.x")[1150:].mean()) < 0.4
    assert abs(spoofed.truth.position_m[-1, 1]) < 0.2


def test_a_bias_of_the_accelerometer_moves_the_log_and_not_the_vehicle(hovers):
    biased, whole = hovers["sensor-bias"], hovers[""]
    moved = column(biased, "stateEstimate.az")[ONSET_ROW:] - column(whole, "stateEstimate.az")[ONSET_ROW:]
    assert moved.mean() == pytest.approx(1.0 / 9.81, rel=0.01)
    np.testing.assert_array_equal(biased.truth.position_m, whole.truth.position_m)


def test_a_stuck_axis_of_the_accelerometer_stands_still_in_body_axes(hovers):
    stuck = column(hovers["sensor-stuck"], "stateEstimate.ax")
    whole = column(hovers[""], "stateEstimate.ax")
    # noise and vibration of that axis are gone; what is left moves slowly, as the attitude turns the axes into the world
    assert np.diff(stuck[ONSET_ROW:1150]).std() < 0.3 * np.diff(whole[ONSET_ROW:1150]).std()
    np.testing.assert_array_equal(column(hovers["sensor-stuck"], "motor.m1"), column(hovers[""], "motor.m1"))


def test_lost_samples_repeat_the_last_one(hovers):
    lost, whole = (column(hovers[k], "stateEstimate.ay")[ONSET_ROW:1150] for k in ("sensor-dropout", ""))
    held = np.abs(lost - whole) > 1e-9
    assert held.mean() == pytest.approx(0.7, abs=0.08)


def test_firmware_changes_gains_and_filter_of_its_vehicle_only():
    effects = Effects([[Firmware("2", 1.3, 1.1, 10.0)], []], q.Airframe.nominal(2), np.zeros((4, 2)))
    pilot = Pilot(2)
    assert effects.update(0.0, pilot)
    assert not effects.update(0.01, pilot)
    assert pilot.gain_share.tolist() == [1.3, 1.0]
    assert pilot.base_share.tolist() == [1.1, 1.0]
    assert effects.cutoff_hz.tolist() == [10.0, 30.0]


def test_a_slower_filter_smooths_the_accelerations(hovers):
    # noise after the filter stays; what moves above 10 Hz goes
    row = slice(900, 1150)
    new, old = (column(hovers[k], "stateEstimate.ax")[row] for k in ("firmware", ""))
    assert np.diff(new).std() < np.diff(old).std()


def test_faults_of_machines_are_refused():
    for fault in (Overheating(0.5), SensorStuck("fan.rpm")):
        with pytest.raises(UsageError, match="a quadrotor expected, one of a machine came"):
            fly([Vehicle(1)], [0], [[fault]], duration_s=1.0)


def test_whatever_breaks_the_numbers_stay_numbers():
    faults = [
        SensorStuck("gyro-x", onset_s=3.0),
        SensorStuck("baro", onset_s=6.0),
        SensorStuck("gps", onset_s=6.0),
        SensorDropout("gyro", 1.0, onset_s=6.0),
        SensorBias("battery", -0.5, onset_s=6.0),
        BatterySag(5.0, 0.05, onset_s=6.0),
        Payload(10.0, -20.0),
        Firmware("", 0.6, 0.8, 5.0),
        Season(55.0),
    ]
    for flight in fly([Vehicle(2)] * len(faults), [1] * len(faults), [[f] for f in faults], duration_s=13.0):
        name = repr(flight.truth.faults)
        assert np.isfinite(flight.samples).all(), name
        assert np.abs(flight.truth.position_m).max() < 100, name
        assert flight.samples[:, :8].min() >= 0, name
        assert flight.samples[:, :8].max() <= 65_535, name
