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
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from covey import topics, wire
from covey.errors import WireError
from covey.runtime import Backoff
from edge.resend import SendWindow
from edge.status import memory_bytes

if TYPE_CHECKING:
    import random
    import threading
    from collections.abc import Callable, Sequence

    from edge.core import Raised
    from firmware_sim.agents import Agents
    from firmware_sim.ledger import Ledger
    from firmware_sim.plan import DevicePlan, FleetPlan
    from firmware_sim.recordings import Recording
    from firmware_sim.sessions import Sessions

COMMIT_S = 0.2  # rows of this long are written and sent together; an agent's outbox waits 0.25 s
WINDOWS_S = 1.0  # how often the windows of a device that plays are scored
LATE_S = 2.0  # how often a device looks after its oldest row in flight
TURN_S = 0.05
BATCH = 32  # rows sent by a device in one turn, as edge/uplink.py
METRES_PER_DEGREE = 111_320.0  # of latitude, and of longitude at the equator
CLOSE_S = 5.0  # for the last words to every broker connection
KEPT_COMMANDS = 64  # ids answered; QoS 1 may bring a command twice


class FleetOptions(NamedTuple):
    """How a fleet runs, beside its plan.

    Attributes:
        drain_s: after the scenario's end, how long the rest may take to be acknowledged.
        ack_timeout_s: a row not acknowledged within it is sent again.
        hold_s: how long rows wait for a gateway to show itself.
        window_rows: rows of one device in flight at most.
    """

    drain_s: float = 60.0
    ack_timeout_s: float = 10.0
    hold_s: float = 20.0
    window_rows: int = 256


@dataclass
class Progress:
    """Where a fleet is; what the progress display and the closing line are made of."""

    duration_s: float = 0.0
    t_s: float = 0.0
    connected: int = 0
    written: Counter[str] = field(default_factory=Counter)  # by kind
    acknowledged: int = 0
    alarms: int = 0  # begun
    windows: int = 0
    resends: int = 0
    connects: int = 0
    lost: int = 0  # connections
    commands: int = 0
    sent_bytes: int = 0
    draining: bool = False

    @property
    def backlog(self) -> int:
        """Events written and not acknowledged."""
        return self.written.total() - self.acknowledged


