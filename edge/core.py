"""The agent without clock, threads, sockets or disk: samples in; alarms, normal windows and a summary's figures out.

One core is one device. It cuts its stream into windows, scores them with the active model, judges them, and beside that
lets a new model score the same windows in shadow. A model is swapped between two windows. A model that was not calibrated
on this device learns silently: its windows are all kept, and it raises no alarm.

Who owns a core keeps the ring, sends the messages and says what time it is; thousands of cores fit in one process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from covey import wire
from covey.bundle import sha256
from covey.errors import DataError
from covey.sketch import Sketch
from covey.telemetry import new_trace
from edge.alarmed import AlarmedWindows
from edge.alarms import Alarms, Raised, Window, window_bytes
from edge.scoring.detector import Detector
from edge.scoring.scorer import Scorer
from edge.scoring.sensors import SensorWatch, Stuck, sensed_rows
from edge.scoring.summary import SummaryBuilder, wire_score
from edge.scoring.windows import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from covey.bundle import Calibration, Manifest
    from edge.scoring.detector import Anomaly
    from edge.scoring.scorer import Network, Scored
    from edge.scoring.windows import Windows


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    Attributes:
        manifest: of its bundle.
        digest: of its bundle.
        release: its number.
        network: what runs it.
        runtime: name of that, as in the manifest's thresholds.
        provider: kernels that really run.
        calibration: from this device's ring; None: the group's defaults, which raise no alarm.
    """

    manifest: Manifest
    digest: str
    release: int
    network: Network
    runtime: str
    provider: str = ""
    calibration: Calibration | None = None

    @property
    def calibration_digest(self) -> str:
        """sha256 of the calibration; empty without one."""
        return "" if self.calibration is None else sha256(msgspec.json.encode(self.calibration))

    @property
    def reference(self) -> Sketch:
        """Scores of normal windows under this runtime."""
        base = self.calibration if self.calibration is not None else self.manifest.defaults
        return Sketch.from_wire(base.reference[self.runtime])


@dataclass(frozen=True)
class Kept:
    """A normal window, for the ring."""

    samples: bytes  # T * C float32, little endian, row by row
    start_s: float
    index: int  # its number in its flight; alarmed windows count, so that a hole shows
    flight: int  # counts over the core's life


@dataclass
class Output:
    """What some samples brought about."""

    windows: int = 0
    first_s: float | None = None  # device clock of the first window's oldest sample
    alarms: list[Raised] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


@dataclass
class Shadow:
    """How a new model does beside the active one.

    Attributes:
        windows: windows that both scored.
        calm: of these, those that the active model finds normal.
        above: of the calm ones, those above the new model's threshold.
        broken: scores that are no numbers.
        problem: why it cannot score at all.
    """

    windows: int = 0
    calm: int = 0
    above: int = 0
    broken: int = 0
    problem: str = ""


@dataclass
class _ShadowRun:
    seen: Shadow
    model: Loaded
    scorer: Scorer
    cutter: Cutter | None  # None: it looks at the same windows as the active model
    columns: list[int] = field(default_factory=list)

    def begin_flight(self, name: str, channels: tuple[str, ...]) -> None:
        try:
            self.columns = _columns(name, channels, self.model)
        except DataError as error:
            self.seen.problem = str(error)


