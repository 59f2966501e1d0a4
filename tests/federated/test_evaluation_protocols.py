"""The protocols on small made sets: who learns from which rows, what is judged, and that figures are those of what ships."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from covey.bundle import read_bundle
from covey.errors import UsageError
from edge.scoring.calibration import calibrate
from edge.scoring.rows import RowScores, score_rows
from edge.scoring.runtimes import open_runtime
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut
from edge.sources.files import read_recording
from federated.cli import app
from federated.config import Gates, Plan
from federated.evaluation.figures import Judge, agreement, averaged, of_fleet
from federated.evaluation.goals import goals_of
from federated.evaluation.protocols import coldstart, fleet
from federated.evaluation.report import Options, evaluate
from federated.evaluation.runs import calibrations, train, windows_of
from federated.evaluation.sets import servers, skab_files
from federated.training import run
from federated_rigs import CHANNELS, walk

PLAN = Plan("pca")
LAG = Plan("pca", features="lag")  # devices add nothing to it but center, scale and threshold
JUDGE = Judge(vus=False)


def quiet(line):
    pass


def skab(folder, count=2):
    """Files of 700 rows; rows 550 to 599 broken."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        samples = walk(700, number).astype(np.float64)
        samples[550:600, 1] += 6.0
        lines = [";".join([*CHANNELS, "anomaly", "changepoint"])]
        lines += [";".join([*(repr(x) for x in row), str(int(550 <= n < 600)), "0"]) for n, row in enumerate(samples)]
        (folder / f"{number}.csv").write_text("\n".join(lines) + "\n")
    return folder


