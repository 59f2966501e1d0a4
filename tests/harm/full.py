"""A partition that others fill: an agent on it goes on, its newest alarms reach the disk, its oldest summaries pay for them.

python -m harm.full FOLDER       in a mount namespace of its own; prints one JSON object: the figures
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from covey import wire
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from harm import images
from processes import free_port, wait_for
from servers import Mosquitto

DEVICE = "d1"


def rows(state: Path) -> dict[str, list[int]]:
    """Kind -> places on disk."""
    with closing(sqlite3.connect(f"{(state / 'outbox.db').as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        found = db.execute("SELECT kind, seq FROM rows ORDER BY seq").fetchall()
    return {kind: [seq for k, seq in found if k == n] for n, kind in enumerate(("summary", "status", "alarm"))}


def fill(path: Path) -> None:
    """Take all the room there is, to the last block; also what comes free later."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def main() -> None:
    """One trial."""
    folder = Path(sys.argv[1])
    image = images.MEMORY / f"covey-full-{folder.name}-{os.getpid()}"
    try:
        print(json.dumps(_trial(folder, image)))
    finally:
        image.unlink(missing_ok=True)


def _trial(folder: Path, image: Path) -> dict[str, int]:
    images.make_image(image, 16)
    make_bundle(folder / "m.covey")
    calm = write_flight(folder / "calm.csv", 400, 1)
    bad = write_flight(folder / "bad.csv", 400, 3, bad=(200, 260))
    (folder / "agent.toml").write_text("repeat = true\nflush_s = 20\nquarantine_windows = 0\n")
    port = free_port()
    with ExitStack() as stack:
        live = stack.enter_context(images.mounted(image, folder / "live"))
        state = live / DEVICE
        words = ["--bundle", str(folder / "m.covey"), "--config", str(folder / "agent.toml"), "--commission", str(calm)]
        words += ["--source", str(bad), "--speed", "4000", "--summary-interval-s", "0.05"]
        agent = start_agent(live, port, DEVICE, *words, log="../agent.log")
        stack.callback(agent.kill9)
        wait_status(live, DEVICE)
        wait_for(lambda: len(rows(state)["summary"]) > 60, 60, "summaries on disk")
        before = rows(state)
        newest = max(before["alarm"], default=0)

        def gave_up_for_alarms() -> bool:
            fill(live / "filler")
            now = rows(state)
            return (
                agent.alive
                and len([place for place in now["alarm"] if place > newest]) >= 20
                and not set(before["summary"]) <= set(now["summary"])
            )

        wait_for(gave_up_for_alarms, 60, "alarms on a full disk, at the summaries' cost")
        during = rows(state)
        gone = sorted(set(before["summary"]) - set(during["summary"]))
        assert gone == before["summary"][: len(gone)], "not the oldest summaries went"
        assert set(before["alarm"]) <= set(during["alarm"]), "an alarm went before the summaries were gone"
        # Killed and started on a full disk, it runs again.
        agent.kill9()
        fill(live / "filler")
        agent = start_agent(live, port, DEVICE, *words, log="../agent.log")
        stack.callback(agent.kill9)

        def newer_alarms() -> bool:
            try:
                return max(rows(state)["alarm"]) > max(during["alarm"])
            except sqlite3.OperationalError:  # between kill and start a reader would have to recover the log: no room
                return False

        wait_for(newer_alarms, 60, "alarms after a start on a full disk")
        (live / "filler").unlink()
        broker = stack.enter_context(Mosquitto(folder / "mosquitto", port=port))
        cloud = stack.enter_context(Cloud(broker.port))
        wait_status(live, DEVICE, pid=agent.pid, connected=True)
        wait_for(lambda: len(cloud.data("summary")) > 80, 60, "summaries of a disk with room")
        agent.stop(40)
        assert agent.wait(5) == 0, agent.tail()
        events = [wire.decode_event(body) for _, _, body in list(cloud.events)]
    came = {identity.seq for _, identity in events}
    data = [wire.decode_data(event) for event, _ in events]
    told = {
        seq
        for one in data
        if isinstance(one, wire.Summary)
        for span in one.health.dropped
        for seq in range(span.first, span.last + 1)
    }
    last = max(came)
    assert came | told == set(range(1, last + 1)), (
        f"neither there nor told: {sorted(set(range(1, last + 1)) - came - told)[:9]}"
    )
    # Rows that went before there was a link cannot have come; one in flight while the disk fills again may do both.
    assert not came & set(gone)
    alarms = {identity.seq for event, identity in events if event.type == wire.ALARM_TYPE}
    assert set(during["alarm"]) <= alarms
    assert set(gone) <= told
    assert len({identity.outbox for _, identity in events}) == 1
    return {"events": len(came), "alarms": len(alarms), "dropped": len(told), "last": last}


if __name__ == "__main__":
    main()
