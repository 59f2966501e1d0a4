"""What a device adds to a bundle from its own ring: input affine, thresholds, reference and spread. Pure apart from the ring.

The ring holds what the device believes normal and nothing else may be given: a calibration learns what it is shown.
It refuses to rest on fewer windows than the bundle asks for, and on numbers that are not finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey.bundle import Calibration
from covey.errors import DataError
from covey.ring import RingReader
from covey.sketch import MIN_VALUE, Sketch
from covey.wire import rfc3339
from edge.scoring.scorer import Network, Scorer
from edge.scoring.sensors import usually_still
from edge.scoring.windows import Windows, features

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from covey.bundle import Inputs, Manifest

RELATIVE_FLOOR = 1e-3  # of the group's default: a device may be calmer than its group, not a thousand times
ABSOLUTE_FLOOR = 1e-4
_BATCH = 256  # windows scored at a time, so that memory does not grow with the ring


def ring_windows(path: Path, inputs: Inputs) -> Windows:
    """The windows of a ring, oldest first.

    Windows with consecutive numbers in one flight of the ring share a `flight`; a jump (an alarmed window was left out)
    begins a new one. `end_row` counts rows in the ring's flight.

    Raises:
        DataError: no ring, or one of other channels, rate or window length than the bundle's.
    """
    with RingReader(path) as ring:
        info = ring.info
        if list(info.channels) != inputs.channels:
            found = ", ".join(info.channels)
            raise DataError(f"{path}: channels {', '.join(inputs.channels)} expected, {found} found")
        if info.window != inputs.window:
            raise DataError(f"{path}: windows of {inputs.window} samples expected, {info.window} found")
        if abs(info.rate_hz - inputs.rate_hz) > 0.05 * inputs.rate_hz:
            raise DataError(f"{path}: {inputs.rate_hz:g} samples/s expected, {info.rate_hz:g} found")
        records = list(ring.records())
    shape = (len(records), inputs.window, len(inputs.channels))
    samples = np.empty(shape, np.float32)
    flights = np.empty(len(records), np.int64)
    before: tuple[int, int] | None = None
    flight = -1
    for n, record in enumerate(records):
        samples[n] = np.frombuffer(record.samples, "<f4").reshape(shape[1:])
        flight += before != (record.flight, record.index - 1)
        before = (record.flight, record.index)
        flights[n] = flight
    index = np.asarray([record.index for record in records], np.int64)
    start_s = np.asarray([record.start_s for record in records], np.float64)
    return Windows(samples, index * inputs.hop + inputs.window - 1, flights, start_s)


def calibrate(
    manifest: Manifest, digest: str, windows: Windows, networks: Mapping[str, Network], made_s: float
) -> Calibration:
    """Fit a bundle to the device that these windows come from.

    Args:
        manifest: of the bundle.
        digest: of the bundle.
        windows: normal windows, in order of time; all are used, those the group was fitted on as well.
        networks: runtime -> its loaded model; each gets a threshold and a reference of its own.
        made_s: device clock, seconds since the epoch.

    The threshold is `factor` times the `quantile` of the windows' smoothed scores, with drones' flights moved apart as far
    as a new flight may lie (see `_apart`).

    Raises:
        DataError: fewer windows than `scoring.commission_windows`, no runtime, or numbers that are not finite.
    """
    scoring = manifest.scoring
    if not networks:
        raise DataError("calibration: at least one runtime expected, none came")
    center, scale = affine(manifest, windows)
    draft = Calibration(
        format="covey-calibration/1",
        bundle=digest,
        made=rfc3339(made_s),
        windows=len(windows),
        flights=len(np.unique(windows.flight)),
        center=center.tolist(),
        scale=scale.tolist(),
        spread=manifest.defaults.spread,
        thresholds=dict.fromkeys(networks, 1.0),
        reference={name: Sketch().to_wire() for name in networks},
        still=usually_still(windows.samples, windows.flight),
    )
    thresholds: dict[str, float] = {}
    reference: dict[str, list[list[int]]] = {}
    spread: list[float] = []
    for name, network in networks.items():
        scores, size = _score(Scorer(manifest, network, name, draft), windows, center)
        if not (np.isfinite(scores).all() and np.isfinite(size).all()):
            raise DataError(f"calibration: finite scores expected, runtime {name} gave others")
        thresholds[name] = max(scoring.factor * float(np.quantile(scores, scoring.quantile)), MIN_VALUE)
        sketch = Sketch()
        sketch.extend(scores.tolist())
        reference[name] = sketch.to_wire()
        # Runtimes agree within the golden tolerance: the first one's spread serves all.
        spread = spread or _floored(size, manifest.defaults.spread).tolist()
    return msgspec.structs.replace(draft, spread=spread, thresholds=thresholds, reference=reference)


def affine(manifest: Manifest, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(D,) center and scale of the device that these windows come from, as `calibrate` takes them.

    Raises:
        DataError: fewer windows than `scoring.commission_windows`, or numbers that are not finite.
    """
    inputs, least = manifest.inputs, manifest.scoring.commission_windows
    if len(windows) < least:
        raise DataError(f"calibration: at least {least} normal windows expected, {len(windows)} found")
    if not np.isfinite(windows.samples).all():
        raise DataError(f"calibration: finite samples expected, {_first_bad(windows, manifest)}")
    if inputs.features.kind == "lag":
        rows = _rows(windows, inputs).astype(np.float64)  # (R, C)
        center = np.tile(rows.mean(axis=0), inputs.window)
        scale = np.tile(rows.std(axis=0), inputs.window)
        return center, _floored(scale, manifest.defaults.scale)
    phi = features(windows.samples, inputs).astype(np.float64)  # (N, D)
    flights = [phi[windows.flight == number] for number in np.unique(windows.flight)]
    # Flights weigh alike: a long one must not hide how sessions differ. One window has no variance to tell.
    center = np.mean([flight.mean(axis=0) for flight in flights], axis=0)
    within = [flight.var(axis=0) for flight in flights if len(flight) > 1]
    if not within:
        return center, np.asarray(manifest.defaults.scale, np.float64)
    return center, _floored(np.sqrt(np.mean(within, axis=0)), manifest.defaults.scale)


