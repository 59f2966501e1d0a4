"""The plan of a fleet: equal for equal arguments, the same for a device whatever the others are, true to its scenario."""

import dataclasses
import functools
import itertools
import math
import time
from collections import Counter

import msgspec
import numpy as np
import pytest

from covey.errors import UsageError
from firmware_sim.plan import plan_fleet
from firmware_sim.plan_outline import outline
from firmware_sim.scenario import library, load_scenario, parse_scenario
from firmware_sim.schedule import Clock, airborne_s, at_airborne_share, merged
from firmware_sim.shares import deal
from firmware_sim.world.pilot import MISSIONS, SHUTTLE

SMALL = [name for name in library() if name not in {"ten-thousand", "reconnect-storm"}]


def scenario_of(text, **keys):
    head = {"title": '"t"', "duration_s": "120", "devices": "10", **keys}
    lines = "".join(f"{key} = {value}\n" for key, value in head.items())
    return parse_scenario((lines + text).encode(), "test", "test")


def whole(plan):
    """Devices with their recordings in place of the numbers."""
    return [
        (
            dataclasses.replace(device, stretches=()),
            [(s.start_s, plan.recordings[s.recording]) for s in device.stretches],
            [plan.recordings[i] for i in plan.commission[device.body, device.vehicle]],
        )
        for device in plan.devices
    ]


# -- the same for the same ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_same_arguments_give_an_equal_plan_and_another_seed_another(name):
    scenario = load_scenario(name)
    assert plan_fleet(scenario, 30, 5) == plan_fleet(load_scenario(name), 30, 5)
    assert whole(plan_fleet(scenario, 30, 5)) != whole(plan_fleet(scenario, 30, 6))


@pytest.mark.parametrize("name", SMALL)
def test_adding_devices_changes_nothing_for_the_others(name):
    scenario = load_scenario(name)
    large = whole(plan_fleet(scenario, 80, 5))
    for devices in (1, 9, 10, 37):
        assert whole(plan_fleet(scenario, devices, 5)) == large[:devices]


@pytest.mark.parametrize("name", ["night-shift", "ageing-fleet", "power-cuts", "clock-chaos"])
def test_a_fleet_in_two_parts_is_the_whole_fleet(name):
    scenario = load_scenario(name)
    parts = [*whole(plan_fleet(scenario, 33, 5)), *whole(plan_fleet(scenario, 47, 5, first=34))]
    assert parts == whole(plan_fleet(scenario, 80, 5))


def test_adding_an_event_leaves_the_flights_alone():
    flights = '[[changes]]\nkind = "propeller-cut"\nshare = 0.3\nonset_s = [20, 90]\nparams = { motor = [1, 4], cut_mm = 3.0 }\n'
    storm = "[[storms]]\nat_s = 50\nshare = 0.5\n[[reboots]]\nat_s = 20\nshare = 0.5\n[clocks]\noffset_s = 9\n"
    calm, wild = (plan_fleet(scenario_of(text), 40, 1).devices for text in (flights, flights + storm))
    assert [(d.stretches, d.truth, d.vehicle) for d in calm] == [(d.stretches, d.truth, d.vehicle) for d in wild]
    assert sum(len(d.cuts) for d in wild) == 20


