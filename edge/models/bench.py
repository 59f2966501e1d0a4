"""How fast a bundle's model runs here, and what it keeps in memory; each runtime in a process of its own.

Measures the network alone, one thread, on the bundle's golden inputs repeated: not windows, features or smoothing. The
median is told, because other processes share the machine.

    python -m edge.models.bench BUNDLE RUNTIME      one JSON object
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from covey.bundle import GOLDEN_INPUT, read_bundle
from covey.errors import CoveyError, ProcessError
from covey.runtime import die_with_parent
from edge.models.check import check_golden
from edge.scoring.runtimes import open_runtime

TIMEOUT_S = 120.0
_CALLS = 400  # of each batch size; the median of so many is steady to a few per cent
_WARM = 20
_MOST_S = 5.0  # per batch size, for models that are slow


class Bench(msgspec.Struct, frozen=True):
    """One runtime's figures."""

    runtime: str
    version: str
    provider: str
    load_ms: float  # to open the model, the runtime's import included
    batch_1_us: float  # a window, asked for alone
    batch_64_us: float  # a window, asked for with 63 others
    resident_bytes: int  # of the process after loading and running; of which
    base_bytes: int  # Python and NumPy alone


def bench(bundle_path: Path, runtime: str) -> Bench:
    """Measure one runtime in a child process.

    Raises:
        ProcessError: the child failed; carries what it said.
    """
    command = [sys.executable, "-m", "edge.models.bench", str(bundle_path.resolve()), runtime]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, cwd="/")
    except subprocess.TimeoutExpired as error:
        raise ProcessError("bench", f"{runtime}: an answer within {TIMEOUT_S:g} s expected, none came") from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"])[-1]
        raise ProcessError("bench", f"{runtime}: the child ended with {done.returncode}: {said[:300]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Bench)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _measure(bundle_path: Path, runtime: str) -> Bench:
    bundle = read_bundle(bundle_path)
    base = _resident_bytes()
    begun = time.perf_counter()
    network = open_runtime(runtime, bundle.model(runtime))
    load_ms = (time.perf_counter() - begun) * 1e3
    check_golden(bundle, runtime, network)
    golden = np.frombuffer(bundle.files[GOLDEN_INPUT], "<f4").reshape(-1, bundle.manifest.model.inputs)
    us: dict[int, float] = {}
    for batch in (1, 64):
        x = np.resize(golden, (batch, golden.shape[1]))
        spent: list[int] = []
        until = time.perf_counter() + _MOST_S
        while len(spent) < _WARM + _CALLS and (time.perf_counter() < until or len(spent) <= _WARM):
            t = time.perf_counter_ns()
            network.run(x)
            spent.append(time.perf_counter_ns() - t)
        us[batch] = float(np.median(spent[_WARM:])) / 1e3 / batch
    about = network.describe()
    return Bench(
        runtime=runtime,
        version=about["version"],
        provider=about["provider"],
        load_ms=round(load_ms, 1),
        batch_1_us=round(us[1], 2),
        batch_64_us=round(us[64], 3),
        resident_bytes=_resident_bytes(),
        base_bytes=base,
    )


def main() -> None:
    """The child."""
    die_with_parent()
    try:
        found = _measure(Path(sys.argv[1]), sys.argv[2])
    except CoveyError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from error
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
