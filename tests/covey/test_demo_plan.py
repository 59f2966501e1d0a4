"""Which flights the demo fits, teaches and tests: disjoint, and judged only where that is fair."""

from __future__ import annotations

import pytest

from covey.demo.plan import Flight, make_plan, read_manifest, teachers
from covey.errors import DataError, UsageError

HEADER = "file,drone,condition,label,family,motors,total_cut_mm\n"


def folder_with(tmp_path, rows):
    lines = [HEADER]
    for file, drone, cut in rows:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"\xbc")
        label, condition, motor = (1, f"cut_{cut}mm", "M3") if cut else (0, "normal", "")
        lines.append(f"{file},{drone},{condition},{label},x,{motor},{cut}\n")
    (tmp_path / "manifest.csv").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    rows = [(f"n/{d}_log0{i}", d, 0) for d in ("A1", "B2") for i in range(4)]
    rows += [("c1/A1_log00", "A1", 1.0), ("c2/A1_log00", "A1", 2.0), ("c3/B2_log00", "B2", 3.5)]
    return folder_with(tmp_path, rows)


def plan_of(folder, devices=None):
    return make_plan(folder, read_manifest(folder), devices)


def test_fit_round_and_test_flights_are_disjoint(folder):
    plan = plan_of(folder)
    fit = set(plan.fit)
    learned = {f for d in plan.devices for f in d.commission}
    tested = {d.test.file for d in plan.devices}
    assert fit == {"n/A1_log00", "n/B2_log00"}
    assert learned == {"n/A1_log02", "n/B2_log02"}
    assert not fit & learned
    assert not fit & tested
    assert not learned & tested


def test_one_agent_flies_every_test_flight_and_only_fair_ones_are_judged(folder):
    plan = plan_of(folder)
    assert {d.test.file: (d.judged, d.must_alarm) for d in plan.devices} == {
        "c1/A1_log00": (False, False),  # 1 mm: reported
        "c2/A1_log00": (True, True),
        "c3/B2_log00": (True, True),
        "n/A1_log01": (True, False),
        "n/B2_log01": (True, False),
        "n/A1_log03": (False, False),  # a later session: reported
        "n/B2_log03": (False, False),
    }
    assert len({d.id for d in plan.devices}) == 7


def test_a_drones_agents_know_only_that_drones_flights(folder):
    for device in plan_of(folder).devices:
        assert all(device.drone in file for file in (*device.commission, *device.commission_fitted, device.test.file))


@pytest.mark.parametrize("devices", [3, 4, 5])
def test_fewer_agents_still_fly_both_damaged_and_healthy_flights(folder, devices):
    chosen = plan_of(folder, devices).devices
    assert len(chosen) == devices
    assert any(d.must_alarm for d in chosen)
    assert any(d.judged and d.test.healthy for d in chosen)


def test_of_many_healthy_flights_all_from_the_third_on_teach(tmp_path):
    plan = plan_of(folder_with(tmp_path, [(f"n/A_log0{i}", "A", 0) for i in range(5)]))
    assert plan.fit == ("n/A_log00",)
    assert [d.test.file for d in plan.devices] == ["n/A_log01"]
    assert plan.devices[0].commission == ("n/A_log02", "n/A_log03", "n/A_log04")


def test_a_device_with_an_alarm_does_not_teach_and_a_drone_teaches_once(folder):
    devices = plan_of(folder).devices
    alarmed = {d.id for d in devices if d.must_alarm}
    chosen = teachers(devices, alarmed, 6)
    assert [d.drone for d in chosen] == ["A1", "B2"]
    assert not {d.id for d in chosen} & alarmed
    assert len(teachers(devices, alarmed, 1)) == 1


def test_a_drone_without_three_healthy_flights_is_one_line(tmp_path):
    folder = folder_with(tmp_path, [("n/A_log00", "A", 0), ("n/A_log01", "A", 0)])
    with pytest.raises(UsageError, match="a drone with three healthy flights expected"):
        plan_of(folder)


def test_a_manifest_without_a_column_names_it(tmp_path):
    (tmp_path / "manifest.csv").write_text("file,drone,label\nx,A,0\n")
    with pytest.raises(DataError, match="condition, motors, total_cut_mm missing"):
        read_manifest(tmp_path)


def test_a_missing_log_or_number_names_its_line(tmp_path):
    (tmp_path / "manifest.csv").write_text(HEADER + "gone,A,normal,0,x,,0\n")
    with pytest.raises(DataError, match="line 2: gone: no such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text(HEADER + "gone,A,cut,1,x,M1,deep\n")
    with pytest.raises(DataError, match="line 2: total_cut_mm: a number expected, 'deep' found"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="a manifest of flights expected"):
        read_manifest(tmp_path)


def test_rows_are_read_as_they_are(folder):
    assert read_manifest(folder)[-1] == Flight("c3/B2_log00", "B2", "cut_3.5mm", healthy=False, motors="M3", cut_mm=3.5)
