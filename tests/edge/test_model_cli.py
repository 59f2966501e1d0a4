"""`covey model score | show | check | bench` on real bundles, files and runtimes."""

import csv
import io
import json
import math
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from covey.bundle import Features, Inputs
from covey.cli import one_line
from edge.model_cli import app
from edge.scoring.rows import score_rows
from edge.scoring.runtimes import available
from edge.scoring.scorer import Scorer
from edge.sources import Recording
from model_bundles import CHANNELS, WINDOW, contents, make_bundle, rows, write_csv

pytestmark = pytest.mark.skipif(not available(), reason="no runtime is installed")


@pytest.fixture
def covey(capsys):
    """Runs a command; returns exit code, stdout and stderr."""

    def run(*args):
        code = 0
        try:
            with one_line():
                app([str(a) for a in args], standalone_mode=False)
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "model.zip"
    make_bundle(path)
    return path


@pytest.fixture
def faulty():
    """(300, 2): from row 200 on y no longer follows x."""
    samples = rows(300)
    samples[200:, 1] += 3.0
    return samples


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def by_hand(samples, center=(10.0, 7.0), scale=(1.0, 1.0), alpha=0.5):
    """Smoothed scores of the test bundle's model in plain floats, one per window."""
    z = (samples - np.array(center)) / np.array(scale)
    difference = z[:, 0] - z[:, 1]
    raw = [np.mean(difference[n - WINDOW + 1 : n + 1] ** 2) for n in range(WINDOW - 1, len(samples))]
    smoothed = raw[:1]
    for value in raw[1:]:
        smoothed.append(smoothed[-1] + alpha * (value - smoothed[-1]))
    return np.array(smoothed)


@pytest.mark.parametrize("runtime", available())
def test_score_tells_every_row_and_finds_the_fault(tmp_path, covey, bundle, faulty, runtime):
    data, out = write_csv(tmp_path / "d.csv", faulty), tmp_path / "out" / "scores.csv"
    code, stdout, stderr = covey("score", bundle, "--data", data, "--runtime", runtime, "--out", out)
    assert (code, stdout) == (0, "")
    assert f"300 rows, 298 windows, 99 rows in alarm, threshold 0.2, runtime {runtime}" in stderr
    told = table(out.read_text())
    assert list(told[0]) == ["row", "score", "threshold", "alarm"]
    assert [int(line["row"]) for line in told] == list(range(300))
    assert [line["score"] for line in told[:2]] == ["", ""]
    assert {line["threshold"] for line in told} == {"0.2"}
    got = np.array([float(line["score"]) for line in told[2:]])
    expected = by_hand(faulty)
    assert np.abs(np.sqrt(got) - np.sqrt(expected)).max() < 0.12  # int8: a step is (8 + 8) * 2 / 255
    # Two windows above the threshold begin an alarm: the first faulty row makes one, the second the alarm.
    assert [int(line["alarm"]) for line in told] == [0] * 201 + [1] * 99


def test_scores_of_the_first_half_do_not_know_the_second(tmp_path, covey, bundle, faulty):
    """Causal: byte for byte."""
    whole, half = write_csv(tmp_path / "whole.csv", faulty), write_csv(tmp_path / "half.csv", faulty[:205])
    _, first, _ = covey("score", bundle, "--data", half, "--calibrate", "0:100")
    _, both, _ = covey("score", bundle, "--data", whole, "--calibrate", "0:100")
    assert len(first.splitlines()) == 206
    assert both.startswith(first)


def test_rows_are_counted_as_in_the_file(tmp_path, covey, bundle, faulty):
    data = write_csv(tmp_path / "d.csv", faulty)
    _, out, _ = covey("score", bundle, "--data", data, "--rows", "195:210")
    told = table(out)
    assert [int(line["row"]) for line in told] == list(range(195, 210))
    assert [bool(line["score"]) for line in told] == [False] * 2 + [True] * 13


@pytest.mark.parametrize("from_file", [False, True])
def test_calibration_takes_another_centre_for_normal(tmp_path, covey, bundle, from_file):
    """A device whose y is 5 higher alarms all the time, until it is calibrated on its own first rows."""
    samples = rows(300) + np.array([0.0, 5.0], np.float32)
    data = write_csv(tmp_path / "d.csv", samples)
    _, out, _ = covey("score", bundle, "--data", data)
    assert sum(int(line["alarm"]) for line in table(out)) == 297
    normal = write_csv(tmp_path / "normal.csv", samples[:150]) if from_file else "0:150"
    _, out, _ = covey("score", bundle, "--data", data, "--calibrate", normal)
    told = table(out)
    assert sum(int(line["alarm"]) for line in told) < 60
    mean, std = samples[:150].mean(axis=0), samples[:150].std(axis=0)
    own = by_hand(samples[:150], mean, std)
    half_a_step = (8 + 8) * 2 / 255 / 2  # of int8
    expected = 4 / 3 * np.quantile(own, 0.9)
    assert math.sqrt(float(told[0]["threshold"])) == pytest.approx(math.sqrt(expected), abs=half_a_step)


def test_an_npz_is_scored_on_test_and_calibrated_on_train(tmp_path, covey, bundle, faulty):
    path = tmp_path / "d.npz"
    np.savez(path, train=rows(50), test=faulty, label=np.ones(300))
    one = tmp_path / "m.zip"
    manifest, _ = contents()
    make_bundle(one, inputs=Inputs(["0", "1"], 1.0, WINDOW, 1, Features(kind="lag")))
    code, out, _ = covey("score", one, "--data", path, "--calibrate", path)
    assert code == 0
    assert len(table(out)) == 300
    code, out, _ = covey("score", one, "--data", path, "--array", "train")
    assert len(table(out)) == 50
    assert manifest.inputs.channels == CHANNELS


