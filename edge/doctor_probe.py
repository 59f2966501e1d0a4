"""Looks at the machine for `covey edge doctor`: facts for the rules of edge/doctor.py. Changes nothing but for one test file.

What cannot be seen (no such file in /proc or /sys, not our folder) is left at the fact's default; nothing here raises for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import platform
import pwd
import re
import secrets
import sys
import time
from datetime import datetime
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.certificates import from_pem
from covey.credentials import Credentials
from covey.errors import CoveyError
from edge.check_mqtt import check_mqtt
from edge.doctor import Clock, Disk, Facts, Machine, Model, Root, Secured
from edge.doctor_sources import look_at

if TYPE_CHECKING:
    from edge.config import AgentConfig

_FIX = {
    "litert": "pip install 'covey[edge]'",
    "onnx": "pip install 'covey[edge,onnx-runtime]' (on a Jetson: NVIDIA's own build of onnxruntime)",
    "tflite": "pip install 'covey[edge,tflite]' (Python below 3.12 and numpy below 2 only)",
}
_ROLES = ("covey", "edge", "gateway", "cloud", "federated", "firmware_sim")
_STA_UNSYNC = 0x0040  # adjtimex(2), linux/timex.h
_TIMEX_BYTES = 256  # struct timex is 208 bytes on 64-bit Linux
_STATUS_AT = 40 if sys.maxsize > 2**32 else 20  # offset of timex.status: after modes (padded) and four longs


def probe(config: AgentConfig | None) -> Facts:
    """Everything; without a configuration only what concerns the machine."""
    machine, runtimes = look_at_machine(), look_at_runtimes()
    if config is None:
        return Facts(machine, look_at_clock(None), runtimes=tuple(runtimes))
    disk = look_at_disk(config.state, config.outbox_bytes)
    who = Credentials(
        "mqtt", config.mqtt_ca, config.mqtt_cert, config.mqtt_key, config.mqtt_user, config.mqtt_password_file
    )
    return Facts(
        machine,
        look_at_clock(config),
        disk,
        look_at_credentials(who) if config.mqtt_ca or config.mqtt_password_file else None,
        tuple(check_mqtt(config.host, config.port, config.device, who)),
        look_at_root(config.trusted_root) if config.trusted_root else None,
        look_at_model(config),
        tuple(look_at(one, running=disk.locked) for one in config.sources),
        tuple(runtimes),
    )


def look_at_machine() -> Machine:
    """Board, interpreter, libraries."""
    l4t = l4t_release(_text("/etc/nv_tegra_release"), _text("/var/lib/dpkg/status"))
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE))
    libc = re.findall(r"\d+", platform.libc_ver()[1])
    owners = packages_distributions()
    foreign = [
        f"{role} by {', '.join(names)}" for role in _ROLES if (names := sorted(set(owners.get(role, ())) - {"covey"}))
    ]
    numpy_version = ""
    if importlib.util.find_spec("numpy") is not None:
        import numpy as np

        numpy_version = np.__version__
    return Machine(
        python=platform.python_version(),
        machine=platform.machine(),
        glibc=tuple(int(part) for part in libc[:2]),
        l4t=l4t,
        cpu_flags=frozenset(cpu_flags(_text("/proc/cpuinfo"))),
        memory_bytes=int(memory.get("MemTotal", 0)) * 1024,
        available_bytes=int(memory.get("MemAvailable", 0)) * 1024,
        memory_limits=limits_memory(_text("/proc/cgroups")),
        numpy=numpy_version,
        tflite_runtime=importlib.util.find_spec("tflite_runtime") is not None,
        missing=tuple(
            name for name in ("numpy", "paho", "tuf", "cryptography") if importlib.util.find_spec(name) is None
        ),
        onnxruntimes=tuple(sorted({str(d.metadata["Name"]) for d in distributions() if _is_onnxruntime(d)})),
        onnx_providers=_onnx_providers() if l4t else (),
        foreign=tuple(foreign),
    )


def look_at_runtimes() -> list[dict[str, Any]]:
    """Each runtime: `{runtime, ok, version, provider, fix}`, and `problem` where it is not ok.

    A runtime is ok when it has just run a model here, not when it is installed.
    """
    if importlib.util.find_spec("numpy") is None:
        return []
    from edge.probe import run_probe
    from edge.scoring.runtimes import RUNTIMES

    found: list[dict[str, Any]] = []
    for name in RUNTIMES:
        answer: dict[str, Any] = {"runtime": name, "ok": False, "version": "", "provider": "", "fix": _FIX[name]}
        try:
            answer |= run_probe(name) | {"ok": True, "fix": ""}
        except CoveyError as error:
            answer["problem"] = str(error)
        found.append(answer)
    return found


def look_at_clock(config: AgentConfig | None) -> Clock:
    """The wall clock, the kernel's word on it, and the newest file that it must be younger than."""
    candidates = [Path(__file__)]
    if config is not None:
        with contextlib.suppress(OSError):
            candidates += [one for one in Path(config.state).iterdir() if one.is_file()]
    times = {one: _mtime_s(one) for one in candidates}
    newest = max(times, key=lambda one: times[one])
    needed = config is not None and bool(config.mqtt_ca or config.trusted_root)
    return Clock(time.time(), _synchronised(), times[newest], str(newest), needed)


