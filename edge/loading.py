"""From a bundle to a model that runs here: chooses the runtime and opens it.

It refuses to open a bundle that was not checked: a damaged model can end the process (edge/models/check.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covey.errors import UsageError
from edge.core import Loaded
from edge.scoring.runtimes import RUNTIMES, available, open_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from covey.bundle import Bundle, Calibration


def choose_runtime(bundle: Bundle, preferred: Sequence[str]) -> str:
    """The first runtime, of those preferred or of all, that is installed and that the bundle has a model for.

    Raises:
        UsageError: there is none.
    """
    wanted = tuple(preferred) or RUNTIMES
    here = available()
    for name in wanted:
        if name in here and name in bundle.manifest.defaults.thresholds:
            return name
    able = ", ".join(bundle.manifest.defaults.thresholds)
    raise UsageError(
        f"runtime: one of {', '.join(wanted)} expected; installed: {', '.join(here) or 'none'}; "
        f"bundle {bundle.digest[:12]} is for {able}"
    )


def open_model(bundle: Bundle, release: int, runtime: str, calibration: Calibration | None) -> Loaded:
    """Open a bundle's model; a calibration that was made with another runtime is not used.

    Raises:
        BundleError: the runtime refuses the model.
        UsageError: the runtime does not work here.
    """
    network = open_runtime(runtime, bundle.model(runtime))
    if calibration is not None and runtime not in calibration.thresholds:
        calibration = None
    provider = network.describe().get("provider", "")
    return Loaded(bundle.manifest, bundle.digest, release, network, runtime, provider, calibration)
