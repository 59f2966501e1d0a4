"""MAVLink telemetry logs (.tlog) as recordings: the same decoder, clock and resampling as on a live link.

A tlog is what a ground station or companion wrote down: before each frame, 8 bytes with the time it came (big endian, microseconds since 1970).
Bytes that are no frame are passed over, as on a link; a file without a single frame is refused. Of several vehicles the first autopilot is read.

Source: mavlink.io, "Packet Serialization", and pymavlink mavutil.mavlogfile.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import DataError
from edge.sources import Recording
from edge.sources.mavlink import Decoder
from edge.sources.mavlink_frames import V1
from edge.sources.resample import Resampler
from edge.sources.stamps import STAMP_BYTES, is_tlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge.sources.live import Reading

HOLD_S = 0.5  # as `hold_reading_s` of the agent
_REGULAR_HZ = 0.5  # a message this often, over most of the log, is a sensor's
_EDGES = 0.1  # of the log, at its begin and end


def read_tlog(
    path: Path | str,
    columns: Sequence[str] | None = None,
    *,
    rate_hz: float | None = None,
    hold_s: float = HOLD_S,
) -> Recording:
    """Read one log.

    Args:
        path: the log.
        columns: "MESSAGE.field", in this order; None: every field of the messages that come
            at least every 2 s from the first to the last tenth of the log.
        rate_hz: of the rows; None: the rate at which the most frequent of the wanted messages comes.
        hold_s: silence of a column that is a gap, at least three of its own intervals.

    Returns:
        Rows as `edge.sources.resample` makes them; a gap lies between two segments.

    Raises:
        DataError: unreadable, no frame of an autopilot, a missing column, too short.
        MissingExtra: pymavlink is not installed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: a readable tlog expected, {error.strerror or error} came") from error
    decoder = Decoder()
    names = tuple(columns) if columns is not None else None
    decoder.want(None if names is None else frozenset(names))
    readings = list(_readings(data, decoder))
    times = _times(readings)
    if not decoder.system:
        raise DataError(
            f"{path}: a MAVLink tlog with an autopilot's heartbeat expected, none came in {len(data)} bytes"
        )
    if names is None:
        names = _regular(times)
    missing = [name for name in names if name not in times]
    if missing or not names:
        raise DataError(f"{path}: no column {', '.join(missing)}; there are {', '.join(_offered(data)) or 'none'}")
    if rate_hz is None:
        rate_hz = _rate_of(path, [times[name] for name in names])
    return _recording(path, names, readings, decoder, rate_hz, hold_s)


def _readings(data: bytes, decoder: Decoder) -> Iterator[Reading]:
    """Frame by frame, with the time that the log has for each."""
    at, end = 0, len(data)
    while at + STAMP_BYTES < end:
        if not is_tlog(data[at : at + STAMP_BYTES + 1]):
            at += 1
            continue
        begin = at + STAMP_BYTES
        size = frame_bytes(data, begin)
        if size == 0 or begin + size > end:
            at += 1
            continue
        arrived_s = int.from_bytes(data[at:begin], "big") * 1e-6
        before = decoder.framed
        yield from decoder.feed(data[begin : begin + size], arrived_s)
        # What looked like a stamp and a frame and was none is not skipped as a whole.
        at = begin + size if decoder.framed > before else at + 1
        if decoder.framed == before:
            decoder.forget()


def frame_bytes(data: bytes, at: int) -> int:
    """Size of the frame that begins here, by its header; 0 where the data ends inside the header."""
    if at + 3 > len(data):
        return 0
    if data[at] == V1:
        return data[at + 1] + 8
    return data[at + 1] + 12 + (13 if data[at + 2] & 1 else 0)


def _times(readings: list[Reading]) -> dict[str, list[float]]:
    """Channel -> times of its readings."""
    by_names: dict[tuple[str, ...], list[float]] = {}
    for reading in readings:
        if reading.names:
            by_names.setdefault(reading.names, []).append(reading.t_s)
    return {name: times for names, times in by_names.items() for name in names if name}


def _regular(times: dict[str, list[float]]) -> tuple[str, ...]:
    first_s = min((t[0] for t in times.values()), default=0.0)
    last_s = max((t[-1] for t in times.values()), default=0.0)
    edge_s = _EDGES * (last_s - first_s)
    return tuple(
        name
        for name, t in times.items()
        if t[0] <= first_s + edge_s and t[-1] >= last_s - edge_s and len(t) > _REGULAR_HZ * (last_s - first_s)
    )


def _rate_of(path: Path, times: list[list[float]]) -> float:
    """The fastest column's, whole numbers where it is within 2 % of one."""
    steps = [median(np.diff(t).tolist()) for t in times if len(t) > 2]  # two intervals at least
    fastest_s = min((step for step in steps if step > 0), default=0.0)
    if fastest_s <= 0:
        raise DataError(f"{path}: a column with at least 3 readings at different times expected, none came")
    rate_hz = 1.0 / fastest_s
    return (
        float(round(rate_hz)) if rate_hz >= 1 and abs(rate_hz - round(rate_hz)) <= 0.02 * rate_hz else rate_hz
    )  # clocks of 1 ms


def _offered(data: bytes) -> list[str]:
    decoder = Decoder()
    decoder.want(None)
    return sorted(_times(list(_readings(data, decoder))))


def _recording(
    path: Path,
    names: tuple[str, ...],
    readings: list[Reading],
    decoder: Decoder,
    rate_hz: float,
    hold_s: float,
) -> Recording:
    resampler = Resampler(len(names), rate_hz, hold_s)
    plans: dict[tuple[str, ...], list[tuple[int, int]]] = {}  # position in the reading, slot
    portions = []
    for n, (t_s, _, channels, values) in enumerate(readings):
        if not channels:
            resampler.cut()
            continue
        plan = plans.get(channels)
        if plan is None:
            plan = plans[channels] = [(channels.index(c), slot) for slot, c in enumerate(names) if c in channels]
        resampler.add(t_s, [(slot, values[at]) for at, slot in plan])
        if n % 1024 == 0:
            portions += resampler.take()
    portions += resampler.finish()
    if sum(len(portion.rows) for portion in portions) < 2:  # as every reader of recordings
        raise DataError(f"{path}: at least 2 rows with all of {', '.join(names)} fresh expected, fewer came")
    segments: list[tuple[int, int]] = []
    row = 0
    for rows, _, gap in portions:
        if gap or not segments:
            segments.append((row, row))
        row += len(rows)
        segments[-1] = (segments[-1][0], row)
    samples = np.concatenate([portion.rows for portion in portions])
    start_s = portions[0].t_s + decoder.clock.delay_s
    return Recording(str(path), names, rate_hz, samples, tuple(segments), start_s)
