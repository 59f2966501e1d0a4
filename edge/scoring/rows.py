"""A recording's windows, scored and judged, told row by row; causal: a row is told from rows up to itself only.

A row carries the newest window that had ended with it or before it, for as long as that is the newest: until the next window
is due, and never past a gap. Rows before the first window, and after the last, have no score. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.scoring.detector import Detector
from edge.scoring.windows import Windows, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge.scoring.scorer import Scorer
    from edge.sources import Recording

_BATCH = 256  # windows at a time, so that memory does not grow with the file


@dataclass(frozen=True)
class RowScores:
    """What is known at each of N rows.

    Attributes:
        score: (N,) smoothed score of the newest window; NaN where there is none.
        alarm: (N,) whether an anomaly is open.
        windows: how many windows were scored.
        threshold: what the scores were compared with.
    """

    score: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    windows: int
    threshold: float

    def lines(self, first_row: int = 0) -> Iterator[str]:
        """CSV: a header, then `row,score,threshold,alarm`; the score of a row that has none is empty."""
        yield "row,score,threshold,alarm\n"
        threshold = f"{self.threshold:.9g}"
        for n, (score, alarm) in enumerate(zip(self.score.tolist(), self.alarm.tolist(), strict=True), start=first_row):
            told = "" if score != score else f"{score:.9g}"  # noqa: PLR0124  # NaN
            yield f"{n},{told},{threshold},{int(alarm)}\n"


def score_rows(recording: Recording, scorer: Scorer) -> RowScores:
    """Score a recording with a fresh scorer.

    Raises:
        DataError: a channel is missing, or the rate is another.
        BundleError: the model fails.
    """
    inputs, count = scorer.manifest.inputs, len(recording.samples)
    windows = cut(recording, inputs)
    stops = np.asarray([stop for _, stop in recording.segments or ((0, count),)])
    score = np.full(count, np.nan)
    alarm = np.zeros(count, np.bool_)
    detector: Detector[None] = Detector(scorer.manifest.scoring)
    for start in range(0, len(windows), _BATCH):
        part = slice(start, start + _BATCH)
        flights, ends = windows.flight[part], windows.end_row[part]
        scored = scorer.score(Windows(windows.samples[part], ends, flights, windows.start_s[part]))
        last = np.minimum(ends + inputs.hop, stops[np.searchsorted(stops, ends, side="right")])
        rows = zip(scored.score.tolist(), flights.tolist(), ends.tolist(), last.tolist(), strict=True)
        for value, flight, first, stop in rows:
            score[first:stop] = value
            alarm[first:stop] = detector.push(value, scorer.threshold, flight, None).alarmed
    return RowScores(score, alarm, len(windows), scorer.threshold)