# -- shares -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [10, 100, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_of_links_bodies_changes_and_events_are_within_one_device(devices, seed):
    scenario = scenario_of(
        """
[vehicles]
machine_share = 0.37
[[links]]
profile = "wifi"
share = 0.43
[[links]]
profile = "lte"
share = 0.21
[[storms]]
at_s = 50
share = 0.17
[[outages]]
at_s = 5
for_s = 3
share = 0.29
link = "wifi"
[[changes]]
kind = "propeller-cut"
share = 0.31
onset_s = [20, 90]
params = { motor = 1, cut_mm = 3.0 }
[[changes]]
kind = "payload"
share = 0.13
onset_s = [20, 90]
params = { mass_g = 5.0 }
[[changes]]
kind = "overheating"
share = 0.4
onset_s = [20, 90]
params = { airflow_share = 0.1 }
"""
    )
    plan = plan_fleet(scenario, devices, seed)
    links, kinds = Counter(d.link for d in plan.devices), Counter(i.kind for d in plan.devices for i in d.truth)
    bodies = Counter(d.body for d in plan.devices)
    expected = {
        ("machine", bodies["machine"]): 0.37 * devices,
        ("wifi", links["wifi"]): 0.43 * devices,
        ("lte", links["lte"]): 0.21 * devices,
        ("ethernet", links["ethernet"]): 0.36 * devices,
        ("cuts", sum(len(d.cuts) for d in plan.devices)): 0.17 * devices,
        ("outages", sum(len(d.outages) for d in plan.devices)): 0.29 * links["wifi"],
        ("propeller-cut", kinds["propeller-cut"]): 0.31 * bodies["quadrotor"],
        ("payload", kinds["payload"]): 0.13 * bodies["quadrotor"],
        ("overheating", kinds["overheating"]): 0.4 * bodies["machine"],
    }
    # A rank within a body or a link need not end on a full ten: its shuffled last ten may be off by what it misses.
    nested = {"outages", "propeller-cut", "payload", "overheating"}
    off = {key: abs(key[1] - want) for key, want in expected.items()}
    assert {key: by for key, by in off.items() if by > (3.0 if key[0] in nested else 1.0)} == {}
    assert all(d.link == "wifi" for d in plan.devices if d.outages)


@pytest.mark.parametrize("devices", [10, 100, 1000])
def test_the_library_holds_its_shares_of_changes_within_one_device(devices):
    scenario = load_scenario("mixed-faults")
    kinds = Counter(item.kind for d in plan_fleet(scenario, devices, 3).devices for item in d.truth)
    assert {c.kind for c in scenario.changes if abs(kinds[c.kind] - c.share * devices) > 1} == set()


def test_every_full_ten_of_a_dealt_sequence_is_within_one_of_each_share():
    rng = np.random.default_rng(7)
    for trial in range(40):
        shares = rng.dirichlet(np.ones(int(rng.integers(2, 9))))[:-1]
        dealt = deal(list(shares), 300, [trial])
        counts = np.cumsum([dealt == k for k in range(len(shares) + 1)], axis=1)[:, 9::10]  # (K, 30)
        wanted = np.outer([*shares, 1 - sum(shares)], np.arange(10, 301, 10))
        assert np.abs(counts - wanted).max() < 1


def test_shares_of_nothing_and_of_all_are_exact():
    assert set(deal([0.0, 1.0], 25, [1])) == {1}
    assert set(deal([], 25, [1])) == {0}
    assert set(deal([0.0], 25, [1])) == {1}


def test_links_and_faults_fall_on_devices_independently():
    text = (
        '[[links]]\nprofile = "wifi"\nshare = 0.5\n'
        '[[changes]]\nkind = "propeller-cut"\nshare = 0.1\nonset_s = [20, 90]\nparams = { motor = 1, cut_mm = 3.0 }\n'
    )
    devices = plan_fleet(scenario_of(text), 1000, 4).devices
    both = sum(bool(d.truth) and d.link == "wifi" for d in devices)
    assert 30 <= both <= 70  # 50 expected, standard deviation 5


# -- flights and faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_stretches_follow_each_other_with_rests_and_end_in_time(name):
    scenario = load_scenario(name)
    plan = plan_fleet(scenario, 60, 2)
    low, high = scenario.vehicles.rest_s
    for device in plan.devices:
        starts = [s.start_s for s in device.stretches]
        if device.body == "machine":
            (start_s,) = starts
            assert 0 <= start_s <= 10
            assert start_s + plan.recordings[device.stretches[0].recording].duration_s >= plan.duration_s
            continue
        assert starts[0] >= 0
        assert starts[-1] + scenario.vehicles.flight_s <= plan.duration_s + 0.001
        rests = np.diff(starts) - scenario.vehicles.flight_s
        assert all(low - 0.002 <= rest <= high + 0.002 for rest in rests)


def test_devices_rest_and_take_off_each_in_their_own_time():
    devices = plan_fleet(load_scenario("calm-day"), 50, 2).devices
    assert len({d.stretches[0].start_s for d in devices}) == 50
    assert len({round(d.stretches[1].start_s - d.stretches[0].start_s, 2) for d in devices}) > 45


