"""What several tests of the learning side need: rings made from windows, small synthetic recordings, the public data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covey.ring import FITTED, RingInfo, RingWriter, create_ring
from edge.scoring.windows import cut
from edge.sources.files import read_recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from covey.bundle import Inputs

DATA = Path(os.environ.get("COVEY_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CHANNELS = ("a", "b", "c")


def data_folder(name: str) -> Path | None:
    """A public data set beside the repository, if it is there."""
    for base in (DATA, *(parent / "shared" / "data" for parent in Path(__file__).resolve().parents)):
        if (base / name).is_dir():
            return base / name
    return None


def walk(rows: int, seed: int, *, shift: float = 0.0) -> NDArray[np.float32]:
    """(rows, 3) correlated noise around a slow swing: what a healthy machine of our tests measures."""
    rng = np.random.default_rng(seed)
    common = np.convolve(rng.standard_normal(rows + 8), np.ones(8) / 8, "valid")[:rows]
    own = rng.standard_normal((rows, 3)) * 0.2
    return (common[:, None] * (1.0, -2.0, 0.5) + own + (5.0, -1.0, 100.0) + shift).astype(np.float32)


def write_csv(path: Path, samples: NDArray[np.float32], names: Sequence[str] = CHANNELS) -> Path:
    """A table."""
    lines = [",".join(names), *(",".join(repr(float(x)) for x in row) for row in samples)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_ring(path: Path, inputs: Inputs, logs: Sequence[tuple[Path, bool]]) -> Path:
    """A ring with all windows of some recordings, each with whether the group's model knows them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    create_ring(path, RingInfo(tuple(inputs.channels), inputs.rate_hz, inputs.window, 4096))
    with RingWriter(path) as ring:
        for number, (log, fitted) in enumerate(logs):
            windows = cut(read_recording(log, inputs.channels), inputs)
            flight = None
            index = 0
            for n in range(len(windows)):
                if windows.flight[n] != flight:
                    flight, index = windows.flight[n], 0
                    ring.begin_flight()
                start_s = 1000.0 * number + float(windows.start_s[n])
                ring.append(windows.samples[n].astype("<f4").tobytes(), start_s, index, FITTED if fitted else 0)
                index += 1
    return path
