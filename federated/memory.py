"""What a device keeps for itself between messages: named arrays in its Flower context.

On a SuperNode Flower keeps the context for as long as a run lasts. On this machine the engine does: in memory and, with
a checkpoint folder, in a file a device; engine `local` in a private file beside the device's ring, since the process that
answered is gone. It never leaves the device: the server asks for none of it. A memory that is lost costs one full model down
and what an update's rounding left over, nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord

from covey.errors import BundleError
from covey.runtime import write_whole
from federated.families import pack_state, unpack_state

if TYPE_CHECKING:
    from pathlib import Path

    from flwr.app import Context, RecordDict

    from federated.gate import Arrays

_KEY = "memory"


def recall(context: Context) -> Arrays:
    """What the device remembers; empty at first."""
    return arrays_in(context.state)


def remember(context: Context, arrays: Arrays) -> None:
    """Remember this, and nothing of before."""
    put(context.state, arrays)


def arrays_in(state: RecordDict) -> Arrays:
    """The memory in a context's state."""
    record = state.array_records.get(_KEY)
    return {name: array.numpy() for name, array in record.items()} if record is not None else {}


def put(state: RecordDict, arrays: Arrays) -> None:
    """The inverse of `arrays_in`."""
    state.array_records[_KEY] = ArrayRecord(
        {name: Array(np.ascontiguousarray(values)) for name, values in arrays.items()}
    )


def load(path: Path, state: RecordDict) -> None:
    """Fill a state from a device's file, if there is a whole one."""
    try:
        put(state, unpack_state(path.read_bytes(), str(path)))
    except (OSError, BundleError):
        return  # lost: the device is asked as one that never learned


def save(path: Path, state: RecordDict) -> None:
    """Write a device's memory, whole, for its owner alone; nothing when there is none."""
    arrays = arrays_in(state)
    if arrays:
        write_whole(path, pack_state(arrays), mode=0o600)
    else:
        path.unlink(missing_ok=True)
