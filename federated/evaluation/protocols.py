"""Protocols on tables: `skab`, `fleet` and `coldstart`. Which rows are learned from, which are judged, and beside what.

Modes. `local`: a run with that device alone. `pooled`: central training on all devices' windows, each normalised by its own
device. `federated`: rounds over all devices; the device brings its center and scale and takes the group's threshold.
`personal`: the same bundle with everything that a device's calibration adds. Every mode is a bundle that would ship.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from covey.errors import AggregationError, CoveyError, UsageError
from federated.evaluation.figures import Judge, Judged, Tree, agreement, of_fleet
from federated.evaluation.metrics import period
from federated.evaluation.runs import FP32, calibrations, for_family, int8_runtimes, score, train, windows_of
from federated.evaluation.sets import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from federated.config import Plan
    from federated.evaluation.runs import Trained
    from federated.evaluation.sets import Device

    Say = Callable[[str], None]

MODES = ("local", "pooled", "federated", "personal")
DAY_ROWS = {"asd": 288, "smd": 1440}  # of 5 minutes, and of 1
COLD_DAYS = (1, 3)
LOCAL: tuple[Literal["pca", "dense-ae"], ...] = ("pca", "dense-ae")  # what a new device is compared with


@dataclass
class Mode:
    """One mode's answers while they come in.

    Attributes:
        judged: runtime -> device -> its trials.
        refused: device or `fleet` -> why the gates would not release its bundle.
        failed: device -> why there are no figures of it.
        seconds: spent on it.
    """

    judged: dict[str, dict[str, list[Judged]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def tree(self) -> Tree:
        """For the report."""
        return {
            "runtimes": {runtime: of_fleet(devices) for runtime, devices in self.judged.items()},
            "refused": self.refused,
            "failed": self.failed,
            "seconds": round(self.seconds, 2),
        }


class Trial:
    """One set of devices under one plan: trains, scores, judges, and keeps the figures by mode."""

    def __init__(self, judge: Judge, say: Say) -> None:
        self.modes: dict[str, Mode] = {}
        self._judge, self._say = judge, say

    def trained(
        self, mode: str, who: str, plan: Plan, devices: Sequence[Device], *, central: bool = False
    ) -> Trained | None:
        """A run for a mode; None, and the reason kept, when no bundle comes out of it."""
        entry = self.modes.setdefault(mode, Mode())
        began = time.monotonic()
        try:
            found = train(plan, {one.name: one.normal.node() for one in devices}, central=central)
        except AggregationError as error:
            entry.failed[who] = str(error)
            return None
        finally:
            entry.seconds += time.monotonic() - began
        if found.refused is not None:
            entry.refused[who] = found.refused
        entry.failed.update(found.failed)
        self._say(f"{mode}: {who}: trained in {found.seconds:.1f} s")
        return found

    def judge(self, mode: str, found: Trained | None, plan: Plan, devices: Sequence[Device], *, personal: bool) -> None:
        """Scores and judges devices with a bundle."""
        entry = self.modes.setdefault(mode, Mode())
        if found is None:
            return
        began = time.monotonic()
        for one in devices:
            try:
                own = calibrations(found, windows_of(found, plan, one.normal.node()), personal=personal)
                recording = one.test.read(list(found.bundle.manifest.inputs.channels))
                told = score(found, recording, own)
            except CoveyError as error:
                entry.failed[one.name] = str(error)
                continue
            rows_apart = period(recording.samples[:, 0])  # of the first channel, as TSB-AD
            for runtime, rows in told.items():
                judged = self._judge(rows, one.label, one.judged_from, rows_apart)
                entry.judged.setdefault(runtime, {}).setdefault(one.name, []).append(judged)
        entry.seconds += time.monotonic() - began
        self._say(f"{mode}: {len(devices)} scored, {entry.seconds:.1f} s so far")

    def tree(self, devices: Sequence[Device]) -> Tree:
        """For the report: devices, modes, and int8 beside fp32 by runtime and mode."""
        int8 = {
            runtime: {
                name: agreement(mode.judged[FP32], mode.judged[runtime])
                for name, mode in self.modes.items()
                if {FP32, runtime} <= mode.judged.keys()
            }
            for runtime in int8_runtimes()
        }
        return {
            "devices": [one.name for one in devices],
            "modes": {name: mode.tree() for name, mode in self.modes.items()},
            "int8": int8,
        }


def fleet(
    devices: Sequence[Device],
    plan: Plan,
    judge: Judge,
    say: Say,
    *,
    modes: Sequence[str] = MODES,
) -> Tree:
    """Devices of one kind, each with its normal rows and its judged rows, in every mode (protocols `skab` and `fleet`).

    Raises:
        CoveyError: a file cannot be read.
    """
    plan = msgspec.structs.replace(plan, columns=list(devices[0].channels) if plan.columns is None else plan.columns)
    trial = Trial(judge, say)
    if "local" in modes:
        for one in devices:
            alone = trial.trained("local", one.name, plan, [one])
            trial.judge("local", alone, plan, [one], personal=True)
    if "pooled" in modes:
        pooled = trial.trained("pooled", "fleet", plan, devices, central=True)
        trial.judge("pooled", pooled, plan, devices, personal=True)
    if {"federated", "personal"} & set(modes):
        shared = trial.trained("federated", "fleet", plan, devices)
        if "federated" in modes:
            trial.judge("federated", shared, plan, devices, personal=False)
        if "personal" in modes:
            trial.judge("personal", shared, plan, devices, personal=True)
    return trial.tree(devices)


def coldstart(
    devices: Sequence[Device],
    plan: Plan,
    judge: Judge,
    say: Say,
    *,
    day_rows: int,
    days: Sequence[int] = COLD_DAYS,
    starts: int = 1,
) -> dict[str, Tree]:
    """Each device in turn as a new one with a few days of data, beside peers that have all of theirs.

    Args:
        devices: of one kind, at least two.
        plan: of the fleet's bundle; its features also those of the local models.
        judge: of scores.
        say: progress.
        day_rows: rows of a day.
        days: how much data the new device has.
        starts: how many beginnings of that span are tried, evenly spaced over the device's rows, the first at row 0.

    Returns:
        By number of days ("1 day"), with modes `local-pca`, `local-dense-ae`, `federated` (zero-shot: the fleet's bundle
        with the new device's center and scale, the group's threshold) and `personal`.

    Raises:
        UsageError: one device alone.
    """
    if len(devices) < 2:
        raise UsageError(f"coldstart: at least 2 devices of one kind expected, {len(devices)} came")
    plan = msgspec.structs.replace(plan, columns=list(devices[0].channels) if plan.columns is None else plan.columns)
    trials = {span: Trial(judge, say) for span in days}
    for number, new in enumerate(devices):
        peers = [one for one in devices if one is not new]
        shared = trials[days[0]].trained("federated", f"all but {new.name}", plan, peers)
        for span, trial in trials.items():
            for begun in _begun(new, span * day_rows, starts):
                for family in LOCAL:
                    own_plan = for_family(plan, family)
                    alone = trial.trained(f"local-{family}", new.name, own_plan, [begun])
                    trial.judge(f"local-{family}", alone, own_plan, [begun], personal=True)
                trial.judge("federated", shared, plan, [begun], personal=False)
                trial.judge("personal", shared, plan, [begun], personal=True)
        say(f"{number + 1} of {len(devices)} new devices done")
    return {f"{span} day{'s' if span > 1 else ''}": trial.tree(devices) for span, trial in trials.items()}


def _begun(device: Device, rows: int, starts: int) -> list[Device]:
    """The device with `rows` normal rows only, from several beginnings."""
    first, last = 0, len(device.normal.read(device.channels[:1]).samples) - rows
    if last < 0:
        raise UsageError(f"{device.normal.path}: at least {rows} rows of {device.normal.array} expected, fewer there")
    count = max(1, min(starts, last + 1))
    begins = [first + round(n * last / max(count - 1, 1)) for n in range(count)]
    return [replace(device, normal=Part(device.normal.path, device.normal.array, (a, a + rows))) for a in begins]
