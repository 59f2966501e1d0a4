"""What an agent says when something is wrong: alarms with their ids, traces and lineage, begun and ended.

Two kinds. An `anomaly` was judged by the model; at most one is open. A `sensor` alarm says that a channel stands still or is
missing: no model judged it, its score and threshold count windows (still) or seconds (missing). Pure but for the randomness
of the trace ids, which is handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from covey import wire
from covey.bundle import sha256
from edge.scoring.summary import short, wire_score

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge.core import Loaded
    from edge.scoring.detector import Anomaly
    from edge.scoring.scorer import Scorer
    from edge.scoring.sensors import Stuck

_MAX_SHARES = 5  # of the channels, in an alarm's begin
_END_SHARES = 3  # in its end: the begin has told them
_LEAST = 0.02  # of a smaller share nobody learns anything
_MODEL = ""  # the open alarms' key for the model's own


class Raised(NamedTuple):
    """An alarm and the trace that it begins."""

    alarm: wire.Alarm
    traceparent: str


class Window(NamedTuple):
    """The window that an alarm speaks of."""

    samples: NDArray[np.float32]  # (T, C)
    start_s: float
    end_s: float
    error: NDArray[np.float64]  # (D,)
    z: NDArray[np.float32]  # (D,)


class Alarms:
    """One device's alarms."""

    def __init__(self, device: str, new_trace: Callable[[], tuple[str, str]]) -> None:
        self._device, self._new_trace = device, new_trace
        self._open: dict[str, tuple[str, str, str]] = {}  # channel, or _MODEL -> alarm id, trace id, traceparent
        self.flight = ""  # name of the stretch being flown

    @property
    def open(self) -> list[str]:
        """Ids of alarms begun and not ended, the oldest first."""
        return [alarm_id for alarm_id, _, _ in self._open.values()]

    def is_missing(self, channel: str) -> bool:
        """Whether the alarm that a channel is missing is open."""
        return _missing(channel) in self._open

    @property
    def missing(self) -> list[str]:
        """Channels whose alarm of being missing is open."""
        return [key[len(_missing("")) :] for key in self._open if key.startswith(_missing(""))]

    def anomaly(self, state: str, anomaly: Anomaly[Window], model: Loaded, scorer: Scorer) -> Raised:
        """The model's alarm begins or ends."""
        begins = state == "begin"
        window = anomaly.raised if begins else anomaly.last
        most = _MAX_SHARES if begins else _END_SHARES
        shares, top = scorer.explain(window.z, np.nan_to_num(window.error))
        return self._say(
            _MODEL,
            model,
            begins=begins,
            window=wire.WindowRef(
                round(window.start_s, 3), round(window.end_s, 3), sha256(window_bytes(window.samples))
            ),
            windows=anomaly.windows,
            score=short(anomaly.score),
            peak_score=short(anomaly.peak_score),
            threshold=short(scorer.threshold),
            confidence=short(scorer.confidence(anomaly.score)),
            top_channel=top,
            attribution=[wire.Share(name, round(share, 4)) for name, share in shares[:most] if share >= _LEAST],
        )

    def stuck(self, channel: str, told: Stuck, confidence: float, window: wire.WindowRef, value: float, model: Loaded) -> Raised:  # fmt: skip
        """A channel stands still, or moves again; score and threshold count windows."""
        often = f"usually in {100 * told.usual:.2g} % of its windows"
        words = f"stands still at {value:g} for {told.windows} windows, {often}" if told.began else "moves again"
        return self._sensor(
            f"stuck {channel}", channel, model, window, float(told.windows), float(told.limit), confidence,
            f"{channel} {words}"[:256], begins=told.began, windows=told.windows,
        )  # fmt: skip

    def absent(self, channel: str, since_s: float, now_s: float, limit_s: float, model: Loaded, *, back: bool) -> Raised:  # fmt: skip
        """A channel brings nothing since `since_s`, or something again; score and threshold count seconds."""
        gone_s = max(0.0, now_s - since_s)
        words = f"is there again after {gone_s:.3g} s" if back else f"brings nothing for {gone_s:.3g} s"
        return self._sensor(
            _missing(channel), channel, model, wire.WindowRef(since_s, now_s, ""), gone_s, limit_s, 1.0,
            f"{channel} {words}"[:256], begins=not back, windows=0,
        )  # fmt: skip

    def _sensor(
        self,
        key: str,
        channel: str,
        model: Loaded,
        window: wire.WindowRef,
        score: float,
        threshold: float,
        confidence: float,
        detail: str,
        *,
        begins: bool,
        windows: int,
    ) -> Raised:
        return self._say(
            key,
            model,
            begins=begins,
            window=window,
            windows=windows,
            score=wire_score(score),
            peak_score=wire_score(score),
            threshold=threshold,
            confidence=confidence,
            top_channel=channel,
            attribution=[wire.Share(channel, 1.0)],
            kind="sensor",
            detail=detail,
        )

    def _say(self, key: str, model: Loaded, *, begins: bool, **what: object) -> Raised:
        if begins or key not in self._open:
            trace_id, traceparent = self._new_trace()
            self._open[key] = (f"{self._device}-{trace_id[:16]}", trace_id, traceparent)
        alarm_id, trace_id, traceparent = self._open[key]
        alarm = wire.Alarm(
            alarm_id=alarm_id,
            state="begin" if begins else "end",
            release=model.release,
            digest=model.digest,
            calibration=model.calibration_digest,
            runtime=model.runtime,
            trace_id=trace_id,
            flight=self.flight,
            **what,  # type: ignore[arg-type]  # the fields that the kinds fill in themselves
        )
        if not begins:
            del self._open[key]
        return Raised(alarm, traceparent)


def window_bytes(samples: NDArray[np.float32]) -> bytes:
    """A window as the ring and the digests have it: float32, little endian, row by row."""
    return np.ascontiguousarray(samples, "<f4").tobytes()


def _missing(channel: str) -> str:
    return f"missing {channel}"
