"""The runtime adapter on real runtimes: choice, shapes, errors, silence.

Models come from the compiler, in bytes, as they come to a device.
"""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import onnx
import pytest

from covey.errors import BundleError, UsageError
from edge.scoring import runtimes
from edge.scoring.runtimes import RUNTIMES, available, open_runtime
from federated.compile.graph import Dense, forward
from federated.compile.onnx_writer import write_onnx, write_onnx_float
from federated.compile.quantize import observe, quantize
from federated.compile.tflite_writer import write_tflite, write_tflite_float

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(name not in available(), reason=f"{name} is not installed"))
    for name in RUNTIMES
]
RAISING = [parameter for parameter in INSTALLED if parameter.values != ("tflite",)]  # tflite-runtime crashes instead


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(0)
    widths = (12, 6, 12)
    return tuple(
        Dense(rng.standard_normal((b, a)).astype(np.float32), rng.standard_normal(b).astype(np.float32), relu=a == 12)
        for a, b in pairwise(widths)
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((64, 12)).astype(np.float32)


def int8_model(name, graph, x):
    qgraph = quantize(graph, observe(graph, x))
    return write_onnx(qgraph) if name == "onnx" else write_tflite(qgraph)


def float_model(name, graph):
    return write_onnx_float(graph) if name == "onnx" else write_tflite_float(graph)


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_available_names_installed_runtimes_best_first_without_importing_them():
    code = (
        "import sys; from edge.scoring.runtimes import available; print(*available()); "
        "print(*sorted({'onnxruntime', 'ai_edge_litert.interpreter', 'tflite_runtime.interpreter'} & set(sys.modules)))"
    )
    done = python(code)
    names, imported = done.stdout.split("\n")[:2]
    assert tuple(names.split()) == available()
    assert imported == ""
    assert list(available()) == sorted(available(), key=("litert", "onnx", "tflite").index)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_runtime_says_what_really_runs(name, graph, x):
    said = open_runtime(name, int8_model(name, graph, x)).describe()
    assert said["runtime"] == name
    assert said["version"][0].isdigit()
    assert said["provider"] in {"CPUExecutionProvider", "XNNPACK", "built-in kernels"}


@pytest.mark.parametrize("name", INSTALLED)
def test_the_batch_may_change_at_every_call(name, graph, x):
    runtime = open_runtime(name, float_model(name, graph))
    expected = forward(graph, x)
    for batch in (1, 7, 64, 1, 64, 7):
        assert runtime.run(x[:batch]) == pytest.approx(expected[:batch], rel=1e-4, abs=1e-4)
    assert runtime.run(x[:0]).shape == (0, 12)


@pytest.mark.parametrize("name", INSTALLED)
def test_results_survive_the_next_call_and_other_layouts_are_taken(name, graph, x):
    runtime = open_runtime(name, float_model(name, graph))
    first = runtime.run(x[:4])
    kept = first.copy()
    runtime.run(x[4:8])
    assert np.array_equal(first, kept)
    assert np.array_equal(runtime.run(np.asfortranarray(x[:4].astype(np.float64))), kept)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_batch_of_another_width_is_refused_and_harms_nothing(name, graph, x):
    runtime = open_runtime(name, float_model(name, graph))
    before = runtime.run(x)
    for wrong in (x[:, :11], x[0], x[None]):
        with pytest.raises(BundleError, match=rf"{name}: a batch of shape \(B, 12\) expected"):
            runtime.run(wrong)
    assert np.array_equal(runtime.run(x), before)


@pytest.mark.parametrize("name", RAISING)
@pytest.mark.parametrize("damage", ["empty", "junk", "half", "short tail", "other format", "zeros"])
def test_a_damaged_model_is_one_bundle_error_in_one_line(name, damage, graph, x):
    model = int8_model(name, graph, x)
    damaged = {
        "empty": b"",
        "junk": b"not a model " * 50,
        "half": model[: len(model) // 2],
        "short tail": model[:-40],
        "other format": int8_model("litert" if name == "onnx" else "onnx", graph, x),
        "zeros": bytes(len(model)),
    }[damage]
    with pytest.raises(BundleError, match=f"^{name}: ") as caught:
        open_runtime(name, damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("tflite" not in available(), reason="tflite is not installed")
def test_a_damaged_model_in_tflite_runtime_never_passes_as_good(graph, x, tmp_path):
    """It may raise or kill its process by a signal, which is why models are checked in a subprocess."""
    path = tmp_path / "half.tflite"
    model = int8_model("tflite", graph, x)
    path.write_bytes(model[: len(model) // 2])
    code = (
        "import sys, pathlib; from edge.scoring.runtimes import open_runtime\n"
        "open_runtime('tflite', pathlib.Path(sys.argv[1]).read_bytes())\n"
    )
    done = python(code, str(path))
    assert done.returncode < 0 or "BundleError" in done.stderr


@pytest.mark.parametrize("name", INSTALLED)
def test_a_runtime_opens_and_resizes_in_silence(name, graph, x, tmp_path):
    model, batch = tmp_path / "model", tmp_path / "batch.npy"
    model.write_bytes(float_model(name, graph))
    np.save(batch, x)
    code = (
        "import sys, pathlib, numpy as np; from edge.scoring.runtimes import open_runtime\n"
        "runtime = open_runtime(sys.argv[1], pathlib.Path(sys.argv[2]).read_bytes())\n"
        "x = np.load(sys.argv[3]); runtime.run(x); runtime.run(x[:1])\n"
    )
    done = python(code, name, str(model), str(batch))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_chatter_is_dropped_from_stderr(capfd):
    with runtimes._quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"ERROR: out of memory\n")
    assert capfd.readouterr().err == "ERROR: out of memory\n"


def test_a_process_without_stderr_can_open_a_model(graph, tmp_path):
    name = available()[0]
    path = tmp_path / "model"
    path.write_bytes(float_model(name, graph))
    code = (
        "import os, sys, pathlib; from edge.scoring.runtimes import open_runtime; os.close(2)\n"
        "print(open_runtime(sys.argv[1], pathlib.Path(sys.argv[2]).read_bytes()).name)\n"
    )
    assert python(code, name, str(path)).stdout.strip() == name


def test_an_unknown_runtime_is_a_usage_error():
    with pytest.raises(UsageError, match="one of litert, onnx, tflite expected, 'torch' came"):
        open_runtime("torch", b"model")


def test_a_missing_runtime_names_its_extra():
    code = (
        "import sys\n"
        "for name in ('onnxruntime', 'ai_edge_litert', 'tflite_runtime'):\n"
        "    sys.modules[name] = None\n"  # the documented way to make an import fail
        "from covey.errors import MissingExtra\n"
        "from edge.scoring.runtimes import available, open_runtime\n"
        "print(available())\n"
        "for name in ('onnx', 'litert', 'tflite'):\n"
        "    try:\n"
        "        open_runtime(name, b'model')\n"
        "    except MissingExtra as error:\n"
        "        print(error.extra)\n"
    )
    assert python(code).stdout.split("\n")[:4] == ["()", "onnx-runtime", "edge", "tflite"]


def test_a_runtime_that_cannot_be_imported_is_told_in_one_line(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise OSError('libfoo.so.1:\\n no such file')\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from covey.errors import UsageError\n"
        "from edge.scoring.runtimes import open_runtime\n"
        "try:\n"
        "    open_runtime('onnx', b'model')\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    told = python(code, str(tmp_path)).stdout
    assert told == "onnx: onnxruntime is installed but cannot be imported: libfoo.so.1: no such file\n"


@pytest.mark.skipif("onnx" not in available(), reason="onnx is not installed")
def test_onnx_runtime_reports_to_nobody_and_leaves_no_session_file(graph, tmp_path):
    (tmp_path / "model").write_bytes(write_onnx_float(graph))
    code = (
        "import sys; from pathlib import Path; from edge.scoring.runtimes import open_runtime\n"
        "open_runtime('onnx', Path(sys.argv[1]).read_bytes()); print('opened')"
    )
    (tmp_path / "tmp").mkdir()
    environ = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        capture_output=True, text=True, timeout=60, env=environ, check=False,
    )  # fmt: skip
    assert done.stdout == "opened\n", done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.skipif("onnx" not in available(), reason="onnx is not installed")
def test_a_model_of_another_signature_is_refused(graph):
    model = onnx.load_from_string(write_onnx_float(graph))
    inner = model.graph.node[0].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, ["batch", 6]))
    with pytest.raises(BundleError, match="one float32 input and one output expected"):
        open_runtime("onnx", model.SerializeToString())
