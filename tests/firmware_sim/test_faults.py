"""Faults as they are declared: bounds, names, sizes, words; and what a cut propeller is, by hand."""

import json

import pytest
from typer.testing import CliRunner

from covey.errors import UsageError
from firmware_sim.cli import app
from firmware_sim.fault_words import describe, parse_fault
from firmware_sim.world.faults import (
    KINDS,
    MACHINE,
    QUADROTOR,
    SENSORS,
    BearingWear,
    Firmware,
    GpsSpoof,
    PropellerCut,
    SensorBias,
    check_body,
    make_fault,
    size_of,
)

EXAMPLES = {
    "propeller-cut": {"motor": 3, "cut_mm": 3.0},
    "propeller-imbalance": {"motor": 1, "imbalance_gmm": 0.5},
    "motor-loss": {"motor": 2, "left_share": 0.3},
    "bearing-wear": {"motor": 4, "friction_share": 0.5, "grow_s": 10.0},
    "sensor-stuck": {"sensor": "accel-x"},
    "sensor-bias": {"sensor": "baro", "size": -20.0},
    "sensor-dropout": {"sensor": "gyro", "share": 0.4},
    "battery-sag": {"ohm_factor": 2.0, "capacity_share": 0.7},
    "gps-spoof": {"offset_m": 30.0, "speed_ms": 1.0},
    "overheating": {"airflow_share": 0.2},
    "season": {"temperature_c": -5.0},
    "payload": {"mass_g": 5.0, "x_mm": 10.0},
    "firmware": {"version": "2.1", "gain_share": 1.2, "load_share": 1.5},
}


def test_three_millimetres_off_one_blade():
    # 20.5/23.5 = 0.872340; cubed 0.663844, to the fourth 0.579098; mean with a whole blade
    cut = PropellerCut(3, 3.0)
    assert cut.thrust_factor == pytest.approx((0.663844 + 1) / 2, abs=1e-5)
    assert cut.torque_factor == pytest.approx((0.579098 + 1) / 2, abs=1e-5)
    # 0.1 g x 3/23.5 missing at 22 mm
    assert cut.imbalance_kgm == pytest.approx(2.8085e-7, rel=1e-4)


def test_equal_cuts_leave_the_propeller_balanced():
    cut = PropellerCut(1, 2.0, other_cut_mm=2.0)
    assert cut.imbalance_kgm == 0.0
    assert cut.thrust_factor == pytest.approx((21.5 / 23.5) ** 3)


def test_bearing_wear_grows_in_a_straight_line():
    wear = BearingWear(1, 0.6, 20.0, onset_s=10.0)
    assert [wear.share_at(t) for t in (0, 9.9, 10, 15, 30, 99)] == pytest.approx([0, 0, 0, 0.15, 0.6, 0.6])
    assert BearingWear(1, 0.6, onset_s=10.0).share_at(10.0) == 0.6


def test_a_spoofed_position_leaves_at_its_speed_and_stops_at_its_offset():
    spoof = GpsSpoof(-30.0, 2.0, onset_s=5.0)
    assert [spoof.offset_at(t) for t in (0, 5, 10, 20, 50)] == pytest.approx([0, 0, -10, -30, -30])


def test_every_kind_can_be_made_by_its_name_and_tells_its_size():
    assert set(EXAMPLES) == set(KINDS)
    for kind, params in EXAMPLES.items():
        fault = make_fault(kind, 4.5, params)
        assert (fault.kind, fault.onset_s) == (kind, 4.5)
        assert params.items() <= size_of(fault).items()
        assert "onset_s" not in size_of(fault)
        assert make_fault(kind, 4.5, size_of(fault)) == fault
        assert fault.category in {"fault", "drift"}
        assert set(fault.bodies) <= {QUADROTOR, MACHINE}


def test_drifts_are_what_changes_without_being_broken():
    assert {kind for kind, fault in KINDS.items() if fault.category == "drift"} == {"season", "payload", "firmware"}


