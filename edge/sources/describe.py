"""What a source offers, for people who write a configuration: every channel, how often it comes, and its last value.

It waits, unlike all else here; no agent calls it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from covey.errors import LinkError
from edge.sources.files import read_recording
from edge.sources.open import is_live, open_reader, open_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.sources.live import Reader

_TURN_S = 0.02
_MOST_CHANNELS = 20_000
_LINES_HZ = 1.0  # lines without a time: one second each


def describe(spec: Sequence[str], seconds: float) -> list[dict[str, object]]:
    """See `edge.sources.open.describe`."""
    if not any(is_live(one) for one in spec):
        open_source(spec, rate_hz=1.0)  # told in one message: all that is not there
        return [one for file in spec for one in _recorded(file)]
    open_source(spec, rate_hz=_LINES_HZ).close() if len(spec) > 1 else None
    reader = open_reader(spec[0], _LINES_HZ, seconds)
    try:
        return _listen(reader, seconds)
    finally:
        reader.close()


def _recorded(file: str) -> list[dict[str, object]]:
    recording = read_recording(file)
    last = recording.samples[-1].tolist()
    return [
        {"channel": name, "rate_hz": round(recording.rate_hz, 3), "last": value}
        for name, value in zip(recording.channels, last, strict=True)
    ]


def _listen(reader: Reader, seconds: float) -> list[dict[str, object]]:
    reader.want(None)
    seen: dict[str, tuple[int, float, float, float]] = {}  # readings, first and last time, last value
    end_s = time.monotonic() + seconds
    while True:
        now_s = time.monotonic()
        for t_s, _, names, values in reader.read(now_s):
            for name, value in zip(names, values, strict=True):
                if name and isinstance(value, int | float) and (name in seen or len(seen) < _MOST_CHANNELS):
                    count, first_s, _, _ = seen.get(name, (0, t_s, t_s, 0.0))
                    seen[name] = count + 1, first_s, t_s, float(value)
        if reader.done or now_s >= end_s:
            break
        time.sleep(_TURN_S)
    if not seen and reader.problem:
        raise LinkError(reader.problem)
    return [
        {"channel": name, "rate_hz": _rate(count, last_s - first_s, seconds), "last": value}
        for name, (count, first_s, last_s, value) in sorted(seen.items())
    ]


def _rate(count: int, span_s: float, seconds: float) -> float:
    """Between the first and the last; one reading alone came once in all the time."""
    return round((count - 1) / span_s if count > 1 and span_s > 0 else count / seconds, 3)
