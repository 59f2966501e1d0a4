"""What a device needs, judged: facts in, lines out, each with one fix. Pure; edge/doctor_probe.py looks at the machine.

A line FAILs when an agent could not score or could not be heard with it; what works and will hurt later is a warning; what is
good to know is a note. It refuses to repair anything.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from covey.certificates import Certificate

State = Literal["ok", "note", "warn", "FAIL"]

_OLDEST_NOW_S = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc).timestamp()  # a clock before it was never set
_BEHIND_S = 120.0  # files may come from a machine whose clock ran a little ahead
_SOON = dt.timedelta(days=7)
_QUOTA_SHARE = 0.7  # of the partition: SQLite cannot delete on a full disk
_ROOM_BYTES = 64 * 1024 * 1024  # ring, two model slots, metadata
_SLOW_FSYNC_S = 0.5  # rows gather for 250 ms; what takes longer than two gatherings holds them up
_LEAST_MEMORY = 200 * 1024 * 1024  # agent 60-80 MB, and a child that checks a model
_LEAST_GLIBC = (2, 31)  # ai-edge-litert's and onnxruntime's wheels; docs/devices.md
_JETPACK = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7"}  # L4T release -> JetPack, NVIDIA's L4T archive


class Line(NamedTuple):
    """One line of the report."""

    name: str
    state: State
    detail: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether an agent can work with it."""
        return self.state != "FAIL"


@dataclass(frozen=True)
class Machine:
    """Board, processor, interpreter, libraries."""

    python: str
    machine: str  # x86_64, aarch64, armv7l
    glibc: tuple[int, ...] = ()
    l4t: str = ""  # "35.4.1" on a Jetson
    cpu_flags: frozenset[str] = frozenset()
    memory_bytes: int = 0
    available_bytes: int = 0
    memory_limits: bool = True  # the kernel can limit a service's memory
    numpy: str = ""
    tflite_runtime: bool = False
    missing: tuple[str, ...] = ()  # modules
    onnxruntimes: tuple[str, ...] = ()  # distributions that bring onnxruntime
    onnx_providers: tuple[str, ...] = ()  # that this build has
    foreign: tuple[str, ...] = ()  # packages of our names that other distributions own


@dataclass(frozen=True)
class Clock:
    """Wall clock against everything that knows better."""

    now_s: float
    synchronised: bool | None  # as the kernel says; None: it does not say
    newest_file_s: float  # of what was written here or came with covey
    newest_file: str = ""
    needed: bool = False  # certificates or metadata are checked against it


@dataclass(frozen=True)
class Disk:
    """Where the state is kept."""

    path: str
    there: bool
    mode: int = 0o700
    foreign_owner: str = ""  # user that owns it, when it is another one than us and we are not root
    locked: bool = False  # an agent runs on it
    free_bytes: int = 0
    total_bytes: int = 1
    outbox_bytes: int = 0
    fsync_s: float | None = None
    problem: str = ""  # why nothing can be written
    worn_percent: int | None = None  # at most, as the card or eMMC says


