"""The device's ring: makes it, fills it from flights flown before, and calibrates models from it.

Without enough windows there is no calibration, and the agent goes on learning silently.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from covey.ring import FITTED, RingInfo, RingReader, RingWriter, create_ring
from edge.flash_budget import FlashBudget
from edge.scoring.calibration import calibrate, ring_windows
from edge.scoring.scorer import Scorer
from edge.scoring.windows import cut
from edge.sources.files import read_recording

if TYPE_CHECKING:
    import logging
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from covey.bundle import Inputs
    from edge.core import Kept, Loaded


class Ring:
    """The one writer of a device's ring, with what the agent asks of it."""

    def __init__(
        self, path: Path, inputs: Inputs, capacity: int, log: logging.Logger, flash_bytes_per_day: int = 0
    ) -> None:
        """Open the ring, or make it; one of other inputs than the model's is thrown away: no model can learn from it.

        Args:
            path: of the ring.
            inputs: what the model looks at.
            capacity: windows, of a new ring.
            log: for what is thrown away.
            flash_bytes_per_day: windows beyond it are left out, in whole stretches; 0: no limit.

        Raises:
            DataError: it cannot be made, is damaged, or another process writes it.
        """
        self.path = path
        if path.exists() and not fits(path, inputs):
            log.warning("%s: windows of other inputs than the model's: a new ring begins", path)
            path.unlink()
        if not path.exists():
            create_ring(path, RingInfo(tuple(inputs.channels), inputs.rate_hz, inputs.record_rows, capacity))
        self._inputs = inputs
        self._writer = RingWriter(path)
        self._flight: int | None = None
        self._log = log
        self.unwritten = 0  # windows that the disk did not take
        left, then_s = self._writer.flash_left() or (None, 0.0)
        self._noted = left if left is not None else float(flash_bytes_per_day)
        self._step = flash_bytes_per_day / 100  # so much may be forgotten when the process dies
        self.budget = FlashBudget(flash_bytes_per_day, time.monotonic(), left, time.time() - then_s)

    @property
    def windows(self) -> int:
        """Windows in it."""
        return self._writer.count

    @property
    def skipped(self) -> int:
        """Windows left out since start because the flash budget was used up."""
        return self.budget.refused

    def append(self, kept: Kept, flags: int = 0) -> None:
        """Add a normal window if the budget allows it; windows of one flight of the core share one of the ring."""
        if not self._may_write(must=False):
            return
        if kept.flight != self._flight:
            self._flight = kept.flight
            self._writer.begin_flight()
        self._write(kept.samples, kept.start_s, kept.index, flags)

    def take_back(self, windows: Sequence[Kept]) -> int:
        """Add the windows of an alarm that an operator called false, as flights of their own; returns how many.

        Their jump in time begins new flights, so no window chains with what was written before or comes after.
        """
        before: int | None = None
        for kept in windows:
            if kept.flight != before:
                before = kept.flight
                self._writer.begin_flight()
            self._may_write(must=True)
            self._write(kept.samples, kept.start_s, kept.index)
        self._flight = None
        return len(windows)

    def commission(
        self, files: Sequence[str], fitted: Sequence[str], stop: threading.Event, log: logging.Logger
    ) -> None:
        """Take the windows of flights flown before, oldest first; those of `fitted` are not taught to the group again.

        Raises:
            DataError: a file cannot be read, or has other channels or another rate.
        """
        for name in dict.fromkeys([*fitted, *files]):
            if stop.is_set():
                return
            windows = cut(read_recording(name, self._inputs.channels), self._inputs)
            before: int | None = None
            index = 0
            older = self._inputs.window - self._inputs.record_rows  # rows that the windows before hold
            first_s = windows.start_s + older / self._inputs.rate_hz
            for samples, start_s, flight in zip(
                windows.samples[:, older:], first_s.tolist(), windows.flight.tolist(), strict=True
            ):
                if flight != before:
                    before, index = flight, 0
                    self._writer.begin_flight()
                self._may_write(must=True)
                content = np.ascontiguousarray(samples, "<f4").tobytes()
                self._write(content, start_s, index, FITTED if name in fitted else 0)
                index += 1
            log.info("%s: %d windows into the ring", name, len(windows))
        self._flight = None

    def close(self) -> None:
        """Flush and give the file free."""
        if self._step:
            self._writer.note_flash_left(self.budget.left, time.time())
        self._writer.close()

    def _write(self, samples: bytes, start_s: float, index: int, flags: int = 0) -> None:
        try:
            self._writer.append(samples, start_s, index, flags)
        except OSError as error:  # a full disk costs windows to learn from, not the agent
            self.unwritten += 1
            if self.unwritten == 1:
                self._log.warning("%s: windows cannot be written: %s", self.path, error.strerror)

    def _may_write(self, *, must: bool) -> bool:
        allowed = self.budget.take(self._writer.info.record_bytes, time.monotonic(), must=must)
        if self._step and abs(self.budget.left - self._noted) >= self._step:
            self._noted = self.budget.left
            self._writer.note_flash_left(self._noted, time.time())
        return allowed


def fits(path: Path, inputs: Inputs) -> bool:
    """Whether the windows of a ring are those that a model looks at.

    Raises:
        DataError: not a ring, or damaged.
    """
    with RingReader(path) as ring:
        info = ring.info
    same = list(info.channels) == inputs.channels and info.window == inputs.record_rows
    return same and abs(info.rate_hz - inputs.rate_hz) <= 0.05 * inputs.rate_hz


def calibrated(model: Loaded, ring: Path) -> Loaded:
    """The model with a calibration from the ring; as it is where the ring has too few windows or other ones.

    Raises:
        DataError: the ring is damaged, or gives numbers that are not finite.
    """
    manifest = model.manifest
    if not ring.exists() or not fits(ring, manifest.inputs):
        return model
    windows = ring_windows(ring, manifest.inputs)
    if len(windows) < manifest.scoring.commission_windows:
        return model
    networks = {model.runtime: model.network}
    return replace(model, calibration=calibrate(manifest, model.digest, windows, networks, time.time()))


def above_threshold(model: Loaded, ring: Path, newest: int) -> tuple[int, int, int]:
    """Shadow without a flight: (windows, those above the threshold, scores that are no numbers) of the ring's newest.

    Raises:
        DataError: the ring is damaged.
    """
    if newest == 0 or not ring.exists() or not fits(ring, model.manifest.inputs):
        return 0, 0, 0
    windows = ring_windows(ring, model.manifest.inputs)
    scorer = Scorer(model.manifest, model.network, model.runtime, model.calibration)
    scores = scorer.score(windows).score[-newest:]
    broken = int((~np.isfinite(scores)).sum())
    return len(scores), int((~(scores <= scorer.threshold)).sum()), broken
