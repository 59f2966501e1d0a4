"""Events as agents write them, for the tests of the cloud: small, valid, and told apart by their identity."""

from __future__ import annotations

import io
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec

from cloud.store.schema import open_store
from cloud.store.writer import Received
from covey import bundle, topics, wire
from processes import Process

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

OUTBOX = "00112233aabbccdd"
DIGEST = "ab" * 32
T0 = 1_770_000_000.0


def reported(**changes: Any) -> wire.Reported:
    return wire.Reported(**{"release": 0, "digest": "", "runtime": "litert", **changes})


def summary(seq: int, **changes: Any) -> wire.Summary:
    values = {
        "start_s": T0 + seq,
        "end_s": T0 + seq + 1,
        "windows": 10,
        "alarmed_windows": 1,
        "threshold": 2.0,
        "score": wire.Scores(p50=1.0, p95=1.5, p99=1.8, max=2.5, sketch=[[0, 0], [5, 10]]),
        "drift": wire.Drift(input=0.1, score=1.0),
        "reported": reported(),
        "health": health(seq),
    }
    return wire.Summary(**{**values, **changes})


def health(seq: int = 1, **changes: Any) -> wire.Health:
    values = {"memory_bytes": 1, "cpu_s": 0.1, "outbox_rows": 0, "outbox_bytes": 0}
    return wire.Health(**{**values, "raw_bytes": 1000 * seq, "uplink_bytes": 100 * seq, **changes})


def alarm(alarm_id: str = "a1", state: str = "begin", **changes: Any) -> wire.Alarm:
    values = {
        "alarm_id": alarm_id,
        "state": state,
        "window": wire.WindowRef(T0, T0 + 1, "cd" * 32),
        "windows": 3,
        "release": 1,
        "digest": DIGEST,
        "calibration": "ef" * 32,
        "runtime": "litert",
        "score": 3.0,
        "peak_score": 3.5,
        "threshold": 2.0,
        "confidence": 0.99,
        "top_channel": "motor.m1",
        "attribution": [wire.Share("motor.m1", 0.8), wire.Share("acc.z", 0.2)],
        "trace_id": "1" * 32,
        "flight": "flight-7",
    }
    return wire.Alarm(**{**values, **changes})


def body(seq: int, data: Any = None, device: str = "d1", outbox: str = OUTBOX) -> bytes:
    """The bytes of one event; a summary unless told otherwise."""
    data = summary(seq) if data is None else data
    kind = {wire.Summary: "summary", wire.Alarm: "alarm", wire.Status: "status"}[type(data)]
    return wire.make_event(wire.Identity(device, outbox, seq), kind, T0 + seq, data)


def received(seq: int, data: Any = None, device: str = "d1", outbox: str = OUTBOX, received_s: float = T0) -> Received:
    """One event as the consumer gives it to the store."""
    content = body(seq, data, device, outbox)
    event, identity = wire.decode_event(content)
    return Received(identity, event, wire.decode_data(event), content, received_s, topics.SUMMARIES)


def presence(online: bool, session: str, device: str = "d1", number: int = 1) -> bytes:
    """A presence event as the gateway makes it."""
    data = wire.encode(wire.PresenceEvent(online, session, "g1"))
    event = wire.Event(
        "1.0",
        f"{device}/presence/g1/{number}",
        f"/covey/{device}",
        wire.PRESENCE_TYPE,
        wire.rfc3339(T0),
        msgspec.Raw(data),
    )
    return wire.encode(event)


def new_store(folder: Path) -> tuple[str, Engine]:
    url = f"sqlite:///{folder / 'store.db'}"
    return url, open_store(url)


def small_bundle(note: str = "one") -> bytes:
    """A bundle that reads back: its model is no model, which only devices look at."""
    manifest = bundle.Manifest(
        format=bundle.FORMAT,
        family="pca",
        group="default",
        made=wire.rfc3339(T0),
        made_by=note,
        inputs=bundle.Inputs(channels=["a"], rate_hz=1.0, window=2, hop=1, features=bundle.Features(kind="lag")),
        defaults=bundle.Defaults(
            center=[0.0, 0.0], scale=[1.0, 1.0], clip=3.0, spread=[1.0, 1.0], thresholds={"onnx": 1.0}, reference={}
        ),
        model=bundle.Model(kind="project", inputs=2, outputs=1),
        scoring=bundle.Scoring(
            smoothing=1.0,
            quantile=0.99,
            factor=1.5,
            begin_windows=2,
            end_windows=2,
            commission_windows=10,
            attribution="channel",
            channel_of_feature=[0, 0],
        ),
        golden=bundle.Golden(windows=1, tolerance={"onnx": 0.1}),
        evidence={},
        files={},
    )
    return bundle.pack(manifest, {"model.onnx": note.encode() * 500})


def is_zip(content: bytes) -> bool:
    return zipfile.is_zipfile(io.BytesIO(content))


def cloud_command(*arguments: str) -> list[str]:
    """`covey cloud ...` in a process of its own; the root command would load every other role's."""
    code = "from covey.cli import one_line\nfrom cloud.cli import app\nwith one_line():\n    app(standalone_mode=False)"
    return [sys.executable, "-c", code, *arguments]


def cloud_process(folder: Path, name: str, *arguments: str) -> Process:
    """A started `covey cloud ...`; its log is `<folder>/<name>.log`."""
    return Process(name, cloud_command(*arguments), folder / f"{name}.log")


def now() -> float:
    return time.time()
