"""The model a fleet runs when none is given: fitted by `covey model fit` on the fleet's own commissioning recordings.

Started as a process, so that the simulator does not need the learner's libraries; without them, the command says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covey.processes import Children, covey_command
from firmware_sim.usdlog import write_log

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from firmware_sim.recordings import Flown

FIT_S = 600.0
MOST_FILES = 60  # a fit learns little from more
_FEATURES = {"quadrotor": "drone", "machine": "lag"}


def fit_bundle(body: str, recordings: Sequence[Flown], out: Path, folder: Path, stop: threading.Event) -> Path:
    """Fit a body's model on healthy recordings and write it as a bundle.

    Args:
        body: quadrotor or machine.
        recordings: healthy ones; the first sixty are used.
        out: the bundle.
        folder: for the recordings' files and the fit's log.
        stop: ends the fit.

    Raises:
        ProcessError: the fit failed, with the end of its log.
    """
    words: list[str] = []
    for number, flown in enumerate(recordings[:MOST_FILES]):
        path = folder / f"{body}-{number:03d}"
        if body == "quadrotor":
            write_log(flown, path)
        else:
            path = path.with_suffix(".csv")
            np.savetxt(path, flown.samples, delimiter=",", header=",".join(flown.channels), comments="", fmt="%.9g")
        words += ["--data", str(path)]
    command = covey_command("model", "fit", *words, "--features", _FEATURES[body], "--family", "pca", "--out", str(out))
    Children(folder / "logs").run(f"fit-{body}", command, FIT_S, stop)
    return out
