"""Bundle + calibration + runtime -> scores, thresholds and attribution of windows.

The model's int8 outputs are turned into scores in NumPy against the float input, so that inputs out of range still
score high. High score means anomalous. Smoothing is causal and starts anew with each flight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from covey.sketch import GAMMA, Sketch
from edge.scoring.adaptive import Level
from edge.scoring.own import Own
from edge.scoring.temporal import Channels
from edge.scoring.windows import features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Calibration, Manifest
    from edge.scoring.windows import Windows


class Network(Protocol):
    """What runs the model: a runtime of edge/scoring/runtimes.py, or a float graph in the learner."""

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, D) float32 -> (B, K) float32."""
        ...


@dataclass(frozen=True)
class Scored:
    """Scores of N windows.

    Attributes:
        raw: (N,) score of each window by itself, about the calibration's level.
        score: (N,) smoothed, about the level that is normal now; what the threshold is compared with.
        z: (N, D) normalised features, not smoothed.
        error: (N, D) what attribution rests on, smoothed as the score is: z (project) or residual z - z' (reconstruct).
        scaled: (N, K) what a `Level` learns from, where the bundle adapts and whoever scored does not (edge/scoring/together.py).
    """

    raw: NDArray[np.float64]
    score: NDArray[np.float64]
    z: NDArray[np.float32]
    error: NDArray[np.floating[Any]]
    scaled: NDArray[np.float64] | None = None


def normalise(
    phi: NDArray[np.float32], center: NDArray[np.floating[Any]], scale: NDArray[np.floating[Any]], clip: float
) -> NDArray[np.float32]:
    """Affine and clip: z = clip((phi - center) / scale, -clip, clip); NaN counts as the clip, so that it scores high."""
    z = phi - center
    z /= scale
    np.minimum(z, clip, out=z)
    np.maximum(z, -clip, out=z)
    out: NDArray[np.float32] = z.astype(np.float32, copy=False)
    if math.isnan(np.add.reduce(out, axis=None)):  # what is clipped is finite, so only a NaN makes the sum one
        out[np.isnan(out)] = clip
    return out


