"""Configuration of the agent: every key, its unit, its bound and its default. No I/O here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from covey import topics
from edge.budget import LinkLimit  # noqa: TC001  # msgspec reads the annotations when it runs
from edge.sources.names import ChannelFrom  # noqa: TC001  # msgspec reads the annotations when it runs

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Maybe = Annotated[float, Meta(ge=0, le=86_400)]  # seconds; 0: none
Files = tuple[str, ...]

RUNTIMES = ("litert", "onnx", "tflite")
_HOST_PORT = re.compile(r"[^\s:,]+:[0-9]{1,5}")


class AgentConfig(Struct, frozen=True, kw_only=True):
    """One agent process. `covey edge run --help` lists the options that set the same keys."""

    device: str  # name in topics and identities
    state: str  # folder, private (0700): outbox, ring, slots, calibration
    mqtt: str = "127.0.0.1:1883"  # host:port
    runtime: str = "auto"  # or litert, onnx, tflite; several after commas, in order of preference

    bundle: str = ""  # installed at the first start
    bundle_release: Annotated[int, Meta(ge=1)] = 1
    trusted_root: str = ""  # TUF root.json; without it no update is taken

    sources: Files = ()  # recordings, played in this order, or one live source's URL; docs/sources.md
    source_channels: dict[str, ChannelFrom] = {}  # the model's channel -> where it comes from in the source
    hold_reading_s: Seconds = 0.5  # a channel of a live source that brings nothing for so long is missing
    speed: Annotated[float, Meta(ge=0)] = 1.0  # times real time; 0: as fast as possible
    gap_s: Maybe = 1.0  # between two recordings, on the device clock
    clock_start: Annotated[float, Meta(ge=0)] = 0.0  # device clock of the first sample, s since the epoch; 0: now
    repeat: bool = False  # play the sources again and again
    exit_when_done: bool = False

    commission: Files = ()  # recordings flown before: their windows are the ring's first
    commission_fitted: Files = ()  # the same, but the bundle was fitted on them already; may repeat some of commission
    learn: bool = True  # normal windows of the sources go to the ring
    quarantine_windows: Annotated[int, Meta(ge=0)] = 240  # without an alarm behind a window before the ring takes it
    ring_windows: Annotated[int, Meta(ge=8, le=10_000_000)] = 4096  # capacity
    ring_flash_bytes_per_day: Annotated[int, Meta(ge=0)] = 0  # written to the ring, at most; 0: no limit

    summary_interval_s: Seconds = 30.0
    idle_summary_interval_s: Seconds = 60.0  # while nothing is scored and nothing changes
    shadow_windows: Annotated[int, Meta(ge=0)] = 20  # scored beside the old model before a swap
    trial_windows: Annotated[int, Meta(ge=0)] = 20  # a new release that does not live so long goes back
    min_battery_v: Annotated[float, Meta(ge=0)] = 0.0  # no download, no swap, no training below; 0: no limit
    min_battery_share: Annotated[float, Meta(ge=0, le=1)] = 0.0  # the same, of a full battery; 0: no limit
    learn_command: tuple[str, ...] = ()  # starts the learner where no systemd waits for its request
    update_anyway: tuple[Literal["armed", "battery", "metered"], ...] = ()  # what does not hold an update up
    check_timeout_s: Seconds = 60.0  # for loading a new model and its golden windows
    check_memory_bytes: Annotated[int, Meta(ge=1)] = 4 * 1024**3  # address space; runtimes map a lot

    share_position: bool = True  # in summaries, where the source knows it
    links: dict[str, LinkLimit] = {}  # by network interface, "*" for all others: bytes_per_hour, metered

    outbox_bytes: Annotated[int, Meta(ge=65_536)] = 64 * 1024 * 1024  # at most 70 % of the partition
    ack_timeout_s: Seconds = 10.0
    hold_s: Maybe = 20.0  # rows wait so long for a gateway to show itself
    window_rows: Annotated[int, Meta(ge=1, le=65_536)] = 256  # sent and not acknowledged, at most
    flush_s: Maybe = 10.0  # at an orderly stop

    mqtt_ca: str = ""  # PEM file; TLS when given
    mqtt_cert: str = ""
    mqtt_key: str = ""
    mqtt_user: str = ""
    mqtt_password_file: str = ""

    trace_summaries: Annotated[float, Meta(ge=0, le=1)] = 0.0  # share of summaries with a trace; alarms always have one
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # /healthz, /readyz, /metrics on loopback; 0: none

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not topics.is_device(self.device):
            problems.append(f"device: 1-64 letters, digits, '.', '_', '-' expected, {self.device!r} given")
        if not self.state:
            problems.append("state: a folder expected, nothing given")
        if not _HOST_PORT.fullmatch(self.mqtt) or not 0 < self.port <= 65_535:
            problems.append(f"mqtt: host:port expected, {self.mqtt!r} given")
        unknown = [name for name in self.runtimes if name not in RUNTIMES]
        if self.runtime != "auto" and unknown:
            problems.append(f"runtime: auto or {', '.join(RUNTIMES)} expected, {self.runtime!r} given")
        if self.repeat and self.exit_when_done:
            problems.append("repeat and exit_when_done: at most one of them expected")
        if bool(self.mqtt_cert) != bool(self.mqtt_key):
            problems.append("mqtt_cert and mqtt_key: both or neither expected")
        if self.mqtt_cert and not self.mqtt_ca:
            problems.append("mqtt_cert: mqtt_ca expected beside it")
        if self.mqtt_password_file and not self.mqtt_user:
            problems.append("mqtt_password_file: mqtt_user expected beside it")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def host(self) -> str:
        """Host of the broker."""
        return self.mqtt.rsplit(":", 1)[0]

    @property
    def port(self) -> int:
        """Port of the broker."""
        return int(self.mqtt.rsplit(":", 1)[1])

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Runtimes in order of preference; empty: whatever is there, best first."""
        return () if self.runtime == "auto" else tuple(name.strip() for name in self.runtime.split(","))
