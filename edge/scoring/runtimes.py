"""ONNX Runtime, LiteRT and tflite-runtime behind one small adapter: model bytes in, (B, D) to (B, K) out, one thread.

The runtimes are imported when a model is opened, not before. Their exceptions become BundleError (the model), UsageError
(the installation); their chatter on stderr is dropped, anything else that they print there is passed on.

It refuses to judge a model: signature, digest and golden windows are checked elsewhere. A damaged file can crash the
process inside tflite-runtime (37 of 60 truncations did; the other two raise), so models that were not checked yet are opened
in a subprocess. Numbers that are not finite are the caller's business: int8 cannot hold them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import platform
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.errors import BundleError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats: TypeAlias = NDArray[np.float32]

# In order of preference: microseconds a call, then how long they will be maintained.
_PARTS = {  # name -> (package, extra that installs it)
    "litert": ("ai_edge_litert", "edge"),
    "onnx": ("onnxruntime", "onnx-runtime"),
    "tflite": ("tflite_runtime", "tflite"),
}
RUNTIMES = tuple(_PARTS)

# int8 kernels are the CPU's; a model of some ten thousand weights is slower on a GPU.
_ONNX_PROVIDERS = ("CPUExecutionProvider",)
_ONNX_FATAL = 4  # log severity: errors reach us as exceptions

_BUILT_IN = "built-in kernels"

_CHATTER = (
    b"INFO:",
    b"I0000",
    b"W0000",
    b"WARNING: All log messages before absl",
    b"WARNING: Attempting to use a delegate",
)
_stderr_lock = threading.Lock()


class Runtime(Protocol):
    """A loaded model. Not for several threads at once."""

    name: str

    def describe(self) -> dict[str, str]:
        """What really runs: `runtime`, its `version`, and the `provider` of the kernels."""
        ...

    def run(self, x: Floats) -> Floats:
        """The model's output for a batch: (B, D) float32 -> (B, K) float32.

        Raises:
            BundleError: x has another shape, or the runtime fails.
        """
        ...


def available() -> tuple[str, ...]:
    """Names of the runtimes that are installed here, best first, found without importing them."""
    return tuple(name for name in RUNTIMES if _installed(name))


def _installed(name: str) -> bool:
    spec = importlib.util.find_spec(_PARTS[name][0])
    if spec is None or spec.origin is None:  # a folder left behind by an uninstall is found without origin
        return False
    # tflite-runtime 2.14 imports beside numpy 2, then fails with SystemError
    return name != "tflite" or int(np.__version__.split(".")[0]) < 2


def open_runtime(name: str, model: bytes) -> Runtime:
    """Load a model: ONNX bytes for `onnx`, TFLite bytes for `litert` and `tflite`.

    Raises:
        UsageError: no such runtime, or it is installed but cannot be imported.
        MissingExtra: the runtime is not installed (with numpy 2, tflite-runtime counts as such).
        BundleError: the runtime refuses the model, or it is not one (B, D) -> (B, K) float32.
    """
    if name not in _PARTS:
        raise UsageError(f"runtime: one of {', '.join(RUNTIMES)} expected, {name!r} came")
    package, extra = _PARTS[name]
    if not _installed(name):
        raise MissingExtra(extra, package)
    if not model:
        raise BundleError(f"{name}: a model expected, 0 bytes came")
    return _OnnxRuntime(model) if name == "onnx" else _LiteRuntime(name, model)


class _OnnxRuntime:
    name = "onnx"

    def __init__(self, model: bytes) -> None:
        with _quiet():
            ort = _import(self.name, "onnxruntime")
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
            options.log_severity_level = _ONNX_FATAL
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            # Without it, int8 sums saturate silently on x86 processors that have no VNNI.
            options.add_session_config_entry("session.x64quantprecision", "1")
            here = ort.get_available_providers()
            providers = [provider for provider in _ONNX_PROVIDERS if provider in here]
            if not providers:
                raise UsageError(
                    f"onnx: one of {', '.join(_ONNX_PROVIDERS)} expected, this build has {', '.join(here)}"
                )
            try:
                session = ort.InferenceSession(model, sess_options=options, providers=providers)
            except Exception as error:  # its exceptions share no base class
                raise BundleError(f"onnx: cannot load the model: {_line(error)}") from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        types = [part.type for part in (*inputs, *outputs)]
        if types != ["tensor(float)"] * 2 or len(inputs) != 1:
            raise BundleError(f"onnx: one float32 input and one output expected, {', '.join(types)} came")
        shape = inputs[0].shape
        if len(shape) != 2 or not isinstance(shape[1], int) or len(outputs[0].shape) != 2:
            raise BundleError(f"onnx: (B, D) -> (B, K) expected, {shape} -> {outputs[0].shape} came")
        self._session = session
        self._version = str(ort.__version__)
        self._input, self._outputs, self._width = inputs[0].name, [outputs[0].name], shape[1]

    def describe(self) -> dict[str, str]:
        return {"runtime": self.name, "version": self._version, "provider": str(self._session.get_providers()[0])}

    def run(self, x: Floats) -> Floats:
        x = _checked(self.name, x, self._width)
        try:
            output: Floats = self._session.run(self._outputs, {self._input: x})[0]
        except Exception as error:  # its exceptions share no base class
            raise BundleError(f"onnx: the model fails on a batch of {len(x)}: {_line(error)}") from error
        return output


class _LiteRuntime:
    """LiteRT or tflite-runtime: the same interpreter under two names."""

    def __init__(self, name: str, model: bytes) -> None:
        self.name = name
        package = _PARTS[name][0]
        with _quiet():
            module = _import(name, f"{package}.interpreter")
            try:
                interpreter = module.Interpreter(model_content=model, num_threads=1)
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise BundleError(f"{name}: cannot load the model: {_line(error)}") from error
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        types = [np.dtype(part["dtype"]) for part in (*inputs, *outputs)]
        if types != [np.dtype(np.float32)] * 2 or len(inputs) != 1:
            came = ", ".join(str(one) for one in types)
            raise BundleError(f"{name}: one float32 input and one output expected, {came} came")
        shape, output_shape = inputs[0]["shape"].tolist(), outputs[0]["shape"].tolist()
        if len(shape) != 2 or len(output_shape) != 2:
            raise BundleError(f"{name}: (B, D) -> (B, K) expected, {shape} -> {output_shape} came")
        self._interpreter = interpreter
        self._version = _version(package)
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._batch, self._width = shape
        self._outputs = output_shape[1]
        self._provider = self._kernels()
        # tflite-runtime's built-in int8 product for one column is naive on x86: 140 us alone, 27 us as one of two.
        self._alone_is_slow = self._provider == _BUILT_IN and platform.machine() in {"x86_64", "AMD64"}

    def _kernels(self) -> str:
        # No public call tells whether the delegate took the model.
        try:
            operators = {str(one["op_name"]) for one in self._interpreter._get_ops_details()}  # noqa: SLF001  # see above
        except (AttributeError, KeyError):
            return "unknown"
        return "XNNPACK" if "DELEGATE" in operators else _BUILT_IN

    def describe(self) -> dict[str, str]:
        return {"runtime": self.name, "version": self._version, "provider": self._provider}

    def run(self, x: Floats) -> Floats:
        x = _checked(self.name, x, self._width)
        if not len(x):
            return np.empty((0, self._outputs), np.float32)  # it cannot allocate an empty batch
        if len(x) == 1 and self._alone_is_slow:
            return self._invoke(np.concatenate((x, x)))[:1]
        return self._invoke(x)

    def _invoke(self, x: Floats) -> Floats:
        interpreter = self._interpreter
        try:
            if len(x) != self._batch:
                self._resize(len(x))
            interpreter.set_tensor(self._input, x)
            interpreter.invoke()
            output: Floats = interpreter.get_tensor(self._output)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{self.name}: the model fails on a batch of {len(x)}: {_line(error)}") from error
        return output

    def _resize(self, batch: int) -> None:
        self._batch = 0  # unknown until it has worked
        self._interpreter.resize_tensor_input(self._input, (batch, self._width))
        self._interpreter.allocate_tensors()
        self._batch = batch


def _checked(name: str, x: Floats, width: int) -> Floats:
    if x.ndim != 2 or x.shape[1] != width:
        raise BundleError(f"{name}: a batch of shape (B, {width}) expected, {x.shape} came")
    return np.ascontiguousarray(x, np.float32)


def _import(name: str, module: str) -> Any:
    # From 1.32 on ONNX Runtime reports to its makers at import unless told not to (and writes a session file to the
    # temporary folder). Nothing leaves a device that its owner did not ask for.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except Exception as error:  # a foreign binary fails in many ways: ImportError, OSError, SystemError
        raise UsageError(f"{name}: {module} is installed but cannot be imported: {_line(error)}") from error


def _version(package: str) -> str:
    """The installed version of a package that may not know it itself."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"


def _line(error: BaseException) -> str:
    """One line of a foreign message, at most 200 characters, in printable characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what native code writes to stderr, then pass on all lines but the runtimes' chatter.

    The descriptor belongs to the whole process: lines of other threads are delayed, not lost.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stderr_lock)
        try:
            kept = os.dup(2)
        except OSError:  # no stderr at all: nothing to hold back
            yield
            return
        stack.callback(os.close, kept)
        held = stack.enter_context(tempfile.TemporaryFile())
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be replaced or closed
            sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            for line in held:
                if not line.startswith(_CHATTER):
                    os.write(2, line)
