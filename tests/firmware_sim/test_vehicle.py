"""Whole flights: repeatable, alike when healthy, telling when damaged, in the range of the real ones."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from covey.errors import UsageError
from edge.sources.crazyflie import read_crazyflie
from firmware_sim.usdlog import encode
from firmware_sim.world.faults import MotorLoss, PropellerCut, SensorStuck
from firmware_sim.world.pilot import HOVER, MISSIONS, SHUTTLE, SQUARE, SURVEY
from firmware_sim.world.vehicle import CHANNELS, Vehicle, fly
from firmware_sim.world.weather import Weather, Wind

REPOSITORY = Path(__file__).resolve().parents[2]
CRAZYPAD = Path(os.environ.get("COVEY_SHARED", REPOSITORY.parent / "shared")) / "data" / "crazypad"
needs_crazypad = pytest.mark.skipif(
    not (CRAZYPAD / "manifest.csv").is_file(), reason="the CrazyPAD logs are not at ../shared/data (or COVEY_SHARED)"
)
SIX = ("motor.m1", "motor.m2", "motor.m3", "motor.m4", "pm.vbatMV", "stateEstimate.z")
ACCELERATIONS = ("stateEstimate.ax", "stateEstimate.ay", "stateEstimate.az")


def column(flight, name):
    return flight.samples[:, CHANNELS.index(name)]


def signature(motors, vbat_mv, height_m, acceleration_g):
    """Mean motor ratios (4), median standard deviation of accelerations in 1 s (3) and battery slope while airborne."""
    air = (height_m > 0.2) & (motors.min(axis=1) > 5000)
    ratios, stds = [], []
    for start in range(0, len(air) - 99, 50):
        window = slice(start, start + 100)
        if air[window].all():
            mean = motors[window].mean(axis=0)
            ratios.append(mean / mean.mean() - 1)
            stds.append(acceleration_g[window].std(axis=0))
    slope = np.polyfit(np.flatnonzero(air) / 100, vbat_mv[air], 1)[0]
    return np.mean(ratios, axis=0), np.median(stds, axis=0), slope, motors[air].mean()


def of_flight(flight):
    motors = flight.samples[:, :4]
    acceleration = np.stack([column(flight, name) for name in ACCELERATIONS], axis=1)
    return signature(motors, column(flight, "pm.vbatMV"), column(flight, "stateEstimate.z"), acceleration)


@pytest.fixture(scope="module")
def fleet():
    """Per vehicle of three: two healthy flights and one each with 2 mm and 3 mm off a blade of M3."""
    kinds = [[], [], [PropellerCut(3, 2.0)], [PropellerCut(3, 3.0)]]
    vehicles = [Vehicle(seed) for seed in (1, 2, 3) for _ in kinds]
    flights = fly(vehicles, [0, 1, 2, 3] * 3, kinds * 3)
    return [flights[i : i + 4] for i in (0, 4, 8)]


def test_the_same_seeds_give_the_same_bytes():
    one, two, other = (fly([Vehicle(4)], [seed], duration_s=4.0)[0] for seed in (9, 9, 10))
    assert encode(one) == encode(two)
    assert encode(one) != encode(other)


def test_a_flight_does_not_depend_on_who_flies_beside_it():
    # to the last bit, also beside one that falls, one that is misled, and 30 more (another block of random numbers)
    alone = fly([Vehicle(4)], [9], duration_s=13.0)[0]
    others = [[MotorLoss(1, 0.0, onset_s=5.0)], [SensorStuck("gps", onset_s=6.0)], *([] for _ in range(30))]
    vehicles = [Vehicle(5 + n) for n in range(32)]
    for place in (0, 20):
        together = fly(
            [*vehicles[:place], Vehicle(4), *vehicles[place:]],
            [9] * 33,
            [*others[:place], [], *others[place:]],
            duration_s=13.0,
        )
        np.testing.assert_array_equal(together[place].samples, alone.samples)
        np.testing.assert_array_equal(together[place].truth.charge, alone.truth.charge)


# Rows of flights of version 0.1, before physics ran by components: what users keep and compare with must stay.
KEPT = (
    (
        (Vehicle(2), 5, [PropellerCut(3, 3.0, onset_s=5.0)], SHUTTLE),
        {
            450: (
                35573,
                32837,
                36576,
                33136,
                40760,
                38493,
                41554,
                38748,
                3546,
                0.00526256877,
                0.00868327316,
                0.619105891,
            )
            + (0.0481745054, 0.0347957304, 0.369158296, 0.00789593284, -0.0203810321, -0.0884504438, 0.624929391)
            + (-0.0478673557,),
            950: (39873, 36025, 45633, 35726, 45148, 42165, 49063, 41921, 3456, 1.9581602, -0.0050878876, 0.529886468)
            + (0.497581249, -0.0493819669, 0.00103815572, -0.095785681, -0.0221352923, -0.0180884288, -0.0577313262)
            + (-0.527733022,),
        },
    ),
    (
        (Vehicle(4), 9, [], SQUARE),
        {
            700: (40343, 38939, 38280, 40455, 42700, 41724, 41252, 42777, 3684, 0.220484633, -0.0166535659, 0.569660998)
            + (0.375542334, -0.00783942508, -0.0207879406, -0.0187485372, -0.0294330544, -0.0290254483, 0.313742332)
            + (1.40371275,),
        },
    ),
)


@pytest.mark.parametrize(("flown", "rows"), KEPT)
def test_the_same_seeds_give_the_flights_of_earlier_versions(flown, rows):
    vehicle, seed, faults, mission = flown
    flight = fly([vehicle], [seed], [faults], mission, 10.0)[0]
    step = np.array([1.0] * 8 + [6.0] + [1e-6] * 11)  # one command, one step of the battery reading, else rounding
    for row, values in rows.items():
        assert np.all(np.abs(flight.samples[row] - values) <= step), row


@pytest.mark.parametrize("mission", MISSIONS.values(), ids=lambda mission: mission.name)
def test_every_waypoint_is_reached_and_the_flight_ends_on_the_floor(mission):
    off_m = 0.45 if mission is SURVEY else 0.25  # lanes of 10 m at up to 2.7 m/s are overshot
    flight = fly([Vehicle(1)], [0], mission=mission, duration_s=mission.period_s)[0]
    for t_s, *point in mission.points:
        reached = flight.truth.position_m[min(int(t_s * 100) + 30, len(flight.samples) - 1)]
        assert reached == pytest.approx(point, abs=off_m)
    # the detector wants flights: more than 10 s in the air (shuttle: in two parts)
    assert (flight.samples[:, :4].mean(axis=1) > 20_000).sum() > 1000
    assert not np.any(np.diff(flight.truth.position_m[:, 2]) < -0.02)  # nowhere sinks with 2 m/s, which breaks things


def test_the_charge_drawn_is_the_current_summed(fleet):
    truth = fleet[0][0].truth
    drawn = (truth.charge[0] - truth.charge[-1]) * 900 * 0.88  # A s of a full nominal battery, aged
    assert drawn == pytest.approx(truth.current_a.sum() * 0.01, rel=0.2)  # 5 % capacity spread, 3 sigma
    assert np.all(np.diff(truth.charge) < 0)


def test_a_cut_rotor_spins_faster_by_the_derived_factor():
    # 1/sqrt((1 + (20.5/23.5)^3)/2) = 1/sqrt(0.831922) = 1.09638: the same weight, less k_f
    whole, cut = fly([Vehicle(1)] * 2, [0, 0], [[], [PropellerCut(2, 3.0)]], duration_s=10.0)
    hover = slice(600, 1000)
    factor = cut.truth.rotor[hover].mean(axis=0) / whole.truth.rotor[hover].mean(axis=0)
    assert factor[1] == pytest.approx(1.09638, rel=0.015)
    assert factor[[0, 2, 3]] == pytest.approx(1.0, abs=0.015)


def test_nothing_differs_before_the_onset():
    whole, cut = fly([Vehicle(1)] * 2, [0, 0], [[], [PropellerCut(2, 3.0, onset_s=7.5)]], duration_s=10.0)
    np.testing.assert_array_equal(whole.samples[:750], cut.samples[:750])
    assert not np.array_equal(whole.samples[751:], cut.samples[751:])
    assert cut.truth.faulty.tolist() == [False] * 750 + [True] * 250
    assert not whole.truth.faulty.any()


def test_wind_is_leant_into_and_off_by_default():
    # 4 m/s to the left: drag 0.010 x 4 = 0.04 N against 0.355 N of weight; the frame leans 6.4 degrees and stays in place
    calm, none, windy = (
        fly([Vehicle(1)], [0], None, HOVER, s, wind=w)[0] for s, w in ((9, None), (5, Wind()), (9, Wind(north_ms=4)))
    )
    np.testing.assert_allclose(none.samples, calm.samples[:500], atol=1e-9)
    row = slice(750, 900)
    roll = [column(f, "stateEstimate.roll")[row].mean() for f in (calm, windy)]
    assert roll[1] - roll[0] == pytest.approx(np.degrees(np.arctan(0.04 / 0.355)), rel=0.1)
    assert windy.truth.position_m[899] == pytest.approx([0, 0, 1.0], abs=0.25)


def test_gusts_have_the_size_asked_for():
    # after 20 s of gusts over 2 s every vehicle's wind is a draw of its own: 600 draws know a spread within 3 %, 4 sigma 12
    weather = Weather([(1, seed) for seed in range(600)], 0.05, Wind(2.0, -1.0, 1.5, 2.0))
    for _ in range(400):
        weather.blow(np.zeros((6, 600), dtype=np.float32))  # nothing of the room's gusts
    assert weather.wind.mean(axis=1) == pytest.approx([2.0, -1.0, 0.0], abs=4 * 1.5 / np.sqrt(600))
    assert weather.wind.std(axis=1) == pytest.approx([1.5, 1.5, 0.75], rel=0.12)


@pytest.mark.parametrize("wrong", [{"east_ms": 13.0}, {"gust_ms": -1.0}, {"gust_s": 0.0}, {"north_ms": float("nan")}])
def test_impossible_winds_are_refused(wrong):
    with pytest.raises(UsageError, match=r"wind: .* expected"):
        Wind(**wrong)


def test_healthy_flights_are_alike_and_cuts_of_two_millimetres_show(fleet):
    for first, second, two, three in fleet:
        (a, *_), (b, *_), (c, *_), (d, *_) = map(of_flight, (first, second, two, three))
        healthy = (a + b) / 2
        assert np.abs(a - b).max() < 0.03
        assert (c - healthy).argmax() == 2
        assert (d - healthy).argmax() == 2
        assert 0.03 < (c - healthy)[2] < (d - healthy)[2] < 0.13


def test_an_unbalanced_propeller_shakes_the_accelerations(fleet):
    for first, second, _, three in fleet:
        healthy = (of_flight(first)[1] + of_flight(second)[1]) / 2
        assert np.all(of_flight(three)[1][:2] > 1.3 * healthy[:2])


def test_vehicles_differ_more_than_their_flights(fleet):
    first = np.array([of_flight(flights[0])[0] for flights in fleet])
    again = np.array([of_flight(flights[1])[0] for flights in fleet])
    assert np.abs(first - again).max() < np.ptp(first, axis=0).max() / 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([Vehicle(1)], [1, 2]), "one flight seed and one fault list per vehicle"),
        (([], []), "a vehicle and at least one row"),
        (([Vehicle(1)], [1], None, SHUTTLE, 0.0), "at least one row"),
        (([Vehicle(1)], [1], None, SHUTTLE, 1.0, 70.0), "divides 500 Hz"),
        (([Vehicle(1)], [1], None, SHUTTLE, 1.0, 0.0), "divides 500 Hz"),
    ],
)
def test_impossible_flights_are_refused(arguments, expected):
    with pytest.raises(UsageError, match=expected):
        fly(*arguments)


@needs_crazypad
def test_simulated_healthy_flights_are_in_the_range_of_the_real_ones(fleet):
    with (CRAZYPAD / "manifest.csv").open(encoding="utf-8") as file:
        normal = [row["file"] for row in csv.DictReader(file) if row["label"] == "0"]
    real = []
    for name in normal:
        samples = read_crazyflie(CRAZYPAD / name, [*SIX, *ACCELERATIONS]).samples.astype(float)
        real.append(signature(samples[:, :4], samples[:, 4], samples[:, 5], samples[:, 6:]))
    for flight in (flight for flights in fleet for flight in flights[:2]):
        ratios, stds, slope, command = of_flight(flight)
        assert np.abs(ratios).max() < max(np.abs(r[0]).max() for r in real)
        assert 0.5 * min(r[1].min() for r in real) < stds.min()
        assert stds.max() < 1.5 * max(r[1].max() for r in real)
        assert 1.5 * min(r[2] for r in real) < slope < 0.5 * max(r[2] for r in real) < 0
        assert command == pytest.approx(np.mean([r[3] for r in real]), rel=0.12)
