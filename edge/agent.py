"""The agent: source -> core -> outbox -> link, the ring beside it, and releases on their way in.

Outbox and link are on a thread of their own, the ring's writes on another: a window never waits for disk or network (a swap of
models, on the ground, does). It wires and decides what depends on several parts: when to calibrate, when a new release may take over, when it is taken
back. How each of these works is in the parts. `run(config, stop)` ends soon after `stop` is set, with
everything that was said on disk and, if the cloud is there, acknowledged.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from covey import health, tracing, wire
from covey.errors import BundleError, DataError, UpdateError
from edge.boot import first_model, open_slot, opened_uplink
from edge.commission import Ring, calibrated, fits
from edge.core import AgentCore, Kept, Loaded, Output
from edge.holding import About, held
from edge.install import Installer
from edge.keeper import Keeper
from edge.learn_request import Learner
from edge.models.slots import Slot, Slots
from edge.notify import Notifier
from edge.quarantine import Quarantine
from edge.rejections import Rejections, TakenBack
from edge.road import Road
from edge.sources import Begin, End, Missing, Samples, joined
from edge.sources.open import is_live, open_source
from edge.state import state_folder, updater
from edge.status import Flight, Tally
from edge.trial import Trial
from edge.voice import Voice

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from edge.alarms import Raised
    from edge.config import AgentConfig

_TURN_S = 0.05  # the loop's bounded wait
_STATUS_S = 1.0
_START_S = 600.0
_CATCH_UP = 32  # portions of the source in one turn, at most
_BATTERY = "pm.vbatMV"  # channel with the battery's millivolts, where a source has it


def run(config: AgentConfig, stop: threading.Event) -> None:
    """Fly until `stop` is set, or until everything was played with `exit_when_done`.

    Raises:
        ConfigError: no model, or a state folder that cannot be used.
        CoveyError: a file, a bundle or a runtime that cannot be used at all.
    """
    with ExitStack() as stack:
        notifier = Notifier()
        stack.callback(notifier.close)
        notifier.extend(_START_S)  # commissioning reads whole flights
        agent = Agent(config, stop, stack)
        stack.enter_context(health.serve("127.0.0.1", config.metrics_port, agent.voice.view))
        notifier.ready(agent.voice.words)
        try:
            agent.loop(notifier)
        finally:
            notifier.stopping("what was said is brought to safety")
            agent.finish()


class Agent:
    """One device's agent.

    Attributes:
        voice: what it says.
    """

    def __init__(self, config: AgentConfig, stop: threading.Event, stack: ExitStack) -> None:
        """Open everything, commission, calibrate; the stack closes it."""
        self._config, self._stop, self._log = config, stop, logging.getLogger("edge")
        self._state = state_folder(config, stack)
        self._tally = Tally()
        self._next_status_s = 0.0
        self._tried_windows = 0
        self._watched: Loaded | None = None
        self._battery_column: int | None = None

        self._slots = Slots(self._state / "slots")
        for problem in self._slots.problems:
            self._log.warning("%s", problem)
        self._ring_path = self._state / "ring.bin"
        self._installer = Installer(config, self._slots, updater(config, self._state), self._ring_path, self._log)
        stack.callback(self._installer.close)
        traces = tracing.start("edge")
        if traces is not None:
            stack.callback(traces.close)
        self._road = Road(lambda: opened_uplink(config, self._state, self._log, traces))
        stack.callback(self._road.close)

        self._trial = Trial(self._state / "trial.json")
        self._quarantine = Quarantine(config.quarantine_windows)
        slot, model = first_model(config, self._slots, self._trial, self._installer)
        self._core = AgentCore(config.device, model)
        self._source = open_source(
            config.sources,
            rate_hz=model.manifest.inputs.rate_hz,
            speed=config.speed,
            gap_s=config.gap_s,
            clock_start_s=config.clock_start,
            repeat=config.repeat,
            hold_s=config.hold_reading_s,
            channel_map=config.source_channels,
        )
        stack.callback(self._source.close)
        self._source.extras = (_BATTERY,)
        self._replay = config.speed == 0 and not any(map(is_live, config.sources))
        self._trouble = ""
        parts = (self._core, slot, self._road, self._tally, self._installer, self._source, self._log)
        self.voice = Voice(config, self._state, *parts, traces)
        self._source.columns = model.manifest.inputs.channels
        self._ring = self._opened_ring(model)
        stack.callback(lambda: self._ring.close())  # noqa: PLW0108  # a release may bring another ring
        self._keeper = Keeper()
        stack.callback(self._keeper.close)
        self._rejections = self._opened_rejections(model)
        self._learner = Learner(self._state, config.learn_command)
        self._calibrating = self._recalibrate = False
        self.voice.write_status(self._ring.windows, self._held(fetching=False))
        if self._ring.windows == 0 and (config.commission or config.commission_fitted):
            self._ring.commission(config.commission, config.commission_fitted, stop, self._log)
        self._calibrate(wait=True)
        self.voice.say("start", f"runtime {model.runtime} {model.provider}".strip())

    # -- models ---------------------------------------------------------------------------------------------------

    def _opened_ring(self, model: Loaded) -> Ring:
        config = self._config
        budget = config.ring_flash_bytes_per_day
        return Ring(self._ring_path, model.manifest.inputs, config.ring_windows, self._log, budget)

    def _opened_rejections(self, model: Loaded) -> Rejections:
        return Rejections(self._state / "alarmed", model.manifest.inputs, self._ring, self._keeper, self._log)

    def _calibrate(self, *, wait: bool = False) -> None:
        """Calibrate the active model when the ring has windows enough, again later when that failed or an alarm was false."""
        model = self._core.model
        if self._calibrating or self._ring.windows < model.manifest.scoring.commission_windows:
            return
        if self._recalibrate:  # it changes the scores' scale, so not in the middle of a flight
            if self._source.playing or self._held(fetching=False):
                return
            self._recalibrate = False
        elif not self._core.learning or self._ring.windows < self._tried_windows:
            return
        self._tried_windows = self._ring.windows + model.manifest.scoring.commission_windows
        self._calibrating = True
        self._keeper.do(lambda: self._calibrated(model))
        if wait or self._replay:  # it has no time of its own that would go on meanwhile
            self._keeper.wait()
            self._kept()

    def _calibrated(self, model: Loaded) -> tuple[Loaded, Slot | None]:
        """On the keeper's thread."""
        try:
            done = calibrated(model, self._ring_path)
            if done.calibration is not None:
                return done, self._slots.calibrate(done.calibration)
        except (DataError, UpdateError) as error:
            self._log.warning("calibration: %s", error)
        return model, None

    def _kept(self) -> None:
        """Take what the keeper has done."""
        for answer in self._keeper.take():
            if isinstance(answer, TakenBack):
                self._recalibrate = self._recalibrate or answer.windows > 0
                self.voice.answer(answer.command, answer.detail, ok=answer.windows > 0)
            if not isinstance(answer, tuple):
                continue
            self._calibrating = False
            done, slot = answer
            if slot is not None and done.digest == self._core.model.digest:
                self.voice.slot = slot
                self._log.info("calibrated on %d windows", done.calibration.windows)
                self._alarms(self._core.swap(done))

    def _advance_release(self) -> None:
        ready = self._installer.ready
        if ready is not self._watched:
            self._watched = ready
            self._core.watch(ready)
        if ready is None:
            return
        verdict = self._installer.judge(self._core.shadow, flying=self._source.playing)
        if verdict is None or self._calibrating or (verdict and self._held(fetching=False)):
            return
        if verdict:
            self._swap(ready)
        else:
            self.voice.say("update", self._installer.reason, ok=False)
        self.voice.soon()

    def _held(self, *, fetching: bool) -> str:
        """Why no release is fetched or swapped, and nothing trained, now; empty: nothing holds it up."""
        volts = self._source.vehicle.battery_v
        about = About(
            armed=bool(self._source.vehicle.armed),
            airborne=self._core.airborne and (self._source.playing or not fetching),
            battery_v=self._tally.battery_v if volts is None else volts,
            battery_share=self._source.vehicle.battery_share,
            metered=fetching and self._road.view.metered,
        )
        return held(about, self._config)

    def _swap(self, ready: Loaded) -> None:
        try:
            slot = self._slots.activate(self._slots.spare_name)
        except (BundleError, UpdateError) as error:
            self._installer.refuse(str(error))
            self.voice.say("update", str(error), ok=False)
            return
        self._trial.begin(ready.release, ready.digest, self._config.trial_windows)
        self._installer.swapped()
        self._use(slot, ready)
        self.voice.say("update", f"release {ready.release} in slot {slot.name}")

    def _use(self, slot: Slot, model: Loaded) -> None:
        self._quarantine.drop()
        self.voice.slot, self._tried_windows = slot, 0
        self._alarms(self._core.swap(model))
        self._source.columns = model.manifest.inputs.channels
        if not fits(self._ring_path, model.manifest.inputs):
            self._keeper.wait()  # it writes to the old one
            self._ring.close()
            self._ring = self._opened_ring(model)
            self._rejections = self._opened_rejections(model)
        self._calibrate(wait=True)

    def _go_back(self, error: BundleError) -> None:
        self._keeper.wait()  # it may be giving the slot a calibration
        bad = self._core.model
        older = self._slots.go_back(str(error)) if self._trial.on else None
        if older is None:
            raise error
        self._trial.end()
        self._use(older, open_slot(older, self._config))
        self._installer.gone_back(bad.release, bad.digest, str(error))
        self.voice.say("update", f"back to release {older.release}: {error}", ok=False)
        self.voice.soon()

    # -- the loop -------------------------------------------------------------------------------------------------

    def loop(self, notifier: Notifier) -> None:
        """Turn until stopped; each turn is a sign of life."""
        while not self._stop.is_set():
            notifier.alive()
            now_s = time.monotonic()
            for wanted in self._road.take():
                self._take(wanted)
            self._kept()
            self._installer.step(now_s, self._held(fetching=True))
            scored = self._play(now_s)
            if self._recalibrate:
                self._calibrate()
            self._advance_release()
            self.voice.phase = "flying" if self._source.playing or not self._source.done else "idle"
            if self._source.done and self._config.sources:
                self.voice.phase = "done"
                if self._config.exit_when_done:
                    return
            self.voice.turn(now_s)
            if now_s >= self._next_status_s:
                self.voice.write_status(self._ring.windows, self._held(fetching=False))
                notifier.status(self.voice.words)
                self._next_status_s = now_s + _STATUS_S
            if not (scored and self._replay):
                self._stop.wait(_TURN_S)

    def finish(self) -> None:
        """End what is open, tell it, and wait for its acknowledgement within `flush_s`."""
        self._alarms(self._core.end_flight())
        self._trial.leave()
        if self._core.summary.windows:
            self.voice.summarise()
        self.voice.say("stop", "stopped" if self._stop.is_set() else "everything was played")
        self._keeper.wait()
        self._road.flush(self._config.flush_s)
        self.voice.write_status(self._ring.windows, self._held(fetching=False))
        self.voice.close()

    def _play(self, now_s: float) -> bool:
        items = self._due(now_s)
        if self._source.problem != self._trouble:
            self._trouble = self._source.problem
            self._log.warning("source: %s", self._trouble or "works again")
        for item in items:
            if isinstance(item, Begin):
                self._begin(item)
            elif isinstance(item, End):
                self._alarms(self._core.end_flight())
                self._keep(self._quarantine.end())
                self._trial.leave()
                self.voice.summarise(item.name)
            elif isinstance(item, Missing):
                self._absent(item)
            else:
                if item.gap:
                    self._core.gap()
                self._tally.raw_bytes += item.rows.nbytes
                if self._battery_column is not None:
                    self._tally.battery_v = float(item.rows[-1, self._battery_column]) / 1000.0
                self._trial.enter()
                try:
                    self._scored(self._core.push(item.rows, item.start_s))
                except BundleError as error:
                    self._go_back(error)
        return bool(items)

    def _due(self, now_s: float) -> list[Begin | Samples | End | Missing]:
        """What the source has; behind, as many portions as there are, joined so that they are scored as one batch."""
        items = self._source.take(now_s, time.time())
        more = items
        for _ in range(0 if self._replay else _CATCH_UP):
            if not (more and isinstance(more[-1], Samples)):
                break
            more = self._source.take(now_s, time.time())
            items = joined(items, more)
        return items

    def _begin(self, item: Begin) -> None:
        inputs = self._core.model.manifest.inputs
        if abs(item.rate_hz - inputs.rate_hz) > 0.05 * inputs.rate_hz:
            raise DataError(f"{item.name}: {inputs.rate_hz:g} samples/s expected, {item.rate_hz:g} found")
        self._tally.flights.append(Flight(Path(item.name).name, self._core.model.release))
        self._battery_column = item.channels.index(_BATTERY) if _BATTERY in item.channels else None
        self._alarms(self._core.begin_flight(Path(item.name).name[:256], item.channels))

    def _absent(self, item: Missing) -> None:
        now_s = time.time()
        self._log.warning("%s: %s", item.channel, "there again" if item.back else "brings nothing")
        limit_s = self._config.hold_reading_s
        self.voice.alarms(self._core.missing(item.channel, item.since_s, now_s, limit_s, back=item.back))
        self._core.gap()

    def _scored(self, output: Output) -> None:
        self._tally.scored(output.windows, output.first_s)
        self._alarms(output.alarms)
        if self._config.learn:
            if self._core.learning:  # without a threshold there is no alarm to wait for
                self._keep(output.kept)
            else:
                alarm = bool(output.alarms or self._core.open_alarms)
                self._keep(self._quarantine.take(output.kept, alarm=alarm))
        if self._trial.lived(output.windows):
            self._log.info("release %d has lived through its trial", self._core.model.release)
        self._calibrate()

    def _alarms(self, raised: Sequence[Raised]) -> None:
        """Tell them at once; the windows of those that ended wait for an operator's word."""
        self.voice.alarms(raised)
        if raised and self._config.learn:
            self._rejections.keep(self._core.take_alarmed())

    def _keep(self, windows: Sequence[Kept]) -> None:
        if windows:
            ring = self._ring

            def append() -> None:
                for window in windows:
                    ring.append(window)

            self._keeper.do(append)
            if self._replay:
                self._keeper.wait()

    def _take(self, wanted: wire.Desired | wire.Command) -> None:
        if isinstance(wanted, wire.Desired):
            self._installer.want(wanted, self._core.model)
            self.voice.every(wanted.parameters.summary_interval_s or self._config.summary_interval_s)
            return
        in_time = time.time() <= wanted.expires_s
        if in_time and wanted.kind == "false-alarm":
            self._rejections.take_back(wanted)  # the keeper's answer is the device's
            return
        if in_time and wanted.kind == "learn":
            done, detail = self._learner.ask(wanted, self._held(fetching=True))
            self.voice.answer(wanted, detail, ok=done)
            return
        if in_time and wanted.kind == "summarise":
            self.voice.summarise()
        detail = wanted.kind if in_time else f"{wanted.kind}: expired"
        self.voice.answer(wanted, detail, ok=in_time)
