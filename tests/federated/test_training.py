"""Whole runs with engine `simulation`: the unmodified Flower apps on small files, through every gate to a bundle."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from covey.bundle import STATE, read_bundle
from covey.errors import AggregationError, BundleError, DataError, UsageError
from federated.checkpoint import Checkpoints
from federated.config import DenseOptions, Gates, PcaOptions, Plan
from federated.engines.simulation import SimulationGrid
from federated.families import unpack_state
from federated.streams import DAYS
from federated.training import devices_of_files, run
from federated_rigs import CHANNELS, walk, write_csv

LAG = {"features": "lag", "window": 4, "commission_windows": 50, "pca": PcaOptions(keep=4)}
DENSE = {"window": 2, "commission_windows": 50, "dense": DenseOptions(hidden=[4, 2, 4], epochs=8, learning_rate=0.02)}


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        write_csv(folder / f"m{number}.csv", walk(300, seed=number))
    return folder


def go(folder, tmp_path, plan, name="model.zip", **changes):
    options = {"engine": "simulation", "initial": None, "checkpoint": None, "resume": False} | changes
    options.setdefault("stop", threading.Event())
    return run(plan, devices_of_files([folder]), out=tmp_path / name, **options)


def test_pca_makes_a_bundle_that_knows_its_evidence(files, tmp_path):
    report = go(files, tmp_path, Plan("pca", **LAG))
    bundle = read_bundle(tmp_path / "model.zip", report.digest)
    manifest = bundle.manifest
    assert (report.clients, report.failed, report.rounds) == (4, {}, 1)
    assert manifest.inputs.channels == list(CHANNELS)
    assert (manifest.model.inputs, manifest.model.outputs) == (12, 8)
    assert manifest.evidence["litert.int8_error"] < 0.05
    assert manifest.evidence["windows"] == 4 * 297
    assert manifest.defaults.thresholds.keys() == {"onnx", "litert", "tflite"}
    assert unpack_state(bundle.files[STATE], "state")["counts"].tolist() == [4 * 297, 4, 4]
    assert 0 < report.bytes_up_per_device < 8000


def test_pca_rounds_after_the_first_change_nothing(files, tmp_path):
    go(files, tmp_path, Plan("pca", **LAG), "one.zip")
    go(files, tmp_path, Plan("pca", rounds=3, **LAG), "three.zip")
    one, three = (read_bundle(tmp_path / name) for name in ("one.zip", "three.zip"))
    assert one.files["model.tflite"] == three.files["model.tflite"]


def test_the_next_run_starts_from_the_bundle_and_is_compared_with_it(files, tmp_path):
    go(files, tmp_path, Plan("pca", **LAG), "one.zip")
    report = go(files, tmp_path, Plan("pca", **LAG), "two.zip", initial=tmp_path / "one.zip")
    state = unpack_state(read_bundle(tmp_path / "two.zip").files[STATE], "state")
    assert state["counts"].tolist() == [2 * 4 * 297, 4, 4]
    assert "litert.false_alarms_current" in report.evidence


def test_a_bundle_of_another_family_is_no_start(files, tmp_path):
    go(files, tmp_path, Plan("pca", **LAG), "one.zip")
    with pytest.raises(BundleError, match=r"state\.npz: w0 of shape .* expected, nothing found \(family pca\)"):
        go(files, tmp_path, Plan("dense-ae", **DENSE), "two.zip", initial=tmp_path / "one.zip")
    assert not (tmp_path / "two.zip").exists()


def test_autoencoder_learns_over_rounds(files, tmp_path):
    loose = Gates(int8_error=0.2, int8_bias=0.2, false_alarms=0.2)
    report = go(files, tmp_path, Plan("dense-ae", rounds=4, gates=loose, **DENSE), checkpoint=tmp_path / "runs")
    assert read_bundle(tmp_path / "model.zip").manifest.model.kind == "reconstruct"
    assert report.evidence["litert.unexplained"] < 0.9
    assert report.rounds == len(Checkpoints(tmp_path / "runs").rounds()) == 4


def test_a_run_that_was_stopped_goes_on_to_the_same_model(files, tmp_path):
    plan = Plan("dense-ae", rounds=3, gates=Gates(int8_error=1, int8_bias=1, false_alarms=1), **DENSE)
    go(files, tmp_path, plan, "whole.zip", checkpoint=tmp_path / "whole")
    stop = threading.Event()
    grid = StopsAfter(devices_of_files([files]), stop, answers=4 + 4 + 4)  # describe, round 1, round 2
    with pytest.raises(AggregationError, match="stopped"):
        serve(grid, plan, tmp_path / "halved.zip", tmp_path / "halved")
    assert [one.number for one in Checkpoints(tmp_path / "halved").rounds()] == [1]
    assert not (tmp_path / "halved.zip").exists()
    go(files, tmp_path, plan, "halved.zip", checkpoint=tmp_path / "halved", resume=True)
    whole, halved = (read_bundle(tmp_path / name) for name in ("whole.zip", "halved.zip"))
    assert whole.files[STATE] == halved.files[STATE]
    assert whole.files["model.onnx"] == halved.files["model.onnx"]


def test_a_run_is_resumed_with_the_same_plan_only(files, tmp_path):
    go(files, tmp_path, Plan("pca", **LAG), checkpoint=tmp_path / "runs")
    with pytest.raises(UsageError, match="give --resume"):
        go(files, tmp_path, Plan("pca", **LAG), checkpoint=tmp_path / "runs")
    with pytest.raises(UsageError, match="same plan expected, plan differ"):
        go(files, tmp_path, Plan("pca", seed=1, **LAG), checkpoint=tmp_path / "runs", resume=True)


def test_a_device_that_fails_is_named_and_left_out(files, tmp_path):
    (files / "m1.csv").write_text("a,b,c\n1,2,oops\n")
    write_csv(files / "m2.csv", walk(20, seed=9))
    report = go(files, tmp_path, Plan("pca", **LAG))
    assert report.clients == 2
    failed = {name.rsplit("/", 1)[1]: why for name, why in report.failed.items()}
    assert "line 2, column c: a finite number expected, 'oops' came" in failed["m1.csv"]
    assert "m2.csv: calibration: at least 50 normal windows expected, 17 found" in failed["m2.csv"]


def test_too_few_devices_end_the_run_with_their_reasons_and_no_bundle(files, tmp_path):
    (files / "m1.csv").write_text("a,b,c\n1,2,oops\n")
    with pytest.raises(AggregationError, match=r"at least 4 devices expected, 3 of 4 can be used .*oops"):
        go(files, tmp_path, Plan("pca", min_clients=4, **LAG))
    assert not (tmp_path / "model.zip").exists()


def test_a_strict_run_tells_the_first_bad_file_alone(files, tmp_path):
    (files / "m3.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"m3.csv: no column c; there are a, b"):
        go(files, tmp_path, Plan("pca", strict=True, columns=["a", "b", "c"], **LAG))


def test_devices_that_measure_something_else_are_told_by_name(files, tmp_path):
    write_csv(files / "m3.csv", walk(300, seed=3), ["a", "b", "d"])
    with pytest.raises(DataError, match=r"m3.csv: channels a, b, c expected, c missing"):
        go(files, tmp_path, Plan("pca", **LAG))


def test_devices_that_are_out_of_time_are_missing(files, tmp_path):
    with pytest.raises(AggregationError, match=r"no answer in 1e-06 s"):
        go(files, tmp_path, Plan("pca", timeout_s=1e-6, **LAG))


class StopsAfter(SimulationGrid):
    """The engine with a Ctrl-C after so many answers."""

    def __init__(self, devices, stop, answers):
        super().__init__(devices, stop)
        self.left = answers

    def answers(self, messages, deadline):
        for reply in super().answers(messages, deadline):
            self.left -= 1
            yield reply
            if self.left == 0:
                self.stop.set()


def serve(grid, plan, out, checkpoint):
    from federated.config import Job
    from federated.engines.home import run_server

    run_server(grid, Job(plan, str(out), str(checkpoint)))


class Lies(SimulationGrid):
    """One device, the first, answers rounds with what `change` makes of its honest update."""

    change = staticmethod(lambda arrays: arrays)

    def answers(self, messages, deadline):
        from flwr.app import Array

        for reply in super().answers(messages, deadline):
            if reply.metadata.src_node_id == 1 and reply.metadata.message_type == "train":
                record = reply.content.array_records["arrays"]
                told = {name: array.numpy() for name, array in record.items()}
                for name, values in self.change(told).items():
                    record[name] = Array(values)
            yield reply


@pytest.mark.parametrize("family", ["pca", "dense-ae"])
@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (lambda values: np.full_like(values, np.nan), "finite numbers expected"),
        (lambda values: values[:-1], "shape"),
    ],
)
def test_an_update_that_is_not_one_never_reaches_the_model(files, tmp_path, family, lie, told):
    first = "within" if family == "pca" else "w0"
    plan = Plan(family, gates=Gates(int8_error=1, int8_bias=1, false_alarms=1), **(LAG if family == "pca" else DENSE))
    grid = Lies(devices_of_files([files]))
    grid.change = lambda arrays: {first: lie(arrays[first])}
    serve(grid, plan, tmp_path / "model.zip", tmp_path / "runs")
    (record,) = Checkpoints(tmp_path / "runs").rounds()
    (why,) = record.refused.values()
    assert record.clients == 3
    assert told in why
    state = unpack_state(read_bundle(tmp_path / "model.zip").files[STATE], "state")
    assert all(np.isfinite(values).all() for values in state.values())


def test_a_huge_update_is_refused_by_its_norm(files, tmp_path):
    grid = Lies(devices_of_files([files]))
    grid.change = lambda arrays: {"w0": arrays["w0"] * 1e6}
    plan = Plan("dense-ae", gates=Gates(int8_error=1, int8_bias=1, false_alarms=1), **DENSE)
    serve(grid, plan, tmp_path / "model.zip", tmp_path / "runs")
    (record,) = Checkpoints(tmp_path / "runs").rounds()
    assert "norm of at most" in next(iter(record.refused.values()))


def test_one_devices_odd_ranges_do_not_cost_the_others_their_resolution(files, tmp_path):
    class Odd(SimulationGrid):
        def answers(self, messages, deadline):
            from flwr.app import Array

            for reply in super().answers(messages, deadline):
                if reply.metadata.src_node_id == 1 and reply.metadata.message_type == "evaluate.observe":
                    reply.content.array_records["arrays"]["high"] = Array(np.array([8.0, 1e6], np.float32))
                yield reply

    grid = Odd(devices_of_files([files]))
    serve(grid, Plan("pca", **LAG), tmp_path / "model.zip", tmp_path / "runs")
    assert read_bundle(tmp_path / "model.zip").manifest.evidence["litert.int8_error"] < 0.05


class Listens(SimulationGrid):
    """Keeps what passes."""

    def __init__(self, devices):
        super().__init__(devices)
        self.heard = []

    def answers(self, messages, deadline):
        for reply in super().answers(messages, deadline):
            self.heard.append(reply)
            yield reply


@pytest.mark.parametrize("family", ["pca", "dense-ae"])
def test_nothing_but_named_numbers_of_known_shapes_leaves_a_device(files, tmp_path, family):
    options = LAG if family == "pca" else DENSE
    plan = Plan(family, gates=Gates(int8_error=1, int8_bias=1, false_alarms=1), **options)
    grid = Listens(devices_of_files([files]))
    serve(grid, plan, tmp_path / "model.zip", tmp_path / "runs")
    d, layers = (12, 1) if family == "pca" else (6, 4)
    learned = {"center": {(d,)}, "scale": {(d,)}, "windows": {(1,)}}
    if family == "pca":
        learned |= {"within": {(78,)}, "between": {(1,)}, "counts": {(2,)}}
    else:
        widths = [6, 4, 2, 4, 6]
        for n in range(4):
            learned |= {f"w{n}": {(widths[n + 1], widths[n])}, f"b{n}": {(widths[n + 1],)}}
    judged = {"spread": {(d,)}, "held_out": {(1,)}}
    for runtime in ("onnx", "litert", "tflite"):
        judged |= {f"{runtime}.figures": {(6,)}, f"{runtime}.reference": {(n, 2) for n in range(1, 514)}}
    allowed = {
        # "a\nb\nc"; how many rows, and how much a daily course of each likely length explains.
        "query": {"channels": {(5,)}, "shape": {(2,)}, "rows": {(1,)}, "daily": {(len(DAYS),)}},
        "train": learned,
        "evaluate.observe": {"low": {(layers + 1,)}, "high": {(layers + 1,)}},
        "evaluate.judge": judged,
    }
    kinds = set()
    for reply in grid.heard:
        content = reply.content
        kinds.add(reply.metadata.message_type)
        assert set(content.keys()) == {"arrays"}
        for name, array in content.array_records["arrays"].items():
            assert tuple(array.shape) in allowed[reply.metadata.message_type][name], name
    assert kinds == allowed.keys()
