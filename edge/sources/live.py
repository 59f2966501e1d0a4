"""What every live source has in common: a reader's readings through the resampler, with dead channels told.

A reader knows one protocol and brings readings; this file knows the model's channels, what is missing, and when a stretch
begins and ends. It never waits. A stretch goes on through gaps and ends when the vehicle disarms or the source does; where the
vehicle is known to be disarmed, nothing counts as being flown (`playing`), and samples come all the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from edge.sources import Begin, End, Missing, Samples, Vehicle
from edge.sources.names import origins
from edge.sources.resample import SLOWEST_S, Resampler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.sources.names import ChannelFrom

MOST_ROWS = 512  # handed out at once, about
_STEP = 64  # readings between two looks at how many rows there are
_MOST_PLANS = 256  # shapes of readings remembered

_Plan = list[tuple[int, int, float, float]]  # position in the reading, slot, scale, offset


class Reading(NamedTuple):
    """What a source says at one instant."""

    t_s: float  # on our monotonic time, intervals by the sender's clock where it has one
    arrived_s: float  # monotonic
    names: tuple[str, ...]  # empty: the sender's clock was set, time has no meaning across this point
    values: Sequence[float]  # beside the names; what is nameless is no number


class Reader(Protocol):
    """One protocol: bytes in, readings out."""

    @property
    def label(self) -> str:
        """For messages and as the name of a flight; no secrets, no slashes."""
        ...

    @property
    def vehicle(self) -> Vehicle:
        """What it knows of the vehicle."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """What it has seen: readings, bad, lost, ..."""
        ...

    @property
    def problem(self) -> str:
        """One line while it does not work."""
        ...

    @property
    def done(self) -> bool:
        """Nothing will ever come again."""
        ...

    @property
    def exact(self) -> bool:
        """Its readings come with exactly the rate of the rows."""
        ...

    def want(self, names: frozenset[str] | None) -> None:
        """What is looked for; None: everything. Others may be left out, to save work."""
        ...

    def read(self, now_s: float) -> Sequence[Reading]:
        """What has come; never blocks, and bounded. `now_s` is monotonic."""
        ...

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """Device clock at a reading's time."""
        ...

    def close(self) -> None:
        """Give everything free; ends threads."""
        ...


