"""`covey up`: the demo's stack, long-running and persistent, with simulated devices that fly on and on.

The first start makes flights, fits a first bundle on them and releases it; later starts go on with what is there.
What ends by itself is started again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from covey.demo import plan as planning
from covey.errors import CoveyError
from covey.processes import covey_command
from covey.runtime import write_whole
from covey.stack import EMBEDDED, FIRST_FILE, HOST, Stack

if TYPE_CHECKING:
    import threading
    from pathlib import Path

PHASE_S = 300.0
MEND_S = 1.0
log = logging.getLogger("up")


def run(
    folder: Path, ports: dict[str, int], devices: int, flights: Path | None, speed: float, stop: threading.Event
) -> None:
    """Start everything, keep it running until `stop`, then end it in order.

    Args:
        folder: where state lives; made when it is not there.
        ports: of mqtt, kafka, serve, health and console, on loopback.
        devices: simulated agents; 0 for none (real ones may connect).
        flights: folder of logs with a manifest; simulated when None.
        speed: how many times faster than real time they fly.
        stop: set by a signal.

    Raises:
        CoveyError: a part cannot be started.
    """
    stack = Stack(folder, ports)  # makes the folder when its first part starts
    try:
        stack.start_core(stop)
        stack.start_console(stop)
        if devices:
            _start_fleet(stack, devices, flights, speed, stop)
        stack.save()
        for part, words in EMBEDDED.items():
            log.warning("embedded %s: %s", part, words)
        log.info("up: mqtt %s, kafka %s, releases %s, store %s", stack.mqtt, stack.kafka, stack.base_url, stack.store)
        log.info("console: http://%s:%d", HOST, ports["console"])
        while not stop.wait(MEND_S):
            for name in stack.mend():
                log.warning("%s ended and was started again: see %s", name, stack.children.folder / f"{name}.log")
                stack.save()
    except CoveyError:
        if not stop.is_set():
            raise
    finally:
        killed = stack.children.stop(timeout_s=20.0)
        log.info("down%s", f"; killed: {', '.join(killed)}" if killed else "")


def _start_fleet(stack: Stack, devices: int, flights: Path | None, speed: float, stop: threading.Event) -> None:
    source = flights if flights is not None else stack.folder / "flights"
    if flights is None and not (source / planning.MANIFEST).exists():
        log.info("flying %d simulated vehicles once, for their logs", devices)
        words = ["--vehicles", str(devices), "--healthy", "5", "--damaged", str(max(1, devices * 2 // 5))]
        stack.children.run("flights", covey_command("sim", "flights", "--out", str(source), *words), PHASE_S, stop)
    plan = planning.make_plan(source, planning.read_manifest(source), devices)
    first = stack.folder / FIRST_FILE
    if not first.exists():
        log.info("fitting a first bundle on %s", ", ".join(plan.fit))
        data = [w for file in plan.fit for w in ("--data", str(source / file))]
        words = ["model", "fit", *data, "--family", "pca", "--out", str(first)]
        stack.children.run("fit", covey_command(*words), PHASE_S, stop)
        stack.add_release(first, "first fit", stop)
    # They fly for ever and nothing falls from the sky: flying holds up neither releases nor training here.
    simulated = stack.folder / "agents.toml"
    write_whole(simulated, b'update_anyway = ["armed"]\n', 0o600)
    for device in plan.devices:
        options = ["--config", str(simulated), "--bundle", str(first), "--speed", f"{speed:g}", "--repeat"]
        options += ["--source", str(source / device.test.file)]
        options += [w for f in device.commission_fitted for w in ("--commission-fitted", str(source / f))]
        options += [w for f in device.commission for w in ("--commission", str(source / f))]
        stack.start_agent(device.id, options)
