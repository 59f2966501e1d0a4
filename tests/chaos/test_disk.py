"""An outbox on a partition that others have filled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Runs in a mount namespace of its own, so that the small file system is gone with it.
SCRIPT = """
import json, os, sys
from pathlib import Path
from covey import wire
from edge.outbox import Outbox

folder = Path(sys.argv[1])
filler = folder / "filler"
with Outbox(folder / "outbox.db", "d1") as box:
    def put(count):
        for _ in range(count):
            box.put("summary", lambda identity: str(identity).encode() + bytes(500))
        box.commit()
    put(10)
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    put(300)
    full = {"trouble": bool(box.trouble), "on_disk": len(box.batch(0, 9999)), "depth": box.depth,
            "dropped": box.dropped_rows()}
    filler.unlink()
    box.commit()
    after = {"trouble": bool(box.trouble), "on_disk": len(box.batch(0, 9999)), "depth": box.depth,
             "dropped": box.dropped_rows()}
print(json.dumps([full, after]))
"""


def test_a_full_partition_gives_nothing_up_while_memory_has_room(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare: not installed (util-linux)")
    mounted = f'mount -t tmpfs -o size=4m tmpfs {tmp_path} && exec {sys.executable} -c "$SCRIPT" {tmp_path}'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, env={"SCRIPT": SCRIPT, "PATH": "/usr/bin:/bin"}
    )
    if done.returncode != 0 and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    full, after = json.loads(done.stdout)
    assert full["trouble"]
    assert (full["depth"], full["dropped"]) == (310, 0)
    assert full["on_disk"] < 310
    assert after == {"trouble": False, "on_disk": 310, "depth": 310, "dropped": 0}
