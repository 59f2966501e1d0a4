"""Which alarms were right: the truth about a fleet against the alarms that reached the store. Pure.

Rules, in true time throughout (facts.py turns device clocks into it):

* An item (a fault or a drift of one device) is *reached* when the device flew while it was there, before the run's end.
* An alarm counts when the store has its begin event with the bytes that the device wrote; ends only close alarms.
* It belongs to every item of its device that is there when its window ends. With a fault among them it is a *true* alarm,
  with drifts only a *drift* alarm (neither a hit nor a false alarm), with none a *false* one.
* An item is *detected* by the first such begin; its delay is the time of that event minus the onset. An event's time has
  milliseconds, so a window that ends up to 2 ms before the onset still belongs to it.
* An alarm that was open at the onset hides the item: while one is open, a device cannot begin another. Such an item without
  a begin of its own is *masked*, and neither a hit nor a miss, if that alarm stayed open for 10 s or more after the onset; an alarm that
  ended sooner left the detector free, and the item is *missed*. So an alarm that never ends earns no recall.
* recall = detected / (detected + missed); precision = true / (true + false). Of a kind: true alarms while an item of that kind was
  there, and the false ones of the devices that have such an item. What has no case is None, never 0 or 1.
* False alarms per flight hour: over the hours flown with no item there, since no other hour could have brought one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct

from firmware_sim.figures import Quantiles, quantiles, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from firmware_sim.facts import AlarmEvent, Facts, Wrong

ROUNDING_S = 0.002  # RFC 3339 with milliseconds, twice
GRACE_S = 10.0  # an alarm open at the onset that lasts this much longer kept the detector from speaking
MAX_VALUES = 8  # of a size before it is told in ranges
RANGES = 4
NOT_SIZES = ("motor",)  # numbers that name a part


class SizeReport(Struct, frozen=True):
    """Items of one kind with a size in one range."""

    parameter: str  # cut_mm
    label: str
    low: float | None  # None: the size is a name
    high: float | None
    reached: int
    detected: int
    masked: int
    recall: float | None


class KindReport(Struct, frozen=True):
    """How one kind of fault or drift was seen."""

    kind: str
    category: str
    planned: int
    reached: int
    detected: int
    detected_on_device: int  # alarms that never arrived included
    masked: int
    missed: int
    recall: float | None
    alarms: int  # begins while such an item was there
    false_alarms: int  # begins with nothing there, of the devices that have such an item
    precision: float | None
    delay_s: Quantiles
    delays_s: list[float]  # ascending
    sizes: list[SizeReport]


class Detection(Struct, frozen=True):
    """How a fleet's faults were seen."""

    planned: int  # faults; drifts are told under `kinds`
    reached: int
    detected: int
    masked: int
    missed: int
    recall: float | None
    precision: float | None
    delay_s: Quantiles
    raised: int  # begins on devices
    arrived: int  # of these, in the store
    true_alarms: int
    false_alarms: int
    drift_alarms: int
    flight_hours: float
    clean_flight_hours: float  # with no fault and no drift there
    false_alarms_per_flight_hour: float | None  # over the clean ones
    never_ended: int  # arrived alarms that the device itself never ended
    ends_missing: int  # ended on the device, and the end is not in the store
    kinds: list[KindReport]


class _Seen(NamedTuple):
    """What became of one item that was reached."""

    wrong: Wrong
    delay_s: float | None  # None: not detected
    on_device: bool
    masked: bool


