"""Plays recordings as if they happened now: one after the other, at a multiple of real time, in small portions.

Gaps of a recording stay gaps. Time stamps come from the device clock at the start and from the recording's rate from there
on, so they run with the speed; one flight never begins before the one before has ended. It scores nothing and sleeps never:
who plays asks `take` for what is due.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from covey.errors import DataError
from edge.sources import Begin, End, Samples, Vehicle
from edge.sources.files import read_recording

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.sources import Missing, Recording
    from edge.sources.names import ChannelFrom

PORTION_S = 0.25  # of the recording: the most that is handed out at once when playing in time
PORTION_ROWS = 512  # the same as fast as possible


class Player:
    """A playlist.

    Attributes:
        columns: channels to read, in this order; all of them when None. Applies from the next recording on.
        extras: channels to read behind them where a recording has them all (the battery's, say).
    """

    def __init__(
        self,
        files: Sequence[str],
        speed: float,
        gap_s: float,
        clock_start_s: float = 0.0,
        *,
        repeat: bool = False,
        rate_hz: float | None = None,
        channel_map: Mapping[str, ChannelFrom] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            files: recordings in order.
            speed: times real time; 0: as fast as possible.
            gap_s: between two recordings, on the device clock.
            clock_start_s: device clock of the first sample; 0: the wall clock's when it is played.
            repeat: begin again after the last one.
            rate_hz: of rows where a file has no rate of its own (a tlog).
            channel_map: model channel -> where it comes from in the files.

        Raises:
            DataError: a file is not there.
        """
        missing = [name for name in files if not Path(name).is_file()]
        if missing:
            raise DataError(f"recordings expected, no such file: {', '.join(missing)}")
        self.columns: Sequence[str] | None = None
        self.extras: Sequence[str] = ()
        self.vehicle = Vehicle()  # a recording knows nothing of what the vehicle does now
        self.counts: dict[str, int] = {}
        self.problem = ""
        self._files = list(files)
        self._repeat = repeat
        self._rate_hz, self._map = rate_hz, channel_map
        self._speed, self._gap_s = speed, gap_s
        self._clock_s = clock_start_s  # where the next recording may begin
        self._fixed = clock_start_s > 0
        self._recording: Recording | None = None
        self._segments: list[tuple[int, int]] = []
        self._row = 0
        self._start_s = 0.0
        self._due_s: float | None = None  # monotonic time of the recording's first row

    @property
    def done(self) -> bool:
        """Everything was played."""
        return self._recording is None and not self._files

    @property
    def playing(self) -> bool:
        """A recording has begun and not ended."""
        return self._recording is not None

    def take(self, now_s: float, clock_s: float) -> list[Begin | Samples | End | Missing]:
        """What is due.

        Args:
            now_s: monotonic.
            clock_s: wall clock, seconds since the epoch.

        Raises:
            DataError: the next file cannot be read.
        """
        out: list[Begin | Samples | End | Missing] = []
        recording = self._recording
        if recording is None:
            if not self._files or (self._due_s is not None and now_s < self._due_s):
                return []
            recording = self._open(now_s, clock_s)
            out.append(Begin(recording.name, recording.channels, recording.rate_hz))
        upto = self._upto(recording, now_s)
        while self._segments and upto > self._row:
            first, last = self._segments[0]
            start, stop = max(self._row, first), min(upto, last)
            if start < stop:
                clock = self._start_s + start / recording.rate_hz
                out.append(Samples(recording.samples[start:stop], clock, gap=start == first and first > 0))
            self._row = min(upto, last)
            if upto >= last:
                self._segments.pop(0)
        if not self._segments:
            out.append(self._close(recording, now_s))
        return out

    def _upto(self, recording: Recording, now_s: float) -> int:
        if self._speed == 0 or self._due_s is None:
            return self._row + PORTION_ROWS
        due = int((now_s - self._due_s) * self._speed * recording.rate_hz) + 1
        # After a stall the backlog is handed out in portions too.
        return min(due, self._row + max(1, round(PORTION_S * recording.rate_hz * max(1.0, self._speed))))

    def _open(self, now_s: float, clock_s: float) -> Recording:
        file = self._files.pop(0)
        if self._repeat:
            self._files.append(file)
        recording = self._read(file)
        self._recording, self._row, self._due_s = recording, 0, now_s
        self._segments = list(recording.segments or ((0, len(recording.samples)),))
        self._start_s = self._clock_s if self._fixed else max(clock_s, self._clock_s)
        return recording

    def _read(self, file: str) -> Recording:
        if self.columns is not None and self.extras:
            try:
                return self._read_columns(file, [*self.columns, *(c for c in self.extras if c not in self.columns)])
            except DataError:
                pass  # not there; what else is wrong with the file is told below
        return self._read_columns(file, self.columns)

    def _read_columns(self, file: str, columns: Sequence[str] | None) -> Recording:
        return read_recording(file, columns, rate_hz=self._rate_hz, channel_map=self._map)

    def _close(self, recording: Recording, now_s: float) -> End:
        self._clock_s = self._start_s + len(recording.samples) / recording.rate_hz + self._gap_s
        self._due_s = now_s + (self._gap_s / self._speed if self._speed else 0.0)
        self._recording = None
        return End(recording.name)

    def close(self) -> None:
        """Nothing is open."""