@pytest.mark.parametrize("name", [*SMALL, "ten-thousand"])
def test_each_stretch_plays_its_own_vehicle_with_exactly_what_is_wrong_with_it_then(name):
    plan = plan_fleet(load_scenario(name), 120, 2)
    assert all(len(set(pair)) == len(pair) for pair in (plan.recordings, plan.devices[0].stretches))
    for device in plan.devices:
        for stretch in device.stretches:
            recording = plan.recordings[stretch.recording]
            assert (recording.body, recording.vehicle) == (device.body, device.vehicle)
            assert bool(recording.mission) == (device.body == "quadrotor")
            end_s = stretch.start_s + recording.duration_s
            expected = {
                item.kind: (max(0.0, item.onset_s - stretch.start_s), dict(item.size))
                for item in device.truth
                if item.onset_s < end_s
            }
            played = {
                fault.kind: (
                    fault.onset_s,
                    {f.name: getattr(fault, f.name) for f in dataclasses.fields(fault) if f.name != "onset_s"},
                )
                for fault in recording.faults
            }
            assert played.keys() == expected.keys()
            for kind, (onset_s, size) in played.items():
                assert onset_s == pytest.approx(expected[kind][0], abs=1e-6)
                assert size == expected[kind][1]


@pytest.mark.parametrize("name", [*SMALL, "ten-thousand"])
def test_every_onset_lies_in_its_times_and_in_the_middle_of_a_flight(name):
    scenario = load_scenario(name)
    plan = plan_fleet(scenario, 200, 2)
    times = {}
    for change in scenario.changes:
        times.setdefault(change.kind, []).append(change.onset_s)
    for device in plan.devices:
        for item in device.truth:
            assert any(low - 0.01 <= item.onset_s <= high + 0.01 for low, high in times[item.kind])
            assert item.until_s == plan.duration_s
            (stretch,) = [
                s
                for s in device.stretches
                if s.start_s - 1e-6 <= item.onset_s < s.start_s + plan.recordings[s.recording].duration_s
            ]
            if device.body == "quadrotor":
                into_s = item.onset_s - stretch.start_s
                if item.category == "drift":
                    assert into_s == pytest.approx(0.0, abs=1e-6)
                else:
                    assert 0.29 < share_in_the_air(plan.recordings[stretch.recording], into_s) < 0.61


def share_in_the_air(recording, into_s):
    """By asking the mission every 20 ms whether the motors are on: the second method."""
    times, on = motors_on(recording.mission, recording.duration_s)
    return on[times < into_s].sum() / on.sum()


@functools.cache
def motors_on(mission, duration_s):
    times = np.arange(0, duration_s, 0.02)
    return times, np.array([MISSIONS[mission].setpoint(t)[1] for t in times])


def test_most_devices_with_a_change_have_it_and_those_that_hardly_fly_too():
    for name, devices in (("ten-thousand", 2000), ("cut-propellers", 100), ("machine-room", 100)):
        scenario = load_scenario(name)
        wanted = sum(change.share for change in scenario.changes) * devices
        assert abs(sum(len(d.truth) for d in plan_fleet(scenario, devices, 1).devices) - wanted) <= 2


def test_a_device_has_one_change_unless_the_scenario_allows_more():
    for name, most in (("mixed-faults", 1), ("ageing-fleet", 2)):
        counts = [len(d.truth) for d in plan_fleet(load_scenario(name), 200, 1).devices]
        assert max(counts) == most


def test_a_vehicle_that_lost_a_motor_stays_on_the_ground_but_one_that_can_fly_flies_on():
    def flights_after(left_share):
        change = f'[[changes]]\nkind = "motor-loss"\nshare = 1\nonset_s = [19, 30]\nparams = {{ motor = 1, left_share = {left_share} }}\n'
        plan = plan_fleet(scenario_of(change, duration_s=400), 20, 1)
        assert all(len(d.truth) == 1 for d in plan.devices)
        return [sum(s.start_s > d.truth[0].onset_s for s in d.stretches) for d in plan.devices]

    assert set(flights_after(0.5)) == {0}
    assert min(flights_after(0.7)) >= 4


