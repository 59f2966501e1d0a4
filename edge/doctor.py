"""What really runs on this device, and one line on how to mend what does not."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from covey.errors import CoveyError

_FIX = {
    "litert": "pip install 'covey[edge]'",
    "onnx": "pip install 'covey[edge,onnx-runtime]' (on a Jetson: NVIDIA's own build of onnxruntime)",
    "tflite": "pip install 'covey[edge,tflite]' (Python below 3.12 and numpy below 2 only)",
}
_ROLES = ("covey", "edge", "gateway", "cloud", "federated", "firmware_sim")


def examine() -> dict[str, Any]:
    """`{"ok", "python", "numpy", "runtimes": [{runtime, ok, version, provider, fix}], "checks": [{name, ok, fix}]}`.

    A runtime is ok when it has just run a model here, not when it is installed.
    """
    checks = [_module("numpy", "covey[edge]"), _module("paho", "covey[edge]"), _module("tuf", "covey[edge]")]
    runtimes: list[dict[str, Any]] = []
    numpy_version = ""
    if checks[0]["ok"]:
        import numpy as np

        from edge.scoring.runtimes import RUNTIMES

        numpy_version = np.__version__
        runtimes = [_runtime(name) for name in RUNTIMES]
        checks.append(_numpy_and_tflite(numpy_version))
    checks.append(_owners())
    working = any(one["ok"] for one in runtimes)
    return {
        "ok": working and all(check["ok"] for check in checks),
        "python": sys.version.split()[0],
        "numpy": numpy_version,
        "runtimes": runtimes,
        "checks": checks,
    }


def _module(name: str, extra: str) -> dict[str, Any]:
    ok = importlib.util.find_spec(name) is not None
    return {"name": name, "ok": ok, "fix": "" if ok else f"pip install '{extra}'"}


def _runtime(name: str) -> dict[str, Any]:
    from edge.probe import run_probe

    answer: dict[str, Any] = {"runtime": name, "ok": False, "version": "", "provider": "", "fix": _FIX[name]}
    try:
        answer |= run_probe(name)
    except CoveyError as error:
        answer["problem"] = str(error)
        return answer
    return answer | {"ok": True, "fix": ""}


def _numpy_and_tflite(numpy_version: str) -> dict[str, Any]:
    there = importlib.util.find_spec("tflite_runtime") is not None
    ok = not (there and int(numpy_version.split(".", maxsplit=1)[0]) >= 2)
    fix = (
        ""
        if ok
        else f"tflite-runtime breaks with numpy {numpy_version}: pip install 'numpy<2', or remove tflite-runtime"
    )
    return {"name": "numpy and tflite-runtime", "ok": ok, "fix": fix}


def _owners() -> dict[str, Any]:
    """Our packages' names are plain: another distribution may own one of them in a shared environment."""
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    foreign = {role: sorted(set(owners.get(role, ())) - {"covey"}) for role in _ROLES}
    taken = "; ".join(f"{role} by {', '.join(names)}" for role, names in foreign.items() if names)
    fix = f"give covey an environment of its own: {taken}" if taken else ""
    return {"name": "package names", "ok": not taken, "fix": fix}