class _Device:
    """What the loop keeps of one device."""

    __slots__ = (
        "answered", "connected", "interval_s", "late_due", "on", "outbox", "plan", "raw_bytes", "revision", "sent_bytes",
        "waiting", "window",
    )  # fmt: skip

    def __init__(self, plan: DevicePlan, outbox: str, window: SendWindow, interval_s: float) -> None:
        self.plan, self.outbox, self.window, self.interval_s = plan, outbox, window, interval_s
        self.on = self.connected = self.late_due = False
        self.raw_bytes = self.sent_bytes = self.revision = 0
        self.waiting: dict[int, int] = {}  # seq -> size in bytes of what is not acknowledged
        self.answered: list[str] = []


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
            _Device(
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
        self._wanting: set[int] = set()  # devices that may have something to send
        self._next_commit_s = 0.0
        self._memory_bytes = 0  # a device's share of this process
        self._uncommitted: set[int] = set()
        self._urgent = False
        self.progress = Progress(plan.duration_s)
        self._remember_earlier()

    def _remember_earlier(self) -> None:
        """What a simulation that was killed has left on the flashes."""
        for i, device in enumerate(self._devices):
            written, depth = self._ledger.last_seq(i), self._ledger.depth(i)
            if written:
                self.progress.written["earlier"] += written
                self.progress.acknowledged += written - depth
                device.waiting = {row.seq: len(row.body) for row in self._ledger.batch(i, 0, depth)}

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
        if self._urgent or (self._uncommitted and t_s >= self._next_commit_s):
            self._commit()
        self._send(t_s)
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
        self._commit()  # what it wrote is on its flash
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
        device, now_s = self._devices[i], self._now()
        device.late_due = False
        if not device.connected:
            return
        if device.window.late(now_s):
            self.progress.resends += 1
            if self._sessions.unconfirmed(i):  # the broker does not answer at all: the connection is dead
                self._sessions.cut(i)
                device.connected = False
                return
            self._wanting.add(i)
        self._look_later(i)

    def _look_later(self, i: int) -> None:
        device = self._devices[i]
        if not device.late_due and device.window.in_flight:
            device.late_due = True
            self._at(self._now() + LATE_S, i, self._look_late)

    def _want(self, i: int) -> None:
        self._wanting.add(i)

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
            self._urgent = True  # an agent's outbox commits an alarm at once

    def _summarise(self, i: int, flight: str = "") -> None:
        core = self._agents.cores[i]
        name = flight or core.flight_name
        summary = core.summary.build(
            self._clock_s(i), core.threshold, self._reported(i), self._health(i), core.open_alarms, name, self._place(i)
        )
        self._put(i, "summary", summary)

    def _reported(self, i: int) -> wire.Reported:
        model = self._agents.cores[i].model
        return wire.Reported(
            release=model.release,
            digest=model.digest,
            runtime=model.runtime,
            provider=model.provider,
            calibration=self._agents.calibration_digest(i),
            slot="a",
            revision=self._devices[i].revision,
        )

    def _health(self, i: int) -> wire.Health:
        device, playing, t_s = self._devices[i], self._agents.playing(i), self._now()
        battery_v = temperature_c = None
        if playing is not None:
            recording, begin_s = playing
            battery_v = recording.at(recording.battery_v, t_s - begin_s)
            temperature_c = recording.at(recording.temperature_c, t_s - begin_s)
        return wire.Health(
            memory_bytes=self._memory_bytes,
            cpu_s=round(time.process_time() / len(self._devices), 6),
            outbox_rows=self._ledger.depth(i),
            outbox_bytes=sum(device.waiting.values()),
            raw_bytes=device.raw_bytes,
            uplink_bytes=device.sent_bytes,
            temperature_c=None if temperature_c is None else float(temperature_c),
            battery_v=None if battery_v is None else float(battery_v),
        )

    def _place(self, i: int) -> wire.Position | None:
        lat_deg, lon_deg = self._devices[i].plan.home
        playing = self._agents.playing(i)
        if playing is None or playing[0].position_m is None:
            return wire.Position(lat_deg, lon_deg)
        north_m, west_m, up_m = playing[0].at(playing[0].position_m, self._now() - playing[1])
        east_deg = -float(west_m) / (METRES_PER_DEGREE * math.cos(math.radians(lat_deg)))
        return wire.Position(lat_deg + float(north_m) / METRES_PER_DEGREE, lon_deg + east_deg, round(float(up_m), 2))

    # -- the way up -----------------------------------------------------------------------------------------------

    def _put(self, i: int, kind: str, data: wire.Summary | wire.Alarm | wire.Status, traceparent: str = "") -> None:
        t_s = self._now()
        device_s = self._clock_s(i)
        device = self._devices[i]

        def build(identity: wire.Identity) -> bytes:
            body = wire.make_event(identity, kind, device_s, data, traceparent)
            device.waiting[identity.seq] = len(body)
            return body

        self._ledger.put(i, kind, self._epoch_s + t_s, build)
        self.progress.written[kind] += 1
        if not self._uncommitted:
            self._next_commit_s = t_s + COMMIT_S
        self._uncommitted.add(i)

    def _commit(self) -> None:
        self._ledger.commit()
        self._memory_bytes = memory_bytes() // len(self._devices)
        self._wanting |= self._uncommitted
        self._uncommitted = set()
        self._urgent = False

    def _send(self, t_s: float) -> None:
        wanting, self._wanting = self._wanting, set()
        for i in wanting:
            device = self._devices[i]
            if not device.connected or not self._ledger.depth(i):
                continue
            room = min(device.window.room(t_s), self._sessions.room(i), BATCH)
            if room <= 0:
                continue
            for row in self._ledger.batch(i, device.window.after, room):
                topic = topics.mqtt_topic(device.plan.name, row.kind)
                if self._sessions.publish(i, topic, row.body) is None:
                    break
                device.sent_bytes += len(row.body)
                device.window.sent(row.seq, t_s)
            self._look_later(i)

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
            self._wanting.add(i)
        elif what == "ready":
            device.connected = True
            device.window.connected(t_s)
            self._presence(i, online=True)
            self._wanting.add(i)
            self._at(t_s + self._options.hold_s + TURN_S, i, self._want)
        elif what == "lost":
            device.connected = False
            self._note(i, "connection lost", str(detail))

    def _presence(self, i: int, *, online: bool) -> None:
        body = wire.encode(wire.Presence(online=online, session=self._sessions.session(i)))
        self._sessions.publish(i, topics.mqtt_topic(self._devices[i].plan.name, topics.PRESENCE), body)

    def _take(self, i: int, kind: str, payload: bytes, t_s: float) -> None:
        device = self._devices[i]
        if kind == "ack":
            for one in wire.decode(wire.Ack, payload).acks:
                if one.outbox == device.outbox:
                    true_s = self._epoch_s + t_s
                    self.progress.acknowledged += self._ledger.acknowledge(i, one.outbox, one.ranges, true_s)
                    device.window.acknowledged(one.ranges)
                    for first, last in one.ranges:
                        for seq in [seq for seq in device.waiting if first <= seq <= last]:
                            del device.waiting[seq]
            if self._ledger.depth(i):
                self._wanting.add(i)
        elif kind == topics.GATEWAY:
            online = wire.decode(wire.GatewayPresence, payload).online
            device.window.gateway(t_s, online=online)
            self._wanting.add(i)
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
        device = self._devices[i]
        if command.id in device.answered or command.expires_s < self._clock_s(i):
            return
        device.answered = [*device.answered, command.id][-KEPT_COMMANDS:]
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
        self._commit()

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
