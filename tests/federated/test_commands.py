"""`covey model fit`, `covey federated train` and `show` as a user meets them: one line for what can be mended."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from covey.bundle import read_bundle
from federated_rigs import walk, write_csv
from firmware_sim.usdlog import write_log
from firmware_sim.world.pilot import MISSIONS
from firmware_sim.world.vehicle import Vehicle, fly

# The two roles' commands without those of the others, which need not be installed here.
ROOT = """
import sys
from covey.cli import one_line
import federated.cli, federated.model_cli
federated.cli.app.registered_commands.extend(federated.model_cli.app.registered_commands)
with one_line():
    sys.exit(federated.cli.app(standalone_mode=False) or 0)
"""


def covey(*words):
    return subprocess.run([sys.executable, "-c", ROOT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flights")
    vehicles = [Vehicle(1), Vehicle(2)]
    for number, flight in enumerate(fly(vehicles, [0, 1], [[], []], MISSIONS["shuttle"], 26.0)):
        write_log(flight, folder / f"V{number}_log00")
    return folder


def test_flights_are_fitted_as_drones(flights, tmp_path):
    done = covey("train", "--data", flights, "--checkpoint", tmp_path / "runs", "--out", tmp_path / "m.zip", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    manifest = read_bundle(tmp_path / "m.zip", report["digest"]).manifest
    assert manifest.inputs.features.kind == "drone"
    assert (manifest.model.inputs, manifest.model.outputs, manifest.scoring.attribution) == (11, 11, "rotor")
    assert report["engine"] == "simulation"
    assert report["clients"] == 2
    assert 500 < report["bytes_up_per_device"] < 8000
    shown = covey("show", tmp_path / "runs", "--json")
    (one,) = json.loads(shown.stdout)
    assert one["bytes_up"] < 2 * 2500  # 1 kB of moments in Flower's envelope, a device
    assert covey("show", tmp_path / "runs").stdout.split("\n")[1].split()[:2] == ["1", "2"]


def test_tables_are_fitted_on_the_rows_and_columns_asked_for(tmp_path):
    path = write_csv(tmp_path / "m.csv", walk(400, seed=1))
    done = covey("fit", "--data", path, "--rows", "0:300", "--columns", "a,c", "--window", "5", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    manifest = read_bundle(tmp_path / "m").manifest
    assert (manifest.inputs.channels, manifest.inputs.window) == (["a", "c"], 5)
    assert manifest.evidence["windows"] == 296


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["fit", "--data", "nan.csv"], 1, "nan.csv: line 3, column b: a finite number expected, 'nan' came"),
        (["fit", "--data", "m.csv", "--columns", "a,zz"], 1, "m.csv: no column zz; there are a, b, c"),
        (["fit", "--data", "short.csv"], 1, "short.csv: calibration: at least 100 normal windows expected, 20 found"),
        (["fit", "--data", "cut_log"], 1, "cut_log: "),
        (["fit", "--data", "none.csv"], 2, "none.csv: no such file or folder"),
        (["fit", "--data", "m.csv", "--rows", "5:900"], 1, "m.csv: rows within 0:400 expected, 5:900 came"),
        (["fit", "--data", "m.csv", "--rows", "x"], 2, "--rows: A:B expected, 'x' came"),
        (["fit", "--data", "m.csv", "--family", "magic"], 2, "invalid enum value 'magic'"),
        (["train", "--data", "m.csv", "--engine", "magic"], 2, "--engine: one of local, simulation expected, 'magic'"),
        (["train"], 2, "devices: at least one expected; give --data, --ring or --stack"),
        (["train", "--data", "m.csv"], 1, "answers of at least 2 devices expected, 1 of 1 can be used"),
        (["train", "--data", "m.csv", "--resume"], 2, "--resume: the run's folder expected: give --checkpoint DIR"),
        (["train", "--data", "m.csv", "--initial", "m.csv"], 1, "m.csv: a bundle expected"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_nothing_is_written(tmp_path, flights, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "m.csv", walk(400, seed=1))
    write_csv(tmp_path / "short.csv", walk(20, seed=1))
    (tmp_path / "nan.csv").write_text("a,b\n1,2\n3,nan\n")
    log = next(iter(flights.iterdir())).read_bytes()
    (tmp_path / "cut_log").write_bytes(log[: len(log) // 2])
    before = sorted(tmp_path.iterdir())
    done = covey(*words, "--out", "model.zip")
    lines = [line for line in done.stderr.splitlines() if line.startswith("covey: ")]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert told in lines[0]
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_help_is_light_and_shows_an_example():
    heavy = "import sys, federated.cli, federated.model_cli; print([m for m in ('numpy', 'flwr', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
    for command in ("train", "show", "fit"):
        assert "Example: covey " in covey(command, "--help").stdout


def test_a_plan_file_says_what_options_do_not(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(5):
        write_csv(data / f"m{number}.csv", walk(150, seed=number))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'family = "dense-ae"\nstrategy = "multikrum"\nrounds = 9\nwindow = 2\ncommission_windows = 50\ncompress = "int8"\n'
        "[dense]\nhidden = [4, 2, 4]\nepochs = 15\nlearning_rate = 0.02\n"
        "[gates]\nint8_error = 1.0\nint8_bias = 1.0\nfalse_alarms = 1.0\n"
    )
    done = covey("train", "--data", data, "--plan", plan, "--rounds", "4", "--out", tmp_path / "m.zip", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["family"], report["rounds"], report["epsilon"], report["ended"]) == ("dense-ae", 4, None, "")
    assert "strategy multikrum" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--strategy", "trimmed"], "options: strategy: family pca takes sum, 'trimmed' came (its sums are exact"),
        (["--family", "dense-ae", "--masked"], "options: masked: sums of family pca only"),
        (["--family", "dense-ae", "--clip", "most", "--fraction", "2"], "fraction: expected `float` <= 1.0; clip: "),
        (["--epsilon", "3"], "privacy: of autoencoders only"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(tmp_path, words, told):
    path = write_csv(tmp_path / "m.csv", walk(100, seed=1))
    done = covey("train", "--data", path, *words, "--out", tmp_path / "m.zip")
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "m.zip").exists()


def test_a_plan_file_with_bad_keys_names_them_all(tmp_path):
    path = write_csv(tmp_path / "m.csv", walk(100, seed=1))
    plan = tmp_path / "plan.toml"
    plan.write_text('family = "dense-ae"\nround = 3\n[dense]\nepoch = 2\n')
    done = covey("train", "--data", path, "--plan", plan, "--out", tmp_path / "m.zip")
    assert done.returncode == 2
    assert "plan.toml: round: no such key; dense.epoch: no such key" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_private_run_says_what_it_spent(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(5):
        write_csv(data / f"m{number}.csv", walk(150, seed=number))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'family = "dense-ae"\nstrategy = "fedavg"\nrounds = 6\nwindow = 2\ncommission_windows = 50\n'
        "[dense]\nhidden = [4, 2, 4]\nepochs = 6\nlearning_rate = 0.02\n[privacy]\nnoise = 0.001\nclip = 5.0\nepsilon = 1e9\n"
        "[gates]\nint8_error = 1.0\nint8_bias = 1.0\nfalse_alarms = 1.0\n"
    )
    done = covey(
        "train", "--data", data, "--plan", plan, "--checkpoint", tmp_path / "runs", "--out", tmp_path / "m.zip"
    )
    assert done.returncode == 0, done.stderr
    assert "epsilon" in done.stdout
    assert "not covered" in done.stderr
    shown = covey("show", tmp_path / "runs").stdout
    assert shown.split("\n")[0].split()[-1] == "epsilon"
