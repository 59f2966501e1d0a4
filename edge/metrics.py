"""The agent's figures for Prometheus, and whether it is well: both from its last status. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from covey.exposition import Family, Sample, text
from covey.health import View

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALIVE_S = 30.0  # the loop writes a status every second; a swap of models takes some

# name -> (kind, help, where in the status); None there: no sample
FIGURES = {
    "windows": ("counter", "windows scored since start", ("windows",)),
    "alarms": ("counter", "alarms begun since start", ("alarms",)),
    "alarms_open": ("gauge", "alarms begun and not ended", ("open_alarms",)),
    "threshold": ("gauge", "score above which a window is anomalous", ("threshold",)),
    "release": ("gauge", "number of the release that runs", ("release",)),
    "calibrated": ("gauge", "1 when the model is calibrated to this device", ("calibrated",)),
    "connected": ("gauge", "1 while the MQTT broker is connected", ("connected",)),
    "outbox_rows": ("gauge", "events not yet acknowledged by the cloud", ("outbox", "pending")),
    "outbox_dropped_rows": ("counter", "events given up for want of room", ("outbox", "dropped")),
    "ring_windows": ("gauge", "normal windows kept to learn from", ("ring_windows",)),
    "raw_bytes": ("counter", "samples scored since start", ("raw_bytes",)),
    "uplink_bytes": ("counter", "payload published since start, repeats included", ("uplink_bytes",)),
    "model_bytes": ("counter", "fetched for updates since start", ("downlink_model_bytes",)),
    "memory_bytes": ("gauge", "resident memory of the agent", ("memory_bytes",)),
    "cpu_seconds": ("counter", "CPU time of the agent since start", ("cpu_s",)),
    "temperature_celsius": ("gauge", "of the board", ("temperature_c",)),
    "battery_volts": ("gauge", "of the vehicle", ("battery_v",)),
}


def families(status: Mapping[str, Any]) -> list[Family]:
    """Every figure that the status has, and what runs as labels of one."""
    told = []
    for name, (kind, about, path) in FIGURES.items():
        value: Any = status
        for word in path:
            value = value.get(word) if value is not None else None
        if value is not None:
            suffix = "_total" if kind == "counter" else ""
            told.append(Family(f"covey_edge_{name}", kind, about, [Sample(suffix, (), float(value))]))
    labels = tuple((key, str(status.get(key, ""))) for key in ("device", "runtime", "provider", "digest"))
    told.append(Family("covey_edge_info", "gauge", "what runs", [Sample("", labels, 1)]))
    return told


def view(status: Mapping[str, Any], now_s: float) -> View:
    """What the health port shows; alive while the loop has turned within half a minute, ready while connected."""
    alive = now_s - status.get("written_s", 0.0) < _ALIVE_S
    return View(alive, bool(alive and status.get("connected")), dict(status), lambda: text(families(status)))
