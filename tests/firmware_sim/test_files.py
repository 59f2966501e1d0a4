"""Simulated flights as files: logs, folders, manifests and the commands that write them."""

import csv
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from covey.errors import UsageError
from edge.sources.files import read_recording
from firmware_sim.cli import app
from firmware_sim.flights import plan_flights, write_flights
from firmware_sim.usdlog import encode, write_log
from firmware_sim.world.faults import PropellerCut
from firmware_sim.world.vehicle import CHANNELS, Vehicle, fly


@pytest.fixture(scope="module")
def flight():
    return fly([Vehicle(1)], [0], [[PropellerCut(3, 3.0)]], duration_s=5.0)[0]


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_written_log_read_back_is_the_flight(tmp_path, flight):
    recording = read_recording(write_log(flight, tmp_path / "deep" / "V01_log00"))
    assert recording.channels == CHANNELS
    assert recording.rate_hz == pytest.approx(100.0)
    assert recording.segments == ((0, 500),)
    np.testing.assert_array_equal(recording.samples, flight.samples.astype(np.float32))


def test_the_log_ends_in_the_crc_of_all_before(flight):
    data = encode(flight)
    assert data[:7] == b"\xbc\x02\x00\x01\x00\xff\xff"
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    # header 7 + "fixedFrequency\0" + 2 + names; 88 bytes a record as in the real logs; 4 of CRC
    names = sum(len(name) + 4 for name in CHANNELS)
    assert len(data) == 7 + 15 + 2 + names + 500 * 88 + 4


def test_writing_replaces_a_whole_file_and_leaves_nothing_else(tmp_path, flight):
    path = tmp_path / "log"
    path.write_bytes(b"old")
    write_log(flight, path)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]
    assert path.read_bytes() == encode(flight)