def _rows(windows: Windows, inputs: Inputs) -> NDArray[np.float32]:
    """(R, C) every row of the recording once: overlapping windows repeat their older rows."""
    first = np.r_[True, np.diff(windows.flight) != 0]
    fresh = windows.samples[~first, -min(inputs.hop, inputs.window) :]
    channels = windows.samples.shape[2]
    return np.concatenate([windows.samples[first].reshape(-1, channels), fresh.reshape(-1, channels)])


def _floored(values: NDArray[np.float64], defaults: list[float]) -> NDArray[np.float64]:
    return np.maximum(values, np.maximum(ABSOLUTE_FLOOR, RELATIVE_FLOOR * np.asarray(defaults, np.float64)))


def _apart(phi: NDArray[np.float32], flight: NDArray[np.int64], center: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, D) features with each flight moved away from the center, as far as a flight that is still to come may lie.

    The means of k flights lie about their own mean with variance s^2 (1 - 1/k), a new flight's mean with s^2 (1 + 1/k):
    a threshold from the known flights alone would call the next session an anomaly. One flight tells nothing of s.
    """
    numbers = np.unique(flight)
    k = len(numbers)
    if k < 2:
        return phi
    moved = phi.copy()
    for number in numbers:
        here = flight == number
        moved[here] += ((np.sqrt((k + 1) / (k - 1)) - 1) * (phi[here].mean(axis=0) - center)).astype(np.float32)
    return moved


def _score(
    scorer: Scorer, windows: Windows, center: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) smoothed scores, and (D,) the root mean square of the smoothed error of each feature."""
    inputs = scorer.manifest.inputs
    phi = features(windows.samples, inputs)
    if inputs.features.kind == "drone":
        phi = _apart(phi, windows.flight, center)
    scores = np.empty(len(windows))
    squares = np.zeros(scorer.manifest.model.inputs)
    for start in range(0, len(windows), _BATCH):
        part = slice(start, start + _BATCH)
        scored = scorer.score_features(phi[part], windows.flight[part])
        scores[part] = scored.score
        squares += np.square(scored.error).sum(axis=0)
    return scores, np.sqrt(squares / len(windows))


def _first_bad(windows: Windows, manifest: Manifest) -> str:
    n, t, c = (int(i) for i in np.argwhere(~np.isfinite(windows.samples))[0])
    return f"{windows.samples[n, t, c]} found in window {n}, channel {manifest.inputs.channels[c]}"
