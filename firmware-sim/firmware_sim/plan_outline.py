"""What a plan amounts to, in numbers: devices, recordings to make, changes by kind, summaries to expect. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.plan import DevicePlan, FleetPlan


def outline(plan: FleetPlan) -> dict[str, Any]:
    """The plan in numbers, ready for JSON.

    `summaries_expected` counts one summary per interval that a device has power for; alarms and status come on top.
    """
    scenario, devices = plan.scenario, plan.devices
    flights = [r for r in plan.recordings if r.body == "quadrotor"]
    runs = [r for r in plan.recordings if r.body == "machine"]
    played = [span for d in devices if d.body == "quadrotor" for span in spans(plan, d)]
    changes: dict[str, dict[str, Any]] = {}
    for item in (item for d in devices for item in d.truth):
        told = changes.setdefault(
            item.kind, {"category": item.category, "devices": 0, "first_s": item.onset_s, "last_s": item.onset_s}
        )
        told["devices"] += 1
        told["first_s"], told["last_s"] = min(told["first_s"], item.onset_s), max(told["last_s"], item.onset_s)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "description": scenario.description,
        "expect": scenario.expect,
        "seed": plan.seed,
        "duration_s": plan.duration_s,
        "devices": {body: sum(d.body == body for d in devices) for body in ("quadrotor", "machine")},
        "links": dict(sorted(Counter(d.link for d in devices).items())),
        "recordings": {
            "flights": len(flights),
            "flight_s": sum(r.duration_s for r in flights),
            "runs": len(runs),
            "run_s": sum(r.duration_s for r in runs),
        },
        "flights_played": len(played),
        "most_in_the_air": _most_at_once(played),
        "changes": dict(sorted(changes.items())),
        "summaries_expected": round(sum(_summaries(plan, d) for d in devices)),
        "cuts": sum(len(d.cuts) for d in devices),
        "reboots": sum(len(d.off) for d in devices),
        "outages": sum(len(d.outages) for d in devices),
    }


def spans(plan: FleetPlan, device: DevicePlan) -> list[tuple[float, float]]:
    """When a device plays a recording, (from, to), cut at the end of the plan."""
    return [
        (s.start_s, min(s.start_s + plan.recordings[s.recording].duration_s, plan.duration_s)) for s in device.stretches
    ]


def _summaries(plan: FleetPlan, device: DevicePlan) -> float:
    """Time with power over the interval: the short one while something is scored, the idle one otherwise."""
    ends_s = plan.duration_s
    active = spans(plan, device)
    without = [(a, min(b, ends_s)) for a, b in device.off]
    scored_s = _length(active) - sum(_length([_common(a, b)]) for a in active for b in without)
    idle_s = ends_s - _length(without) - scored_s
    return scored_s / plan.scenario.summary_interval_s + idle_s / plan.scenario.idle_summary_interval_s


def _common(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    start = max(a[0], b[0])
    return start, max(start, min(a[1], b[1]))


def _length(times: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in times)


def _most_at_once(times: Sequence[tuple[float, float]]) -> int:
    now = most = 0
    for _, step in sorted([(end, -1) for _, end in times] + [(start, 1) for start, _ in times]):
        now += step
        most = max(most, now)
    return most
