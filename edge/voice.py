"""What an agent says, and when: alarms at once, summaries when there is news and the link's budget allows, turns of its life, its status.

It judges nothing and fetches nothing: it is told, and hands events to the road.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covey import health, wire
from covey.telemetry import new_trace
from edge import metrics, report, spans
from edge.status import status_in_memory, status_on_disk, write_status

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from covey.tracing import Tracing
    from edge.alarms import Raised
    from edge.config import AgentConfig
    from edge.core import AgentCore
    from edge.install import Installer
    from edge.models.slots import Slot
    from edge.road import Road
    from edge.sources import Source
    from edge.status import Tally

Phase = Literal["commissioning", "flying", "done", "idle"]


class Voice:
    """One device's voice.

    Attributes:
        slot: what runs.
        phase: what the agent does, for people.
        interval_s: between two summaries, as the cloud or the configuration wants it.
    """

    phase: Phase

    def __init__(
        self,
        config: AgentConfig,
        state: Path,
        core: AgentCore,
        slot: Slot,
        road: Road,
        tally: Tally,
        installer: Installer,
        source: Source,
        log: logging.Logger,
        tracing: Tracing | None = None,
    ) -> None:
        self.slot, self.phase, self.interval_s = slot, "commissioning", config.summary_interval_s
        self._config, self._core, self._road, self._tally, self._installer = config, core, road, tally, installer
        self._source, self._log, self._tracing = source, log, tracing
        self._path = state / "status.json"
        self._memory = status_in_memory(self._path)
        self._next_s = self._next_idle_s = time.monotonic() + self.interval_s
        self._told: wire.Reported | None = None
        self._status: dict[str, Any] = {}

    @property
    def words(self) -> str:
        """One line for whoever watches the service."""
        model, view = self._core.model, self._road.view
        there = "connected" if view.connected else "no connection"
        return f"release {model.release} on {model.runtime}, {there}, {view.depth} events wait"

    def alarms(self, raised: Sequence[Raised]) -> None:
        """Each at once."""
        for alarm, traceparent in raised:
            about = {"trace_id": alarm.trace_id, "device": self._config.device, "alarm_id": alarm.alarm_id}
            self._log.info("alarm %s: %s, %s", alarm.state, alarm.alarm_id, alarm.top_channel, extra=about)
            self._tally.alarm(alarm)
            if self._tracing is not None:
                spans.tell_alarm(self._tracing, self._config.device, alarm, traceparent, time.time())
            self._road.put("alarm", alarm, traceparent)

    def soon(self) -> None:
        """Something changed that the cloud waits for: the next turn summarises."""
        self._next_s = 0.0

    def every(self, interval_s: float) -> None:
        """Another interval, from now on at the latest."""
        self.interval_s = interval_s
        self._next_s = min(self._next_s, time.monotonic() + interval_s)

    def turn(self, now_s: float) -> None:
        """Summarise when it is time and there is news; `now_s` is monotonic."""
        if now_s < self._next_s or self._road.busy:
            return
        if self._core.summary.windows > 0 or now_s >= self._next_idle_s or self._reported() != self._told:
            self.summarise()

    def summarise(self, flight: str = "") -> None:
        """Say what the period brought; `flight`: the stretch that has just ended."""
        now_s = time.monotonic()
        self._next_s = now_s + self._road.view.stretch(self.interval_s)
        self._next_idle_s = now_s + max(self.interval_s, self._config.idle_summary_interval_s)
        self._told = self._reported()
        core = self._core
        health = report.health(self._tally, self._road.view, self._installer)
        name = Path(flight).name[:256] or core.flight_name
        where = self._source.vehicle.position if self._config.share_position else None
        place = None if where is None else wire.Position(*where)
        data = core.summary.build(time.time(), core.threshold, self._told, health, core.open_alarms, name, place)
        traceparent = ""
        if random.random() < self._config.trace_summaries:  # noqa: S311  # a sample, not a secret
            traceparent = new_trace()[1]
            if self._tracing is not None:
                spans.tell_summary(self._tracing, self._config.device, data, traceparent, time.time())
        self._road.put("summary", data, traceparent)

    def say(self, kind: Literal["start", "stop", "update"], detail: str, *, ok: bool = True) -> None:
        """A turn in the agent's life."""
        self._road.put("status", wire.Status(kind, self._reported(), detail[:256], ok=ok))

    def answer(self, command: wire.Command, detail: str, *, ok: bool) -> None:
        """Answer a command, once."""
        status = wire.Status("command", self._reported(), detail[:256], command.id, ok)
        self._road.put("status", status, answers=command.id)

    def write_status(self, ring_windows: int, held: str) -> None:
        """status.json: for people and supervisors, and for the learner, which asks whether it may learn."""
        status = report.status(self._core, self._tally, self._road.view, self._installer)
        status |= {"may_learn": held or "yes", "device": self._config.device, "state": self.phase}
        status |= {"source": {"problem": self._source.problem, "counts": dict(self._source.counts)}}
        self._status = status | {"ring_windows": ring_windows}
        write_status(self._memory, self._status)

    def view(self) -> health.View:
        """For the health port's threads: the last status, which is replaced whole."""
        return metrics.view(self._status, time.time())

    def close(self) -> None:
        """The last status stays with the state."""
        status_on_disk(self._path, self._memory)

    def _reported(self) -> wire.Reported:
        return report.reported(self._core.model, self.slot.name, self._installer)
