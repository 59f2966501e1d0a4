"""Alarms that belong together, how unusual they are, and the one sentence above the fleet. Pure.

An incident is two devices or more of one group that alarm on one channel, begun within ten minutes of each other. Incidents are ranked by
lift, the share of the group that alarms over its usual share, not by count: a group that always alarms is no news.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cloud.console.status import Alarm

TOGETHER_S = 600.0  # beginnings within this belong together
USUAL_S = 7 * 86_400.0  # what is usual is looked up over
RECENT_S = 3_600.0  # less this: it may be the incident itself
LEAST_S = 3_600.0  # a past shorter than this says nothing of what is usual
MAX_LISTED = 500  # alarms of an incident that are listed: as many as one verdict may be on


class Incident(Struct, frozen=True):
    """Devices of one group that alarm alike; share and lift as docs/api.md says, lift None where what is usual is not known yet."""

    id: str
    group: str
    channel: str
    devices: int
    share: float
    lift: float | None
    begin_s: float
    last_s: float
    alarms: list[tuple[str, str]]
    text: str


class Headline(Struct, frozen=True):
    """One sentence and what stands below it; `group`: where, "" where it is nowhere special."""

    text: str
    detail: str = ""
    group: str = ""


def usual(alarms: int, age_s: float) -> float | None:
    """How many devices of a group are expected to begin an alarm within TOGETHER_S; None: it is too young to tell.

    Args:
        alarms: begun in the group between USUAL_S and RECENT_S ago.
        age_s: how long ago its first device was heard.
    """
    span_s = min(USUAL_S, age_s) - RECENT_S
    return None if span_s < LEAST_S else alarms * TOGETHER_S / span_s


def lift(devices: int, expected: float | None) -> float | None:
    """Share of the group alarming over its usual share; the group's size cancels. One device smooths a group that never alarmed."""
    return None if expected is None else round(devices / (1.0 + expected), 2)


def incidents_of(
    group: str, channel: str, alarms: Iterable[Alarm], size: int, expected: float | None
) -> list[Incident]:
    """Incidents among the open alarms of one group and channel, by their beginning.

    Args:
        group: name.
        channel: name; "": not told.
        alarms: open ones, all of this group and channel.
        size: active devices of the group.
        expected: `usual` of the group.
    """
    found: list[list[Alarm]] = []
    for alarm in sorted(alarms, key=lambda one: (one.begin_s, one.device, one.alarm_id)):
        if found and alarm.begin_s - found[-1][0].begin_s <= TOGETHER_S:
            found[-1].append(alarm)
        else:
            found.append([alarm])
    made = []
    for together in found:
        devices = len({alarm.device for alarm in together})
        if devices < 2:
            continue
        begin_s = together[0].begin_s
        made.append(
            Incident(
                id=f"{group}/{channel}/{begin_s:.0f}",
                group=group,
                channel=channel,
                devices=devices,
                share=round(devices / max(size, devices), 4),
                lift=lift(devices, expected),
                begin_s=begin_s,
                last_s=together[-1].begin_s,
                alarms=[(alarm.device, alarm.alarm_id) for alarm in together[:MAX_LISTED]],
                text=f"{devices:,} devices in {group} alarm alike" + (f" on {channel}" if channel else ""),
            )
        )
    return made


def ranked(incidents: Iterable[Incident]) -> list[Incident]:
    """The most unusual first; what is not known to be usual counts as if it had never been."""
    return sorted(incidents, key=lambda one: (-(one.devices if one.lift is None else one.lift), -one.devices, one.id))


def headline(
    counts: Mapping[str, int],
    incidents: Sequence[Incident],
    open_alarms: Sequence[Alarm],
    groups: Mapping[str, Mapping[str, int]],
) -> Headline:
    """The one sentence that says whether something is wrong, and where.

    Args:
        counts: status -> devices.
        incidents: ranked.
        open_alarms: newest first; the first one is named where no incident is.
        groups: group -> status -> devices.
    """
    total = sum(counts.values())
    if not total:
        return Headline("no device is known yet", "the first one appears when it is heard")
    if incidents:
        top, more = incidents[0], len(incidents) - 1
        parts = [top.channel, "" if top.lift is None else f"{top.lift:.1f} times its usual rate"]
        parts.append(f"{more} more incident{'s' * (more > 1)}" if more else "")
        return Headline(
            f"{top.devices:,} devices in {top.group} alarm alike", "; ".join(filter(None, parts)), top.group
        )
    rest = _rest(counts)
    if counts["alarm"] == 1 and open_alarms:
        alarm = open_alarms[0]
        where = _place(groups, "alarm")
        return Headline(
            f"{alarm.device} in {where} alarms" + (f" on {alarm.channel}" if alarm.channel else ""), rest, where
        )
    for status, one, many in (
        ("alarm", "device alarms", "devices alarm, each in its own way"),
        ("silent", "device is silent", "devices are silent"),
        ("watch", "device is worth watching", "devices are worth watching"),
        ("updating", "device is updating", "devices are updating"),
    ):
        n = counts[status]
        if not n:
            continue
        where = _place(groups, status)
        inside = groups[where][status]
        place = f" in {where}" if inside == n else ""
        detail = rest if inside == n else "; ".join(filter(None, (f"{inside:,} of them in {where}", rest)))
        return Headline(f"{n:,} {one if n == 1 else many}{place}", detail, where)
    return Headline("1 device, and it is well" if total == 1 else f"all {total:,} devices are well")


def _place(groups: Mapping[str, Mapping[str, int]], status: str) -> str:
    """The group that has most of a status."""
    return min(groups, key=lambda name: (-groups[name].get(status, 0), name))


def _rest(counts: Mapping[str, int]) -> str:
    """The milder statuses that have devices."""
    present = [name for name in ("alarm", "silent", "watch", "updating") if counts[name]]
    words = {"silent": "silent", "watch": "to watch", "updating": "updating"}
    return ", ".join(f"{counts[name]:,} {words[name]}" for name in present[1:])
