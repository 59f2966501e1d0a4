"""What an agent says of itself in its messages and in status.json, gathered from its parts."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from covey import wire
from edge.status import memory_bytes, temperature_c

if TYPE_CHECKING:
    from typing import Literal

    from edge.core import AgentCore, Loaded
    from edge.install import Installer
    from edge.road import View
    from edge.status import Tally


def health(tally: Tally, view: View, installer: Installer) -> wire.Health:
    """State of the device, now; the figures of the queue are put in once more when the event is numbered."""
    return wire.Health(
        memory_bytes=memory_bytes(),
        cpu_s=round(time.process_time(), 2),
        outbox_rows=view.depth,
        outbox_bytes=view.size_bytes,
        raw_bytes=tally.raw_bytes,
        uplink_bytes=view.sent_bytes,
        downlink_model_bytes=installer.fetched_bytes,
        temperature_c=temperature_c(),
        battery_v=tally.battery_v,
    )


def reported(model: Loaded, slot: Literal["a", "b"], installer: Installer) -> wire.Reported:
    """What the device has, and what it does about what is wanted of it."""
    return wire.Reported(
        release=model.release,
        digest=model.digest,
        runtime=model.runtime,
        provider=model.provider,
        calibration=model.calibration_digest,
        slot=slot,
        state=installer.state,
        target=installer.target,
        reason=installer.reason,
        revision=installer.revision,
    )


def status(core: AgentCore, tally: Tally, view: View, installer: Installer) -> dict[str, Any]:
    """The figures of status.json."""
    model, inputs = core.model, core.model.manifest.inputs
    return {
        "pid": os.getpid(),
        "written_s": time.time(),
        "connected": view.connected,
        "release": model.release,
        "digest": model.digest,
        "runtime": model.runtime,
        "provider": model.provider,
        "calibrated": not core.learning,
        "update": {"state": installer.state, "target": installer.target, "reason": installer.reason},
        "windows": tally.windows,
        "alarms": tally.alarms,
        "open_alarms": len(core.open_alarms),
        "threshold": core.threshold,
        "cpu_s": round(time.process_time(), 2),
        "temperature_c": temperature_c(),
        "battery_v": tally.battery_v,
        "window_s": inputs.window / inputs.rate_hz,
        "first_window_s": tally.first_window_s,
        "raw_bytes": tally.raw_bytes,
        "uplink_bytes": view.sent_bytes,
        "downlink_model_bytes": installer.fetched_bytes,
        "outbox": {
            "id": view.outbox,
            "last_seq": view.last_seq,
            "pending": view.depth,
            "dropped": view.dropped_rows,
        },
        "flights": [asdict(flight) for flight in tally.flights],
        "memory_bytes": memory_bytes(),
    }