class AgentCore:
    """One device's detection."""

    def __init__(self, device: str, model: Loaded, new_trace: Callable[[], tuple[str, str]] = new_trace) -> None:
        self.device = device
        self._alarms = Alarms(device, new_trace)
        self._alarmed = AlarmedWindows()
        self._absent_since: dict[str, tuple[float, float]] = {}  # channel -> since, told (device clock)
        self._last_window = wire.WindowRef(0.0, 0.0, "")  # that a standing sensor was told of
        self._columns: list[int] | None = None
        self._all_in_order = False  # the model looks at every column, as they come
        self._channels: tuple[str, ...] = ()
        self._flight = -1  # over the core's life
        self._cutter_flight: int | None = None
        self._index = 0
        self._shadow: _ShadowRun | None = None
        self._use(model)
        self._cutter = Cutter(model.manifest.inputs)

    def _use(self, model: Loaded) -> None:
        self.model = model
        self.learning = model.calibration is None
        # Adapts while it judges; a shadow, which is judged, does not.
        self._scorer = Scorer(
            model.manifest, model.network, model.runtime, model.calibration, adaptive=not self.learning
        )
        self._detector: Detector[Window] = Detector(model.manifest.scoring)
        inputs, scoring = model.manifest.inputs, model.manifest.scoring
        self._length_s = inputs.window / inputs.rate_hz
        usual = [] if model.calibration is None else model.calibration.still
        self._recent = sensed_rows(inputs)
        self._sensors = SensorWatch(usual, self._recent, inputs.hop, scoring.end_windows)
        names = [inputs.channels[c] if c >= 0 else "" for c in scoring.channel_of_feature]
        self.summary = SummaryBuilder(model.reference, names)

    @property
    def threshold(self) -> float:
        """What scores are compared with."""
        return self._scorer.threshold

    @property
    def airborne(self) -> bool:
        """Whether the device is in the air, where its features can tell."""
        return self._cutter.airborne

    @property
    def flight_name(self) -> str:
        """Name of the stretch being flown; empty between two."""
        return self._alarms.flight

    @property
    def open_alarms(self) -> list[str]:
        """Ids of alarms begun and not ended."""
        return self._alarms.open

    @property
    def shadow(self) -> Shadow | None:
        """What the shadow has seen so far."""
        return None if self._shadow is None else self._shadow.seen

    def begin_flight(self, name: str, channels: Sequence[str]) -> list[Raised]:
        """A stretch of samples with these columns begins; returns the alarms that the one before left open.

        Raises:
            DataError: a channel that the model looks at is missing.
        """
        self._channels = tuple(channels)
        columns = _columns(name, self._channels, self.model)
        ended = self.end_flight()
        self._alarms.flight, self._columns = name, columns
        self._all_in_order = columns == list(range(len(self._channels)))
        if self._shadow is not None:
            self._shadow.begin_flight(name, self._channels)
        return ended

    def end_flight(self) -> list[Raised]:
        """The stretch is over, or the stream stops; returns the alarms that were open."""
        ended = self._finish()
        self.gap()
        self._alarms.flight = ""
        return ended

    def gap(self) -> None:
        """Samples are missing here: no window spans the gap, and a new flight begins after it."""
        self._cutter.gap()
        if self._shadow is not None and self._shadow.cutter is not None:
            self._shadow.cutter.gap()

    def missing(self, channel: str, since_s: float, now_s: float, limit_s: float, *, back: bool) -> list[Raised]:
        """A channel that the model looks at brings nothing (any more), or something again: a `sensor` alarm.

        Args:
            channel: name; one that the model does not look at is nobody's business here.
            since_s: device clock of its last reading.
            now_s: device clock.
            limit_s: silence that counts as missing.
            back: it is there again.
        """
        if channel not in self.model.manifest.inputs.channels or back != self._alarms.is_missing(channel):
            return []
        if back:
            since_s, _ = self._absent_since.pop(channel)
        else:
            self._absent_since[channel] = (since_s, now_s)
        return [self._alarms.absent(channel, since_s, now_s, limit_s, self.model, back=back)]

    def push(self, samples: NDArray[np.float32], start_s: float) -> Output:
        """Score what these samples complete.

        Args:
            samples: (n, C) rows in the order of `begin_flight`'s channels.
            start_s: device clock of the first row, seconds since the epoch.
        """
        if self._columns is None:
            raise DataError("samples came before begin_flight said what they are")
        mine = samples if self._all_in_order else samples[:, self._columns]
        windows = self._cutter.push(mine, start_s)
        if not len(windows):
            if self._shadow is not None:
                self._score_shadow(samples, start_s, windows, [])
            return Output()
        scored = self._scorer.score(windows)
        output = Output(len(windows), float(windows.start_s[0]) if len(windows) else None)
        calm = self._judge(windows, scored, output, keep=True)
        self._score_shadow(samples, start_s, windows, calm)
        return output

    def take_alarmed(self) -> list[tuple[str, list[Kept]]]:
        """(alarm id, its windows) of every anomaly that ended since the last call; none of those that `judge` was given."""
        return self._alarmed.take()

    def judge(self, windows: Windows, scored: Scored) -> Output:
        """Judge windows that were cut and scored elsewhere, many devices at a time (edge/scoring/together.py).

        Args:
            windows: in order; their flights differ from those of other stretches of this device.
            scored: the same windows', with this device's calibration.

        No shadow sees them, and none are kept for a ring.
        """
        output = Output(len(windows), float(windows.start_s[0]) if len(windows) else None)
        level = self._scorer.level
        if level is not None and scored.scaled is not None:
            scored = replace(scored, score=level.push(scored.scaled, windows.flight))
        self._judge(windows, scored, output, keep=False)
        return output

    def swap(self, model: Loaded) -> list[Raised]:
        """Go on with another model from the next window; returns the alarms that the old one had open.

        Raises:
            DataError: it looks at a channel that the stretch being flown does not have.
        """
        if self._columns is not None:
            self._columns = _columns(self._alarms.flight, self._channels, model)
            self._all_in_order = self._columns == list(range(len(self._channels)))
        ended = self._finish()
        if model.manifest.inputs != self.model.manifest.inputs:
            self._cutter = Cutter(model.manifest.inputs)
            self._cutter_flight = None
        self._use(model)
        self._shadow = None
        return ended

    def watch(self, model: Loaded | None) -> None:
        """Let a new model score in shadow from the next window on; None ends it."""
        if model is None:
            self._shadow = None
            return
        scorer = Scorer(model.manifest, model.network, model.runtime, model.calibration)
        same = model.manifest.inputs == self.model.manifest.inputs
        self._shadow = _ShadowRun(Shadow(), model, scorer, None if same else Cutter(model.manifest.inputs))
        if self._columns is not None:
            self._shadow.begin_flight(self._alarms.flight, self._channels)

    def _judge(self, windows: Windows, scored: Scored, output: Output, *, keep: bool) -> list[bool]:
        """Each window in turn; returns which are normal."""
        length_s, model, scorer = self._length_s, self.model, self._scorer
        standing = self._stuck(windows, output)
        calm: list[bool] = []
        rows = zip(windows.start_s.tolist(), windows.flight.tolist(), scored.score.tolist(), strict=True)
        for i, (start_s, flight, raw_score) in enumerate(rows):
            end_s = start_s + length_s
            if flight != self._cutter_flight:
                self._cutter_flight, self._index = flight, 0
                self._flight += 1
            score = wire_score(raw_score)
            normal, alarmed = True, False
            if not self.learning:
                window = Window(windows.samples[i], start_s, end_s, scored.error[i], scored.z[i])
                step = self._detector.push(score, self._scorer.threshold, flight, window)
                if step.ended is not None:
                    output.alarms.append(self._ended(step.ended))
                if step.began is not None:
                    output.alarms.append(self._alarms.anomaly("begin", step.began, model, scorer))
                normal, alarmed = not (step.anomalous or step.alarmed or i in standing), step.alarmed
            self.summary.add(score, scored.z[i], start_s, end_s, alarmed=alarmed)
            if keep:
                self._keep(windows.samples[i], start_s, output, normal=normal, standing=i in standing)
            self._index += 1
            calm.append(normal)
        return calm

    def _keep(
        self, samples: NDArray[np.float32], start_s: float, output: Output, *, normal: bool, standing: bool
    ) -> None:
        """A normal window may go to the ring; one of an alarm waits for an operator's word; of a dead sensor, none."""
        if normal:
            self._alarmed.calm()
        newest = samples[-self.model.manifest.inputs.record_rows :]
        if standing or np.count_nonzero(np.isfinite(newest)) != newest.size:
            return
        inputs = self.model.manifest.inputs
        older = inputs.window - inputs.record_rows  # rows that the windows before hold
        kept = Kept(window_bytes(samples[older:]), start_s + older / inputs.rate_hz, self._index, self._flight)
        if normal:
            output.kept.append(kept)
        else:
            self._alarmed.add(kept)

    def _ended(self, anomaly: Anomaly[Window]) -> Raised:
        raised = self._alarms.anomaly("end", anomaly, self.model, self._scorer)
        self._alarmed.over(raised.alarm.alarm_id)
        return raised

    def _score_shadow(self, samples: NDArray[np.float32], start_s: float, windows: Windows, calm: list[bool]) -> None:
        shadow = self._shadow
        if shadow is None or shadow.seen.problem:
            return
        if shadow.cutter is not None:  # its windows are not those that were judged
            windows = shadow.cutter.push(samples[:, shadow.columns], start_s)
            calm = [not self.open_alarms] * len(windows)
        seen = shadow.seen
        for score, normal in zip(shadow.scorer.score(windows).score.tolist(), calm, strict=True):
            seen.windows += 1
            seen.broken += not np.isfinite(score)
            seen.calm += normal
            seen.above += normal and not score <= shadow.scorer.threshold

    def _stuck(self, windows: Windows, output: Output) -> set[int]:
        """Tell what stands still or moves again; returns the windows in which a channel stood still for too long."""
        for told in self._sensors.push(windows.samples[:, -self._recent :], windows.flight):
            start_s = float(windows.start_s[told.window])
            samples = windows.samples[told.window]
            ref = wire.WindowRef(start_s, start_s + self._length_s, sha256(window_bytes(samples)))
            sure = self._sensors.confidence(told.channel, told.windows)
            name, value = self.model.manifest.inputs.channels[told.channel], float(samples[-1, told.channel])
            output.alarms.append(self._alarms.stuck(name, told, sure, ref, value, self.model))
            self._last_window = ref
        return set(range(len(windows))) if self._sensors.open else set()

    def _finish(self) -> list[Raised]:
        ended = self._detector.finish()
        out = [] if ended is None else [self._ended(ended)]
        self._alarmed.calm()
        for channel in self._sensors.finish():
            name, limit = self.model.manifest.inputs.channels[channel], self._sensors.limit(channel)
            over = Stuck(channel, limit, limit, 0.0, began=False, window=0)
            out.append(self._alarms.stuck(name, over, 1.0, self._last_window, 0.0, self.model))
        return out + [
            self._alarms.absent(name, *self._absent_since.pop(name), 0.0, self.model, back=True)
            for name in self._alarms.missing
        ]


def _columns(name: str, channels: tuple[str, ...], model: Loaded) -> list[int]:
    wanted = model.manifest.inputs.channels
    missing = [channel for channel in wanted if channel not in channels]
    if missing:
        raise DataError(
            f"{name}: channels of release {model.release} expected, {', '.join(missing)} missing "
            f"(found: {', '.join(channels)})"
        )
    return [channels.index(channel) for channel in wanted]
