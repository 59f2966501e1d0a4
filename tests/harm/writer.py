"""Writes to an outbox and tells over its standard output what it was promised, as a device would send it.

c PLACE          all rows up to here are on disk, says the outbox
a FIRST LAST     these are about to be acknowledged: from now on they may be gone
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge.outbox import Outbox

if TYPE_CHECKING:
    from covey.wire import Identity


def body(identity: Identity) -> bytes:
    """An event's bytes, which its identity decides."""
    return str(identity).encode().ljust(200 + identity.seq * 37 % 900, b".")


def main() -> None:
    """Until killed."""
    rng = random.Random(int(sys.argv[2]))
    with Outbox(Path(sys.argv[1]), "d1", 2 * 1024 * 1024) as box:
        last = 0
        while True:
            for _ in range(rng.randrange(1, 30)):
                box.put(rng.choice(("summary", "status", "alarm", "summary")), body)
            if box.commit():
                last = box.batch(last, 10_000)[-1].place
                sys.stdout.write(f"c {last}\n")
            if box.depth > 400:
                oldest = box.oldest() or 0
                span = (oldest, oldest + rng.randrange(300))
                sys.stdout.write(f"a {span[0]} {span[1]}\n")
                sys.stdout.flush()
                box.acknowledge([span])
            sys.stdout.flush()
            time.sleep(rng.uniform(0, 0.04))  # else no moment is still enough to be copied


if __name__ == "__main__":
    main()