def test_devices_with_one_change_share_a_bounded_number_of_vehicles_and_sizes_spread_over_the_range():
    scenario = load_scenario("cut-propellers")
    plan = plan_fleet(scenario, 1000, 1)
    faulty = [d for d in plan.devices if d.truth]
    sizes = {d.truth[0].size["cut_mm"] for d in faulty}
    assert len(faulty) == 300
    assert len({d.vehicle for d in faulty}) <= 10
    assert sorted(int((cut - 2.0) / 0.2) for cut in sizes) == list(range(10))  # one in each tenth of 2 to 4 mm
    assert {d.truth[0].size["motor"] for d in faulty} == {1, 2, 3, 4}


def test_ten_thousand_devices_need_a_bounded_number_of_recordings_and_plan_fast():
    scenario = load_scenario("ten-thousand")
    begun = time.process_time()
    plan = plan_fleet(scenario, 10_000, 1)
    assert time.process_time() - begun < 3.0
    vehicles, (change,) = scenario.vehicles, scenario.changes
    healthy = vehicles.pool_quadrotors * (vehicles.commission_flights + vehicles.flights_per_vehicle)
    assert len(plan.recordings) <= healthy + change.pool_faulty * (1 + vehicles.flights_per_vehicle)
    assert len({d.name for d in plan.devices}) == len({d.seed for d in plan.devices}) == 10_000
    assert plan.devices[0].name == "sim-00001"
    assert plan.devices[-1].name == "sim-10000"


@pytest.mark.parametrize("name", SMALL)
def test_every_vehicle_has_its_commissioning_recordings_and_they_are_healthy(name):
    scenario = load_scenario(name)
    plan = plan_fleet(scenario, 60, 2)
    played = {s.recording for d in plan.devices for s in d.stretches}
    assert plan.commission.keys() == {(d.body, d.vehicle) for d in plan.devices}
    for (body, vehicle), indices in plan.commission.items():
        recordings = [plan.recordings[i] for i in indices]
        assert len(recordings) == scenario.vehicles.commission_flights
        assert {(r.body, r.vehicle, r.faults) for r in recordings} == {(body, vehicle, ())}
        assert played.isdisjoint(indices)
        if body == "quadrotor":
            assert {r.mission for r in recordings} == set(scenario.vehicles.missions)
    assert played | {i for of in plan.commission.values() for i in of} == set(range(len(plan.recordings)))


def test_the_time_in_the_air_of_the_shuttle_is_its_two_hops():
    spans = airborne_s(SHUTTLE, 26.0)
    assert spans == ((2.9, 12.0), (16.6, 25.95))  # 9.1 and 9.35 s
    assert at_airborne_share(spans, 0.5) == pytest.approx(16.6 + 9.225 - 9.1)
    assert at_airborne_share(spans, 0.3) == pytest.approx(2.9 + 5.535)
    assert airborne_s(SHUTTLE, 40.0)[2:] == ((28.9, 38.0),)  # the second turn's first hop
    assert airborne_s(SHUTTLE, 30.0)[2:] == ((28.9, 30.0),)


# -- power, links, clocks, places ---------------------------------------------------------------------------------------


def test_a_clock_adds_its_offset_its_drift_and_the_jumps_that_were():
    clock = Clock(offset_s=-2.0, drift_ppm=100.0, jumps=((10.0, -30.0), (20.0, 5.0)))
    assert clock.device_s(1_000_000.0, 0.0) == pytest.approx(999_998.0)
    assert clock.device_s(1_000_010.0, 10.0) == pytest.approx(1_000_010.0 - 2.0 + 0.001 - 30.0)
    assert clock.device_s(1_000_050.0, 50.0) == pytest.approx(1_000_050.0 - 2.0 + 0.005 - 25.0)


def test_clocks_stay_within_their_spreads_and_use_them():
    clocks = [d.clock for d in plan_fleet(load_scenario("clock-chaos"), 400, 1).devices]
    offsets, drifts = [c.offset_s for c in clocks], [c.drift_ppm for c in clocks]
    assert -300 <= min(offsets) < -270 < 270 < max(offsets) <= 300
    assert -200 <= min(drifts) < -180 < 180 < max(drifts) <= 200
    back = [by for c in clocks for at, by in c.jumps if at == 35]
    assert len(back) == 160
    assert all(-3600 <= by <= -1 for by in back)