def look_at_disk(state: str, outbox_bytes: int) -> Disk:
    """The state folder, or the one that it will be made in."""
    path = Path(state).absolute()
    there = path.is_dir()
    near = next(one for one in (path, *path.parents) if one.is_dir())
    room = os.statvfs(near)
    seen: dict[str, Any] = {"free_bytes": room.f_bavail * room.f_frsize, "total_bytes": room.f_blocks * room.f_frsize}
    seen |= {"outbox_bytes": outbox_bytes, "worn_percent": _worn_percent(near)}
    if room.f_flag & os.ST_RDONLY:
        seen["problem"] = "is mounted read-only"
    about = near.stat()
    if there:
        seen |= {"mode": about.st_mode & 0o777, "locked": _locked(path / "lock")}
        if os.geteuid() not in (0, about.st_uid):
            seen["foreign_owner"] = _user(about.st_uid)
    if "problem" not in seen and "foreign_owner" not in seen and os.access(near, os.W_OK):
        try:
            seen["fsync_s"] = _fsync_s(near)
        except OSError as error:
            seen["problem"] = f"a file cannot be written: {error.strerror}"
    return Disk(str(path), there, **seen)


def look_at_credentials(who: Credentials) -> Secured:
    """Files of the link's TLS and login."""
    cert = None
    if who.cert:
        with contextlib.suppress(OSError, ValueError):
            cert = from_pem(Path(who.cert).read_bytes())[0]
    return Secured(tuple(who.problems()), tuple(who.warnings()), cert)