def npz(folder, count=3, *, tail=0.0):
    """Servers of 600 normal and 300 judged rows; `tail` is added to what the new one has after its first 200."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        train, test = walk(600, 10 + number), walk(300, 50 + number)
        if number == 0:
            train[200:] += tail
        test[150:200, 0] += 6.0
        label = np.zeros(300, np.uint8)
        label[150:200] = 1
        np.savez(folder / f"s{number}.npz", train=train, test=test, label=label)
    return folder


def told(score, alarm):
    return RowScores(np.array(score, float), np.array(alarm, bool), len(score), 1.0)


def test_skab_figures_are_those_of_the_shipped_bundle_on_the_rows_after_the_first_400(tmp_path):
    files, _ = skab_files(skab(tmp_path / "data" / "other"))
    tree = fleet(files, PLAN, JUDGE, quiet, modes=["personal"])
    # By hand, from the commands' parts: fit on rows 0:400, calibrate on them, score the file, judge the rest.
    paths = sorted((tmp_path / "data" / "other").glob("*.csv"))
    run(
        Plan("pca", columns=list(CHANNELS), rows=(0, 400), timeout_s=600),
        {str(path): {"files": json.dumps([str(path)])} for path in paths},
        engine="simulation",
        out=tmp_path / "b.zip",
        initial=None,
        checkpoint=None,
        resume=False,
        stop=threading.Event(),
    )
    bundle = read_bundle(tmp_path / "b.zip")
    network = open_runtime("litert", bundle.model("litert"))
    inputs = bundle.manifest.inputs
    tp = fp = fn = tn = 0
    for path in paths:
        normal = cut(read_recording(path, CHANNELS, (0, 400)), inputs)
        own = calibrate(bundle.manifest, bundle.digest, normal, {"litert": network}, 0.0)
        alarm = score_rows(read_recording(path, CHANNELS), Scorer(bundle.manifest, network, "litert", own)).alarm
        for row in range(400, 700):
            true = 550 <= row < 600
            tp, fp = tp + bool(alarm[row] and true), fp + bool(alarm[row] and not true)
            fn, tn = fn + bool(not alarm[row] and true), tn + bool(not alarm[row] and not true)
    found = tree["modes"]["personal"]["runtimes"]["litert"]["mean"]
    assert tp > 50
    assert found["f1"] == pytest.approx(tp / (tp + (fp + fn) / 2))
    assert found["far"] == pytest.approx(fp / (fp + tn))
    assert found["mar"] == pytest.approx(fn / (fn + tp))


def test_summed_covariances_make_central_training_and_federated_training_the_same(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    tree = fleet(devices, LAG, JUDGE, quiet)
    assert list(tree["modes"]) == ["local", "pooled", "federated", "personal"]
    central, apart = (tree["modes"][mode]["runtimes"]["fp32"]["mean"] for mode in ("pooled", "personal"))
    assert central["auc_pr"] == pytest.approx(apart["auc_pr"], abs=2e-3)
    assert tree["modes"]["pooled"]["failed"] == {}
    shared, own = (tree["modes"][mode]["runtimes"]["litert"]["mean"] for mode in ("federated", "personal"))
    assert shared["auc_pr"] == own["auc_pr"]  # one bundle, one center
    assert (shared["far"], shared["mar"]) != (own["far"], own["mar"])  # another threshold
    assert central["auc_pr"] > 0.5  # chance: 1/6
    for runtime in tree["int8"].values():
        assert all(one["same_alarms"] > 0.95 for one in runtime.values())


def test_without_its_own_threshold_a_device_takes_the_group_s_and_keeps_its_center(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    found = train(PLAN, {one.name: one.normal.node() for one in devices})
    windows = windows_of(found, PLAN, devices[0].normal.node())
    group = found.bundle.manifest.defaults
    shared, own = (calibrations(found, windows, personal=personal) for personal in (False, True))
    for runtime in ("onnx", "litert"):
        assert shared[runtime].thresholds == {runtime: group.thresholds[runtime]}
        assert own[runtime].thresholds[runtime] != group.thresholds[runtime]
        assert shared[runtime].center == own[runtime].center != group.center
    assert shared["fp32"].thresholds["fp32"] in group.thresholds.values()


def test_a_bundle_that_the_gates_would_refuse_is_measured_and_told(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    strict = Plan("pca", gates=Gates(int8_error=1e-9))
    tree = fleet(devices, strict, JUDGE, quiet, modes=["personal"])
    assert "int8 error of at most 1e-09" in tree["modes"]["federated"]["refused"]["fleet"]
    assert tree["modes"]["personal"]["runtimes"]["onnx"]["mean"]["auc_pr"] > 0


def test_a_local_model_knows_no_other_device(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    both = fleet(devices[:2], PLAN, JUDGE, quiet, modes=["local"])
    alone = fleet(devices[:1], PLAN, JUDGE, quiet, modes=["local"])
    first = [tree["modes"]["local"]["runtimes"]["onnx"]["devices"]["s0"] for tree in (both, alone)]
    assert first[0] == first[1]


def test_central_training_of_an_autoencoder_takes_one_update_a_round(tmp_path):
    devices = servers(npz(tmp_path, 2))["fleet of 3 channels"]
    tree = fleet(devices, Plan("dense-ae", rounds=2), JUDGE, quiet, modes=["pooled", "personal"])
    for mode in ("pooled", "personal"):
        assert tree["modes"][mode]["runtimes"]["litert"]["mean"]["auc_pr"] > 0.5
        assert tree["modes"][mode]["failed"] == {}


def test_a_new_device_is_judged_by_peers_and_its_first_day_alone(tmp_path):
    trees = []
    for name, tail in (("a", 0.0), ("b", 500.0)):
        devices = servers(npz(tmp_path / name, tail=tail))["fleet of 3 channels"]
        trees.append(coldstart(devices, PLAN, JUDGE, quiet, day_rows=200, days=(1,))["1 day"])
    modes = [tree["modes"] for tree in trees]
    assert list(modes[0]) == ["federated", "local-pca", "local-dense-ae", "personal"]
    for mode in modes[0]:
        found = [one[mode]["runtimes"]["onnx"]["devices"]["s0"] for one in modes]
        assert found[0] == found[1], mode  # what it measured later is not there yet
    found = [one["federated"]["runtimes"]["onnx"]["devices"]["s1"] for one in modes]
    assert found[0] != found[1]  # but its peers have learned from it


def test_coldstart_needs_a_peer_and_enough_rows(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    with pytest.raises(UsageError, match="at least 2 devices"):
        coldstart(devices[:1], PLAN, JUDGE, quiet, day_rows=200)
    with pytest.raises(UsageError, match="at least 700 rows"):
        coldstart(devices, PLAN, JUDGE, quiet, day_rows=700, days=(1,))


def test_a_run_without_a_bundle_is_told_and_has_no_figures(tmp_path):
    devices = servers(npz(tmp_path))["fleet of 3 channels"]
    tree = fleet(devices, Plan("pca", commission_windows=5000), JUDGE, quiet, modes=["personal"])
    assert tree["modes"]["personal"]["runtimes"] == {}
    assert "5000 normal windows expected" in tree["modes"]["federated"]["failed"]["fleet"]


def test_only_the_rows_after_the_prefix_count():
    label = np.array([1, 0, 1, 0], bool)
    found = JUDGE(told([9, 1, 2, 3], [1, 0, 1, 1]), label, 1, 5)
    assert (found.counts.tp, found.counts.fp, found.counts.fn, found.counts.tn) == (1, 1, 0, 1)
    assert found.auc_pr == pytest.approx(0.5)


def test_a_fleet_s_rates_come_from_summed_rows_and_its_areas_from_means():
    truth = np.array([0, 0, 1, 1], bool)
    right = JUDGE(told([0, 0, 1, 1], [0, 0, 1, 1]), truth, 0, 5)
    silent = JUDGE(told([1, 1, 1, 1], [0, 0, 0, 0]), truth, 0, 5)
    tree = of_fleet({"a": [right], "b": [silent]})
    assert tree["mean"]["f1"] == pytest.approx(2 / (2 + 2 / 2))
    assert tree["mean"]["f1_mean"] == pytest.approx((1 + 0) / 2)
    assert tree["mean"]["auc_pr"] == pytest.approx((1 + 0.5) / 2)
    assert tree["devices"]["b"]["mar"] == 1.0


def test_int8_is_held_against_fp32_by_area_and_by_alarm():
    truth = np.array([0, 0, 1, 1], bool)
    exact = JUDGE(told([0, 1, 2, 3], [0, 0, 1, 1]), truth, 0, 5)
    coarse = JUDGE(told([0, 9, 2, 3], [0, 1, 1, 1]), truth, 0, 5)
    # Ranked 0 1 1 0: (1/2 + 2/3) / 2.
    found = agreement({"a": [exact], "b": [exact]}, {"a": [coarse], "b": [exact]})
    assert found["auc_pr_difference_worst"] == pytest.approx(1 - 7 / 12)
    assert found["auc_pr_difference"] == pytest.approx((1 - 7 / 12) / 2)
    assert found["same_alarms"] == 7 / 8


def test_several_seeds_give_their_mean_and_its_spread():
    trees = [{"mean": {"f1": value, "far": None}, "devices": ["a"]} for value in (0.2, 0.4)]
    found = averaged(trees)
    assert found["mean"]["f1"] == pytest.approx(0.3)
    assert found["mean"]["far"] is None
    assert found["std"]["f1"] == pytest.approx(0.02**0.5)
    assert found["devices"] == ["a"]
    assert "std" not in averaged(trees[:1])


def test_the_worst_int8_runtime_decides_a_goal_and_fp32_never_does():
    figures = {"f1": 0.9, "far": 0.1, "mar": 0.1}
    runtimes = {
        "fp32": {"mean": {**figures, "f1": 0.1}},
        "onnx": {"mean": figures},
        "litert": {"mean": {**figures, "f1": 0.8}},
    }
    gap = {"auc_pr_difference": 0.002, "auc_pr_difference_worst": 0.5, "same_alarms": 0.98}
    tree = {
        "modes": {"personal": {"runtimes": runtimes}},
        "int8": {"onnx": {"personal": gap}, "litert": {"personal": gap}},
    }
    found = {one["figure"]: one for one in goals_of("skab", {"skab": tree})}
    assert (found["SKAB F1"]["value"], found["SKAB F1"]["met"]) == (0.8, False)
    assert found["SKAB FAR"]["met"] is True
    assert found["skab: onnx AUC-PR apart from fp32's"]["met"] is True
    assert found["skab: litert same alarms as fp32"]["met"] is False


def test_a_new_server_is_held_against_itself_alone():
    def mode(values):
        devices = {name: {"auc_pr": value} for name, value in values.items()}
        return {"runtimes": {"onnx": {"mean": {"auc_pr": sum(values.values()) / len(values)}, "devices": devices}}}

    modes = {
        "personal": mode({"a": 0.6, "b": 0.7}),
        "local-pca": mode({"a": 0.5, "b": 0.8}),
        "local-dense-ae": mode({"a": 0.6, "b": 0.5}),
    }
    found = {one["figure"]: one for one in goals_of("coldstart", {"asd 1 day": {"modes": modes, "int8": {"onnx": {}}}})}
    assert found["ASD 1 day AUC-PR"]["value"] == pytest.approx(0.65)
    worst = found["ASD 1 day AUC-PR, personal - local pca, worst server"]
    assert (worst["value"], worst["met"]) == (pytest.approx(-0.1), False)
    assert found["ASD 1 day AUC-PR, personal - local dense-ae"]["value"] == pytest.approx(0.1)


def test_a_report_tells_what_it_rests_on(tmp_path):
    skab(tmp_path)
    report = evaluate(tmp_path, PLAN, Options("skab", modes=("personal",), seeds=(3, 4)), quiet)
    assert report["seeds"] == [3]
    assert "same for every seed" in report["notes"][0]
    assert report["seconds"] > 0
    assert report["versions"]["flwr"] == "1.41.0"
    assert json.loads(json.dumps(report)) == report


def test_the_command_prints_one_object_and_says_what_it_lacks(tmp_path):
    skab(tmp_path / "data" / "valve1")
    (tmp_path / "empty").mkdir()
    runner = CliRunner()
    words = ["evaluate", "--protocol", "skab", "--mode", "personal", "--json"]
    result = runner.invoke(app, [*words, "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["sets"]["skab"]["devices"] == ["data/valve1/0", "data/valve1/1"]
    assert set(report["sets"]["skab"]["modes"]["personal"]["runtimes"]) >= {"fp32", "onnx", "litert"}
    for options, message in (
        ([*words, "--data", str(tmp_path / "empty")], "CSV files with a column anomaly"),
        ([*words, "--data", str(tmp_path), "--mode", "central"], "--mode: of local"),
        ([*words, "--data", str(tmp_path), "--prefix"], "--prefix: protocol fleet expected"),
        (["evaluate", "--protocol", "nab", "--data", str(tmp_path)], "--protocol: one of skab"),
        ([*words, "--data", str(tmp_path), "--family", "magic"], "family:"),
    ):
        failed = runner.invoke(app, options)
        assert isinstance(failed.exception, UsageError), options
        assert message in str(failed.exception)


def test_any_option_of_a_plan_can_come_from_a_file(tmp_path):
    skab(tmp_path / "data")
    (tmp_path / "plan.toml").write_text('family = "pca"\nwindow = 5\n[pca]\nkeep = 3\n')
    words = ["evaluate", "--protocol", "skab", "--mode", "personal", "--json", "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(app, [*words, "--plan", str(tmp_path / "plan.toml")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plan"]["window"] == 5
    (tmp_path / "plan.toml").write_text("windows = 5\n")
    failed = CliRunner().invoke(app, [*words, "--plan", str(tmp_path / "plan.toml")])
    assert "windows" in str(failed.exception)
