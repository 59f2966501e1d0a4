"""A desired release on its way into a slot: fetch, check, calibrate, put, shadow, and the leave to swap.

The slow steps run on a worker thread that shares nothing with the loop but its answer. What fails its check is refused and
not tried again until the cloud wants something else; what cannot be fetched is tried again with backoff. The swap itself
is the agent's, between two windows and never in the air.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Literal

from covey.bundle import read_bundle
from covey.errors import CoveyError, UpdateError
from covey.runtime import Backoff
from edge.commission import above_threshold, calibrated
from edge.loading import choose_runtime, open_model
from edge.models.check import check_in_subprocess

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from covey.wire import Desired
    from edge.config import AgentConfig
    from edge.core import Loaded, Shadow
    from edge.models.fetch_child import ChildUpdater
    from edge.models.slots import Slots

State = Literal["idle", "fetching", "checking", "calibrating", "shadow", "refused"]
_TELL_AFTER = 3  # fetches that failed before it is reported as refused; it goes on trying all the same
_MAX_REASON = 256  # as wire.Text has it


class _Failed(UpdateError):
    """A fetch failed: worth another try."""


class Installer:
    """Works on one desired release at a time.

    Attributes:
        state: as in wire.Reported.
        target: the release being worked on, or refused.
        reason: why it was refused, or what a fetch met.
        revision: of the `desired` last acted on.
        ready: the new model, waiting in the spare slot for its shadow and the swap.
    """

    def __init__(
        self, config: AgentConfig, slots: Slots, updater: ChildUpdater | None, ring: Path, log: logging.Logger
    ) -> None:
        self._config, self._slots, self._updater, self._ring, self._log = config, slots, updater, ring, log
        self.state: State = "idle"
        self.target, self.reason, self.revision = 0, "", 0
        self.ready: Loaded | None = None
        self._refused = {(one.release, one.digest): one.reason for one in slots.refused}
        self._desired: Desired | None = None
        self._working: Desired | None = None
        self._stop = threading.Event()
        self._answers: queue.SimpleQueue[tuple[Desired, Path | None, Loaded | None, CoveyError | None]] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(1.0, 300.0)
        self._failures = 0
        self._next_try_s = 0.0
        self._held = ""

    @property
    def fetched_bytes(self) -> int:
        """Bytes fetched since start."""
        return 0 if self._updater is None else self._updater.fetched_bytes

    def want(self, desired: Desired, active: Loaded) -> None:
        """The cloud wants a release; the newest revision wins."""
        if desired.device != self._config.device or desired.revision < self.revision:
            return
        changed = self._desired is None or (desired.release, desired.digest) != (
            self._desired.release,
            self._desired.digest,
        )
        self._desired, self.revision = desired, desired.revision
        if not changed:
            return
        self._stop.set()  # whatever is on its way is not wanted any more
        self.ready, self._failures, self._next_try_s = None, 0, 0.0
        self._backoff.reset()
        self.target, self.reason = desired.release, ""
        if (desired.release, desired.digest) == (active.release, active.digest):
            self.state, self.target = "idle", 0
        elif desired.release == active.release:
            self._refuse(f"release {active.release}: digest {desired.digest[:12]} wanted, {active.digest[:12]} runs")
        elif desired.release < active.release:
            self._refuse(f"release {desired.release} is older than release {active.release}, which runs")
        elif (desired.release, desired.digest) in self._refused:
            self._refuse(self._refused[desired.release, desired.digest])
        elif self._updater is None:
            self._refuse("no trusted_root is configured: no update can be verified")
        else:
            self.state = "fetching"

    def step(self, now_s: float, held: str = "") -> None:
        """Take the worker's answer, or start it.

        Args:
            now_s: monotonic.
            held: why nothing is to be fetched now (armed, battery low, metered link); what came so far is kept.
        """
        self._held = held
        if held and self.state == "fetching":
            self._stop.set()
            self.reason = f"waits: {held}"
        elif not held and self.reason.startswith("waits: "):
            self.reason = ""
        while True:
            try:
                desired, path, model, error = self._answers.get_nowait()
            except queue.Empty:
                break
            self._working = None
            if desired is self._desired:
                self._answered(desired, path, model, error, now_s)
        wanted = self._desired
        if wanted is None or self._working is not None or self.ready is not None:
            return
        trying_again = self.state == "refused" and self._failures > 0
        if (self.state == "fetching" or trying_again) and now_s >= self._next_try_s and not held:
            self._working, self._stop = wanted, threading.Event()
            self._thread = threading.Thread(target=self._work, args=(wanted, self._stop), name="update", daemon=True)
            self._thread.start()

    def judge(self, shadow: Shadow | None, *, flying: bool) -> bool | None:
        """What the shadow says of the ready model: True swap, False refused, None not yet."""
        if self.ready is None or shadow is None:
            return None
        if shadow.problem or shadow.broken:
            self.refuse(shadow.problem or f"shadow: {shadow.broken} of {shadow.windows} scores are no numbers")
            return False
        if shadow.calm and shadow.above * 2 > shadow.calm:
            if shadow.windows >= self._config.shadow_windows or not flying:
                self.refuse(f"shadow: {shadow.above} of {shadow.calm} normal windows above its threshold")
                return False
            return None
        return True if shadow.windows >= self._config.shadow_windows or not flying else None

    def refuse(self, reason: str) -> None:
        """The release is not taken, and not tried again until something else is wanted."""
        if self._desired is not None:
            self._refused[self._desired.release, self._desired.digest] = reason
        self.ready, self._failures = None, 0
        self._refuse(reason)

    def gone_back(self, release: int, digest: str, reason: str) -> None:
        """A release that was active already was taken back."""
        self._refused[release, digest] = reason
        self.target = release
        self._refuse(reason)

    def swapped(self) -> None:
        """The release is active."""
        self.ready, self.state, self.target, self.reason = None, "idle", 0, ""

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the worker; what it fetched so far is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _refuse(self, reason: str) -> None:
        self.state, self.reason = "refused", " ".join(reason.split())[:_MAX_REASON]
        self._log.warning("release %d refused: %s", self.target, reason)

    def _answered(
        self, desired: Desired, path: Path | None, model: Loaded | None, error: CoveyError | None, now_s: float
    ) -> None:
        if isinstance(error, _Failed) and self._held:  # stopped by us: no failure, and tried again when it may be
            return
        if isinstance(error, _Failed):
            self._failures += 1
            self._next_try_s = now_s + self._backoff.next_s()
            if self._failures == _TELL_AFTER:
                self._refuse(str(error))
            else:
                self.reason = str(error)[:_MAX_REASON]
                self._log.info("release %d: %s; trying again", desired.release, error)
            return
        if error is None and path is not None and model is not None:
            try:
                self._slots.put(path, desired.release, model.calibration)
            except CoveyError as failed:
                error = failed
            else:
                self.state, self.reason, self._failures, self.ready = "shadow", "", 0, model
                return
        self.refuse(str(error))

    def _work(self, desired: Desired, stop: threading.Event) -> None:
        path: Path | None = None
        model: Loaded | None = None
        failed: CoveyError | None = None
        try:
            path = self._fetch(desired, stop)
            self._advance(desired, "checking")
            bundle = read_bundle(path, desired.digest)
            runtime = choose_runtime(bundle, self._config.runtimes)
            check_in_subprocess(path, runtime, self._config.check_timeout_s, self._config.check_memory_bytes)
            self._advance(desired, "calibrating")
            model = calibrated(open_model(bundle, desired.release, runtime, None), self._ring)
            self._look(model)
        except CoveyError as error:
            failed = error
        except Exception as error:  # noqa: BLE001  # a thread of ours must answer, or the release hangs for ever
            failed = UpdateError(f"release {desired.release}: {type(error).__name__}: {error}")
        self._answers.put((desired, path, model, failed))

    def _fetch(self, desired: Desired, stop: threading.Event) -> Path:
        if self._updater is None:
            raise UpdateError("no trusted_root is configured")
        try:
            return self._updater.fetch(desired, stop)
        except UpdateError as error:
            raise _Failed(str(error)) from error

    def _look(self, model: Loaded) -> None:
        """Shadow on the ring's newest windows: all a device on the ground has."""
        windows, above, broken = above_threshold(model, self._ring, self._config.shadow_windows)
        if broken or above * 2 > windows:
            raise UpdateError(
                f"shadow on the ring: {above} of {windows} windows above its threshold, {broken} no numbers"
            )

    def _advance(self, desired: Desired, state: State) -> None:
        if desired is self._desired:
            self.state = state
