"""The power is cut at many instants while an outbox, and an agent, write to an ext4: what is left of it?

python -m harm.power FOLDER INSTANTS SEED        prints one JSON object: the figures; a failure is an assertion
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from covey import wire
from covey.wire import Identity
from edge.outbox import Outbox
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from harm import images
from harm.writer import body
from processes import wait_for
from servers import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterable

_IMAGE_MB = 24
_TRIES = 400


class Told:
    """What the writer was promised, read on a thread of its own."""

    def __init__(self, lines: IO[str]) -> None:
        self._lock = threading.Lock()
        self.committed = 0
        self.gone: set[int] = set()
        threading.Thread(target=self._read, args=[lines], daemon=True).start()

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            what, *numbers = line.split()
            with self._lock:
                if what == "c":
                    self.committed = int(numbers[0])
                else:
                    self.gone |= set(range(int(numbers[0]), int(numbers[1]) + 1))

    def promised(self) -> int:
        """Place up to which all rows are on disk."""
        with self._lock:
            return self.committed

    def may_be_gone(self) -> set[int]:
        """Places acknowledged so far."""
        with self._lock:
            return set(self.gone)


def main() -> None:
    """One trial."""
    folder, instants, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    disk, copy = images.MEMORY / f"covey-disk-{seed}-{folder.name}", images.MEMORY / f"covey-copy-{seed}-{folder.name}"
    try:
        print(json.dumps(_cut(folder, disk, copy, instants, rng)))
    finally:
        disk.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def _cut(folder: Path, disk: Path, copy: Path, instants: int, rng: random.Random) -> dict[str, int]:
    images.make_image(disk, _IMAGE_MB)
    make_bundle(folder / "m.covey")
    calm = write_flight(folder / "calm.csv", 400, 1)
    bad = write_flight(folder / "bad.csv", 400, 3, bad=(200, 260))
    figures = {"instants": 0, "rows": 0, "acknowledged": 0, "agent_rows": 0, "tries": 0}
    with ExitStack() as stack:
        live = stack.enter_context(images.mounted(disk, folder / "live"))
        broker = stack.enter_context(Mosquitto(folder / "mosquitto"))
        cloud = stack.enter_context(Cloud(broker.port, acknowledging=False))
        words = ("--commission", str(calm), "--source", str(bad), "--speed", "400", "--summary-interval-s", "0.25")
        (folder / "agent.toml").write_text("repeat = true\nwindow_rows = 65536\n")
        agent = start_agent(
            live, broker.port, "d2", "--bundle", str(folder / "m.covey"), "--config", str(folder / "agent.toml"), *words
        )
        stack.callback(agent.kill9)
        writer = subprocess.Popen(
            [sys.executable, "-m", "harm.writer", str(live / "o.db"), str(rng.randrange(10**6))],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(writer.wait)
        stack.callback(writer.kill)
        assert writer.stdout is not None
        told = Told(writer.stdout)
        wait_for(told.promised, 20, "rows on disk")
        wait_status(live, "d2", connected=True)
        wait_for(lambda: cloud.events, 20, "events of the agent")
        while figures["instants"] < instants:
            figures["tries"] += 1
            assert figures["tries"] < _TRIES * instants, f"no still moment: {figures}"
            time.sleep(rng.uniform(0, 0.03))  # the instant is drawn, it waits for nothing
            promised, came = told.promised(), {identity for identity, _, _ in list(cloud.events)}
            if not images.snapshot(disk, copy):
                continue
            gone = told.may_be_gone()
            assert writer.poll() is None
            assert agent.alive
            with images.mounted(copy, folder / "after") as after:
                figures["rows"] += _check_rows(after / "o.db", promised, gone)
                figures["agent_rows"] += _check_sent(after / "d2" / "outbox.db", came)
            figures["instants"] += 1
            figures["acknowledged"] = len(gone)
    return figures


def _check_rows(path: Path, promised: int, gone: set[int]) -> int:
    with Outbox(path, "d1", 2 * 1024 * 1024) as box:
        assert not box.damaged, "the file was damaged"
        rows = box.batch(0, 100_000)
        places = [row.place for row in rows]
        lost = set(range(1, promised + 1)) - set(places) - gone
        given_up = {n for one in box.dropped(10_000) for n in range(one.first, one.last + 1)}
        assert not lost - given_up, f"rows {sorted(lost - given_up)[:9]} of {promised} were on disk and are lost"
        outbox = rows[0].body.split(b"/")[1].decode()
        for row in rows:
            assert row.body == body(Identity("d1", outbox, row.place)), f"row {row.place}"
        assert box.put("alarm", body) == ("d1", box.id, 1)
        assert box.id != outbox
    return len(rows)


def _check_sent(path: Path, came: set[Identity]) -> int:
    """An event leaves the device only after it is on disk, so what came is there: nobody acknowledged it.

    In a long trial the disk runs full; what was given up then is told.
    """
    with Outbox(path, "d2") as box:
        assert not box.damaged
        there = {wire.decode_event(row.body)[1] for row in box.batch(0, 100_000)}
        given_up = {
            Identity("d2", one.outbox, n) for one in box.dropped(10_000) for n in range(one.first, one.last + 1)
        }
        lost = sorted(came - there - given_up)
        assert not lost, f"{lost[0]} and {len(lost) - 1} more were sent and are not on disk"
    return len(there)


if __name__ == "__main__":
    main()