def look_at_root(path: str) -> Root:
    """The trusted root's own version and expiry; its signatures are the updater's business."""
    try:
        signed = json.loads(Path(path).read_bytes())["signed"]
        if signed["_type"] != "root":
            return Root(path, f"TUF metadata of type root expected, {str(signed['_type'])[:20]!r} found")
        expires = datetime.fromisoformat(str(signed["expires"]).replace("Z", "+00:00"))
        return Root(path, "", int(signed["version"]), expires)
    except FileNotFoundError:
        return Root(path, "no such file")
    except OSError as error:
        return Root(path, f"cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        return Root(path, "TUF root metadata expected, something else found")


def look_at_model(config: AgentConfig) -> Model | None:
    """The active slot's model, or the one to be installed first; its golden windows are run in a child process."""
    state = Path(config.state)
    which, path = "bundle", Path(config.bundle)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        slot = json.loads((state / "slots" / "slots.json").read_bytes())["active"]
        if slot in ("a", "b"):
            which, path = f"slot {slot}", state / "slots" / slot / "bundle.zip"
    if which == "bundle" and not config.bundle:
        return Model(
            "no model yet", problem="bundle: a bundle expected, none is configured and no release is installed"
        )
    from covey.bundle import read_bundle
    from edge.loading import choose_runtime
    from edge.models.check import check_in_subprocess

    started_s, runtime = time.monotonic(), ""
    try:
        bundle = read_bundle(path)
        runtime = choose_runtime(bundle, config.runtimes)
        worst = check_in_subprocess(path, runtime, config.check_timeout_s, config.check_memory_bytes)
    except CoveyError as error:
        return Model(which, runtime, problem=str(error))
    except OSError as error:
        return Model(which, runtime, problem=f"{path}: cannot be read: {error.strerror}")
    return Model(f"{which}, {bundle.digest[:12]}", runtime, worst, time.monotonic() - started_s)


# -- small looks ---------------------------------------------------------------------------------------------------


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def l4t_release(release: str, packages: str) -> str:
    """NVIDIA's release of a Jetson ("35.4.1"; "" elsewhere), from /etc/nv_tegra_release or else dpkg's status file."""
    if found := re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release):
        return f"{found[1]}.{found[2]}"
    begin = packages.find("Package: nvidia-l4t-core\n")
    stanza = packages[begin:].split("\n\n", 1)[0] if begin >= 0 else ""
    found = re.search(r"^Version: (\d+\.\d+\.\d+)", stanza, re.MULTILINE)
    return found[1] if found else ""


def cpu_flags(cpuinfo: str) -> set[str]:
    """What the processor can do, from /proc/cpuinfo of x86 or ARM."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    return set(found[1].split()) if found else set()


def limits_memory(cgroups: str) -> bool:
    """Whether the memory controller is on: the last column of its line in /proc/cgroups."""
    found = re.search(r"^memory\s.*\s([01])$", cgroups, re.MULTILINE)
    return found is None or found[1] == "1"


def _is_onnxruntime(distribution: Any) -> bool:
    return str(distribution.metadata["Name"] or "").lower() in ("onnxruntime", "onnxruntime-gpu")


def _onnx_providers() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    with contextlib.suppress(
        Exception
    ):  # a build for another board fails in ways of its own; the runtimes' lines tell it
        import onnxruntime

        return tuple(str(one) for one in onnxruntime.get_available_providers())
    return ()


def _synchronised() -> bool | None:
    """What the kernel knows (adjtimex(2), which reads only when no mode is set)."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    status = int.from_bytes(buffer.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder)
    return not status & _STA_UNSYNC


def _mtime_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _fsync_s(folder: Path) -> float:
    """Time of one write of a page that is forced to disk; the slowest of three."""
    path = folder / f".doctor-{secrets.token_hex(4)}"
    slowest_s = 0.0
    try:
        with path.open("xb", buffering=0) as file:
            for _ in range(3):
                file.write(bytes(4096))
                begin_s = time.perf_counter()
                os.fsync(file.fileno())
                slowest_s = max(slowest_s, time.perf_counter() - begin_s)
    finally:
        path.unlink(missing_ok=True)
    return slowest_s


def _worn_percent(folder: Path) -> int | None:
    """Wear of the eMMC or card below a folder."""
    number = folder.stat().st_dev
    with contextlib.suppress(OSError):
        block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
        return next((worn for disk in (block, block.parent) if (worn := life_used_percent(disk)) is not None), None)
    return None


def life_used_percent(disk: Path) -> int | None:
    """The larger of a disk's two estimates (JEDEC eMMC 5.1, DEVICE_LIFE_TIME_EST_TYP_A and _B: steps of 10 %); None: not told.

    Args:
        disk: its folder in /sys/block.
    """
    try:
        steps = [int(word, 16) for word in (disk / "device" / "life_time").read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return None
    return max(steps, default=0) * 10 or None
