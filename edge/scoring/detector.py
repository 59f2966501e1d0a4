"""From scores to anomalies, one window at a time: consecutive windows above the threshold begin one, consecutive windows below end it.

Pure: it knows no clock, no model and no wire. What a window is (times, digests, attribution) is the caller's; the
detector only remembers which one raised an anomaly and which one was its last. High score means anomalous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from covey.bundle import Scoring

W = TypeVar("W")


@dataclass(frozen=True)
class Anomaly(Generic[W]):
    """One anomaly, as far as it is known.

    Attributes:
        number: counts over the detector's life, from 1; begin and end share it.
        flight: flight it belongs to; an anomaly never spans two.
        raised: the window that made it an anomaly.
        last: its last window above the threshold.
        windows: windows above the threshold so far, those before `raised` included.
        score: score of `last`.
        peak_score: greatest score so far.
    """

    number: int
    flight: int
    raised: W
    last: W
    windows: int
    score: float
    peak_score: float


@dataclass(frozen=True)
class Step(Generic[W]):
    """What one window changed.

    Attributes:
        anomalous: its score is above the threshold.
        alarmed: an anomaly is open now, this window included.
        began: the anomaly it raised.
        ended: the anomaly it ended; it was over before `began`.
    """

    anomalous: bool
    alarmed: bool
    began: Anomaly[W] | None = None
    ended: Anomaly[W] | None = None


class Detector(Generic[W]):
    """Hysteresis over the windows of one stream."""

    def __init__(self, scoring: Scoring) -> None:
        self._begin, self._end = scoring.begin_windows, scoring.end_windows
        self._flight: int | None = None
        self._above = self._below = self._number = 0
        self._run_peak = 0.0
        self.open: Anomaly[W] | None = None

    def push(self, score: float, threshold: float, flight: int, window: W) -> Step[W]:
        """Judge the next window; NaN counts as above the threshold, so that a broken model is heard.

        Args:
            score: its smoothed score.
            threshold: what the score is compared with; it may differ from window to window.
            flight: the windows of one contiguous stretch share it; another value ends what is open.
            window: whatever the caller wants back.
        """
        ended = self.finish() if flight != self._flight else None
        self._flight = flight
        anomalous = not score <= threshold
        if not anomalous:
            self._above, self._below = 0, self._below + 1
            if self.open is not None and self._below >= self._end:
                ended, self.open = self.open, None
            return Step(anomalous=False, alarmed=self.open is not None, ended=ended)
        self._run_peak = score if self._above == 0 else max(self._run_peak, score)
        self._above, self._below = self._above + 1, 0
        if self.open is not None:
            peak = max(self.open.peak_score, score)
            self.open = replace(self.open, last=window, windows=self.open.windows + 1, score=score, peak_score=peak)
            return Step(anomalous=True, alarmed=True, ended=ended)
        if self._above < self._begin:
            return Step(anomalous=True, alarmed=False, ended=ended)
        self._number += 1
        self.open = Anomaly(self._number, flight, window, window, self._above, score, self._run_peak)
        return Step(anomalous=True, alarmed=True, began=self.open, ended=ended)

    def finish(self) -> Anomaly[W] | None:
        """The flight is over: the anomaly that was open, now ended."""
        ended, self.open = self.open, None
        self._above = self._below = 0
        self._flight = None
        return ended
