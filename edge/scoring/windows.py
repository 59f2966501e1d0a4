"""From samples to windows to feature vectors; pure NumPy, the same code on the device, in the fit and in the learner.

A window is causal: it ends with the newest sample it knows. No window spans a gap. What a feature means is said in
docs/protocol.md beside the bundle's `features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from edge.scoring.spectral import CHANNEL_OF_BAND_FEATURE, band_features
from edge.scoring.temporal import temporal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from covey.bundle import Inputs
    from edge.scoring.temporal import Channels
    from edge.sources import Recording

# Roles of the seven channels of `drone` features, in this order in a bundle's `inputs.channels`.
DRONE_CHANNELS = (
    "motor.m1",
    "motor.m2",
    "motor.m3",
    "motor.m4",
    "stateEstimate.ax",
    "stateEstimate.ay",
    "stateEstimate.az",
)
# Feature -> channel: four ratios, thrust (EVERY_MOTOR), log std and means of the accelerations.
EVERY_MOTOR = -1
DRONE_CHANNEL_OF_FEATURE = (0, 1, 2, 3, EVERY_MOTOR, 4, 5, 6, 4, 5, 6)
_FULL_COMMAND = 65_535.0  # Crazyflie motor command at full thrust
REST_S = 10.0  # a landing up to this long does not end a flight: CrazyPAD's mission lands for 5 s half way
_STD_FLOOR = 1e-3  # in the accelerations' unit: below it a sensor's own noise rules


@dataclass(frozen=True)
class Windows:
    """Windows of one device in order of time.

    Attributes:
        samples: (N, T, C) float32.
        end_row: (N,) int64: row of the newest sample of each window in its recording.
        flight: (N,) int64: windows of one contiguous stretch share it; a new one resets smoothing.
        start_s: (N,) float64: device clock of the oldest sample.
    """

    samples: NDArray[np.float32]
    end_row: NDArray[np.int64]
    flight: NDArray[np.int64]
    start_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples)

    def end_s(self, inputs: Inputs) -> NDArray[np.float64]:
        """(N,) device clock of the newest samples."""
        return self.start_s + (inputs.window - 1) / inputs.rate_hz


def pick_channels(recording: Recording, channels: Iterable[str]) -> NDArray[np.float32]:
    """(N, C) samples of the named channels, in that order.

    Raises:
        DataError: a channel is missing; names it and what there is.
    """
    wanted = list(channels)
    missing = [c for c in wanted if c not in recording.channels]
    if missing:
        raise DataError(
            f"{recording.name}: channels {', '.join(wanted)} expected, {', '.join(missing)} missing "
            f"(found: {', '.join(recording.channels)})"
        )
    return recording.samples[:, [recording.channels.index(c) for c in wanted]]


def cut(recording: Recording, inputs: Inputs) -> Windows:
    """All windows of a recording, gated as the bundle's features say.

    Raises:
        DataError: a channel is missing, or the rate differs by more than 5 %.
    """
    if abs(recording.rate_hz - inputs.rate_hz) > 0.05 * inputs.rate_hz:
        raise DataError(f"{recording.name}: {inputs.rate_hz:g} samples/s expected, {recording.rate_hz:g} found")
    samples = pick_channels(recording, inputs.channels)
    parts: list[Windows] = []
    flight = 0
    for start, stop in recording.segments or ((0, len(samples)),):
        cutter = Cutter(inputs)
        part = cutter.push(samples[start:stop], recording.start_s + start / recording.rate_hz)
        parts.append(
            Windows(part.samples, part.end_row + start, part.flight + flight, part.start_s),
        )
        flight += 1 + (int(part.flight[-1]) if len(part) else 0)
    return join(parts, inputs)


def join(parts: list[Windows], inputs: Inputs) -> Windows:
    """Concatenate windows; their flights must already differ where they should."""
    if len(parts) == 1:
        return parts[0]  # not copied: a long recording's padded windows are views of its rows
    if not parts:
        shape = (0, inputs.window, len(inputs.channels))
        return Windows(np.empty(shape, np.float32), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Windows(
        np.concatenate([p.samples for p in parts]),
        np.concatenate([p.end_row for p in parts]),
        np.concatenate([p.flight for p in parts]),
        np.concatenate([p.start_s for p in parts]),
    )


def newest_rows(windows: Windows, inputs: Inputs) -> NDArray[np.float32]:
    """(N, R, C) rows that each window added, where the windows before hold the others; else all of its rows."""
    return windows.samples[:, -inputs.record_rows :]


class Cutter:
    """Cuts a live stream of samples into windows; pushing in any portions gives the same windows.

    Gate of `drone` features: a window counts when every sample in it is airborne (mean motor command above
    `airborne_above`) and take-off lies `settle_s` behind its first sample. A take-off after more than REST_S on the
    ground begins a new flight. Flights that end with every short landing restart the smoothing, and single raw scores
    then rule the threshold: measured on CrazyPAD, 4 of 21 damaged drones were missed that way, none this way.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._drone = inputs.features.kind == "drone"
        self._settle = round(inputs.features.settle_s * inputs.rate_hz) if self._drone else 0
        self._buffer = np.empty((2 * inputs.window + 64, len(inputs.channels)), np.float32)
        self._rows = self._buffer[:0]  # samples not yet behind every window: a part of the buffer
        self._none = join([], inputs)
        self._begin = 0  # where they begin in it
        self._first = 0  # row number of self._rows[0] since the stream's start
        self._next = 0  # row at which the next window starts
        self._airborne_since: int | None = None if self._drone else 0
        self._judged = 0  # rows whose airborne state is known
        self._flight = -1 if self._drone else 0
        self._pad = inputs.window - 1 if inputs.padded else 0  # rows to put before the flight's first
        self._padding = self._pad > 0
        self._landed: int | None = None  # row of the last landing; None: the next take-off begins a new flight

    @property
    def airborne(self) -> bool:
        """Whether the newest sample was in the air; never for features that cannot tell."""
        return self._drone and self._airborne_since is not None

    def gap(self) -> None:
        """Samples are missing here: what comes next is a new flight."""
        self._first += len(self._rows)
        self._begin, self._rows = 0, self._buffer[:0]
        self._next = self._judged = self._first
        self._airborne_since = None if self._drone else self._first
        self._landed = None
        self._padding = self._pad > 0
        if not self._drone:
            self._flight += 1

    def push(self, samples: NDArray[np.float32], start_s: float) -> Windows:
        """Add samples (n, C), the first of them at `start_s`; returns the windows they complete."""
        base = self._first + len(self._rows)
        if self._padding and len(samples):
            self._padding = False
            self._first -= self._pad
            self._next = self._first
            self._append(np.repeat(samples[:1], self._pad, axis=0))
        self._append(samples)
        starts: list[tuple[int, int]] = []
        if self._drone:
            self._judge(starts)
        else:
            self._take(starts, self._first + len(self._rows))
        if not starts:
            self._forget()
            return self._none
        rows = [row for row, _ in starts]
        t, hop_rows = self._inputs.window, np.arange(self._inputs.window)
        if self._pad and len(rows) > 1:  # views of one copy of the rows: overlapping windows of hundreds of rows
            kept = self._rows[rows[0] - self._first : rows[-1] - self._first + t].copy()
            blocks = np.lib.stride_tricks.sliding_window_view(kept, t, axis=0)[:: self._inputs.hop]
            samples = blocks.transpose(0, 2, 1)  # (N, C, T) -> (N, T, C)
        elif len(rows) == 1:
            samples = self._rows[rows[0] - self._first :][None, :t].copy()  # (1, T, C)
        else:
            samples = self._rows[np.asarray(rows, np.int64).reshape(-1, 1) - self._first + hop_rows]
        windows = Windows(
            samples,
            np.asarray(rows, np.int64) + t - 1,
            np.asarray([flight for _, flight in starts], np.int64),
            start_s + (np.asarray(rows, np.float64) - base) / self._inputs.rate_hz,
        )
        self._forget()
        return windows

    def _append(self, samples: NDArray[np.float32]) -> None:
        have, more = len(self._rows), len(samples)
        begin = self._begin
        if begin + have + more > len(self._buffer):
            kept = self._rows
            if have + more > len(self._buffer):
                self._buffer = np.empty((2 * (have + more), kept.shape[1]), np.float32)
            self._buffer[:have] = kept  # NumPy copies rightly where the two overlap
            begin = self._begin = 0
        self._buffer[begin + have : begin + have + more] = samples
        self._rows = self._buffer[begin : begin + have + more]

    def _forget(self) -> None:
        """Let go of the rows that no window will need."""
        keep_from = max(self._first, min(self._next, self._judged if self._drone else self._next))
        keep_from = min(keep_from, self._first + len(self._rows))
        self._begin += keep_from - self._first
        self._rows = self._rows[keep_from - self._first :]
        self._first = keep_from

    def _take(self, starts: list[tuple[int, int]], stop: int) -> None:
        while self._next + self._inputs.window <= stop:
            starts.append((self._next, self._flight))
            self._next += self._inputs.hop

    def _judge(self, starts: list[tuple[int, int]]) -> None:
        end = self._first + len(self._rows)
        fresh = self._rows[self._judged - self._first :]
        airborne = fresh[:, :4].mean(axis=1) > self._inputs.features.airborne_above
        row = self._judged
        for up in airborne:
            if up and self._airborne_since is None:
                self._airborne_since = row
                rest = REST_S * self._inputs.rate_hz
                self._flight += self._landed is None or row - self._landed > rest
                self._next = row + self._settle
            elif not up and self._airborne_since is not None:
                self._take(starts, row)
                self._airborne_since = None
                self._landed = row
            row += 1
        self._judged = end
        if self._airborne_since is None:
            self._next = end
        else:
            self._take(starts, end)