def test_power_cuts_come_at_the_scenarios_rate_and_never_overlap():
    scenario = scenario_of("", duration_s=1800, reboots_per_device_hour=6, reboot_off_s="[1, 2]")
    off = [d.off for d in plan_fleet(scenario, 500, 1).devices]
    count = sum(len(spans) for spans in off)
    assert abs(count - 1500) < 5 * math.sqrt(1500)  # Poisson: 500 devices, half an hour, 6 an hour
    for spans in off:
        assert all(0 <= a < 1800 and 1 <= b - a <= 2.001 for a, b in spans)
        assert all(b < c for (_, b), (c, _) in itertools.pairwise(spans))


def test_a_rolling_restart_takes_each_device_at_a_moment_of_its_own():
    scenario = scenario_of("[[reboots]]\nat_s = 30\nshare = 0.5\noff_s = [5, 10]\nspread_s = 20\n")
    spans = [span for d in plan_fleet(scenario, 100, 1).devices for span in d.off]
    assert len(spans) == len({a for a, _ in spans}) == 50
    assert all(30 <= a <= 50 and 5 <= b - a <= 10.001 for a, b in spans)


def test_overlapping_times_are_merged():
    assert merged([(5.0, 8.0), (1.0, 2.0), (7.0, 9.0), (9.0, 10.0)]) == ((1.0, 2.0), (5.0, 10.0))
    outages = "".join(f"[[outages]]\nat_s = {at}\nfor_s = 10\n" for at in (20, 25, 50))
    assert plan_fleet(scenario_of(outages)).devices[3].outages == ((20.0, 35.0), (50.0, 60.0))


def test_homes_lie_within_the_site():
    scenario = scenario_of("[site]\nlat_deg = 60.0\nlon_deg = 10.0\nradius_m = 5000\n")
    homes = np.array([d.home for d in plan_fleet(scenario, 300, 1).devices])
    north = (homes[:, 0] - 60.0) * math.radians(1) * 6_371_000
    east = (homes[:, 1] - 10.0) * math.radians(1) * 6_371_000 * 0.5  # cos 60 degrees
    far = np.hypot(north, east)
    assert far.max() < 5030  # two radii of the earth, 0.1 % apart
    assert 0.4 < np.mean(far < 5000 / math.sqrt(2)) < 0.6  # half of the disc's area


# -- another length, and what cannot be -----------------------------------------------------------------------------------


def test_a_shorter_run_leaves_out_what_would_come_later_and_a_longer_one_flies_on():
    scenario = load_scenario("mixed-faults")
    short, long = plan_fleet(scenario, 100, 1, 40.0), plan_fleet(scenario, 100, 1, 600.0)
    assert all(item.onset_s < 40 for d in short.devices for item in d.truth)
    assert all(s.start_s + 26 <= 40.001 for d in short.devices for s in d.stretches)
    assert outline(long)["flights_played"] > 3 * outline(plan_fleet(scenario, 100, 1))["flights_played"]
    none = plan_fleet(scenario, 10, 1, 5.0)
    assert not any(d.stretches or d.truth for d in none.devices)


@pytest.mark.parametrize(
    "arguments", [(0, 0, None, 1), (5, -1, None, 1), (5, 0, 0.0, 1), (5, 0, None, 0), (5, 0, None, 1_000_000)]
)
def test_numbers_out_of_bounds_are_refused_in_one_line(arguments):
    with pytest.raises(UsageError, match=r"^fleet: .* expected; .* came$"):
        plan_fleet(load_scenario("smoke"), *arguments)


def test_an_outline_counts_what_the_plan_holds():
    scenario = scenario_of(
        "[vehicles]\nfirst_flight_s = [4, 4]\nrest_s = [1000, 1000]\n[[storms]]\nat_s = 9\nshare = 0.5\n",
        idle_summary_interval_s=20,
    )
    told = outline(plan_fleet(scenario))
    assert told["devices"] == {"quadrotor": 10, "machine": 0}
    assert (told["flights_played"], told["most_in_the_air"], told["cuts"]) == (10, 10, 5)
    assert told["summaries_expected"] == round(10 * (26 / 10 + (120 - 26) / 20))
    assert msgspec.json.encode(told)
