"""A temporal bundle on a device: calibration, own directions, levels; the network is a matrix, so every score can be worked out."""

import msgspec
import numpy as np
import pytest

from covey.bundle import Adapt, Branch, Features, Inputs, Model, Outputs
from covey.sketch import Sketch
from edge.core import AgentCore, Loaded
from edge.scoring.calibration import calibrate, channel_scales
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut, features
from edge.sources import Recording
from model_bundles import contents

INPUTS = Inputs(
    ["x", "y"], 1.0, 3, 1,
    Features("temporal", branches=[Branch("n", [[1.0]]), Branch("d", [[1.0, -1.0]])], own_scale=True),
)  # fmt: skip
TURN = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]], np.float32)


class Turned:
    def run(self, x):
        return x @ TURN.T


def bundle(**scoring):
    base, _ = contents()
    rule = Outputs(branch=[0, 0, 1, 1], own=0.5, keep=0.7, trim=0.0)
    rules = {"smoothing": 0.5, "quantile": 0.9, "factor": 1.5, "commission_windows": 10, "outputs": rule} | scoring
    return msgspec.structs.replace(
        base,
        inputs=INPUTS,
        model=Model("project", 4, 4),
        defaults=msgspec.structs.replace(
            base.defaults, center=[0.0] * 4, scale=[1.0] * 4, spread=[1e-6] * 4, channel_center=[0.0] * 2,
            channel_scale=[1e-3] * 2, weights=[1.0, 1.0, 2.0, 0.5], reference={"onnx": Sketch().to_wire()},
        ),
        scoring=msgspec.structs.replace(base.scoring, channel_of_feature=[0, 1, 0, 1], **rules),
    )  # fmt: skip


def recording(rows, seed=0):
    a, b = np.random.default_rng(seed).standard_normal((2, rows))
    return Recording("r", ("x", "y"), 1.0, np.stack([a, a + 0.3 * b], axis=1).astype(np.float32) * 4 + 7)


def calibrated(manifest, rows=400, **how):
    windows = cut(recording(rows), INPUTS)
    return calibrate(manifest, "0" * 64, windows, {"onnx": Turned()}, 0.0, **how), windows


def test_a_window_s_score_is_the_network_s_part_and_the_distance_from_the_device_s_own_directions():
    manifest = bundle()
    own, windows = calibrated(manifest)
    scorer = Scorer(manifest, Turned(), "onnx", own)
    raw = scorer.score(windows).raw
    phi = features(windows, INPUTS, scorer.channels)
    z = np.clip((phi - np.array(own.center, np.float32)) / np.array(own.scale, np.float32), -8, 8)
    expected = np.square(z @ TURN.T) @ np.array(own.weights)
    for number, part in enumerate((slice(0, 2), slice(2, 4))):  # the long way round: a projection matrix
        v = np.frombuffer(own.directions[number], "<f4").reshape(-1, 2).astype(float)
        left = z[:, part] @ (np.eye(2) - v.T @ v)
        expected = expected + own.own_weights[number] * np.square(left).sum(axis=1)
    assert raw == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert raw.mean() == pytest.approx(1.0, rel=1e-3)  # half of it each


def test_the_group_alone_scores_without_own_directions():
    own, _ = calibrated(bundle(), personal=False)
    assert (own.directions, own.weights) == ([], [1.0, 1.0, 2.0, 0.5])


@pytest.mark.parametrize("log", [False, True])
def test_before_anything_has_moved_an_adapting_device_scores_as_one_that_does_not(log):
    manifest = bundle(log=log, adapt=Adapt(hold_windows=512, rate=1e-9))
    own, _ = calibrated(manifest)
    other = cut(recording(60, seed=5), INPUTS)
    plain = Scorer(manifest, Turned(), "onnx", own).score(other)
    moving = Scorer(manifest, Turned(), "onnx", own, adaptive=True).score(other)
    assert moving.score == pytest.approx(plain.score, rel=1e-3, abs=1e-4)
    if log:
        assert plain.raw == pytest.approx(np.log1p(np.expm1(plain.raw)))
        assert plain.raw.mean() < 1.0  # of scores that are 1 in the mean


@pytest.mark.parametrize("log", [False, True])
def test_a_level_that_stays_moved_becomes_normal_after_the_hold_and_not_before(log):
    manifest = bundle(log=log, adapt=Adapt(hold_windows=64, hold_share=0.0))
    own, _ = calibrated(manifest)
    rows = recording(400, seed=6)
    rows.samples[100:] += np.array([0.0, 7.0], np.float32)
    scored = Scorer(manifest, Turned(), "onnx", own, adaptive=True).score(cut(rows, INPUTS))
    above = scored.score > own.thresholds["onnx"]
    assert above[104:160].all()
    assert above[250:].mean() < 0.05


def test_shares_are_divided_by_a_hundredth_at_least_and_other_channels_are_not():
    rows = np.stack([np.tile([0.0, 1.0], 50), np.zeros(100), np.tile([0.5, 0.502], 50)], axis=1)
    assert channel_scales(rows, [1e-3] * 3) == pytest.approx([0.5, 0.01, 0.01])
    assert channel_scales(rows * 2, [1e-3] * 3) == pytest.approx([1.0, 1e-4, 0.002])


def test_windows_that_are_not_believed_do_not_raise_the_threshold():
    rows = recording(400)
    rows.samples[200:204] += 60.0
    calm, told = (
        bundle(outputs=Outputs(branch=[0, 0, 1, 1], own=0.5, keep=0.7, trim=trim), quantile=0.995, smoothing=1.0)
        for trim in (0.02, 0.0)
    )
    windows = cut(rows, INPUTS)
    bounds = [calibrate(one, "0" * 64, windows, {"onnx": Turned()}, 0.0).thresholds["onnx"] for one in (calm, told)]
    usual = calibrated(told)[0].thresholds["onnx"]
    assert bounds[0] < 1.5 * usual < bounds[1]


def test_an_agent_keeps_the_row_that_each_window_added():
    manifest = bundle()
    own, _ = calibrated(manifest)
    core = AgentCore("d1", Loaded(manifest, "0" * 64, 1, Turned(), "onnx", calibration=own))
    core.begin_flight("f", ("x", "y"))
    rows = recording(40)
    kept = [one for n in range(40) for one in core.push(rows.samples[n : n + 1], 100.0 + n).kept]
    assert len(kept) > 20
    for one in kept:
        assert np.array_equal(np.frombuffer(one.samples, "<f4"), rows.samples[one.index])
        assert one.start_s == pytest.approx(100.0 + one.index)
