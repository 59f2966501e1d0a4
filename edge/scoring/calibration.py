"""What a device adds to a bundle from its own ring: input affine, thresholds, reference and spread. Pure apart from the ring.

The ring holds what the device believes normal and nothing else may be given: a calibration learns what it is shown.
It refuses to rest on fewer windows than the bundle asks for, and on numbers that are not finite.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey.bundle import Calibration
from covey.errors import DataError
from covey.ring import RingReader
from covey.sketch import MIN_VALUE, Sketch
from covey.wire import rfc3339
from edge.scoring.own import Own, branch_parts, find_own
from edge.scoring.scorer import Network, Scorer
from edge.scoring.sensors import sensed_rows, usually_still
from edge.scoring.temporal import Channels, daily_course, normal, wandering
from edge.scoring.weights import balanced, believed
from edge.scoring.windows import Windows, features, join, newest_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from covey.bundle import Inputs, Manifest, Outputs, Scoring

RELATIVE_FLOOR = 1e-3  # of the group's default: a device may be calmer than its group, not a thousand times
ABSOLUTE_FLOOR = 1e-4
SHARE_FLOOR = 0.01
_LEAST_SPREAD = 0.05  # of a feature over time, in spreads of its channel: what hardly moves is not blown up
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
        if info.window != inputs.record_rows:
            raise DataError(f"{path}: windows of {inputs.record_rows} samples expected, {info.window} found")
        if abs(info.rate_hz - inputs.rate_hz) > 0.05 * inputs.rate_hz:
            raise DataError(f"{path}: {inputs.rate_hz:g} samples/s expected, {info.rate_hz:g} found")
        records = list(ring.records())
    rows = np.empty((len(records), info.window, len(inputs.channels)), np.float32)
    flights = np.empty(len(records), np.int64)
    before: tuple[int, int] | None = None
    flight = -1
    for n, record in enumerate(records):
        rows[n] = np.frombuffer(record.samples, "<f4").reshape(rows.shape[1:])
        flight += before != (record.flight, record.index - 1)
        before = (record.flight, record.index)
        flights[n] = flight
    index = np.asarray([record.index for record in records], np.int64)
    start_s = np.asarray([record.start_s for record in records], np.float64)
    if inputs.padded:
        return _rebuilt(rows, index * inputs.hop, flights, start_s, inputs)
    return Windows(rows, index * inputs.hop + inputs.window - 1, flights, start_s)


def _rebuilt(
    rows: NDArray[np.float32],
    end_row: NDArray[np.int64],
    flights: NDArray[np.int64],
    start_s: NDArray[np.float64],
    inputs: Inputs,
) -> Windows:
    """Padded windows from the rows that each added: (N, hop, C) -> N windows, one for each record."""
    older = inputs.window - inputs.record_rows
    parts: list[Windows] = []
    for number in np.unique(flights):
        here = flights == number
        mine = rows[here].reshape(-1, rows.shape[2])  # (n hop, C)
        padded = np.concatenate([np.repeat(mine[:1], older, axis=0), mine])
        blocks = np.lib.stride_tricks.sliding_window_view(padded, inputs.window, axis=0)[:: inputs.hop]
        start = start_s[here] - older / inputs.rate_hz
        parts.append(Windows(blocks.transpose(0, 2, 1), end_row[here], flights[here], start))
    return join(parts, inputs)


def calibrate(
    manifest: Manifest,
    digest: str,
    windows: Windows,
    networks: Mapping[str, Network],
    made_s: float,
    *,
    personal: bool = True,
) -> Calibration:
    """Fit a bundle to the device that these windows come from.

    Args:
        manifest: of the bundle.
        digest: of the bundle.
        windows: normal windows, in order of time; all are used, those the group was fitted on as well.
        networks: runtime -> its loaded model; each gets a threshold and a reference of its own.
        made_s: device clock, seconds since the epoch.
        personal: whether the device weighs the model's outputs by its own windows where the bundle says how; else as the
            group does.

    The threshold is `factor` times the `quantile` of the windows' smoothed scores, with drones' flights moved apart as far
    as a new flight may lie (see `_apart`).

    Raises:
        DataError: fewer windows than `scoring.commission_windows`, no runtime, or numbers that are not finite.
    """
    scoring = manifest.scoring
    if not networks:
        raise DataError("calibration: at least one runtime expected, none came")
    center, scale, channels = affine(manifest, windows)
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
        still=usually_still(windows.samples[:, -sensed_rows(manifest.inputs) :], windows.flight),
        channel_center=[] if channels is None else channels.center.tolist(),
        channel_scale=[] if channels is None else channels.scale.tolist(),
        wandering=[] if channels is None else [c in channels.wandering for c in range(len(channels.center))],
        daily=b"" if channels is None else channels.daily.astype("<f4").tobytes(),
        weights=manifest.defaults.weights,
    )
    counted = settled_windows(manifest, windows)
    phi = features(windows, manifest.inputs, channels)
    if manifest.inputs.features.kind == "drone":
        phi = _apart(phi, windows.flight, center)
    if personal and scoring.outputs is not None:
        first, network = next(iter(networks.items()))
        draft, kept = _personal(draft, scoring.outputs, Scorer(manifest, network, first, draft), phi)
        counted &= kept
    counted = counted if counted.any() else np.ones(len(windows), np.bool_)
    thresholds: dict[str, float] = {}
    reference: dict[str, list[list[int]]] = {}
    spread: list[float] = []
    for name, network in networks.items():
        scores, size = _score(Scorer(manifest, network, name, draft), phi, windows.flight)
        if not (np.isfinite(scores).all() and np.isfinite(size).all()):
            raise DataError(f"calibration: finite scores expected, runtime {name} gave others")
        usual = float(np.quantile(scores[counted], scoring.quantile))
        thresholds[name] = max(factor_of(scoring, len(windows)) * usual, MIN_VALUE)
        sketch = Sketch()
        sketch.extend(scores.tolist())
        reference[name] = sketch.to_wire()
        # Runtimes agree within the golden tolerance: the first one's spread serves all.
        spread = spread or _floored(size, manifest.defaults.spread).tolist()
    return msgspec.structs.replace(draft, spread=spread, thresholds=thresholds, reference=reference)


def channels_of(manifest: Manifest, windows: Windows) -> Channels | None:
    """What is normal of each channel, from every row of normal windows once; None for features that do not ask."""
    inputs = manifest.inputs
    if not inputs.padded:
        return None
    rows = newest_rows(windows, inputs).reshape(-1, len(inputs.channels)).astype(np.float64)
    center, scale = rows.mean(axis=0), channel_scales(rows, manifest.defaults.channel_scale)
    which = np.flatnonzero(wandering(rows)) if inputs.features.trend_rows else np.empty(0, np.int64)
    found = Channels(center.astype(np.float32), scale.astype(np.float32), which)
    if not inputs.features.day_rows:
        return found
    newest = np.round(windows.end_s(inputs) * inputs.rate_hz)[:, None] - np.arange(inputs.record_rows - 1, -1, -1)
    u = normal(windows.samples, inputs.record_rows, inputs, found).reshape(-1, len(inputs.channels))
    return replace(found, daily=daily_course(u, newest.ravel(), inputs.features.day_rows))


def affine(manifest: Manifest, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.float64], Channels | None]:
    """(D,) center and scale of the device that these windows come from, as `calibrate` takes them; and its channels.

    Raises:
        DataError: fewer windows than `scoring.commission_windows`, or numbers that are not finite.
    """
    least = manifest.scoring.commission_windows
    if len(windows) < least:
        raise DataError(f"calibration: at least {least} normal windows expected, {len(windows)} found")
    if not np.isfinite(newest_rows(windows, manifest.inputs)).all():
        raise DataError(f"calibration: finite samples expected, {_first_bad(windows, manifest)}")
    channels = channels_of(manifest, windows)
    return (*_feature_affine(manifest, windows, channels), channels)


def factor_of(scoring: Scoring, windows: int) -> float:
    """What normal scores are multiplied with for a threshold.

    Windows that a model was fitted on score lower than those to come, the more so the fewer others it was fitted on:
    `alone` is what is added where a device's windows are all of them, and its share of them where they are some.
    """
    if not scoring.known_windows:
        return scoring.factor
    return scoring.factor + scoring.alone * min(1.0, windows / scoring.known_windows)


def channel_scales(rows: NDArray[np.float64], usual: list[float]) -> NDArray[np.float64]:
    """(C,) what channels are divided by: their spreads, but no less than a change that anybody would call one.

    That is a thousandth of the group's spread, and, where all channels are shares (from 0 to 1), a hundredth: divided by next to
    nothing, one reading of a counter that stood at 0 would be all there is to see.

    Args:
        rows: (R, C) of normal windows.
        usual: (C,) the group's spreads.
    """
    spread = _floored(rows.std(axis=0), usual)
    shares = bool(rows.size) and float(rows.min()) >= 0.0 and float(rows.max()) <= 1.0
    return np.maximum(spread, SHARE_FLOOR) if shares else spread


def _feature_affine(
    manifest: Manifest, windows: Windows, channels: Channels | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inputs = manifest.inputs
    if channels is not None:
        phi = features(windows, inputs, channels).astype(np.float64)
        if manifest.model.kind == "project" and not inputs.features.own_scale:  # filters keep their proportion
            return phi.mean(axis=0), np.asarray(manifest.defaults.scale, np.float64)
        if inputs.features.own_scale:
            return phi.mean(axis=0), np.maximum(phi.std(axis=0), _LEAST_SPREAD)
        return phi.mean(axis=0), _floored(phi.std(axis=0), manifest.defaults.scale)
    if inputs.features.kind == "lag":
        rows = _rows(windows, inputs).astype(np.float64)  # (R, C)
        center = np.tile(rows.mean(axis=0), inputs.window)
        scale = np.tile(rows.std(axis=0), inputs.window)
        return center, _floored(scale, manifest.defaults.scale)
    phi = features(windows, inputs).astype(np.float64)  # (N, D)
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
    scorer: Scorer, phi: NDArray[np.float32], flight: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) smoothed scores, and (D,) the root mean square of the smoothed error of each feature."""
    scores = np.empty(len(phi))
    squares = np.zeros(scorer.manifest.model.inputs)
    for start in range(0, len(phi), _BATCH):
        part = slice(start, start + _BATCH)
        scored = scorer.score_features(phi[part], flight[part])
        scores[part] = scored.score
        squares += np.square(scored.error).sum(axis=0)
    return scores, np.sqrt(squares / len(phi))