def features(windows: Windows, inputs: Inputs, channels: Channels | None = None) -> NDArray[np.float32]:
    """(N, D) feature vectors of N windows, not yet normalised.

    Args:
        windows: of one device.
        inputs: of the bundle.
        channels: what is normal of each channel; `temporal` features only.

    Raises:
        DataError: `temporal` features of a device whose channels are not known.
    """
    if inputs.features.kind == "temporal":
        if channels is None:
            raise DataError("features: a device's channel centers and scales expected for temporal ones, none came")
        return temporal(windows, inputs, channels)
    return plain_features(windows.samples, inputs)


def plain_features(samples: NDArray[np.float32], inputs: Inputs) -> NDArray[np.float32]:
    """(N, T, C) windows -> (N, D), `lag` and `drone`: they know nothing but the samples."""
    if inputs.features.kind == "lag":
        return np.ascontiguousarray(samples[:, ::-1, :]).reshape(len(samples), samples.shape[1] * samples.shape[2])
    if inputs.features.bands:
        spectral = band_features(samples[:, :, 4:7], inputs.rate_hz, inputs.features.bands)
        return np.concatenate([_drone(samples), spectral], axis=1, dtype=np.float32)
    return _drone(samples)


def drone_channels_of(inputs: Inputs) -> tuple[int, ...]:
    """(D,) which channel each of the `drone` features counts for; EVERY_MOTOR: the four motors alike."""
    return (*DRONE_CHANNEL_OF_FEATURE, *CHANNEL_OF_BAND_FEATURE * len(inputs.features.bands))


def _drone(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    motors = samples[:, :, :4].astype(np.float64)  # (N, T, 4)
    acceleration = samples[:, :, 4:7].astype(np.float64)  # (N, T, 3)
    mean = motors.mean(axis=1)  # (N, 4)
    total = mean.mean(axis=1, keepdims=True)
    ratio = mean / total - 1.0
    return np.concatenate(
        [
            ratio,
            # Motor commands are thrust: the firmware has corrected them for the battery (docs/decisions/0005).
            np.log(np.maximum(total, 1.0) / _FULL_COMMAND),
            np.log(acceleration.std(axis=1) + _STD_FLOOR),
            acceleration.mean(axis=1),
        ],
        axis=1,
        dtype=np.float32,
    )
