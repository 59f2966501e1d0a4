"""Does a bundle's model compute here what it promises? Asked in a child process with limits, never in the agent.

A damaged or hostile model file can crash a runtime, hang it or eat the memory: then the child ends, and the parent says
so in one line. The child loads the model, runs the golden inputs as one batch and one by one, and compares. It refuses
to judge who made a bundle: signature and origin are edge/models/update.py's.

    python -m edge.models.check BUNDLE RUNTIME CPU_S MEMORY_BYTES      one JSON line: {"error", "detail"} or {"worst"}
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import numpy as np

from covey.bundle import GOLDEN_INPUT, golden_output, read_bundle
from covey.errors import BundleError, CoveyError, DigestMismatch, GoldenMismatch, MissingExtra, UpdateError, UsageError
from covey.runtime import die_with_parent
from edge.scoring.runtimes import RUNTIMES, open_runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Bundle
    from edge.scoring.scorer import Network

TIMEOUT_S = 30.0  # a cold start is .2 s of CPU on a desktop, and a card's first read is slow
MEMORY_BYTES = 2 * 1024**3  # address space, not memory: interpreter, NumPy and a runtime map .14-.18 GB
_MAX_SAID_BYTES = 1024 * 1024  # what a child may write to its output and error files
_TOLD: dict[str, type[CoveyError]] = {
    kind.__name__: kind for kind in (BundleError, GoldenMismatch, UsageError, UpdateError)
}


class _Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the child says."""

    error: str = ""  # name of the error's class; "": the model is as promised
    detail: str = ""
    worst: float = 0.0  # greatest difference as a share of the tolerance


def check_golden(bundle: Bundle, runtime: str, network: Network) -> float:
    """Run a loaded model on the bundle's golden inputs.

    Returns:
        The greatest difference from the golden outputs as a share of the tolerance, at most 1.

    Raises:
        BundleError: the golden files are missing, of another size or not finite, or the model fails on them.
        GoldenMismatch: an output is not finite, has another shape, or differs by more than the tolerance.
    """
    manifest = bundle.manifest
    n, d, k = manifest.golden.windows, manifest.model.inputs, manifest.model.outputs
    for what, known in (("golden.tolerance", manifest.golden.tolerance), ("thresholds", manifest.defaults.thresholds)):
        if runtime not in known:
            raise BundleError(f"bundle {bundle.digest[:12]}: {what} for runtime {runtime} expected, not there")
    x = _array(bundle, GOLDEN_INPUT, (n, d))
    expected = _array(bundle, golden_output(runtime), (n, k))
    tolerance = manifest.golden.tolerance[runtime]
    worst = 0.0
    one_by_one = [(f"window {i} alone", slice(i, i + 1)) for i in range(n)]
    for what, part in (("all windows", slice(0, n)), *one_by_one):
        y = network.run(x[part])
        where = f"bundle {bundle.digest[:12]}, runtime {runtime}, {what}"
        if y.shape != expected[part].shape:
            raise GoldenMismatch(f"{where}: outputs of shape {expected[part].shape} expected, {y.shape} came")
        if not np.isfinite(y).all():
            raise GoldenMismatch(f"{where}: finite outputs expected, others came")
        difference = float(np.abs(y.astype(np.float64) - expected[part]).max())
        if difference > tolerance:
            raise GoldenMismatch(f"{where}: outputs within {tolerance:g} expected, {difference:g} apart")
        worst = max(worst, difference / tolerance)
    return worst


def check_in_subprocess(
    bundle_path: Path, runtime: str, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> float:
    """Load a bundle's model in a child process and check its golden windows there.

    Args:
        bundle_path: the bundle.
        runtime: onnx, litert or tflite.
        timeout_s: wall clock; the child's CPU-seconds are bounded by it too.
        memory_bytes: the child's address space.

    Returns:
        The greatest difference as a share of the tolerance, at most 1.

    Raises:
        GoldenMismatch: the model computes something else.
        BundleError: the bundle is damaged, or the runtime refuses its model.
        UsageError: the runtime is unknown or not installed.
        UpdateError: the child crashed, took too long or too much memory, or could not be started.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime: one of {', '.join(RUNTIMES)} expected, {runtime!r} came")
    where = f"{bundle_path}: check with runtime {runtime}"
    limits = [str(max(1, math.ceil(timeout_s))), str(memory_bytes)]
    command = [sys.executable, "-m", "edge.models.check", str(bundle_path.resolve()), runtime, *limits]
    # BLAS would map a stack and an arena for each core of the machine.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",  # -m puts the working folder first on the path
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UpdateError(f"{where}: the child cannot be started: {error.strerror}") from error
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise UpdateError(f"{where}: an answer within {timeout_s:g} s expected, none came") from error
        finally:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return _judge(where, code, _tail(out), _tail(err))


def _judge(where: str, code: int, said: str, complained: str) -> float:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        raise UpdateError(f"{where}: the child ended by {name}")
    lines = said.strip().splitlines()
    try:
        verdict = msgspec.json.decode(lines[-1] if lines else "", type=_Verdict)
    except msgspec.DecodeError:
        last = (complained.strip().splitlines() or ["nothing said"])[-1][:200]
        raise UpdateError(f"{where}: a verdict expected, the child ended with {code}: {last}") from None
    if verdict.error:
        raise _TOLD.get(verdict.error, UpdateError)(verdict.detail)
    return verdict.worst


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8192))
    return file.read().decode(errors="replace")


def _array(bundle: Bundle, name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    content = bundle.files.get(name)
    if content is None:
        raise BundleError(f"bundle {bundle.digest[:12]}: {name} expected, not there")
    if len(content) != 4 * shape[0] * shape[1]:
        raise BundleError(
            f"bundle {bundle.digest[:12]}: {name}: float32 of shape {shape} expected, {len(content)} bytes found"
        )
    values = np.frombuffer(content, "<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise BundleError(f"bundle {bundle.digest[:12]}: {name}: finite numbers expected, others found")
    return values


def _limit(cpu_s: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_SAID_BYTES, _MAX_SAID_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash on a hostile file leaves no dump on the card


def _child(bundle_path: Path, runtime: str) -> _Verdict:
    try:
        bundle = read_bundle(bundle_path)
        return _Verdict(worst=check_golden(bundle, runtime, open_runtime(runtime, bundle.model(runtime))))
    except CoveyError as error:
        kind = type(error)
        if kind is DigestMismatch:  # its three arguments do not travel, its sentence does
            kind = BundleError
        elif kind is MissingExtra:
            kind = UsageError
        return _Verdict(kind.__name__, str(error))
    except MemoryError:
        return _Verdict(UpdateError.__name__, f"{bundle_path}: check with runtime {runtime}: too much memory wanted")


def main() -> None:
    """The child."""
    path, runtime, cpu_s, memory_bytes = sys.argv[1:]
    die_with_parent()
    _limit(int(cpu_s), int(memory_bytes))
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_child(Path(path), runtime)) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