@pytest.mark.parametrize(
    ("kind", "params", "expected"),
    [
        ("propeler-cut", {}, "fault: one of propeller-cut, .* expected, 'propeler-cut' came"),
        ("propeller-cut", {"motor": 3}, "fault propeller-cut: cut_mm expected, motor came"),
        ("propeller-cut", {"motor": 3, "cut": 1}, "fault propeller-cut: one of motor, cut_mm, .* expected, 'cut' came"),
        ("propeller-cut", {"motor": 0, "cut_mm": 1}, "motor: a whole number 1 to 4 expected, 0 came"),
        ("propeller-cut", {"motor": 2.5, "cut_mm": 1}, "motor: a whole number 1 to 4 expected, 2.5 came"),
        ("propeller-cut", {"motor": True, "cut_mm": 1}, "motor: a whole number 1 to 4 expected, True came"),
        ("propeller-cut", {"motor": 1, "cut_mm": 8.1}, "cut_mm: 0 to 8 mm expected, 8.1 came"),
        ("propeller-cut", {"motor": 1, "cut_mm": float("nan")}, "cut_mm: 0 to 8 mm expected, nan came"),
        ("propeller-cut", {"motor": 1, "cut_mm": "deep"}, "cut_mm: 0 to 8 mm expected, 'deep' came"),
        ("sensor-stuck", {"sensor": "lidar"}, "sensor: one of accel, .* expected, 'lidar' came"),
        ("sensor-stuck", {"sensor": ["baro"]}, "sensor: one of accel, .* came"),
        ("sensor-bias", {"sensor": "gyro", "size": 6}, "size: -5 to 5 rad/s expected for gyro, 6 came"),
        ("season", {"temperature_c": float("inf")}, "temperature_c: -30 to 55 deg C expected, inf came"),
        ("firmware", {"version": "x" * 41}, "version: a text of at most 40 characters expected"),
        ("firmware", {"version": 2}, "version: a text of at most 40 characters expected, 2 came"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(kind, params, expected):
    with pytest.raises(UsageError, match=expected) as told:
        make_fault(kind, 0.0, params)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("onset_s", [-0.1, float("nan"), float("inf"), "soon", None])
def test_an_onset_is_a_time_after_the_start(onset_s):
    with pytest.raises(UsageError, match=r"fault season: onset_s: 0 to .* s expected"):
        make_fault("season", onset_s, {"temperature_c": 0.0})


def test_faults_belong_to_bodies_and_sensors_to_theirs():
    for kind in ("overheating", "propeller-cut"):
        body = MACHINE if kind == "overheating" else QUADROTOR
        fault = make_fault(kind, 0.0, EXAMPLES[kind])
        check_body(fault, body)
        with pytest.raises(UsageError, match=f"fault {kind}: a .* expected, one of a .* came"):
            check_body(fault, QUADROTOR if body == MACHINE else MACHINE)
    for sensor, of in SENSORS.items():
        fault = SensorBias(sensor, 0.1)
        for body in (QUADROTOR, MACHINE):
            if body in of.bodies:
                check_body(fault, body)
            else:
                with pytest.raises(UsageError, match=f"of {sensor}"):
                    check_body(fault, body)


def test_words_make_the_same_faults():
    assert parse_fault("propeller-cut:motor=3,cut_mm=2", 8.0) == PropellerCut(3, 2, onset_s=8.0)
    assert parse_fault("propeller-cut: motor=3, cut_mm=2.5, onset_s=1", 8.0) == PropellerCut(3, 2.5, onset_s=1)
    assert parse_fault("firmware:version=2,gain_share=1.1") == Firmware("2", 1.1)
    assert parse_fault("firmware") == Firmware()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "fault: one of .* expected, '' came"),
        ("season:", "fault season: temperature_c expected, nothing came"),
        ("season:temperature_c", "key=value expected, 'temperature_c' came"),
        ("season:temperature_c=", "key=value expected, 'temperature_c=' came"),
        ("season:temperature_c=1,temperature_c=2", "temperature_c once expected, twice came"),
        ("season:temperature_c=warm", "-30 to 55 deg C expected, 'warm' came"),
        ("season:temperature_c=1,onset_s=soon", "onset_s: 0 to .* s expected, 'soon' came"),
        ("season:temperature_c=1,", "key=value expected, '' came"),
    ],
)
def test_wrong_words_are_told_in_one_line(words, expected):
    with pytest.raises(UsageError, match=expected):
        parse_fault(words)


def test_the_list_of_faults_is_what_can_be_made():
    told = json.loads(CliRunner().invoke(app, ["faults", "--json"]).stdout)["faults"]
    assert told == json.loads(json.dumps(describe()))
    assert {fault["kind"]: (fault["category"], tuple(fault["bodies"])) for fault in told} == {
        kind: (fault.category, fault.bodies) for kind, fault in KINDS.items()
    }
    for fault in told:
        needed = {p["name"] for p in fault["parameters"] if p["needed"]}
        assert needed <= set(EXAMPLES[fault["kind"]])
        for p in fault["parameters"]:
            params = {n: v for n, v in EXAMPLES[fault["kind"]].items() if n in needed}
            for bound in ("low", "high"):
                if p.get(bound) is not None and p["unit"] != "unit of the sensor":
                    make_fault(fault["kind"], 0.0, {**params, p["name"]: p[bound]})
                    beyond = p[bound] + (1 if bound == "high" else -1)
                    with pytest.raises(UsageError, match=p["name"]):
                        make_fault(fault["kind"], 0.0, {**params, p["name"]: beyond})


def test_the_list_for_people_names_every_kind_and_parameter():
    page = CliRunner().invoke(app, ["faults"]).stdout
    for kind, params in EXAMPLES.items():
        assert f"\n{kind} (" in f"\n{page}"
        assert all(f"    {name}: " in page for name in params)
    assert "    cut_mm: taken from the first blade; 0 to 8 mm\n" in page
