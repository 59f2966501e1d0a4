"""Whether a device may learn now: what its agent says in status.json beside the ring.

An agent writes it every second, and says there why nothing is trained now (armed, in the air, battery low). Without an agent
that is alive nobody flies, and the ring may be read. Reads one file; knows no Flower.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from covey.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

FRESH_S = 10.0  # an older status is of an agent that is gone: it writes one every second


def ask(ring: Path) -> None:
    """Return when the device of this ring may learn now.

    Raises:
        DataError: its agent is alive and says why not.
    """
    path = ring.parent / "status.json"
    try:
        age_s = time.time() - path.stat().st_mtime
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # no agent ran here, or it is just being replaced
    word = told.get("may_learn", "yes") if isinstance(told, dict) else "yes"
    if abs(age_s) <= FRESH_S and word != "yes":
        raise DataError(f"{ring}: may not be learned from now: {str(word)[:200]}")
