"""Figures from scores, alarms and truth, row by row. Nothing here adjusts a prediction by the truth: no point adjustment.

High score means anomalous. A figure that the rows cannot give (no anomaly among them, one class only) is None. VUS-PR is the
library's (`aeon`, extra `evaluate`); everything else is short enough to be checked by hand.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Bools = NDArray[np.bool_]

VUS_SIZES = 11  # buffer sizes that stand for all of them: within 1e-3 on our sets, in a tenth of the time
PERIOD_LAGS = (3, 300)  # rows: what counts as a period
NO_PERIOD = 125  # rows: the buffer of a series without one
PERIOD_ROWS = 20_000  # from which the period is taken


@dataclass(frozen=True)
class Counts:
    """Rows by what was said and what was true; counts of several devices add up."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def f1(self) -> float | None:
        """TP / (TP + (FP + FN) / 2)."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def far(self) -> float | None:
        """False alarm rate, FP / (FP + TN)."""
        return _share(self.fp, self.fp + self.tn)

    @property
    def mar(self) -> float | None:
        """Missed alarm rate, FN / (FN + TP)."""
        return _share(self.fn, self.fn + self.tp)


def count(alarm: Bools, label: Bools) -> Counts:
    """Rows by alarm (N,) and truth (N,).

    Raises:
        DataError: other shapes.
    """
    _same(alarm, label)
    tp, fp = int((alarm & label).sum()), int((alarm & ~label).sum())
    return Counts(tp, fp, int(label.sum()) - tp, int((~label).sum()) - fp)


def filled(score: Floats) -> NDArray[np.float64]:
    """(N,) scores with every row that has none (NaN) as the least suspicious of all."""
    out = np.array(score, np.float64)
    known = ~np.isnan(out)
    out[~known] = out[known].min() if known.any() else 0.0
    return out


def auc_pr(label: Bools, score: Floats) -> float | None:
    """Average precision, the sum of (R_n - R_n-1) P_n over all thresholds; equal scores share one. None without both classes.

    Raises:
        DataError: other shapes, or a score that is not finite.
    """
    _same(score, label)
    _finite(score)
    positives = int(label.sum())
    if not 0 < positives < len(label):
        return None
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # of each group of equal scores
    hits = np.cumsum(label[order])[last]
    recall = hits / positives
    precision = hits / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def vus_here() -> bool:
    """Whether the library that computes VUS-PR is installed."""
    return importlib.util.find_spec("aeon") is not None


def vus_pr(label: Bools, score: Floats, buffer: int) -> float | None:
    """Volume under the precision-recall surface over buffer sizes 0 to `buffer` rows; None without both classes, or library.

    The library's curve (250 thresholds, soft labels beside each anomaly, existence reward) at up to VUS_SIZES evenly spaced
    buffer sizes, averaged as the library averages all of them.

    Raises:
        DataError: other shapes, a score that is not finite, or a negative buffer.

    Source: Paparrizos et al., VLDB 15(11), 2022.
    """
    _same(score, label)
    _finite(score)
    if buffer < 0:
        raise DataError(f"vus-pr: a buffer of at least 0 rows expected, {buffer} came")
    if not 0 < int(label.sum()) < len(label) or not vus_here():
        return None
    if not np.ptp(score) > 0:
        return 0.0  # as the library has it, without its warning
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_auc_score

    truth = label.astype(np.int64)
    values = np.asarray(score, np.float64)
    sizes = np.arange(buffer + 1)
    if len(sizes) > VUS_SIZES:  # the middle one of each of equal parts
        sizes = ((np.arange(VUS_SIZES) + 0.5) * (buffer + 1) / VUS_SIZES).astype(int)
    return float(np.mean([range_pr_auc_score(truth, values, buffer_size=int(size)) for size in sizes]))


def tsb_here() -> bool:
    """Whether `vus` is installed, whose volumes are those of TSB-AD's tables: pip install --no-deps vus."""
    return importlib.util.find_spec("vus") is not None


def vus_pr_tsb(label: Bools, score: Floats, buffer: int) -> float | None:
    """The same volume by the package `vus`, its authors' own; None without both classes, or package.

    It rewards recall otherwise than aeon and comes out higher on the same scores (by .03 to .13 on our sets). It declares
    TensorFlow, which this figure does not need: `pip install --no-deps vus` beside the extra `evaluate`.

    Raises:
        DataError: other shapes, or a score that is not finite.
    """
    _same(score, label)
    _finite(score)
    if not 0 < int(label.sum()) < len(label) or not tsb_here():
        return None
    from vus.utils.metrics import metricor

    told = metricor().RangeAUC_volume_opt(label.astype(np.int64), np.asarray(score, np.float64), buffer)
    return float(told[-1])


def period(series: Floats) -> int:
    """Rows after which a series (N,) repeats itself best, 3 to 300; NO_PERIOD where nothing does.

    The highest local maximum of its autocorrelation, as TSB-AD chooses the buffer of VUS-PR (Liu and Paparrizos, NeurIPS
    2024, find_length_rank), so that figures compare with those published.
    """
    low, high = PERIOD_LAGS
    x = np.asarray(series[:PERIOD_ROWS], np.float64)
    x = x - x.mean()
    size = 2 * len(x)
    power = np.abs(np.fft.rfft(x, size)) ** 2
    correlation = np.fft.irfft(power, size)[: min(401, len(x))]
    inner = correlation[low:]
    if len(inner) < 3 or not correlation[0] > 0:
        return NO_PERIOD
    peaks = np.flatnonzero((inner[1:-1] > inner[:-2]) & (inner[1:-1] > inner[2:])) + 1
    if not len(peaks):
        return NO_PERIOD
    best = int(peaks[np.argmax(inner[peaks])]) + low
    return best if best <= high else NO_PERIOD


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _same(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.ndim != 1 or a.shape != b.shape:
        raise DataError(f"figures: two rows of one length expected, {a.shape} and {b.shape} came")


def _finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise DataError("figures: finite scores expected, others came")