class Live:
    """A live source; see `edge.sources.Source`."""

    def __init__(
        self, reader: Reader, *, rate_hz: float, hold_s: float, channel_map: Mapping[str, ChannelFrom] | None = None
    ) -> None:
        """Nothing is read before the first `take`.

        Args:
            reader: of the protocol.
            rate_hz: of the rows.
            hold_s: see `Resampler`.
            channel_map: model channel -> where it comes from; the channel of the same name where it lacks one.
        """
        self.columns: Sequence[str] | None = None
        self.extras: Sequence[str] = ()
        self.problem = ""
        self._reader = reader
        self._rate_hz, self._hold_s = rate_hz, hold_s
        self._map = dict(channel_map or {})
        self._names: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # columns and extras that are looked for
        self._slots: dict[str, list[tuple[int, float, float]]] = {}  # source channel -> slot, scale, offset
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._pending: deque[Reading] = deque()
        self._resampler = Resampler(0, rate_hz, hold_s)
        self._arrived_s: float | None = None  # when the newest reading did, or when we began to listen
        self._missing: dict[int, float] = {}  # slot -> device clock of its last reading
        self._channels: tuple[str, ...] = ()  # of the stretch; empty: none has begun
        self._stretch = 0
        self._was_armed: bool | None = None
        self._bad = self._late = self._jumps = 0
        self._done = False

    @property
    def vehicle(self) -> Vehicle:
        """What the reader knows of the vehicle."""
        return self._reader.vehicle

    @property
    def counts(self) -> dict[str, int]:
        """The reader's, and readings that are no numbers or came too late."""
        mine = {
            "no_number": self._bad + self._resampler.no_number,
            "late": self._late + self._resampler.late,
            "clock_set": self._jumps + self._resampler.jumps,
        }
        return dict(self._reader.counts) | {name: count for name, count in mine.items() if count}

    @property
    def done(self) -> bool:
        """The source has ended."""
        return self._done

    @property
    def playing(self) -> bool:
        """A stretch goes on, and the vehicle is not known to be disarmed."""
        return bool(self._channels) and self.vehicle.armed is not False

    def take(self, now_s: float, clock_s: float) -> list[Begin | Samples | End | Missing]:
        """What is due; never blocks. `now_s` is monotonic, `clock_s` the device clock."""
        out: list[Begin | Samples | End | Missing] = []
        if self.columns is None or self._done:
            return out
        if self._arrived_s is None:
            self._arrived_s = now_s
        names = (tuple(self.columns), tuple(e for e in self.extras if e not in self.columns))
        if names != self._names:
            self._look_for(names, now_s, out)
        if not self._pending:
            self._pending.extend(self._reader.read(now_s))
            if self._resampler.newest_s is None:
                self._resampler.set_exact(exact=self._reader.exact)
        ended = self._reader.done
        armed = self.vehicle.armed
        self._feed(now_s, clock_s, out)
        if self._was_armed and armed is False:
            self._end(out)
        self._was_armed = armed
        if ended and not self._pending:
            self._hand_out(out, now_s, clock_s, last=True)
            self._end(out)
            self._done = True
        if not self._done:
            self._tell_missing(out, now_s, clock_s)
        self.problem = self._reader.problem or self._unseen()
        return out

    def close(self) -> None:
        """Give everything free."""
        self._reader.close()

    def _look_for(
        self,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        now_s: float,
        out: list[Begin | Samples | End | Missing],
    ) -> None:
        """Other channels: what was begun ends."""
        self._end(out)
        columns, extras = names
        self._names = names
        self._slots = {}
        for slot, origin in enumerate(origins([*columns, *extras], self._map)):
            self._slots.setdefault(origin.source, []).append((slot, origin.scale, origin.offset))
        self._plans = {}
        self._reader.want(frozenset(self._slots))
        self._bad += self._resampler.no_number
        self._late += self._resampler.late
        self._jumps += self._resampler.jumps
        self._resampler = Resampler(len(columns), self._rate_hz, self._hold_s, extras=len(extras))
        self._resampler.set_exact(exact=self._reader.exact)
        self._arrived_s = now_s
        self._missing = {}

    def _feed(self, now_s: float, clock_s: float, out: list[Begin | Samples | End | Missing]) -> None:
        rows = 0
        pending = self._pending
        while pending and rows < MOST_ROWS:
            before_s = self._resampler.newest_s
            for _ in range(min(_STEP, len(pending))):
                reading = pending.popleft()
                self._add(reading)
            if self._resampler.newest_s != before_s:
                self._arrived_s = reading.arrived_s
            rows += self._hand_out(out, now_s, clock_s)
        if not pending:
            self._hand_out(out, now_s, clock_s)

    def _add(self, reading: Reading) -> None:
        names = reading.names
        if not names:
            self._resampler.cut()
            return
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plan(names)
        if not plan:
            return
        values = reading.values
        self._resampler.add(reading.t_s, [(slot, values[at] * scale + offset) for at, slot, scale, offset in plan])

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        plan = [
            (position, slot, scale, offset)
            for position, name in enumerate(names)
            for slot, scale, offset in self._slots.get(name, ())
        ]
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[names] = plan
        return plan

    def _hand_out(
        self, out: list[Begin | Samples | End | Missing], now_s: float, clock_s: float, *, last: bool = False
    ) -> int:
        count = 0
        for rows, t_s, gap in self._resampler.finish() if last else self._resampler.take():
            count += len(rows)
            if not self._channels:
                self._begin(out, rows.shape[1])
                gap = False  # noqa: PLW2901  # nothing was begun that could have a hole
            self._tell_back(out, now_s, clock_s)
            start_s = self._reader.clock_of(t_s, now_s, clock_s)
            out.append(Samples(np.ascontiguousarray(rows[:, : len(self._channels)]), start_s, gap))
        return count

    def _begin(self, out: list[Begin | Samples | End | Missing], width: int) -> None:
        assert self._names is not None  # noqa: S101  # for the type checker: rows come after `_look_for`
        columns, extras = self._names
        there = 0  # extras that came so far, up to the first that did not
        while len(columns) + there < width and self._resampler.readings_of(len(columns) + there):
            there += 1
        self._channels = (*columns, *extras[:there])
        self._stretch += 1
        out.append(Begin(f"{self._reader.label} flight {self._stretch}", self._channels, self._rate_hz))

    def _end(self, out: list[Begin | Samples | End | Missing]) -> None:
        if self._channels:
            self._channels = ()
            out.append(End(f"{self._reader.label} flight {self._stretch}"))

    def _silent(self, slot: int, now_s: float) -> bool:
        resampler = self._resampler
        hold_s = resampler.hold_of(slot)
        if resampler.readings_of(slot) < 2:  # its interval is not known
            hold_s = max(hold_s, SLOWEST_S)
        return self._idle_s(now_s) > hold_s or resampler.silent_s(slot) > hold_s

    def _idle_s(self, now_s: float) -> float:
        """How long nothing has come at all."""
        return 0.0 if self._arrived_s is None else now_s - self._arrived_s

    def _heard(self, slot: int, now_s: float, clock_s: float) -> float:
        """Device clock of a channel's last reading; where it has none, of when anything began to be heard."""
        last_s = self._resampler.last_s(slot)
        if last_s is None:
            return clock_s - max(self._idle_s(now_s), self._resampler.silent_s(slot))
        return self._reader.clock_of(last_s, now_s, clock_s)

    def _tell_missing(self, out: list[Begin | Samples | End | Missing], now_s: float, clock_s: float) -> None:
        assert self.columns is not None  # noqa: S101  # for the type checker: `take` looked
        if not self._missing and max(self._idle_s(now_s), self._resampler.quiet_s) <= self._hold_s:
            return  # nearly always
        self._tell_back(out, now_s, clock_s)
        for slot, channel in enumerate(self.columns):
            if slot not in self._missing and not self._pending and self._silent(slot, now_s):
                since_s = self._missing[slot] = self._heard(slot, now_s, clock_s)
                out.append(Missing(channel, since_s, back=False))

    def _tell_back(self, out: list[Begin | Samples | End | Missing], now_s: float, clock_s: float) -> None:
        assert self.columns is not None  # noqa: S101  # for the type checker: `take` looked
        for slot in sorted(self._missing):
            if self._resampler.readings_of(slot) and not self._silent(slot, now_s):
                del self._missing[slot]
                out.append(Missing(self.columns[slot], self._heard(slot, now_s, clock_s), back=True))

    def _unseen(self) -> str:
        """What has never come, after a while; and that nothing comes."""
        if self._done or not self._missing or self.columns is None:
            return ""
        never = [self.columns[slot] for slot in sorted(self._missing) if not self._resampler.readings_of(slot)]
        if len(self._missing) == len(self.columns) and not never:
            return f"{self._reader.label}: no reading of any wanted channel"
        shown = ", ".join(never[:4]) + (f" and {len(never) - 4} more" if len(never) > 4 else "")
        return f"{self._reader.label}: never came: {shown}" if never else ""