def test_a_place_that_cannot_be_written_is_told(tmp_path, flight):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="writable place expected"):
        write_log(flight, tmp_path / "file" / "log")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="writable place expected"):
        write_log(flight, tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_the_plan_holds_each_vehicle_and_breaks_as_many_as_asked():
    planned = plan_flights(vehicles=5, healthy=3, damaged=2, seed=7)
    assert len(planned) == 5 * 3 + 2
    assert len({p.vehicle.seed for p in planned}) == 5
    assert len({p.file for p in planned}) == 17
    cuts = [p for p in planned if p.fault]
    assert len({p.vehicle for p in cuts}) == 2
    assert all(2 <= p.fault.cut_mm <= 4 and p.number == 3 for p in cuts)
    assert planned == plan_flights(5, 3, 2, 7)
    assert planned != plan_flights(5, 3, 2, 8)


def test_damaging_more_does_not_change_the_healthy_flights():
    few, many = (plan_flights(4, 2, damaged, seed=3) for damaged in (1, 4))
    assert [p for p in few if not p.fault] == [p for p in many if not p.fault]
    assert {p.file for p in few} < {p.file for p in many}


@pytest.mark.parametrize("numbers", [(0, 1, 0, 0), (2, -1, 0, 0), (2, 1, 3, 0), (2, 0, 0, 0), (2, 1, 1, -1)])
def test_impossible_plans_are_refused(numbers):
    with pytest.raises(UsageError, match="expected"):
        plan_flights(*numbers)


def test_flights_writes_logs_and_the_manifest_of_crazypad(tmp_path):
    out = tmp_path / "flights"
    command = ("flights", "--vehicles", 2, "--healthy", 1, "--damaged", 1, "--seed", 7, "--seconds", 5)
    result = run(*command, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == f"{out / 'manifest.csv'}\n"
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "drone", "condition", "label", "family", "motors", "total_cut_mm"]
    assert [(r["label"], r["family"]) for r in rows] == [("1", "cut"), ("0", "normal"), ("0", "normal")]
    cut = rows[0]
    assert cut["condition"] == f"cut_propeller_{cut['motors']}_{cut['total_cut_mm']}mm"
    assert {str(p.relative_to(out)) for p in out.rglob("*_log*")} == {r["file"] for r in rows}
    for row in rows:
        assert Path(row["file"]).parent.name == row["condition"]
        assert len(read_recording(out / row["file"]).samples) == 500

    again = tmp_path / "again"
    run(*command, "--out", again)
    for row in rows:
        assert (again / row["file"]).read_bytes() == (out / row["file"]).read_bytes()


def test_vehicle_takes_several_faults_each_with_its_onset(tmp_path):
    common = ("--seconds", 6, "--mission", "hover")
    run("vehicle", "--out", tmp_path / "whole", *common)
    both = ("--fault", "sensor-bias:sensor=battery,size=0.3,onset_s=3", "--fault", "payload:mass_g=8", "--onset-s", 5.5)
    run("vehicle", "--out", tmp_path / "both", *common, *both)
    a, b = (read_recording(tmp_path / name).samples for name in ("whole", "both"))
    differs = [int(np.flatnonzero(a[:, c] != b[:, c])[0]) for c in (CHANNELS.index("pm.vbatMV"), 0)]
    assert differs[0] == 300
    assert 550 <= differs[1] <= 552


def test_flights_gives_the_damaged_the_faults_asked_for_in_turn(tmp_path):
    out = tmp_path / "flights"
    words = ("--fault", "bearing-wear:motor=2,friction_share=0.4", "--fault", "season:temperature_c=0")
    run("flights", "--out", out, "--vehicles", 3, "--healthy", 0, "--damaged", 3, "--seconds", 4, *words)
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted((r["drone"], r["condition"], r["label"], r["family"], r["motors"]) for r in csv.DictReader(file))
    assert rows == [
        ("V01", "bearing_wear_M2", "1", "bearing-wear", "M2"),
        ("V02", "season", "0", "season", ""),
        ("V03", "bearing_wear_M2", "1", "bearing-wear", "M2"),
    ]


def test_flights_refuses_faults_that_its_manifest_cannot_tell(tmp_path):
    for words, expected in (
        ("season:temperature_c=0,onset_s=3", "an onset of 0 expected in whole flights, 3 came"),
        ("overheating:airflow_share=0.1", "a quadrotor expected"),
    ):
        with pytest.raises(UsageError, match=expected):
            run("flights", "--out", tmp_path / "flights", "--fault", words)
    assert not list(tmp_path.iterdir())


def test_flights_refuses_a_folder_that_holds_files(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="new or empty folder expected"):
        write_flights(plan_flights(1, 1, 0, 0), tmp_path, duration_s=1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_vehicle_writes_one_log_with_its_fault(tmp_path):
    common = ("--vehicle-seed", 3, "--flight-seed", 5, "--seconds", 6)
    whole = run("vehicle", "--out", tmp_path / "whole", *common)
    assert whole.stdout == f"{tmp_path / 'whole'}\n"
    fault = ("--fault", "propeller-cut:motor=2,cut_mm=4", "--onset-s", 5)
    run("vehicle", "--out", tmp_path / "cut", *common, *fault)
    a, b = (read_recording(tmp_path / name).samples for name in ("whole", "cut"))
    np.testing.assert_array_equal(a[:500], b[:500])
    assert b[560:, 1].mean() > 1.05 * a[560:, 1].mean()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--onset-s", 3), "a --fault expected beside it"),
        (("--fault", "propeller-cut:motor=5,cut_mm=1"), "motor: a whole number 1 to 4 expected, 5 came"),
        (("--fault", "season:temperature_c=0", "--onset-s", 6), "within the 5 s of the flight expected, 6 came"),
        (
            ("--fault", "season:temperature_c=0,onset_s=7", "--onset-s", 2),
            "within the 5 s of the flight expected, 7 came",
        ),
        (("--fault", "overheating:airflow_share=0.5"), "a quadrotor expected, one of a machine came"),
        (("--wind-east-ms", 20), "at most 12 m/s expected, 20 came"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(tmp_path, options, expected):
    with pytest.raises(UsageError, match=expected):
        run("vehicle", "--out", tmp_path / "log", "--seconds", 5, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "option"), [("vehicle", "--out"), ("flights", "--out"), ("faults", "--json")])
def test_help_shows_a_real_example(command, option):
    assert f"Example: covey sim {command} {option}" in run(command, "--help").stdout


def test_the_commands_are_light_until_they_run():
    code = "import sys, firmware_sim.cli; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
