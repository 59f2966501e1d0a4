"""A fleet on the air: vehicles x agents x links, in one process and on one thread.

Each device plays its recordings through its agent's core; what the core says becomes an event in the ledger (the device's
flash) and is sent, acknowledged and sent again by the product's own rule (edge/resend.py). What happens when is on one
agenda, so that a turn costs what is due and not what there is.

Scenario time counts from the fleet's start; true time is the start's epoch plus it; a device's clock errs from true time as
its plan says. The scenario decides everything but the network's answers and the identities' random part.
"""

from __future__ import annotations

import heapq
import math
import time
from typing import TYPE_CHECKING

from covey import topics, wire
from covey.errors import WireError
from covey.runtime import Backoff
from edge.resend import SendWindow
from edge.status import memory_bytes
from firmware_sim.fleets.device import Device, health, place, reported
from firmware_sim.fleets.progress import FleetOptions, Progress
from firmware_sim.fleets.uplink import Uplink

if TYPE_CHECKING:
    import random
    import threading
    from collections.abc import Callable, Sequence

    from edge.alarms import Raised
    from firmware_sim.fleets.agents import Agents
    from firmware_sim.fleets.recordings import Recording
    from firmware_sim.net.sessions import Sessions
    from firmware_sim.scene.plan import FleetPlan
    from firmware_sim.truth.ledger import Ledger

WINDOWS_S = 1.0  # how often the windows of a device that plays are scored
LATE_S = 2.0  # how often a device looks after its oldest row in flight
TURN_S = 0.05
CLOSE_S = 5.0  # for the last words to every broker connection


