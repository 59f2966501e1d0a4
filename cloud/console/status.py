"""One word for a device's state, and when that word changes by time alone. Pure; docs/api.md has the rules."""

from __future__ import annotations

from math import inf
from typing import Literal, get_args

from msgspec import Struct

Status = Literal["alarm", "watch", "silent", "updating", "ok"]
STATUSES: tuple[Status, ...] = get_args(Status)

NEAR = 0.8  # of the threshold: worth watching
DRIFTED_PSI = 0.25  # above it the population stability index speaks of another distribution (credit scoring's rule)
UNJUDGED_S = 86_400.0  # how long an ended alarm that nobody judged is worth watching
SILENT_PERIODS = 3
SILENT_S = 120.0  # at least
AT_WORK = frozenset({"fetching", "checking", "calibrating", "shadow"})  # of wire.Reported.state


class Device(Struct, frozen=True, gc=False):
    """What the fleet's view needs of a device.

    Attributes:
        active: False: retired.
        release: what runs; 0: none.
        wanted: release wanted; None: none is.
        slot: state of its update slot, wire.Reported.state.
        online: None: no presence yet.
        seen_s: when it was heard last; None: never.
        period_s: length of its newest period; None before the first, like the scores.
        first_s: when it was heard first.
    """

    device: str
    group: str
    active: bool = True
    release: int = 0
    wanted: int | None = None
    slot: str = "idle"
    online: bool | None = None
    seen_s: float | None = None
    period_s: float | None = None
    score_max: float | None = None
    threshold: float | None = None
    drift_psi: float | None = None
    lat: float | None = None
    lon: float | None = None
    first_s: float | None = None

    @property
    def ratio(self) -> float | None:
        """Greatest score of the newest period over the threshold."""
        if self.score_max is None or not self.threshold:
            return None
        return self.score_max / self.threshold


class Alarm(Struct, frozen=True, gc=False):
    """What the fleet's view needs of an alarm.

    Attributes:
        begin_s: device clock; time of receipt where only its end has come.
        received_s: when it was heard of first.
        ended_s: when it ended, never later than now; None while it is open.
        verdict: "" | confirmed | rejected.
        seen_by: who acknowledged it, or "".
    """

    device: str
    alarm_id: str
    channel: str
    ratio: float
    begin_s: float
    received_s: float
    ended_s: float | None = None
    verdict: str = ""
    seen_by: str = ""

    @property
    def open(self) -> bool:
        """Whether it still stands: not ended, and nobody has called it false."""
        return self.ended_s is None and self.verdict != "rejected"

    @property
    def unjudged(self) -> bool:
        """Whether it needs a verdict."""
        return not self.verdict


def silent_at_s(device: Device) -> float:
    """When it counts as silent if nothing more is heard; -inf: it is already."""
    if device.seen_s is None or device.online is False:
        return -inf
    return device.seen_s + max(SILENT_PERIODS * (device.period_s or 0.0), SILENT_S)


def status_of(device: Device, *, alarming: bool, unjudged_s: float, now_s: float) -> tuple[Status, float]:
    """Its status, and when time alone may change that.

    Args:
        device: active.
        alarming: an alarm of it is open.
        unjudged_s: when the newest of its ended alarms without a verdict ended; -inf: there is none.
        now_s: seconds since the epoch.

    Returns:
        Status, and the next moment to ask again; inf: never.
    """
    silent_s, calm_s = silent_at_s(device), unjudged_s + UNJUDGED_S
    due_s = min((moment for moment in (silent_s, calm_s) if moment > now_s), default=inf)
    ratio = device.ratio
    if alarming:
        return "alarm", due_s
    if silent_s <= now_s:
        return "silent", due_s
    if calm_s > now_s or (ratio is not None and ratio >= NEAR) or (device.drift_psi or 0.0) > DRIFTED_PSI:
        return "watch", due_s
    if device.slot in AT_WORK or (device.wanted is not None and device.wanted != device.release):
        return "updating", due_s
    return "ok", due_s