def detect(facts: Facts, arrived: set[int], end_s: float) -> Detection:
    """Judge every item and every alarm.

    Args:
        facts: the ledger.
        arrived: keys of alarm events that the store has with the right bytes.
        end_s: end of the run, true time.
    """
    alarms = defaultdict(list)
    for alarm in facts.alarms:
        alarms[alarm.device].append(alarm)
    items = defaultdict(list)
    for wrong in facts.truth:
        items[wrong.device].append(wrong)
    flights = _by_device(facts.flights)
    seen = [
        _judge(wrong, alarms[wrong.device], arrived)
        for wrong in facts.truth
        if _reached(wrong, flights.get(wrong.device), end_s)
    ]
    begins = [
        (one, [w for w in items.get(one.device, ()) if there(w, one.window_end_s)])
        for one in facts.alarms
        if one.begins
    ]
    told = [(one, active) for one, active in begins if one.key in arrived]
    categories = [{w.item.category for w in active} for _, active in told]
    true, drift = sum("fault" in c for c in categories), sum(c == {"drift"} for c in categories)
    false = sum(not c for c in categories)
    false_of: dict[int, int] = defaultdict(int)
    for one, active in told:
        false_of[one.device] += not active
    faults = [one for one in seen if one.wrong.item.category == "fault"]
    detected, masked = sum(one.delay_s is not None for one in faults), sum(one.masked for one in faults)
    hours, clean = flown_hours(facts.flights, items, end_s)
    ended = {one.alarm_id for one in facts.alarms if not one.begins}
    ends_arrived = {one.alarm_id for one in facts.alarms if not one.begins and one.key in arrived}
    ids = {one.alarm_id for one, _ in told}
    return Detection(
        planned=sum(w.item.category == "fault" for w in facts.truth),
        reached=len(faults),
        detected=detected,
        masked=masked,
        missed=len(faults) - detected - masked,
        recall=share(detected, len(faults) - masked),
        precision=share(true, true + false),
        delay_s=quantiles([one.delay_s for one in faults if one.delay_s is not None]),
        raised=len(begins),
        arrived=len(told),
        true_alarms=true,
        false_alarms=false,
        drift_alarms=drift,
        flight_hours=hours,
        clean_flight_hours=clean,
        false_alarms_per_flight_hour=share(false, clean),
        never_ended=len(ids - ended),
        ends_missing=len(ids & ended - ends_arrived),
        kinds=[
            _kind(kind, category, facts.truth, seen, told, false_of)
            for category, kind in sorted({(w.item.category, w.item.kind) for w in facts.truth}, key=_faults_first)
        ],
    )


def there(wrong: Wrong, at_s: float) -> bool:
    """Whether an item is there at a time."""
    item = wrong.item
    return item.onset_s - ROUNDING_S <= at_s and (item.until_s is None or at_s < item.until_s)


def flown_hours(
    flights: NDArray[np.float64], items: Mapping[int, Sequence[Wrong]], end_s: float
) -> tuple[float, float]:
    """(hours flown, of these with nothing wrong) until `end_s`; flights of one device do not overlap."""
    start, end = flights[:, 1], np.minimum(flights[:, 2], end_s)
    flown = np.maximum(end - start, 0.0)
    wrong_s = 0.0
    for device, rows in _by_device(flights).items():
        for low, high in _union([(w.item.onset_s, w.item.until_s) for w in items.get(device, ())], end_s):
            inside = np.minimum(np.minimum(rows[:, 2], end_s), high) - np.maximum(rows[:, 1], low)
            wrong_s += float(np.maximum(inside, 0.0).sum())
    total = float(flown.sum())
    return total / 3600, (total - wrong_s) / 3600


def _faults_first(name: tuple[str, str]) -> tuple[bool, str, str]:
    return (name[0] != "fault", *name)


def _by_device(flights: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    if not len(flights):
        return {}
    rows = flights[np.lexsort((flights[:, 1], flights[:, 0]))]
    devices, first = np.unique(rows[:, 0], return_index=True)
    return dict(zip(devices.astype(int).tolist(), np.split(rows, first[1:]), strict=True))


def _union(spans: Sequence[tuple[float, float | None]], end_s: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for low, until in sorted((low, end_s if until is None else min(until, end_s)) for low, until in spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], until))
        else:
            merged.append((low, until))
    return merged


def _reached(wrong: Wrong, flights: NDArray[np.float64] | None, end_s: float) -> bool:
    if flights is None:
        return False
    until = end_s if wrong.item.until_s is None else min(wrong.item.until_s, end_s)
    return bool((np.maximum(flights[:, 1], wrong.item.onset_s) < np.minimum(flights[:, 2], until)).any())


