"""The fleet as people see it: statuses, counts, groups, incidents, one sentence; and what changed since it was told last.

The view model of console and terminal. Pure: rows come in (cloud/console/rows.py reads them), pictures go out, time is an argument.
Costs what changed, not what there is: a thousand updates a second among ten thousand devices is a matter of milliseconds.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from cloud.console import incidents as rules
from cloud.console.incidents import Headline, Incident
from cloud.console.status import STATUSES, Alarm, Device, Status, status_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COLUMNS = ("device", "group", "status", "ratio", "release", "seen_s", "lat", "lon")
_PARTS = ("headline", "counts", "groups", "incidents", "alarms")  # told whole when they changed
NEWEST = 50  # alarms listed that need a verdict

Cells = tuple[str, int, Status, float | None, int, float | None, float | None, float | None]  # COLUMNS


class Group(Struct, frozen=True):
    """A group and how many active devices it has; 0: its last one has left, and its number stays."""

    name: str
    devices: int


class Waiting(Struct, frozen=True):
    """An alarm that needs a verdict; state: begin | end; seen_by: who acknowledged it, or ""."""

    device: str
    alarm_id: str
    group: str
    channel: str
    ratio: float
    begin_s: float
    state: str
    seen_by: str


class Picture(Struct, omit_defaults=True, kw_only=True):
    """The fleet (everything set), or what changed of it (the rest unset): `GET /api/fleet` of docs/api.md.

    Attributes:
        cursor: set by who tells it.
        gone: names that left; of a change only.
    """

    cursor: int | UnsetType = UNSET
    now_s: float
    headline: Headline | UnsetType = UNSET
    counts: dict[str, int] | UnsetType = UNSET
    groups: list[Group] | UnsetType = UNSET
    columns: tuple[str, ...] | UnsetType = UNSET
    devices: list[Cells] | UnsetType = UNSET
    gone: list[str] | UnsetType = UNSET
    incidents: list[Incident] | UnsetType = UNSET
    alarms: list[Waiting] | UnsetType = UNSET


class Fleet:
    """The state behind pictures. One thread at a time."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}  # active ones
        self._cells: dict[str, Cells] = {}
        self._alarms: dict[str, dict[str, Alarm]] = {}  # device -> id -> open or without a verdict
        self._numbers: dict[str, int] = {}  # group -> its index: never given away again, browsers hold it
        self._counts: dict[str, dict[str, int]] = {}  # group -> status -> devices
        self._usual: Mapping[str, float] = {}
        self._due: list[tuple[float, str]] = []  # heap: when time alone may change a status
        self._asked: dict[str, float] = {}  # device -> its earliest entry in the heap
        self._buckets: dict[tuple[str, str], dict[tuple[str, str], Alarm]] = defaultdict(
            dict
        )  # open, by group and channel
        self._stale: set[tuple[str, str]] = set()  # buckets to look at again
        self._found: dict[tuple[str, str], list[Incident]] = {}
        self._order: list[str] | None = None
        self._fresh: dict[str, None] = {}  # devices whose cells changed since `changes`
        self._gone: set[str] = set()
        self._alarms_moved = True
        self._waiting: list[Waiting] = []
        self._inbox = self._seen = 0
        self._now_s = 0.0
        self._told = Picture(now_s=0.0)

    def replace(self, devices: Iterable[Device], alarms: Iterable[Alarm], now_s: float) -> None:
        """Be these devices and alarms, all of them; what is not among them is gone."""
        devices = sorted(devices, key=lambda one: (one.group, one.device))  # the first groups are numbered by name
        kept: dict[str, list[Alarm]] = defaultdict(list)
        for alarm in alarms:
            kept[alarm.device].append(alarm)
        for name in self._devices.keys() - {one.device for one in devices}:
            self._leave(name)
            self._alarms.pop(name, None)
        for name, have in self._alarms.items():
            held = {one.alarm_id for one in kept[name]}
            for alarm_id in [alarm_id for alarm_id in have if alarm_id not in held]:
                self._drop(name, alarm_id)
        self.take(devices, (alarm for some in kept.values() for alarm in some), now_s)
        for name in list(self._devices):
            self._judge(name)

    def take(self, devices: Iterable[Device], alarms: Iterable[Alarm], now_s: float) -> None:
        """Rows that changed, whole; any number of times."""
        self._now_s = max(self._now_s, now_s)
        touched: dict[str, None] = {}
        for device in devices:
            old = self._devices.get(device.device)
            if old is not None and (not device.active or old.group != device.group):
                self._leave(device.device)
            if device.active:
                self._enter(device, moved=old is None or old.group != device.group)
                touched[device.device] = None
        for alarm in alarms:
            self._drop(alarm.device, alarm.alarm_id)
            if alarm.open or alarm.unjudged:
                self._alarms.setdefault(alarm.device, {})[alarm.alarm_id] = alarm
                self._put(alarm)
            touched[alarm.device] = None
        for name in touched:
            if name in self._devices:
                self._judge(name)

    def expect(self, usual: Mapping[str, float]) -> None:
        """What is usual: group -> devices expected to begin an alarm within ten minutes."""
        if usual != self._usual:
            self._usual = usual
            self._stale.update(self._buckets)

    def tick(self, now_s: float) -> None:
        """Let time pass: devices fall silent, old alarms are no longer worth watching."""
        self._now_s = max(self._now_s, now_s)
        while self._due and self._due[0][0] <= self._now_s:
            due_s, name = heapq.heappop(self._due)
            if self._asked.get(name) == due_s:
                del self._asked[name]
                if name in self._devices:
                    self._judge(name)

    def snapshot(self) -> Picture:
        """Everything."""
        whole = self._parts()
        if self._order is None:
            self._order = sorted(self._cells, key=lambda name: (self._cells[name][1], name))
        whole.columns = COLUMNS
        whole.devices = [self._cells[name] for name in self._order]
        for name in _PARTS:  # who has this has what was not told yet: it is told even if it turns back before
            if getattr(whole, name) != getattr(self._told, name):
                setattr(self._told, name, UNSET)
        return whole

    def changes(self) -> Picture | None:
        """What is other than when this was asked last; None: nothing."""
        new, delta = self._parts(), Picture(now_s=self._now_s)
        for name in _PARTS:
            if getattr(new, name) != getattr(self._told, name):
                setattr(delta, name, getattr(new, name))
        if self._fresh:
            delta.devices = [self._cells[name] for name in self._fresh if name in self._cells] or UNSET
        if gone := sorted(name for name in self._gone if name not in self._cells):
            delta.gone = gone
        self._told, self._fresh, self._gone = new, {}, set()
        return None if delta == Picture(now_s=self._now_s) else delta

    def counts(self) -> dict[str, int]:
        """Status -> devices, `inbox`: alarms that need a verdict, and `seen`: those of them that somebody has acknowledged."""
        self._settle()
        total: dict[str, int] = {name: sum(of[name] for of in self._counts.values()) for name in STATUSES}
        return total | {"inbox": self._inbox, "seen": self._seen}

    def device(self, name: str) -> Cells | None:
        """One active device's row."""
        return self._cells.get(name)

    @property
    def devices(self) -> list[Device]:
        """Active devices, in no order."""
        return list(self._devices.values())

    def _enter(self, device: Device, *, moved: bool) -> None:
        self._devices[device.device] = device
        if not moved:
            return
        self._order = None
        number = self._numbers.setdefault(device.group, len(self._numbers))
        self._counts.setdefault(device.group, dict.fromkeys(STATUSES, 0))["ok"] += 1
        self._cells[device.device] = (device.device, number, "ok", None, 0, None, None, None)
        self._fresh[device.device] = None
        for alarm in self._alarms.get(device.device, {}).values():
            self._put(alarm)
        self._stale.update(key for key in self._buckets if key[0] == device.group)  # shares are of its size

    def _leave(self, name: str) -> None:
        for alarm in self._alarms.get(name, {}).values():
            self._unput(alarm)
        device = self._devices.pop(name)
        self._counts[device.group][self._cells.pop(name)[2]] -= 1
        self._stale.update(key for key in self._buckets if key[0] == device.group)
        self._order = None
        self._fresh.pop(name, None)
        self._gone.add(name)
        self._alarms_moved = True

    def _drop(self, name: str, alarm_id: str) -> None:
        alarm = self._alarms.get(name, {}).pop(alarm_id, None)
        if alarm is not None:
            self._unput(alarm)
            self._alarms_moved = True

    def _put(self, alarm: Alarm) -> None:
        device = self._devices.get(alarm.device)
        self._alarms_moved = True
        if device is not None and alarm.open:
            self._buckets[device.group, alarm.channel][alarm.device, alarm.alarm_id] = alarm
            self._stale.add((device.group, alarm.channel))

    def _unput(self, alarm: Alarm) -> None:
        device = self._devices.get(alarm.device)
        if device is not None and (key := (device.group, alarm.channel)) in self._buckets:
            self._buckets[key].pop((alarm.device, alarm.alarm_id), None)
            self._stale.add(key)

    def _judge(self, name: str) -> None:
        """Its status, row and place in the counts anew."""
        device, alarming, unjudged_s = self._devices[name], False, -inf
        for alarm in self._alarms.get(name, {}).values():
            alarming = alarming or alarm.open
            if alarm.unjudged and alarm.ended_s is not None:
                unjudged_s = max(unjudged_s, alarm.ended_s)
        status, due_s = status_of(device, alarming=alarming, unjudged_s=unjudged_s, now_s=self._now_s)
        if due_s < self._asked.get(
            name, inf
        ):  # a later one is found when the earlier is due: one entry a device, mostly
            self._asked[name] = due_s
            heapq.heappush(self._due, (due_s, name))
        old, ratio = self._cells[name], device.ratio
        cells: Cells = (
            name,
            old[1],
            status,
            None if ratio is None else round(ratio, 3),
            device.release,
            None if device.seen_s is None else round(device.seen_s, 1),
            device.lat,
            device.lon,
        )
        if status != old[2]:
            counts = self._counts[device.group]
            counts[old[2]] -= 1
            counts[status] += 1
        if cells != old:
            self._cells[name] = cells
            self._fresh[name] = None

    def _settle(self) -> None:
        """Incidents of the buckets that changed, and the list of alarms."""
        for key in self._stale:
            bucket = self._buckets.get(key)
            if bucket:
                size = sum(self._counts[key[0]].values())
                self._found[key] = rules.incidents_of(*key, bucket.values(), size, self._usual.get(key[0]))
            else:
                self._buckets.pop(key, None)
                self._found.pop(key, None)
        self._stale = set()
        if not self._alarms_moved:
            return
        waiting = [
            (alarm, self._devices[name].group)
            for name, some in self._alarms.items()
            if name in self._devices
            for alarm in some.values()
            if alarm.unjudged
        ]
        self._inbox = len(waiting)
        self._seen = sum(alarm.seen_by != "" for alarm, _ in waiting)
        newest = heapq.nsmallest(NEWEST, waiting, key=lambda one: (-one[0].received_s, one[0].device, one[0].alarm_id))
        self._waiting = [
            Waiting(
                a.device,
                a.alarm_id,
                group,
                a.channel,
                round(a.ratio, 3),
                a.begin_s,
                "begin" if a.ended_s is None else "end",
                a.seen_by,
            )
            for a, group in newest
        ]
        self._alarms_moved = False

    def _parts(self) -> Picture:
        self._settle()
        return Picture(
            now_s=self._now_s,
            headline=self._headline(),
            counts=self.counts(),
            groups=[Group(name, sum(self._counts[name].values())) for name in self._numbers],
            incidents=self._incidents(),
            alarms=self._waiting,
        )

    def _incidents(self) -> list[Incident]:
        return rules.ranked(incident for some in self._found.values() for incident in some)

    def _headline(self) -> Headline:
        counts: dict[str, int] = {name: sum(of[name] for of in self._counts.values()) for name in STATUSES}
        standing: list[Alarm] = []
        if counts["alarm"] == 1:
            standing = [alarm for bucket in self._buckets.values() for alarm in bucket.values()]
        standing.sort(key=lambda one: -one.begin_s)
        return rules.headline(counts, self._incidents(), standing, self._counts)