def raw_scores(
    kind: str, z: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Score of each window from the network's input z (N, D) and output y (N, K); see `Model` in covey/bundle.py.

    Args:
        kind: the model's.
        z: (N, D).
        y: (N, K).
        weights: (K,) of the squares of a projecting model's outputs; the mean without.
    """
    error = np.asarray(y if kind == "project" else z - y, np.float64)
    if weights is not None:
        weighed: NDArray[np.float64] = np.square(error) @ weights
        return weighed
    out: NDArray[np.float64] = np.add.reduce(np.square(error), axis=1)
    out /= error.shape[1]
    return out


def scaled_errors(
    kind: str, z: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(N, K) errors whose squares' sum is `raw_scores`."""
    error = np.asarray(y if kind == "project" else z - y, np.float64)
    if weights is not None:
        weighed: NDArray[np.float64] = error * np.sqrt(weights)
        return weighed
    return error / math.sqrt(error.shape[1])


class Smoother:
    """Causal EWMA that starts anew when the flight changes; carries its state from call to call."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._flight: int | None = None
        self._state: NDArray[np.float64] = np.empty(0)

    def __call__(self, rows: NDArray[np.floating[Any]], flight: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, M) rows and (N,) flights -> (N, M) smoothed rows."""
        if rows.shape[1] == 1:
            return self._one(rows, flight)
        out = rows.copy()
        state = self._state
        for i, number in enumerate(flight.tolist()):
            row = out[i]
            if number != self._flight:
                self._flight = number
            else:  # state + alpha (row - state), in place
                row -= state
                row *= out.dtype.type(self._alpha)
                row += state
            state = row
        if len(out):
            self._state = state.copy()
        return out

    def _one(self, rows: NDArray[np.floating[Any]], flight: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same for one column, in plain numbers: a score a second is not worth an array."""
        out: list[float] = []
        state = float(self._state[0]) if len(self._state) else 0.0
        for row, number in zip(rows[:, 0].tolist(), flight.tolist(), strict=True):
            if number != self._flight:
                self._flight, state = number, row
            else:
                state = (row - state) * self._alpha + state
            out.append(state)
        self._state = np.array([state])
        return np.array(out).reshape(-1, 1)


class Scorer:
    """Scores windows of one stream with one bundle, one runtime and, if there is one, the device's calibration."""

    def __init__(
        self,
        manifest: Manifest,
        network: Network,
        runtime: str,
        calibration: Calibration | None,
        *,
        adaptive: bool = False,
    ) -> None:
        """Begin at the calibration's level.

        Args:
            manifest: of the bundle.
            network: what runs its model.
            runtime: name of that.
            calibration: the device's; None: the group's defaults.
            adaptive: follow the level as the bundle says; whoever calibrates, gates or compares does not.
        """
        base = calibration if calibration is not None else manifest.defaults
        self.manifest = manifest
        self.runtime = runtime
        self.threshold = base.thresholds[runtime]
        self._network = network
        # Samples are float32, and so is all that is as wide as they are: half the memory, a third of the time.
        self._center = np.asarray(base.center, np.float32)
        self._scale = np.asarray(base.scale, np.float32)
        self._spread = np.asarray(base.spread, np.float64)
        self._clip = manifest.defaults.clip
        self._own = Own.of(manifest, base)
        self._weights = np.asarray(base.weights, np.float64) if base.weights else None
        self.channels = Channels.of(base) if manifest.inputs.padded else None
        self._reference = Sketch.from_wire(base.reference[runtime])
        self._smooth_score = Smoother(manifest.scoring.smoothing)
        self._smooth_error = Smoother(manifest.scoring.smoothing)
        adapt = manifest.scoring.adapt
        self.level = None
        if adaptive and adapt is not None:
            self.level = Level(
                adapt,
                manifest.model.outputs + (0 if self._own is None else manifest.model.inputs),
                threshold=self.threshold,
                usual=self._reference.quantile(0.5),
                smoothing=manifest.scoring.smoothing,
                known_windows=0 if calibration is None else calibration.windows,
                log=manifest.scoring.log,
            )

    def score(self, windows: Windows) -> Scored:
        """Scores of windows that follow those of the call before."""
        return self.score_features(features(windows, self.manifest.inputs, self.channels), windows.flight)

    def score_features(self, phi: NDArray[np.float32], flight: NDArray[np.int64]) -> Scored:
        """The same from feature vectors (N, D) and the windows' flights (N,)."""
        if not len(phi):
            none = np.empty(0)
            d = self.manifest.model.inputs
            return Scored(none, none, np.empty((0, d), np.float32), np.empty((0, d)))
        z = normalise(phi, self._center, self._scale, self._clip)
        y = self._network.run(z)
        kind = self.manifest.model.kind
        e = None if self._own is None else self.own_features(phi)
        raw = self._raw(kind, z, y, e)
        if self.manifest.scoring.log:
            raw = np.log1p(raw)
        error: NDArray[np.floating[Any]] = z if kind == "project" else z - y
        if self.level is None:
            score = self._smooth_score(raw[:, None], flight)[:, 0]
        else:
            score = self.level.push(self._errors(kind, z, y, e), flight)
        return Scored(raw, score, z, self._smooth_error(error, flight))

    def _raw(
        self, kind: str, z: NDArray[np.float32], y: NDArray[np.float32], e: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        raw = raw_scores(kind, z, y, self._weights)
        if self._own is not None and e is not None:
            raw += self._own.score(e)
        return raw

    def _errors(
        self, kind: str, z: NDArray[np.float32], y: NDArray[np.float32], e: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        """(N, K), with own directions (N, K + D): errors whose squares' sum is `_raw`."""
        errors = scaled_errors(kind, z, y, self._weights)
        if self._own is None or e is None:
            return errors
        return np.concatenate([errors, self._own.residuals(e)], axis=1)

    def own_features(self, phi: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) what the device's own directions look at: features about its center, clipped, in its own scale or none."""
        own_scale = self.manifest.inputs.features.own_scale
        return normalise(phi, self._center, self._scale if own_scale else np.ones_like(self._scale), self._clip)

    def outputs(self, phi: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) the network's outputs for feature vectors (N, D)."""
        return self._network.run(normalise(phi, self._center, self._scale, self._clip))

    def attribute(self, error: NDArray[np.float64]) -> tuple[list[tuple[str, float]], str]:
        """Shares of the channels in one window's score, greatest first, and the channel that names the cause.

        Args:
            error: (D,) one row of `Scored.error`.

        The share of a feature is its squared error over its usual spread (top-1 right .995 in our measurements of
        reconstruction errors); a channel takes its best feature's. With attribution `rotor` the cause is the motor
        whose ratio rose most against the others': a weaker propeller needs a higher command.
        """
        scoring, channels = self.manifest.scoring, self.manifest.inputs.channels
        parts = np.square(error / self._spread)
        best = np.zeros(len(channels))
        index = np.asarray(scoring.channel_of_feature)
        np.maximum.at(best, index[index >= 0], parts[index >= 0])
        best[:4] += parts[index < 0].sum() / 4  # what all motors share
        total = float(best.sum()) or 1.0
        shares = sorted(((c, float(b) / total) for c, b in zip(channels, best, strict=True)), key=lambda s: -s[1])
        if scoring.attribution == "rotor":
            return shares, channels[int(np.argmax(error[:4]))]
        return shares, shares[0][0]

    def explain(self, z: NDArray[np.float32], error: NDArray[np.float64]) -> tuple[list[tuple[str, float]], str]:
        """As `attribute`, with shares found by trying: how much lower one window scores with a channel made normal.

        Args:
            z: (D,) one row of `Scored.z`.
            error: (D,) the same row of `Scored.error`.

        Costs one batch of C + 1 rows, so it is for alarms only. What no channel alone explains keeps `attribute`'s shares.
        """
        shares, top = self.attribute(error)
        index = np.asarray(self.manifest.scoring.channel_of_feature)
        names = self.manifest.inputs.channels
        rows = np.repeat(z[None], len(names) + 1, axis=0)  # (C + 1, D)
        for c in range(len(names)):
            rows[c + 1, index == c] = 0.0
        kind, y = self.manifest.model.kind, self._network.run(rows)
        e = None
        if self._own is not None:
            e = rows if self.manifest.inputs.features.own_scale else rows * self._scale
        if self.level is None:
            raw = self._raw(kind, rows, y, e)
        else:
            raw = np.square(self._errors(kind, rows, y, e) - self.level.offset).sum(axis=1)
        drop = np.maximum(raw[0] - raw[1:], 0.0)
        total = float(drop.sum())
        if not (np.isfinite(total) and total > 0):
            return shares, top
        tried = sorted(((c, float(d) / total) for c, d in zip(names, drop, strict=True)), key=lambda s: -s[1])
        return tried, top if self.manifest.scoring.attribution == "rotor" else tried[0][0]

    def confidence(self, score: float) -> float:
        """1 - share of reference scores above `score`, with the reference's own resolution (n + 1)."""
        n = self._reference.count
        zero, *bins = self._reference.to_wire()
        above = sum(c for i, c in bins if 2 * GAMMA**i / (GAMMA + 1) >= score) + (zero[0] if score <= 0 else 0)
        return 1.0 - (above + 1) / (n + 1)
