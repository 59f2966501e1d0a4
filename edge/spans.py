"""What a device tells of its traced events, where a collector is named: window, score, and the way to the cloud's acknowledgement.

Nothing is traced in the path of samples: spans are told when an alarm is raised or a row is acknowledged, from times known then.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from covey.tracing import child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from covey import wire
    from covey.tracing import Tracing

_MAX_SENT = 1024  # traced rows on their way that are remembered; a longer outage's are not told
_NEAR_S = 600.0  # a device clock so far from ours is a recording's: its windows are told as of now
_TAIL = 96  # bytes: `traceparent` is an event's last field (wire.make_event)
_TRACEPARENT = re.compile(rb'"traceparent":"(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"}$')


def tell_alarm(tracing: Tracing, device: str, alarm: wire.Alarm, traceparent: str, now_s: float) -> None:
    """The alarm as the root of its trace, with the window and the score that raised it; its end as a span below."""
    what: dict[str, str | int | float | bool] = {
        "covey.device": device,
        "covey.alarm_id": alarm.alarm_id,
        "covey.channel": alarm.top_channel,
        "covey.score": alarm.score,
        "covey.threshold": alarm.threshold,
        "covey.release": alarm.release,
        "covey.runtime": alarm.runtime,
        "covey.flight": alarm.flight,
    }
    if alarm.state == "end":
        tracing.record("alarm end", child(traceparent), traceparent, now_s, now_s, what)
        return
    begun_s, done_s = _window(alarm.window.start_s, alarm.window.end_s, now_s)
    tracing.record("alarm", traceparent, "", begun_s, now_s, what)
    hashed: dict[str, str | int | float | bool] = {"covey.window_sha256": alarm.window.sha256}
    tracing.record("window", child(traceparent), traceparent, begun_s, done_s, hashed)
    tracing.record("score", child(traceparent), traceparent, done_s, now_s, {"covey.score": alarm.score})


def tell_summary(tracing: Tracing, device: str, summary: wire.Summary, traceparent: str, now_s: float) -> None:
    """A traced summary as the root of its trace: its period."""
    begun_s, _ = _window(summary.start_s, summary.end_s, now_s)
    what: dict[str, str | int | float | bool] = {"covey.device": device, "covey.windows": summary.windows}
    tracing.record("summary", traceparent, "", begun_s, now_s, what)


class _Row(NamedTuple):
    traceparent: str
    sent_s: float


class Sent:
    """Traced rows between the first sending and the cloud's acknowledgement."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._rows: dict[int, _Row] = {}

    def sent(self, place: int, body: bytes, now_s: float) -> None:
        """A row went out; sent again, it still began the first time."""
        if place in self._rows or len(self._rows) >= _MAX_SENT:
            return
        found = _TRACEPARENT.search(body, len(body) - _TAIL if len(body) > _TAIL else 0)
        if found is not None:
            self._rows[place] = _Row(found[1].decode(), now_s)

    def acknowledged(self, places: Sequence[tuple[int, int]], now_s: float) -> None:
        """The cloud has these ranges of places."""
        if not self._rows:
            return
        for place in [p for p in self._rows if any(first <= p <= last for first, last in places)]:
            row = self._rows.pop(place)
            self._tracing.record("uplink", child(row.traceparent), row.traceparent, row.sent_s, now_s, {})


def _window(start_s: float, end_s: float, now_s: float) -> tuple[float, float]:
    """A window's times by this machine's clock, where the device's own is another."""
    if abs(now_s - end_s) > _NEAR_S:
        return now_s - (end_s - start_s), now_s
    return start_s, min(end_s, now_s)