def settled_windows(manifest: Manifest, windows: Windows) -> NDArray[np.bool_]:
    """(N,) windows whose smoothed score rests on more than a flight's first window; all where features are no filters."""
    out = np.ones(len(windows), np.bool_)
    if not manifest.inputs.padded:
        return out
    warm = round(1 / manifest.scoring.smoothing)
    for number in np.unique(windows.flight):
        here = np.flatnonzero(windows.flight == number)
        out[here[: min(warm, len(here) // 2)]] = False
    return out


def _personal(
    draft: Calibration, rule: Outputs, scorer: Scorer, phi: NDArray[np.float32]
) -> tuple[Calibration, NDArray[np.bool_]]:
    """What the device adds to the network's outputs, and (N,) the windows that it believes; the first runtime's serve all.

    Twice: windows that score highest under the first weights are not believed when all is done again.
    """
    parts = [np.square(scorer.outputs(phi[n : n + _BATCH]), dtype=np.float64) for n in range(0, len(phi), _BATCH)]
    squares, e = np.concatenate(parts), scorer.own_features(phi)
    weights, own = _fitted(squares, e, rule, scorer.manifest)
    scores = squares @ weights + (own.score(e) if own is not None else 0.0)
    kept = believed(scores, rule.trim)
    if not kept.all():
        weights, own = _fitted(squares[kept], e[kept], rule, scorer.manifest)
    told = msgspec.structs.replace(draft, weights=weights.tolist())
    if own is not None:
        rows = [one.astype("<f4").tobytes() for one in own.directions]
        told = msgspec.structs.replace(told, directions=rows, own_weights=list(own.weights))
    return told, kept


def _fitted(
    squares: NDArray[np.float64], e: NDArray[np.float32], rule: Outputs, manifest: Manifest
) -> tuple[NDArray[np.float64], Own | None]:
    group = np.asarray(manifest.defaults.weights, np.float64)
    weights = (1 - rule.own) * balanced(squares, group, rule.branch)
    return weights, find_own(e, branch_parts(manifest), rule.keep, rule.own) if rule.own else None


def _first_bad(windows: Windows, manifest: Manifest) -> str:
    n, t, c = (int(i) for i in np.argwhere(~np.isfinite(windows.samples))[0])
    return f"{windows.samples[n, t, c]} found in window {n}, channel {manifest.inputs.channels[c]}"
