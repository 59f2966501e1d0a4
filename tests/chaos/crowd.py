"""Ten thousand clients that come back at once: mosquitto is killed under them, and each has a backlog when it returns.

Measured: until all are subscribed again, and until every row that was written while the broker was away is acknowledged.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from chaos.loads import Crowd, warm
from chaos.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.outcome import Outcome
    from chaos.rig import Rig

GATEWAY_MB = 256.0  # at most
BURST = 3  # rows of each device while the broker is away
DOWN_S = 2.0
CONNECTED_S = 300.0
SETTLED_S = 300.0


def run(rig: Rig, row: Outcome, clients: int, times: int, say: Callable[[str], None]) -> None:
    """Kill the broker under so many clients, so many times; the result goes into `row`."""
    crowd = Crowd(rig, "crowd", clients, BURST)
    watch = Watch(rig)
    warm(rig, crowd)
    _until(rig, watch, crowd, clients, "connected for the first time")
    say(f"{clients} clients connected, gateway {watch.most_mb:.0f} MB")
    for _ in range(times):
        _once(rig, row, crowd, watch, clients)
        say(f"all back after {row.figures['connected_s']} s, all settled after {row.figures['settled_s']} s")
    crowd.finish(SETTLED_S)
    row.verdict = crowd.verdict()
    row.bound("gateway_mb", watch.most_mb, most=GATEWAY_MB)
    row.figures["clients"] = clients


def _once(rig: Rig, row: Outcome, crowd: Crowd, watch: Watch, clients: int) -> None:
    before = crowd.progress()
    with rig.hurt("mqtt"):
        rig.mqtt.process.kill9()
        rig.kills += rig.mqtt.process.wait(5.0) == -signal.SIGKILL
        rig.wait(lambda: crowd.progress()["connected"] == 0, CONNECTED_S, "all have lost their connection")
        crowd.process().send(signal.SIGUSR1)
        rig.wait(lambda: crowd.progress()["written"] >= before["written"] + BURST * clients, CONNECTED_S, "a backlog")
        rig.pause_for(DOWN_S)  # until most are in the middle of a try
        rig.mqtt.process.start(rig.mqtt.ready, 60.0)
    begun_s = time.monotonic()
    backlog = crowd.progress()["backlog"]
    target = crowd.progress()["written"]
    _until(rig, watch, crowd, clients, "all connected again")
    connected_s = time.monotonic() - begun_s

    def settled() -> bool:
        watch.look()
        return crowd.progress()["settled"] >= target

    rig.wait(settled, SETTLED_S, "what was written while the broker was away is acknowledged")
    settled_s = time.monotonic() - begun_s
    row.bites.append(f"mqtt killed under {clients} clients, backlog {backlog}")
    row.figures["backlog"] = max(backlog, row.figures.get("backlog", 0))
    row.figures["connected_s"] = round(max(connected_s, row.figures.get("connected_s", 0.0)), 1)
    row.figures["settled_s"] = round(max(settled_s, row.figures.get("settled_s", 0.0)), 1)


def _until(rig: Rig, watch: Watch, crowd: Crowd, clients: int, what: str) -> None:
    def there() -> bool:
        watch.look()
        return crowd.progress()["connected"] == clients

    rig.wait(there, CONNECTED_S, what)
