"""Both ends of a bundle: what the learner exports, an agent reads, checks, calibrates, scores and attributes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from covey.bundle import GOLDEN_INPUT, golden_output, read_bundle, read_calibration, write_calibration
from covey.ring import RingReader
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.runtimes import available, open_runtime
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut
from edge.sources.files import read_recording
from federated.config import DenseOptions, Gates, PcaOptions, Plan
from federated.training import devices_of_files, devices_of_rings, run
from federated_rigs import walk, write_csv, write_ring

LOOSE = Gates(int8_error=0.3, int8_bias=0.3, false_alarms=0.3)
PLANS = {
    "pca": Plan("pca", features="lag", window=4, commission_windows=50, pca=PcaOptions(keep=4)),
    "dense-ae": Plan(
        "dense-ae",
        window=4,
        commission_windows=50,
        rounds=5,
        dense=DenseOptions(epochs=8, learning_rate=0.01),
        gates=LOOSE,
    ),
}


def train(plan, devices, out, initial=None):
    options = {"engine": "simulation", "checkpoint": None, "resume": False, "stop": threading.Event()}
    return run(plan, devices, out=out, initial=initial, **options)


@pytest.fixture(scope="module", params=sorted(PLANS))
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    for number in range(3):
        write_csv(folder / f"m{number}.csv", walk(400, seed=number))
    report = train(PLANS[request.param], devices_of_files([folder]), folder / "bundle.zip")
    return folder, read_bundle(folder / "bundle.zip", report.digest)


def test_an_agent_finds_the_golden_outputs_alone_and_in_a_batch(made):
    _, bundle = made
    golden = bundle.manifest.golden
    x = np.frombuffer(bundle.files[GOLDEN_INPUT], "<f4").reshape(golden.windows, bundle.manifest.model.inputs)
    for name in available():
        network = open_runtime(name, bundle.model(name))
        expected = np.frombuffer(bundle.files[golden_output(name)], "<f4").reshape(golden.windows, -1)
        single = np.concatenate([network.run(x[n : n + 1]) for n in range(len(x))])
        for y in (network.run(x), single):
            assert np.abs(y - expected).max() <= golden.tolerance[name]


def test_an_agent_calibrates_from_its_ring_and_hears_a_fault(made):
    folder, bundle = made
    manifest = bundle.manifest
    ring = write_ring(folder / "ring.bin", manifest.inputs, [(folder / "m0.csv", False)])
    windows = ring_windows(ring, manifest.inputs)
    networks = {name: open_runtime(name, bundle.model(name)) for name in available()}
    calibration = calibrate(manifest, bundle.digest, windows, networks, 0.0)
    write_calibration(folder / "calibration", calibration)
    assert read_calibration(folder / "calibration", manifest, bundle.digest) == calibration
    samples = walk(200, seed=12)
    samples[100:, 1] = samples[100:, 1] * 0.1 + 4  # channel b no longer follows the others
    faulty = cut(read_recording(write_csv(folder / "faulty.csv", samples)), manifest.inputs)
    for name, network in networks.items():
        scorer = Scorer(manifest, network, name, calibration)
        scored = scorer.score(faulty)
        above = scored.score > scorer.threshold
        assert not above[:90].any()
        assert above[-50:].all()
        assert scorer.attribute(scored.error[-1])[1] == "b"
        default = Scorer(manifest, network, name, None)  # the group's defaults alone must score as well
        assert (default.score(faulty).score > default.threshold)[-50:].all()


@pytest.mark.parametrize("made", ["pca"], indirect=True)  # autoencoders train on all windows
def test_a_round_on_rings_takes_fitted_windows_once(made):
    folder, bundle = made
    rings = {}
    for number in range(2):
        logs = [(folder / f"m{number}.csv", True), (folder / "m2.csv", False)]
        rings[f"d{number}"] = write_ring(folder / f"ring-{number}.bin", bundle.manifest.inputs, logs)
    words = [f"{name}={path}" for name, path in rings.items()]
    train(PLANS["pca"], devices_of_rings(words, None), folder / "next.zip", initial=folder / "bundle.zip")
    from federated.families import unpack_state

    counts = unpack_state(read_bundle(folder / "next.zip").files["state.npz"], "state")["counts"]
    with RingReader(rings["d0"]) as ring:
        assert len(list(ring.records())) == 2 * 397
    assert counts.tolist() == [3 * 397 + 2 * 397, 4, 2]
