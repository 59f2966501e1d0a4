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
    from edge.link import Link
    from edge.outbox import Outbox
    from edge.status import Tally


def health(tally: Tally, outbox: Outbox, link: Link, installer: Installer, dropped: list[wire.Dropped]) -> wire.Health:
    """State of the device and its queue, now."""
    return wire.Health(
        memory_bytes=memory_bytes(),
        cpu_s=time.process_time(),
        outbox_rows=outbox.depth,
        outbox_bytes=outbox.size_bytes,
        raw_bytes=tally.raw_bytes,
        uplink_bytes=link.sent_bytes,
        downlink_model_bytes=installer.fetched_bytes,
        temperature_c=temperature_c(),
        battery_v=tally.battery_v,
        dropped=dropped,
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


def status(core: AgentCore, tally: Tally, outbox: Outbox, link: Link, installer: Installer) -> dict[str, Any]:
    """The figures of status.json."""
    model, inputs = core.model, core.model.manifest.inputs
    return {
        "pid": os.getpid(),
        "written_s": time.time(),
        "connected": link.connected,
        "release": model.release,
        "digest": model.digest,
        "runtime": model.runtime,
        "provider": model.provider,
        "calibrated": not core.learning,
        "update": {"state": installer.state, "target": installer.target, "reason": installer.reason},
        "windows": tally.windows,
        "window_s": inputs.window / inputs.rate_hz,
        "first_window_s": tally.first_window_s,
        "raw_bytes": tally.raw_bytes,
        "uplink_bytes": link.sent_bytes,
        "downlink_model_bytes": installer.fetched_bytes,
        "outbox": {
            "id": outbox.id,
            "last_seq": outbox.last_seq,
            "pending": outbox.depth,
            "dropped": outbox.dropped_rows(),
        },
        "flights": [asdict(flight) for flight in tally.flights],
        "memory_bytes": memory_bytes(),
    }
