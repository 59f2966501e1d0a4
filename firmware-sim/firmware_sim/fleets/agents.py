"""The agents of a fleet: one core per device, their windows scored together.

A device plays a recording: windows become due as time passes, are scored in one go with those of all other devices, and
judged by the device's own core with its own calibration, threshold and alarms. The core is the product's (edge/core.py);
only the cutting is shared, since devices that play one recording cut it alike.

It knows no network and no ledger: what was judged comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge.core import AgentCore
from edge.scoring.scorer import Scored
from edge.scoring.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from covey.bundle import Calibration
    from edge.alarms import Raised
    from edge.core import Loaded, Output
    from firmware_sim.fleets.recordings import Recording
    from firmware_sim.scene.plan import DevicePlan
    from firmware_sim.scene.scenario import Body

_FLIGHTS_A_PLAY = 1000  # flights of the cutter within one recording are fewer


class Judged(NamedTuple):
    """What windows of one device brought about."""

    device: int
    output: Output


@dataclass
class _Play:
    """A recording being played.

    Attributes:
        recording: which.
        begin_t_s: scenario time of its first sample.
        flight: base of its flights' numbers.
        next: first window not yet judged.
    """

    recording: Recording
    begin_t_s: float
    flight: int
    next: int = 0


@dataclass
class _Body:
    """What the devices of one body share: `rank` of a device is its row in `together`."""

    together: Together
    rank: dict[int, int]


class Agents:
    """K devices' agents.

    Args:
        devices: their plans.
        models: body -> the model they run, without a calibration.
        calibrations: (body, vehicle) -> its calibration; None: the device learns silently.
        new_trace: makes (trace id, traceparent) of an alarm.
    """

    def __init__(
        self,
        devices: Sequence[DevicePlan],
        models: Mapping[str, Loaded],
        calibrations: Mapping[tuple[Body, int], Calibration | None],
        new_trace: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        own = {key: replace(models[key[0]], calibration=made) for key, made in calibrations.items()}
        self._new_trace = new_trace
        self._models = [own[plan.body, plan.vehicle] for plan in devices]
        digests = {id(model): model.calibration_digest for model in own.values()}
        self._digests = [digests[id(model)] for model in self._models]
        self._names = [plan.name for plan in devices]
        self.cores = [self._core(i) for i in range(len(devices))]
        self._plays: dict[int, _Play] = {}
        self._played = 0
        self._body = [plan.body for plan in devices]
        self._bodies: dict[str, _Body] = {}
        for body, model in models.items():
            mine = [i for i, plan in enumerate(devices) if plan.body == body]
            if mine:
                together = Together(model.manifest, model.network, [self._models[i].calibration for i in mine])
                self._bodies[body] = _Body(together, {i: rank for rank, i in enumerate(mine)})
        self.windows = 0  # judged so far

    def _core(self, i: int) -> AgentCore:
        if self._new_trace is None:
            return AgentCore(self._names[i], self._models[i])
        return AgentCore(self._names[i], self._models[i], self._new_trace)

    def begin(self, i: int, recording: Recording, begin_t_s: float, now_t_s: float) -> list[Raised]:
        """A device begins to play; returns alarms that the play before left open.

        Args:
            i: the device.
            recording: what it plays.
            begin_t_s: scenario time of the recording's first sample.
            now_t_s: scenario time; windows that were over by then are passed over (the agent was not running).
        """
        self._played += 1
        over = int(np.searchsorted(recording.due_s, now_t_s - begin_t_s, side="left"))
        self._plays[i] = _Play(recording, begin_t_s, self._played * _FLIGHTS_A_PLAY, over)
        return self.cores[i].begin_flight(recording.name, recording.channels)

    def end(self, i: int) -> list[Raised]:
        """The recording is over; returns the alarms that were open."""
        self._plays.pop(i, None)
        return self.cores[i].end_flight()

    def reboot(self, i: int) -> None:
        """The device lost its memory: open alarms and the period's scores are forgotten, as by a power cut."""
        self._plays.pop(i, None)
        self.cores[i] = self._core(i)

    def calibration_digest(self, i: int) -> str:
        """What the device says of its calibration; worked out once for all who share it."""
        return self._digests[i]

    def playing(self, i: int) -> tuple[Recording, float] | None:
        """What a device plays, and since when in scenario time."""
        play = self._plays.get(i)
        return None if play is None else (play.recording, play.begin_t_s)

    def advance(self, devices: Sequence[int], t_s: float, clock_s: Callable[[int], float]) -> list[Judged]:
        """Score and judge every window that became due on these devices.

        Args:
            devices: those that play; others are passed over.
            t_s: scenario time, now.
            clock_s: device -> its own clock, now.
        """
        due: dict[str, list[tuple[int, _Play, int]]] = {}
        for i in devices:
            play = self._plays.get(i)
            if play is not None:
                last = int(np.searchsorted(play.recording.due_s, t_s - play.begin_t_s, side="right"))
                if last > play.next:
                    due.setdefault(self._body[i], []).append((i, play, last))
        judged: list[Judged] = []
        for body, entries in due.items():
            judged += self._score(self._bodies[body], entries, t_s, clock_s)
        return judged

    def _score(
        self, body: _Body, entries: list[tuple[int, _Play, int]], t_s: float, clock_s: Callable[[int], float]
    ) -> list[Judged]:
        counts = [last - play.next for _, play, last in entries]
        device = np.repeat([body.rank[i] for i, _, _ in entries], counts)
        phi = np.concatenate([play.recording.phi[play.next : last] for _, play, last in entries])
        flight = np.concatenate([play.recording.flight[play.next : last] + play.flight for _, play, last in entries])
        scored = body.together.score(device, phi, flight)
        judged: list[Judged] = []
        at = 0
        for (i, play, last), count in zip(entries, counts, strict=True):
            begin_s = clock_s(i) - (t_s - play.begin_t_s)
            windows = play.recording.windows(play.next, last, begin_s, play.flight)
            mine = slice(at, at + count)
            part = Scored(scored.raw[mine], scored.score[mine], scored.z[mine], scored.error[mine])
            judged.append(Judged(i, self.cores[i].judge(windows, part)))
            play.next = last
            at += count
        self.windows += at
        return judged
