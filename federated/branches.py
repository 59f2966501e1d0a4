"""Filters of `temporal` features by name: what a plan may ask for. Pure; the filters themselves travel in the bundle.

Names: `now` the row itself; `lagN` this row and N - 1 before it; `ms` level and differences of averages over 7 and 37
rows (multi-scale); `ar` rows 0, 1, 2, 6 and 12 back on a soft scale; `bandsN` N frequencies, each as sine and cosine over
64 rows (spectral); `prof` this row and two before it without the device's daily course (profile). An average over n rows is exponential, alpha 2/n.
"""

from __future__ import annotations

import re

import numpy as np

from covey.bundle import Branch
from covey.errors import ConfigError
from edge.scoring.temporal import ewma_taps

_FORM = re.compile(r"(now|ms|ar|prof|lag|bands)(\d{0,2})")
_SHORT, _LONG = 7, 37  # rows of the averages of `ms`
MS_ROWS = 96  # of the longest filter: an average over 37 rows has all but .6 % of its weight there
AR_LAGS = (0, 1, 2, 6, 12)
BAND_ROWS = 64


def branch(name: str) -> Branch:
    """The branch of that name.

    Raises:
        ConfigError: there is none.
    """
    match = _FORM.fullmatch(name)
    kind, number = (match[1], int(match[2] or 0)) if match else ("", 0)
    if kind in _PLAIN and match is not None and not match[2]:
        return _PLAIN[kind]()
    if kind == "lag" and 1 <= number <= 32:
        return _lags(name, range(number))
    if kind == "bands" and 1 <= number <= 16:
        return _bands(name, number)
    raise ConfigError(f"branches: now, lag1 to lag32, ms, ar, prof or bands1 to bands16 expected, {name!r} came")


def _now() -> Branch:
    return Branch("now", [[1.0]])


def _lags(name: str, lags: range | tuple[int, ...], *, soft: bool = False) -> Branch:
    return Branch(name, [[0.0] * lag + [1.0] for lag in lags], soft=soft)


def _autoregressive() -> Branch:
    return _lags("ar", AR_LAGS, soft=True)


def _multi_scale() -> Branch:
    now = np.zeros(MS_ROWS)
    now[0] = 1.0
    short, long = ewma_taps(2 / _SHORT, MS_ROWS), ewma_taps(2 / _LONG, MS_ROWS)
    return Branch("ms", [[1.0], _shortened(now - short), _shortened(short - long)])


def _profile() -> Branch:
    return Branch("prof", [[0.0] * lag + [1.0] for lag in range(3)], daily=True)


_PLAIN = {"now": _now, "ms": _multi_scale, "ar": _autoregressive, "prof": _profile}


def _bands(name: str, count: int) -> Branch:
    """Hann-windowed sines and cosines at count frequencies, evenly on a log scale from two cycles to a quarter of the rate."""
    rows = np.arange(BAND_ROWS)
    shape = np.hanning(BAND_ROWS + 1)[:-1]
    taps = []
    for cycles in np.geomspace(2, BAND_ROWS / 4, count):
        for wave in (np.cos, np.sin):
            row = shape * wave(2 * np.pi * cycles * rows / BAND_ROWS)
            row -= row.mean()
            taps.append(_shortened(row / np.linalg.norm(row)))
    return Branch(name, taps)


def _shortened(row: np.typing.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 9) for value in row]