def _judge(wrong: Wrong, alarms: Sequence[AlarmEvent], arrived: set[int]) -> _Seen:
    own = sorted((one for one in alarms if one.begins and there(wrong, one.window_end_s)), key=lambda one: one.true_s)
    onset_s = wrong.item.onset_s
    first = next((one for one in own if one.key in arrived), None)
    if first is not None:
        return _Seen(wrong, max(0.0, first.true_s - onset_s), on_device=True, masked=False)
    ends = {one.alarm_id: one.true_s for one in alarms if not one.begins}
    before = [one for one in alarms if one.begins and one.window_end_s < onset_s - ROUNDING_S]
    open_ = any(ends.get(one.alarm_id, np.inf) >= onset_s + GRACE_S for one in before)
    return _Seen(wrong, None, on_device=bool(own), masked=open_ and not own)


def _kind(
    kind: str,
    category: str,
    truth: Sequence[Wrong],
    seen: Sequence[_Seen],
    told: Sequence[tuple[AlarmEvent, list[Wrong]]],
    false_of: Mapping[int, int],
) -> KindReport:
    planned = [w for w in truth if (w.item.kind, w.item.category) == (kind, category)]
    mine = [one for one in seen if (one.wrong.item.kind, one.wrong.item.category) == (kind, category)]
    delays = sorted(one.delay_s for one in mine if one.delay_s is not None)
    masked = sum(one.masked for one in mine)
    alarms = sum(any((w.item.kind, w.item.category) == (kind, category) for w in active) for _, active in told)
    false = sum(false_of.get(device, 0) for device in {w.device for w in planned})
    is_fault = category == "fault"  # finding a drift is no merit, so it has neither recall nor precision
    return KindReport(
        kind=kind,
        category=category,
        planned=len(planned),
        reached=len(mine),
        detected=len(delays),
        detected_on_device=sum(one.on_device for one in mine),
        masked=masked,
        missed=len(mine) - len(delays) - masked,
        recall=share(len(delays), len(mine) - masked) if is_fault else None,
        alarms=alarms,
        false_alarms=false,
        precision=share(alarms, alarms + false) if is_fault else None,
        delay_s=quantiles(delays),
        delays_s=delays,
        sizes=_sizes(mine, is_fault=is_fault),
    )


def _sizes(mine: Sequence[_Seen], *, is_fault: bool) -> list[SizeReport]:
    """By each parameter that differs: few values one by one, many numbers in equal ranges."""
    result = []
    for name in sorted({name for one in mine for name in one.wrong.item.size}):
        having = [(one.wrong.item.size[name], one) for one in mine if name in one.wrong.item.size]
        for label, low, high, group in _groups(name, having):
            detected, masked = sum(one.delay_s is not None for one in group), sum(one.masked for one in group)
            recall = share(detected, len(group) - masked) if is_fault else None
            result.append(SizeReport(name, label, low, high, len(group), detected, masked, recall))
    return result


def _groups(
    name: str, having: Sequence[tuple[Any, _Seen]]
) -> list[tuple[str, float | None, float | None, list[_Seen]]]:
    values = {value for value, _ in having if isinstance(value, int | float | str)}
    numbers = sorted(v for v in values if not isinstance(v, str | bool)) if name not in NOT_SIZES else []
    if len(numbers) <= MAX_VALUES or len(numbers) < len(values):
        size = {v: float(v) if v in numbers and not isinstance(v, str) else None for v in values}
        ordered = sorted(values, key=lambda v: (isinstance(v, str), v if isinstance(v, str) else float(v)))
        named = [(v, [one for value, one in having if value == v]) for v in ordered[:64]]
        return [(f"{v:g}" if isinstance(v, float) else str(v), size[v], size[v], group) for v, group in named]
    edges = np.linspace(numbers[0], numbers[-1], RANGES + 1)
    place = np.clip(np.searchsorted(edges, [value for value, _ in having], side="right") - 1, 0, RANGES - 1)
    return [
        (f"{edges[n]:.2g} to {edges[n + 1]:.2g}", float(edges[n]), float(edges[n + 1]), group)
        for n in range(RANGES)
        if (group := [one for at, (_, one) in zip(place, having, strict=True) if at == n])
    ]
