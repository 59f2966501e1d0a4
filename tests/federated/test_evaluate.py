"""Federated evaluation and export on one small device: what passes, what is refused, what a bundle promises."""

from __future__ import annotations

import json

import numpy as np
import pytest

from covey.bundle import GOLDEN_INPUT, golden_output, pack, unpack
from covey.errors import AggregationError, BundleError, DataError
from covey.sketch import Sketch
from edge.scoring.runtimes import available, open_runtime
from edge.scoring.windows import DRONE_CHANNELS
from federated.compile.export import Compiled, compile_graph, export, golden_windows
from federated.compile.onnx_writer import write_onnx
from federated.compile.quantize import Ranges, observe, quantize
from federated.compile.tflite_writer import write_tflite
from federated.config import Gates, PcaOptions, Plan, choose_inputs
from federated.evaluate import held_out, judge, pool, refuse_worse
from federated.families import Lesson
from federated.families.pca import Pca
from federated.own import draft_of, load, normalised
from federated_rigs import walk, write_csv

PLAN = Plan("pca", features="lag", window=4, commission_windows=50, pca=PcaOptions(keep=4))


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A device's windows, and the float model of this device alone."""
    path = write_csv(tmp_path_factory.mktemp("device") / "m.csv", walk(400, seed=1))
    inputs = choose_inputs(PLAN, [("m", ("a", "b", "c"), 1.0, 0)], DRONE_CHANNELS)
    own = load({"files": json.dumps([str(path)])}, PLAN, inputs)
    z, _, _ = normalised(own, PLAN, inputs)
    update = Pca().update(PLAN, {}, Lesson(z, own.session, own.fitted, drone=False), 0)
    state = Pca().merge(PLAN, Pca().begin(PLAN, 12), [update], [len(z)])
    graph = Pca().to_graph(PLAN, state, drone=False)
    manifest = draft_of(PLAN, inputs, outputs=len(graph[-1].weight))
    return own, z, graph, manifest


def judged(device, compiled, current=None):
    own, _, graph, manifest = device
    content = unpack(pack(manifest, compiled.models), "candidate")
    return pool([judge(content, graph, current, own.windows)])


def scaled(ranges, factor):
    return Ranges(tuple(v * factor for v in ranges.low), tuple(v * factor for v in ranges.high))


def test_int8_by_observed_ranges_passes_the_gates(device):
    _, z, graph, _ = device
    verdict = judged(device, compile_graph(graph, observe(graph, z), 2.0))
    refuse_worse(verdict.evidence, Gates())
    for name in available():
        assert verdict.evidence[f"{name}.int8_error"] < 0.02
        assert verdict.reference[name].count == len(z)


@pytest.mark.parametrize("factor", [0.2, 60.0])
def test_int8_by_wrong_ranges_is_refused_clipped_or_coarse(device, factor):
    _, z, graph, _ = device
    wrong = scaled(observe(graph, z), factor).with_input(-8.0, 8.0)
    quantized = quantize(graph, wrong)
    compiled = Compiled(graph, quantized, write_onnx(quantized), write_tflite(quantized))
    with pytest.raises(AggregationError, match=r"litert: int8 error of at most 0\.05 thresholds expected"):
        refuse_worse(judged(device, compiled).evidence, Gates())


def test_more_false_alarms_than_the_current_release_are_refused_with_both_figures():
    evidence = {
        "litert.int8_error": 0.0,
        "litert.int8_bias": 0.0,
        "litert.false_alarms": 0.2,
        "litert.false_alarms_fp32": 0.2,
        "litert.false_alarms_current": 0.05,
    }
    with pytest.raises(AggregationError, match=r"the current release's 0\.05 \+ 0\.05 expected, 0\.2 came"):
        refuse_worse(evidence, Gates())
    refuse_worse({**evidence, "litert.false_alarms_current": 0.16}, Gates())
    with pytest.raises(AggregationError, match=r"litert: a model that explains its windows expected, 1\.2 of"):
        refuse_worse({**evidence, "litert.false_alarms_current": 0.16, "litert.unexplained": 1.2}, Gates())
    with pytest.raises(AggregationError, match=r"litert: int8 error .* nan came"):
        refuse_worse({**evidence, "litert.int8_error": float("nan")}, Gates())