class Fleet:
    """One fleet from its start to the end of its drain.

    Args:
        plan: who does what when.
        recordings: the pool, by the numbers in the plan.
        agents: one per device.
        ledger: with every device registered, in the plan's order.
        sessions: one per device, in the plan's order.
        begin_epoch_s: true time of scenario time 0; in the past when a killed simulation goes on.
        options: how it runs.
        rng: jitter of the resending.
    """

    def __init__(
        self,
        plan: FleetPlan,
        recordings: Sequence[Recording],
        agents: Agents,
        ledger: Ledger,
        sessions: Sessions,
        begin_epoch_s: float,
        options: FleetOptions,
        rng: random.Random,
    ) -> None:
        self._plan, self._recordings, self._agents = plan, recordings, agents
        self._ledger, self._sessions, self._options = ledger, sessions, options
        self._epoch_s = begin_epoch_s
        self._monotonic_s = time.monotonic() - (time.time() - begin_epoch_s)
        scenario = plan.scenario
        self._idle_s = scenario.idle_summary_interval_s or scenario.summary_interval_s
        self._devices = [
            Device(
                one,
                ledger.outbox(i),
                SendWindow(options.window_rows, options.ack_timeout_s, options.hold_s, backoff=Backoff(1.0, 60.0, rng)),
                scenario.summary_interval_s,
            )
            for i, one in enumerate(plan.devices)
        ]
        self._agenda: list[tuple[float, int, int, Callable[[int], None]]] = []
        self._entries = 0
        self._due: list[int] = []  # devices whose windows are due in this turn
        self._memory_bytes = 0  # a device's share of this process
        self.progress = Progress(plan.duration_s)
        self._up = Uplink(self._devices, ledger, sessions, self.progress)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, show: Callable[[Progress], None]) -> bool:
        """Fly the plan, then drain; returns whether everything that was written has been acknowledged.

        Args:
            stop: ends the flying; the drain follows, until it is set for good by a second signal (which ends the process).
            show: told about the progress in every turn.
        """
        self._fill_agenda()
        while not stop.is_set() and self._now() < self._plan.duration_s:
            self._turn(show)
        self._land()
        self.progress.draining = True
        deadline_s = self._now() + self._options.drain_s
        while self.progress.backlog and self._now() < deadline_s:
            self._turn(show)
        self._leave()
        return self.progress.backlog == 0

    def _now(self) -> float:
        return time.monotonic() - self._monotonic_s

    def _turn(self, show: Callable[[Progress], None]) -> None:
        t_s = self._now()
        while self._agenda and self._agenda[0][0] <= t_s:
            _, _, i, action = heapq.heappop(self._agenda)
            action(i)
        self._score(t_s)
        if self._up.commit(t_s):
            self._memory_bytes = memory_bytes() // len(self._devices)
        for i in self._up.send(t_s):
            self._look_later(i)
        wait_s = self._agenda[0][0] - self._now() if self._agenda else TURN_S
        for index, what, detail in self._sessions.step(min(max(wait_s, 0.0), TURN_S)):
            self._happened(index, what, detail)
        self._tell(show)

    def _tell(self, show: Callable[[Progress], None]) -> None:
        progress, counters = self.progress, self._sessions.counters
        progress.t_s, progress.windows = self._now(), self._agents.windows
        progress.connected, progress.connects, progress.lost = counters.connected, counters.connects, counters.lost
        progress.sent_bytes = counters.sent_bytes
        show(progress)

    def _at(self, t_s: float, i: int, action: Callable[[int], None]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (t_s, self._entries, i, action))

    def _fill_agenda(self) -> None:
        now_s = self._now()
        golden = (math.sqrt(5) - 1) / 2  # spreads the devices' summaries evenly, whatever their number
        for i, device in enumerate(self._devices):
            plan = device.plan
            self._at(max(0.0, now_s), i, self._power_on)
            self._at(now_s + (i * golden % 1.0) * device.interval_s, i, self._summary_due)
            for off_s, on_s in plan.off:
                if off_s >= now_s:
                    self._at(off_s, i, self._power_off)
                    self._at(on_s, i, self._power_on)
            for cut_s in plan.cuts:
                if cut_s >= now_s:
                    self._at(cut_s, i, self._cut)
            for from_s, to_s in plan.outages:
                if to_s > now_s:
                    self._at(max(from_s, now_s), i, self._outage_of(to_s))
            for stretch in plan.stretches:
                recording = self._recordings[stretch.recording]
                if stretch.start_s + recording.duration_s > now_s:
                    self._at(max(stretch.start_s, now_s), i, self._stretch_of(stretch.start_s, recording))

    # -- what is on the agenda ------------------------------------------------------------------------------------

    def _power_on(self, i: int) -> None:
        device = self._devices[i]
        if device.on:
            return
        device.on = True
        model = self._agents.cores[i].model
        self._put(
            i, "status", wire.Status("start", self._reported(i), f"runtime {model.runtime} {model.provider}".strip())
        )
        self._sessions.on(i)

    def _power_off(self, i: int) -> None:
        device = self._devices[i]
        if not device.on:
            return
        self._up.commit(self._now(), now=True)  # what it wrote is on its flash
        device.on = device.connected = False
        self._sessions.off(i)
        self._agents.reboot(i)
        self._note(i, "power off", "")

    def _cut(self, i: int) -> None:
        self._sessions.cut(i)

    def _outage_of(self, until_s: float) -> Callable[[int], None]:
        def outage(i: int) -> None:
            self._sessions.outage(i, until_s + self._monotonic_s)

        return outage

    def _stretch_of(self, start_s: float, recording: Recording) -> Callable[[int], None]:
        def begin(i: int) -> None:
            if not self._devices[i].on:  # the power is off: it flies unwatched until the agent is back
                if self._now() < start_s + recording.duration_s:
                    self._at(self._now() + WINDOWS_S, i, begin)
                return
            self._emit(i, self._agents.begin(i, recording, start_s, self._now()))
            self._at(self._now() + WINDOWS_S, i, self._windows_due)

        return begin

    def _windows_due(self, i: int) -> None:
        playing = self._agents.playing(i)
        if playing is None:
            return
        self._due.append(i)
        recording, begin_s = playing
        if self._now() < begin_s + recording.duration_s:
            self._at(self._now() + WINDOWS_S, i, self._windows_due)

    def _summary_due(self, i: int) -> None:
        device = self._devices[i]
        busy = self._agents.playing(i) is not None
        self._at(
            self._now() + (device.interval_s if busy else max(device.interval_s, self._idle_s)), i, self._summary_due
        )
        if device.on:
            self._summarise(i)

    def _look_late(self, i: int) -> None:
        self._devices[i].late_due = False
        if self._up.late(i, self._now()):
            self._look_later(i)

    def _look_later(self, i: int) -> None:
        device = self._devices[i]
        if not device.late_due and device.window.in_flight:
            device.late_due = True
            self._at(self._now() + LATE_S, i, self._look_late)

    def _want(self, i: int) -> None:
        self._up.wanting.add(i)

    # -- agents ---------------------------------------------------------------------------------------------------

    def _score(self, t_s: float) -> None:
        if not self._due:
            return
        due, self._due = self._due, []
        for i, output in self._agents.advance(due, t_s, self._clock_s):
            playing = self._agents.playing(i)
            if playing is not None:
                inputs = self._agents.cores[i].model.manifest.inputs
                self._devices[i].raw_bytes += output.windows * inputs.hop * playing[0].row_bytes
            self._emit(i, output.alarms)
        for i in due:
            playing = self._agents.playing(i)
            if playing is not None and t_s >= playing[1] + playing[0].duration_s:
                self._end_stretch(i, playing[0].name)

    def _end_stretch(self, i: int, name: str) -> None:
        self._emit(i, self._agents.end(i))
        self._summarise(i, name)

    def _clock_s(self, i: int) -> float:
        t_s = self._now()
        return self._devices[i].plan.clock.device_s(self._epoch_s + t_s, t_s)

    def _emit(self, i: int, raised: Sequence[Raised]) -> None:
        for alarm, traceparent in raised:
            self.progress.alarms += alarm.state == "begin"
            self._put(i, "alarm", alarm, traceparent)

    def _summarise(self, i: int, flight: str = "") -> None:
        core = self._agents.cores[i]
        name = flight or core.flight_name
        device, t_s = self._devices[i], self._now()
        state = health(device, self._agents, i, t_s, self._memory_bytes)
        where = place(device, self._agents, i, t_s)
        summary = core.summary.build(
            self._clock_s(i), core.threshold, self._reported(i), state, core.open_alarms, name, where
        )
        self._put(i, "summary", summary)

    def _reported(self, i: int) -> wire.Reported:
        return reported(self._devices[i], self._agents, i)

    def _put(self, i: int, kind: str, data: wire.Summary | wire.Alarm | wire.Status, trace: str = "") -> None:
        self._up.put(i, kind, data, self._epoch_s + self._now(), self._clock_s(i), trace)

    def _note(self, i: int | None, what: str, detail: str) -> None:
        self._ledger.note(i, what, self._epoch_s + self._now(), detail)

    # -- what the network says ------------------------------------------------------------------------------------

    def _happened(self, i: int, what: str, detail: object) -> None:
        device, t_s = self._devices[i], self._now()
        if what == "message" and isinstance(detail, tuple):
            topic, payload = detail
            if payload:  # else a retained message that was cleared
                try:
                    self._take(i, topic.rsplit("/", 1)[-1], payload, t_s)
                except WireError as error:
                    self._note(i, "refused", str(error)[:200])
        elif what == "puback":
            self._up.wanting.add(i)
        elif what == "ready":
            device.connected = True
            device.window.connected(t_s)
            self._presence(i, online=True)
            self._up.wanting.add(i)
            self._at(t_s + self._options.hold_s + TURN_S, i, self._want)
        elif what == "lost":
            device.connected = False
            self._note(i, "connection lost", str(detail))

    def _presence(self, i: int, *, online: bool) -> None:
        body = wire.encode(wire.Presence(online=online, session=self._sessions.session(i)))
        self._sessions.publish(i, topics.mqtt_topic(self._devices[i].plan.name, topics.PRESENCE), body)

    def _take(self, i: int, kind: str, payload: bytes, t_s: float) -> None:
        if kind == "ack":
            self._up.acknowledge(i, wire.decode(wire.Ack, payload), self._epoch_s + t_s)
        elif kind == topics.GATEWAY:
            online = wire.decode(wire.GatewayPresence, payload).online
            self._devices[i].window.gateway(t_s, online=online)
            self._up.wanting.add(i)
        elif kind == "desired":
            self._want_of(i, wire.decode(wire.Desired, payload))
        elif kind == "command":
            self._obey(i, wire.decode(wire.Command, payload))

    def _want_of(self, i: int, desired: wire.Desired) -> None:
        """Parameters are followed; a simulated device keeps the model that it was started with."""
        device = self._devices[i]
        if desired.revision <= device.revision:
            return
        device.revision = desired.revision
        device.interval_s = desired.parameters.summary_interval_s or self._plan.scenario.summary_interval_s

    def _obey(self, i: int, command: wire.Command) -> None:
        if not self._devices[i].answers(command, self._clock_s(i)):
            return
        self.progress.commands += 1
        if command.kind == "summarise":
            self._summarise(i)
        self._put(i, "status", wire.Status("command", self._reported(i), command.kind, command.id))

    # -- the end --------------------------------------------------------------------------------------------------

    def _land(self) -> None:
        """Nothing more is flown: what is open ends, every device says that it stops; the sending goes on."""
        self._agenda = [one for one in self._agenda if one[3] in (self._look_late, self._want)]
        heapq.heapify(self._agenda)
        for i, device in enumerate(self._devices):
            if not device.on:
                self._power_on(i)
            playing = self._agents.playing(i)
            if playing is not None:
                self._end_stretch(i, playing[0].name)
            self._put(i, "status", wire.Status("stop", self._reported(i), "the scenario is over"))
        self._up.commit(self._now(), now=True)

    def _leave(self) -> None:
        for i, device in enumerate(self._devices):
            if device.connected:
                self._presence(i, online=False)
        self._sessions.close(CLOSE_S)
        raw_bytes = sum(device.raw_bytes for device in self._devices)
        for name, value in (
            ("raw_bytes", raw_bytes),
            ("sent_bytes", self._sessions.counters.sent_bytes),
            ("windows", self._agents.windows),
        ):
            self._ledger.remember(name, value + int(self._ledger.meta.get(name, 0)))
        self._ledger.remember("end_s", self._epoch_s + self._now())
        self._ledger.commit()
