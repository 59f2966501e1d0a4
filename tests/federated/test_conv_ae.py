"""Family `conv-ae`: what travels, and whole runs with engine `simulation` to a bundle that every runtime accepts."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from covey.bundle import STATE, golden_output, read_bundle
from covey.cli import build
from covey.errors import AggregationError, CoveyError, DataError
from edge.scoring.runtimes import available, open_runtime
from federated.client_app import arrays_of_graph, graph_of
from federated.compile.export import golden_windows
from federated.config import ConvOptions, DenseOptions, Gates, Plan, choose_inputs
from federated.families import Lesson, conv, family_of, unpack_state
from federated.families.conv_ae import layers_of
from federated.training import devices_of_files, run
from federated_rigs import walk, write_csv

LOOSE = Gates(int8_error=0.2, int8_bias=0.2, false_alarms=0.2)
PLAN = Plan(
    "conv-ae",
    window=8,
    commission_windows=50,
    rounds=2,
    gates=LOOSE,
    conv=ConvOptions(hidden=8),
    dense=DenseOptions(epochs=6, learning_rate=0.01),
)
FAMILY = family_of("conv-ae")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        write_csv(folder / f"m{number}.csv", walk(300, seed=number))
    return folder


def lesson(count, seed, d=24):
    z = np.random.default_rng(seed).standard_normal((count, d)).astype(np.float32)
    return Lesson(z, np.zeros(count, np.int64), np.zeros(count, bool), drone=False)


def test_an_update_is_the_change_that_local_training_made():
    state = FAMILY.begin(PLAN, 24)
    update = FAMILY.update(PLAN, state, lesson(40, 1), seed=5)
    layers = layers_of(PLAN, 24)
    after, _ = conv.train(layers, conv.init(layers, PLAN.seed), lesson(40, 1).z, 6, 0.01, 5, batch_size=16)
    for number, new in enumerate(after):
        name = f"{'wb'[number % 2]}{number // 2}"
        assert update[name].astype(np.float64) == pytest.approx(new - state[name], rel=1e-3, abs=1e-6)
    assert {name: values.shape for name, values in update.items()} == {
        name: shape.shape for name, shape in FAMILY.shapes(PLAN, 24).items()
    }


def test_many_devices_learn_what_each_learns_alone():
    state = FAMILY.begin(PLAN, 24)
    lessons = [lesson(30 + number, number) for number in range(5)]
    lessons[2] = lesson(30, 2, d=16)
    updates = FAMILY.update_many(PLAN, state, lessons, range(5))
    for number, update in enumerate(updates):
        if number == 2:
            assert isinstance(update, CoveyError)
            continue
        alone = FAMILY.update(PLAN, state, lessons[number], number)
        assert all(np.array_equal(update[name], alone[name]) for name in alone)


def test_a_graph_survives_its_message():
    graph = FAMILY.to_graph(PLAN, FAMILY.begin(PLAN, 24), drone=False)
    again = graph_of(arrays_of_graph(graph))
    assert [(type(one), one.steps, one.relu) for one in again] == [(type(one), one.steps, one.relu) for one in graph]
    for one, two in zip(graph, again, strict=True):  # weights may travel as float16
        assert two.weight == pytest.approx(one.weight, rel=1e-3, abs=1e-6)


def test_features_that_are_no_samples_are_refused():
    with pytest.raises(DataError, match="windows of 8 samples expected, 11 came"):
        FAMILY.begin(PLAN, 11)
    rings = [("d1", ("a",), 1.0, 16)]
    with pytest.raises(DataError, match="give --window 16"):
        choose_inputs(Plan("conv-ae"), rings, ("z",))
    assert choose_inputs(Plan("conv-ae", window=16), rings, ("z",)).window == 16
    with pytest.raises(DataError, match="give --features lag"):
        choose_inputs(Plan("conv-ae"), [("d1", ("a",), 100.0, 0)], ("a",))


def test_a_run_ends_in_a_bundle_that_every_runtime_computes(files, tmp_path):
    out = tmp_path / "model.zip"
    report = run(
        PLAN,
        devices_of_files([files]),
        engine="simulation",
        out=out,
        initial=None,
        checkpoint=None,
        resume=False,
        stop=threading.Event(),
    )
    bundle = read_bundle(out, report.digest)
    manifest = bundle.manifest
    assert (manifest.family, manifest.model.kind, manifest.model.inputs, manifest.model.outputs) == (
        "conv-ae",
        "reconstruct",
        24,
        24,
    )
    assert report.evidence["litert.unexplained"] < 0.9
    assert unpack_state(bundle.files[STATE], "state")["w0"].shape == (8, 3, 6)
    x = golden_windows(24)
    outputs = {name: open_runtime(name, bundle.model(name)).run(x) for name in available()}
    for name, y in outputs.items():
        assert (
            np.abs(y - np.frombuffer(bundle.files[golden_output(name)], "<f4").reshape(y.shape)).max()
            <= manifest.golden.tolerance[name]
        )
    if {"onnx", "litert"} <= outputs.keys():
        assert (outputs["onnx"] == outputs["litert"]).mean() >= 0.9999


def test_the_command_trains_and_the_bundle_is_checked(files, tmp_path):
    out = tmp_path / "model.zip"
    words = ["--data", str(files), "--family", "conv-ae", "--window", "8", "--rounds", "4", "--out", str(out)]
    trained = CliRunner().invoke(build("federated"), ["federated", "train", "--engine", "simulation", *words])
    assert trained.exit_code == 0, trained.output
    checked = CliRunner().invoke(build("model"), ["model", "check", str(out)])
    assert checked.exit_code == 0, checked.output


def test_a_model_that_explains_nothing_is_refused(files, tmp_path):
    plan = Plan("conv-ae", window=8, commission_windows=50, dense=DenseOptions(epochs=1, learning_rate=1e-7))
    with pytest.raises(AggregationError, match="a model that explains its windows expected"):
        run(
            plan,
            devices_of_files([files]),
            engine="simulation",
            out=tmp_path / "model.zip",
            initial=None,
            checkpoint=None,
            resume=False,
            stop=threading.Event(),
        )
    assert not (tmp_path / "model.zip").exists()
