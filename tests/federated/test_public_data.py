"""What training reaches on the public data beside the repository; skipped by name where it is absent."""

from __future__ import annotations

import csv
import threading

import numpy as np
import pytest

from covey.bundle import Bundle, Features, Inputs, read_bundle
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.runtimes import open_runtime
from edge.scoring.scorer import Scorer
from edge.scoring.windows import DRONE_CHANNELS, cut
from edge.sources.files import read_recording
from federated.config import AIRBORNE_ABOVE, SETTLE_S, Plan
from federated.training import run
from federated_rigs import data_folder, write_ring

CRAZYPAD = data_folder("crazypad")
SKAB = data_folder("skab")
DRONE = Inputs(list(DRONE_CHANNELS), 100.0, 100, 25, Features("drone", AIRBORNE_ABOVE, SETTLE_S))


def peaks(bundle: Bundle, ring, logs):
    """Per log: the highest score over its threshold that two windows in a row reach."""
    network = open_runtime("litert", bundle.model("litert"))
    windows = ring_windows(ring, bundle.manifest.inputs)
    calibration = calibrate(bundle.manifest, bundle.digest, windows, {"litert": network}, 0.0)
    found = {}
    for log in logs:
        windows = cut(read_recording(log, bundle.manifest.inputs.channels), bundle.manifest.inputs)
        scorer = Scorer(bundle.manifest, network, "litert", calibration)
        ratio = scorer.score(windows).score / scorer.threshold
        found[log] = float(np.minimum(ratio[1:], ratio[:-1]).max())
    return found


@pytest.mark.skipif(CRAZYPAD is None, reason="data set crazypad is not beside the repository")
def test_one_round_on_new_flights_widens_the_gap_between_healthy_and_damaged_drones(tmp_path):
    normal = CRAZYPAD / "normal_flight"
    old, new, bundles = {}, {}, []
    for drone in ("E8", "E9"):
        logs = [normal / f"{drone}_log00", normal / f"{drone}_log03"]
        old[drone] = write_ring(tmp_path / f"{drone}-old.bin", DRONE, [(logs[0], False)])
        new[drone] = write_ring(tmp_path / f"{drone}-new.bin", DRONE, [(logs[0], True), (logs[1], False)])
    for name, rings, initial in (("first", old, None), ("second", new, tmp_path / "first.zip")):
        report = run(
            Plan("pca"),
            {drone: {"ring": str(ring)} for drone, ring in rings.items()},
            engine="simulation",
            out=tmp_path / f"{name}.zip",
            initial=initial,
            checkpoint=None,
            resume=False,
            stop=threading.Event(),
        )
        assert report.bytes_up_per_device < 8_000
        bundles.append(read_bundle(tmp_path / f"{name}.zip"))
    with (CRAZYPAD / "manifest.csv").open() as file:
        cuts = [row for row in csv.DictReader(file) if float(row["total_cut_mm"]) >= 2]
    weakest, healthy = [], []
    for bundle in bundles:
        damaged, whole = {}, {}
        for drone, ring in new.items():
            damaged |= peaks(bundle, ring, [CRAZYPAD / row["file"] for row in cuts if row["drone"] == drone])
            whole |= peaks(bundle, ring, [normal / f"{drone}_log01"])
        weakest.append(min(damaged.values()))
        healthy.append(max(whole.values()))
        print(f"{len(damaged)} damaged: weakest {weakest[-1]:.2f}; healthy: {[round(v, 2) for v in whole.values()]}")
    assert weakest[0] > 1 > healthy[0]
    assert weakest[1] > 1.25
    assert healthy[1] < 0.9
    assert weakest[1] > weakest[0] + 0.1


@pytest.mark.skipif(SKAB is None, reason="data set skab is not beside the repository")
def test_rows_of_a_test_bench_are_told_apart(tmp_path):
    files = sorted((SKAB / "valve1").glob("*.csv"))
    names = files[0].read_text().splitlines()[0].split(";")[1:-2]
    run(
        Plan("pca", columns=names, rows=(0, 400), min_clients=len(files), strict=True),
        {str(path): {"files": f'["{path}"]'} for path in files},
        engine="simulation",
        out=tmp_path / "bundle.zip",
        initial=None,
        checkpoint=None,
        resume=False,
        stop=threading.Event(),
    )
    bundle = read_bundle(tmp_path / "bundle.zip")
    network = open_runtime("litert", bundle.model("litert"))
    inputs = bundle.manifest.inputs
    counts = np.zeros((2, 2), int)  # said, true
    for path in files:
        train = cut(read_recording(path, names, (0, 400)), inputs)
        calibration = calibrate(bundle.manifest, bundle.digest, train, {"litert": network}, 0.0)
        whole = cut(read_recording(path, names), inputs)
        scorer = Scorer(bundle.manifest, network, "litert", calibration)
        alarm = scorer.score(whole).score > scorer.threshold
        truth = read_recording(path, ["anomaly"]).samples[:, 0] > 0.5
        judged = whole.end_row >= 400
        for said, true in zip(alarm[judged], truth[whole.end_row[judged]], strict=True):
            counts[int(said), int(true)] += 1
    (tn, fn), (fp, tp) = counts.tolist()
    f1, far, mar = tp / (tp + (fp + fn) / 2), fp / (fp + tn), fn / (fn + tp)
    print(f"SKAB valve1, {len(files)} files: F1 {f1:.3f}, false alarms {far:.1%}, missed {mar:.1%}")
    assert f1 > 0.75
