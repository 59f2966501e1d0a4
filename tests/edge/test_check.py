"""The check of a bundle in a child process: real runtimes, real damage."""

import time
from pathlib import Path

import numpy as np
import pytest

from covey.bundle import GOLDEN_INPUT, golden_output, read_bundle
from covey.errors import BundleError, CoveyError, GoldenMismatch, UpdateError, UsageError
from edge.models.check import check_golden, check_in_subprocess
from edge.scoring.runtimes import available
from model_bundles import GOLDEN, WINDOW, contents, make_bundle

MODEL = {"onnx": "model.onnx", "litert": "model.tflite", "tflite": "model.tflite"}
pytestmark = pytest.mark.skipif(not available(), reason="no runtime is installed")


def children():
    """Process ids of our children that still live."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return set(found)


@pytest.mark.parametrize("runtime", available())
def test_a_whole_bundle_passes(tmp_path, runtime):
    make_bundle(tmp_path / "a.covey")
    assert 0 <= check_in_subprocess(tmp_path / "a.covey", runtime) <= 1


@pytest.mark.parametrize("runtime", available())
def test_a_model_with_other_weights_is_a_golden_mismatch(tmp_path, runtime):
    """Every digest holds: the bundle was made whole with a model that is not the one its golden windows speak of."""
    _, other = contents(0.8)
    make_bundle(tmp_path / "a.covey", files={name: other[name] for name in ("model.onnx", "model.tflite")})
    with pytest.raises(GoldenMismatch, match=rf"runtime {runtime}.* apart"):
        check_in_subprocess(tmp_path / "a.covey", runtime)


def test_one_flipped_weight_is_a_golden_mismatch(tmp_path):
    """The int8 weights of the one layer lie in the file as they are: 127 and -127 alternate with zeros."""
    _, files = contents()
    pattern = np.array([127, -127, 0, 0, 0, 0], np.int8).tobytes()
    model = files["model.tflite"]
    at = model.index(pattern)
    flipped = model[:at] + bytes([model[at] ^ 0x40]) + model[at + 1 :]
    make_bundle(tmp_path / "a.covey", files={"model.tflite": flipped})
    with pytest.raises(GoldenMismatch):
        check_in_subprocess(tmp_path / "a.covey", "litert")


def test_outputs_that_are_not_finite_are_a_golden_mismatch(tmp_path):
    make_bundle(tmp_path / "a.covey")
    bundle = read_bundle(tmp_path / "a.covey")

    class Broken:
        def run(self, x):
            return np.full((len(x), WINDOW), np.nan, np.float32)

    with pytest.raises(GoldenMismatch, match="finite"):
        check_golden(bundle, available()[0], Broken())


def test_a_batch_that_differs_from_its_windows_alone_is_found(tmp_path):
    make_bundle(tmp_path / "a.covey")
    bundle = read_bundle(tmp_path / "a.covey")
    runtime = available()[0]
    expected = np.frombuffer(bundle.files[golden_output(runtime)], "<f4").reshape(GOLDEN, WINDOW)

    class RightInBatches:
        def run(self, x):
            return expected if len(x) == GOLDEN else np.zeros((1, WINDOW), np.float32)

    with pytest.raises(GoldenMismatch, match="alone"):
        check_golden(bundle, runtime, RightInBatches())


@pytest.mark.parametrize("runtime", available())
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_a_model_cut_short_is_one_line_and_not_our_end(tmp_path, runtime, keep):
    model = contents()[1][MODEL[runtime]]
    make_bundle(tmp_path / "a.covey", files={MODEL[runtime]: model[: int(len(model) * keep)]})
    with pytest.raises((BundleError, UpdateError)) as caught:
        check_in_subprocess(tmp_path / "a.covey", runtime)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("tflite" not in available(), reason="tflite-runtime is not installed")
def test_a_file_that_crashes_the_runtime_is_an_update_error(tmp_path):
    """tflite-runtime crashes on many truncations; the first one of this file that does so is told as one line."""
    model = contents()[1]["model.tflite"]
    told = []
    for keep in (0.5, 0.6, 0.4, 0.75, 0.85, 0.2, 0.9, 0.95):
        make_bundle(tmp_path / "a.covey", files={"model.tflite": model[: int(len(model) * keep)]})
        with pytest.raises(CoveyError) as caught:
            check_in_subprocess(tmp_path / "a.covey", "tflite")
        told.append(str(caught.value))
        if "the child ended by SIG" in told[-1]:
            assert isinstance(caught.value, UpdateError)
            return
    pytest.fail(f"no truncation crashed it: {told}")


def test_a_child_that_takes_too_long_is_ended(tmp_path):
    make_bundle(tmp_path / "a.covey")
    before, begun = children(), time.monotonic()
    with pytest.raises(UpdateError, match=r"an answer within 0\.02 s expected"):
        check_in_subprocess(tmp_path / "a.covey", available()[0], timeout_s=0.02)
    assert time.monotonic() - begun < 20
    assert children() == before


def test_a_child_that_wants_too_much_memory_is_one_line(tmp_path):
    make_bundle(tmp_path / "a.covey")
    with pytest.raises(CoveyError) as caught:
        check_in_subprocess(tmp_path / "a.covey", available()[0], memory_bytes=48 * 1024**2)
    assert "\n" not in str(caught.value)


def test_damage_outside_the_model_is_a_bundle_error(tmp_path):
    make_bundle(tmp_path / "a.covey")
    content = bytearray((tmp_path / "a.covey").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.covey").write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"a\.covey"):
        check_in_subprocess(tmp_path / "a.covey", available()[0])


def test_golden_inputs_of_another_size_are_refused(tmp_path):
    make_bundle(tmp_path / "a.covey", files={GOLDEN_INPUT: b"\0" * 4})
    with pytest.raises(BundleError, match=r"golden/input\.f32: float32 of shape \(8, 6\) expected, 4 bytes found"):
        check_in_subprocess(tmp_path / "a.covey", available()[0])


def test_an_unknown_runtime_and_a_missing_file_are_told(tmp_path):
    with pytest.raises(UsageError, match="'tpu'"):
        check_in_subprocess(tmp_path / "a.covey", "tpu")
    with pytest.raises(BundleError, match="cannot be read"):
        check_in_subprocess(tmp_path / "none.covey", available()[0])