class Constant:
    """A network for rules of rows: every output is the value of the newest sample's first channel."""

    def run(self, x):
        return np.repeat(x[:, :1], WINDOW, axis=1)


def test_a_row_carries_the_newest_window_until_the_next_is_due_and_never_past_a_gap():
    manifest, _ = contents()
    inputs = Inputs(CHANNELS, 1.0, WINDOW, 2, Features(kind="lag"))
    scorer = Scorer(msgspec.structs.replace(manifest, inputs=inputs), Constant(), available()[0], None)
    samples = np.stack([10.0 + np.arange(11) % 7, np.zeros(11)], axis=1).astype(np.float32)  # z = 0 1 2 3 4 5 6 0 1 2 3
    recording = Recording("r", tuple(CHANNELS), 1.0, samples, ((0, 5), (5, 7), (7, 11)))
    found = score_rows(recording, scorer)
    # Segment 0..4: windows end at rows 2 and 4: z = 2, 4 -> 4, then 4 + (16 - 4)/2 = 10, not held by row 5.
    # Segment 5..6: too short. Segment 7..10: one window ends at row 9: z = 2 -> 4, held by row 10.
    expected = [math.nan, math.nan, 4, 4, 10, math.nan, math.nan, math.nan, math.nan, 4, 4]
    np.testing.assert_allclose(found.score, expected, equal_nan=True)
    assert found.windows == 3
    # Two windows above .2 in one flight: row 4 on; the second flight has one window only.
    assert found.alarm.tolist() == [False] * 4 + [True] + [False] * 6
    assert list(found.lines(100))[1:4] == ["100,,0.2,0\n", "101,,0.2,0\n", "102,4,0.2,0\n"]


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("case", "code", "told"),
    [
        ("nan", 1, "line 42, column y: a finite number expected, 'nan' came"),
        ("column", 1, "no column y; there are x, z"),
        ("bundle", 1, "model.zip"),
        ("golden", 1, "apart"),
        ("missing", 1, "none.csv: a readable"),
        ("rows", 2, "--rows: A:B with A < B expected, '9:3' came"),
        ("range", 1, "rows within 0:300 expected, 0:999 came"),
        ("runtime", 2, "'tpu' came"),
        ("few", 1, "at least 20 normal windows expected, 8 found"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, covey, bundle, faulty, case, code, told):
    data, out, options = write_csv(tmp_path / "d.csv", faulty), tmp_path / "scores.csv", []
    out.write_text("before\n")
    if case == "nan":
        lines = data.read_text().splitlines()
        lines[41] = lines[41].split(",")[0] + ",nan"
        data.write_text("\n".join(lines))
    elif case == "column":
        write_csv(data, faulty, header="x,z")
    elif case == "bundle":
        damaged(bundle)
    elif case == "golden":
        _, other = contents(0.8)
        make_bundle(bundle, files={name: other[name] for name in ("model.onnx", "model.tflite")})
    elif case == "missing":
        data = tmp_path / "none.csv"
    else:
        options = {
            "rows": ["--rows", "9:3"],
            "range": ["--rows", "0:999"],
            "runtime": ["--runtime", "tpu"],
            "few": ["--calibrate", "0:10"],
        }[case]
    ended, stdout, stderr = covey("score", bundle, "--data", data, "--out", out, *options)
    assert (ended, stdout) == (code, "")
    assert told in stderr
    assert len(stderr.splitlines()) == 1
    assert out.read_text() == "before\n"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_check_names_every_runtime_and_fails_on_another_model(tmp_path, covey, bundle):
    code, out, _ = covey("check", bundle)
    assert code == 0
    assert "digests hold" in out
    assert all(f"{name}" in out for name in available())
    _, other = contents(0.8)
    make_bundle(bundle, files={"model.onnx": other["model.onnx"]})
    code, out, err = covey("check", bundle, "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    assert {one["runtime"]: one["ok"] for one in told["runtimes"]} == {name: name != "onnx" for name in available()}
    assert "runtime onnx" in err
    damaged(bundle)
    code, out, err = covey("check", bundle)
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_show_tells_the_manifest(covey, bundle):
    code, out, _ = covey("show", bundle)
    assert code == 0
    assert "channels" in out
    assert "x, y" in out
    _, out, _ = covey("show", bundle, "--json")
    told = json.loads(out)
    assert told["manifest"]["inputs"]["channels"] == CHANNELS
    assert told["size_bytes"] == bundle.stat().st_size


def test_bench_measures_every_runtime_in_its_own_process(covey, bundle):
    code, out, _ = covey("bench", bundle, "--json")
    assert code == 0
    told = json.loads(out)["runtimes"]
    assert [one["runtime"] for one in told] == list(available())
    for one in told:
        assert 0 < one["batch_64_us"] < one["batch_1_us"] < 100_000
        assert one["base_bytes"] < one["resident_bytes"] < 1e9


@pytest.mark.parametrize("command", ["score", "show", "check", "bench"])
def test_help_shows_one_example(covey, command):
    code, out, _ = covey(command, "--help")
    assert code == 0
    assert out.count("Example: covey model " + command) == 1


def test_the_commands_load_nothing_heavy():
    heavy = "numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "paho", "tuf", "msgspec"
    code = f"import sys, edge.model_cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