def test_held_out_are_the_last_flights_or_the_last_windows():
    assert held_out(np.array([0, 0, 1, 1, 2, 2])).tolist() == [False] * 4 + [True] * 2
    assert held_out(np.array([0, 0, 0, 0, 1, 1])).tolist() == [False] * 4 + [True] * 2
    with pytest.raises(DataError, match="at least 3 windows expected, 2 found"):
        held_out(np.array([0, 0]))


def test_pooling_takes_medians_of_errors_and_window_weighted_rates():
    def answer(error, rate, windows):
        figures = np.array([error, 0.0, rate, 0.0, -1.0, -1.0], np.float32)
        return {
            "litert.figures": figures,
            "litert.reference": np.array([[0, 0], [3, windows]], np.int32),
            "spread": np.array([1.0, 2.0], np.float32),
            "held_out": np.array([windows]),
        }

    verdict = pool([answer(0.01, 0.0, 30), answer(0.02, 0.1, 10), answer(9.0, 0.0, 60)])
    assert verdict.evidence["litert.int8_error"] == pytest.approx(0.02)
    assert verdict.evidence["litert.int8_error_worst"] == pytest.approx(9.0)
    assert verdict.evidence["litert.false_alarms"] == pytest.approx(0.01)
    assert "litert.false_alarms_current" not in verdict.evidence
    assert verdict.reference["litert"].to_wire() == [[0, 0], [3, 100]]


def bundled(device, **changes):
    _, z, graph, manifest = device
    compiled = compile_graph(graph, observe(graph, z), 2.0)
    sketch = Sketch()
    sketch.extend([1.0] * 99 + [2.0])
    options = {"reference": {"litert": sketch}, "spread": np.ones(12), "evidence": {}, "state": b"", "made_s": 0.0}
    return unpack(export(manifest, compiled, **(options | changes)), "bundle")


def test_golden_outputs_are_what_each_runtime_gives(device):
    bundle = bundled(device)
    x = np.frombuffer(bundle.files[GOLDEN_INPUT], "<f4").reshape(-1, 12)
    assert len(x) == bundle.manifest.golden.windows
    assert np.abs(x).max() == 8.0
    for name in available():
        y = open_runtime(name, bundle.model(name)).run(x)
        golden = np.frombuffer(bundle.files[golden_output(name)], "<f4").reshape(y.shape)
        np.testing.assert_array_equal(y, golden)
        assert np.abs(y[0]).max() > 10 * bundle.manifest.golden.tolerance[name]  # a wrong model cannot hide in it


def test_golden_windows_are_no_ones_data_and_always_the_same():
    assert (golden_windows(7) == golden_windows(7)).all()
    assert golden_windows(7).shape == (32, 7)


def test_thresholds_follow_from_the_merged_reference(device):
    manifest = bundled(device).manifest
    assert manifest.defaults.thresholds["onnx"] == pytest.approx(4 / 3 * 1.0, rel=0.02)  # q.99 of 99 ones and a two


def test_a_model_file_that_is_not_the_quantised_graph_is_not_exported(device):
    _, z, graph, manifest = device
    good = compile_graph(graph, observe(graph, z), 2.0)
    other = compile_graph(graph, scaled(observe(graph, z), 1.5), 2.0)
    mixed = Compiled(graph, good.quantized, good.onnx, other.tflite)
    sketch = Sketch()
    sketch.add(1.0)
    with pytest.raises(BundleError, match=r"litert: golden outputs within 4 steps"):
        export(manifest, mixed, reference={"onnx": sketch}, spread=np.ones(12), evidence={}, state=b"", made_s=0.0)


def test_without_normal_scores_there_is_no_bundle(device):
    with pytest.raises(BundleError, match="normal scores of at least one runtime expected"):
        bundled(device, reference={})