@dataclass(frozen=True)
class Secured:
    """Certificates of the link, and what is wrong with the files."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cert: Certificate | None = None


@dataclass(frozen=True)
class Root:
    """The trusted root of updates."""

    path: str
    problem: str = ""
    version: int = 0
    expires: dt.datetime | None = None


@dataclass(frozen=True)
class Model:
    """The model that would run, checked in a child process."""

    which: str
    runtime: str = ""
    worst: float = 0.0
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class SourceFact:
    """One source: what is wrong with reaching it, and what would help."""

    spec: str
    problem: str = ""
    fix: str = ""
    detail: str = "there"


@dataclass(frozen=True)
class Facts:
    """All that was seen; None where it was not asked for."""

    machine: Machine
    clock: Clock
    disk: Disk | None = None
    secured: Secured | None = None
    broker: tuple[Line, ...] = ()
    root: Root | None = None
    model: Model | None = None
    sources: tuple[SourceFact, ...] = ()
    runtimes: tuple[dict[str, object], ...] = field(default=())


def judge(facts: Facts) -> list[Line]:
    """Every line, in the order to read them."""
    now = dt.datetime.fromtimestamp(facts.clock.now_s, dt.timezone.utc)
    lines = [*_machine(facts.machine, facts.runtimes), *_clock(facts.clock)]
    if facts.disk is not None:
        lines += [*_disk(facts.disk), *_state(facts.disk)]
    if facts.secured is not None:
        lines += _secured(facts.secured, now)
    lines += facts.broker
    if facts.root is not None:
        lines.append(_root(facts.root, now))
    if facts.model is not None:
        lines.append(_model(facts.model))
    lines += [
        Line("source", "FAIL", f"{one.spec}: {one.problem}", one.fix)
        if one.problem
        else Line("source", "ok", f"{one.spec}: {one.detail}")
        for one in facts.sources
    ]
    return lines


def _machine(seen: Machine, runtimes: tuple[dict[str, object], ...]) -> Iterator[Line]:
    for module in seen.missing:
        yield Line("libraries", "FAIL", f"{module} is not installed", "pip install 'covey[edge]'")
    if not any(one["ok"] for one in runtimes):
        yield Line("runtimes", "FAIL", "none runs a model here", "pip install 'covey[edge]'")
    if seen.numpy and seen.tflite_runtime and int(seen.numpy.split(".", maxsplit=1)[0]) >= 2:
        fix = "pip install 'numpy<2', or remove tflite-runtime"
        yield Line("numpy", "warn", f"tflite-runtime breaks with numpy {seen.numpy}", fix)
    yield from _board(seen)
    if seen.glibc and seen.glibc < _LEAST_GLIBC:
        told = ".".join(map(str, seen.glibc))
        yield Line("glibc", "warn", f"{told}: the runtimes' wheels want 2.31", "a newer system image: docs/devices.md")
    if features := _features(seen):
        yield Line("cpu", "note", features)
    mega = seen.available_bytes // 2**20
    if 0 < seen.available_bytes < _LEAST_MEMORY:
        fix = "stop what needs the memory, or use covey[edge] with LiteRT alone"
        yield Line("memory", "warn", f"{mega} MB left, {_LEAST_MEMORY // 2**20} expected to check a new model", fix)
    elif seen.available_bytes:
        yield Line("memory", "ok", f"{mega} MB left of {seen.memory_bytes // 2**20}")
    if not seen.memory_limits:
        fix = "Raspberry Pi: add cgroup_enable=memory to /boot/firmware/cmdline.txt and boot again"
        yield Line("memory limit", "note", "this kernel limits no service's memory", fix)
    if seen.foreign:
        fix = f"give covey an environment of its own: {', '.join(seen.foreign)}"
        yield Line("package names", "FAIL", "another distribution owns a package of ours", fix)


def _board(seen: Machine) -> Iterator[Line]:
    if len(seen.onnxruntimes) > 1:
        fix = f"pip uninstall {' '.join(seen.onnxruntimes)}, then install one of them"
        yield Line("onnxruntime", "warn", f"{' and '.join(seen.onnxruntimes)} overwrite each other's files", fix)
    if seen.machine == "armv7l":
        fix = "a 64-bit system image; docs/devices.md"
        yield Line(
            "cpu",
            "warn",
            "32-bit ARM: no wheels of numpy and msgspec, of the runtimes only tflite-runtime has one",
            fix,
        )
    if not seen.l4t:
        return
    major = int(seen.l4t.split(".")[0])
    pack = _JETPACK.get(major, "unknown")
    if major < 35:
        fix = "JetPack 5 or later"
        yield Line(
            "jetpack", "warn", f"{pack} (L4T {seen.l4t}): its glibc is older than the runtimes' wheels want", fix
        )
        return
    gpu = [name for name in seen.onnx_providers if name.startswith(("CUDA", "Tensorrt"))]
    told = f"{pack} (L4T {seen.l4t}), Python {seen.python}"
    if not seen.onnxruntimes:
        yield Line("jetpack", "ok", told)
    elif gpu:
        yield Line(
            "jetpack", "ok", f"{told}: onnxruntime has {', '.join(gpu)}; covey scores on the CPU, which is quicker"
        )
    else:
        fix = "none needed: int8 models of this size are quicker on the CPU; NVIDIA's build if others here want CUDA"
        yield Line("jetpack", "note", f"{told}: this onnxruntime runs on the CPU only", fix)


def _features(seen: Machine) -> str:
    wanted = {"aarch64": ("asimddp", "asimdhp"), "x86_64": ("avx2", "avx512_vnni", "avx_vnni")}.get(seen.machine, ())
    there = [name for name in wanted if name in seen.cpu_flags]
    named = {"asimddp": "dot product", "asimdhp": "fp16"}
    if not wanted or not seen.cpu_flags:
        return ""
    return f"{seen.machine} with {', '.join(named.get(one, one) for one in there) or 'none of ' + ', '.join(wanted)}"


def _clock(seen: Clock) -> Iterator[Line]:
    told = dt.datetime.fromtimestamp(seen.now_s, dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    bad: State = "FAIL" if seen.needed else "warn"
    fix = "set the time (timedatectl set-ntp true; offline: a battery-backed clock, or GPS time)"
    if seen.now_s < _OLDEST_NOW_S:
        yield Line("clock", bad, f"{told}: was never set", fix)
    elif seen.newest_file_s > seen.now_s + _BEHIND_S:
        days = (seen.newest_file_s - seen.now_s) / 86_400
        yield Line("clock", bad, f"{told}: {days:.1f} days behind {seen.newest_file}", fix)
    elif seen.synchronised is False:
        yield Line("clock", "warn", f"{told}: not synchronised", fix)
    else:
        yield Line("clock", "ok", told + (", synchronised" if seen.synchronised else ""))


def _disk(seen: Disk) -> Iterator[Line]:
    free = f"{seen.free_bytes // 2**20} MB free of {seen.total_bytes // 2**20}"
    if seen.problem:
        yield Line("disk", "FAIL", f"{seen.path}: {seen.problem}", "a file system of its own that is mounted writable")
    elif seen.outbox_bytes > _QUOTA_SHARE * seen.total_bytes:
        most = int(_QUOTA_SHARE * seen.total_bytes)
        told = f"{seen.path}: outbox_bytes = {seen.outbox_bytes} is more than 70 % of the partition"
        yield Line("disk", "FAIL", told, f"outbox_bytes = {most} at most, or a larger partition")
    elif seen.free_bytes < _ROOM_BYTES:
        yield Line("disk", "warn", f"{seen.path}: {free}", "make room: the ring and a new model need 64 MB")
    else:
        yield Line("disk", "ok", f"{seen.path}: {free}")
    if seen.fsync_s is not None:
        slow = seen.fsync_s > _SLOW_FSYNC_S
        fix = "another card (A1 or better), or eMMC" if slow else ""
        yield Line("fsync", "warn" if slow else "ok", f"{seen.fsync_s * 1000:.1f} ms", fix)
    if seen.worn_percent is not None:
        worn = seen.worn_percent >= 80
        told = f"at most {seen.worn_percent} % of its life used"
        yield Line("flash", "warn" if worn else "ok", told, "replace it, and take the state along" if worn else "")


def _state(seen: Disk) -> Iterator[Line]:
    if not seen.there:
        yield Line("state", "note", f"{seen.path}: made at the first start")
    elif seen.foreign_owner:
        fix = "run doctor as that user or as root, or chown the folder"
        yield Line("state", "FAIL", f"{seen.path}: belongs to {seen.foreign_owner}", fix)
    elif seen.mode & 0o077:
        yield Line("state", "warn", f"{seen.path}: others may look into it", f"chmod 700 {seen.path}")
    else:
        yield Line(
            "state", "ok", f"{seen.path}: private, {'an agent runs on it' if seen.locked else 'no agent runs on it'}"
        )


def _secured(seen: Secured, now: dt.datetime) -> Iterator[Line]:
    for told in seen.problems:
        yield Line("certificates", "FAIL", told, "replace or renew the file, or correct the key in edge.toml")
    for told in seen.warnings:
        fix = "renew it: `covey cloud ca`" if "expires" in told else "see docs/devices.md"
        yield Line("certificates", "warn", told, fix)
    if seen.cert is not None and not seen.problems:
        age, left = now - seen.cert.not_before, seen.cert.not_after - now
        told = f"{seen.cert.subject or 'mqtt_cert'}: {age.days} days old, {left.days} days left"
        if left >= _SOON:  # else it is among the warnings
            yield Line("certificates", "ok", told)


def _root(seen: Root, now: dt.datetime) -> Line:
    if seen.problem:
        return Line("trusted root", "FAIL", f"{seen.path}: {seen.problem}", "copy root.json from the cloud again")
    if seen.expires is not None and seen.expires < now:
        # TUF 1.0, 5.3.10: only the newest root must be valid, and the device fetches its successors first
        fix = "copy a newer root.json, unless the cloud has published its successor"
        return Line("trusted root", "warn", f"version {seen.version} expired {seen.expires:%Y-%m-%d}", fix)
    return Line("trusted root", "ok", f"version {seen.version}, expires {seen.expires:%Y-%m-%d}")


def _model(seen: Model) -> Line:
    if seen.problem:
        return Line(
            "model", "FAIL", f"{seen.which}: {seen.problem}", "covey model check BUNDLE; copy it again, or another"
        )
    told = f"golden windows on {seen.runtime} within {seen.worst:.0%} of the tolerance, {seen.seconds:.1f} s"
    return Line("model", "ok", f"{seen.which}: {told}")
