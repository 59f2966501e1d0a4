"""The report: what happened, judged against what had to happen. Pure: facts in, one object out.

Exit 0 only if all of it holds: damaged flights alarm and healthy ones do not, every event written is in the store once
though the gateway was killed, and every agent ends on the second release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from covey.stack import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from covey.demo.plan import Device, Plan


def judge(
    *,
    plan: Plan,
    statuses: Mapping[str, dict[str, Any]],
    fleet: Iterable[dict[str, Any]],
    alarms: Sequence[dict[str, Any]],
    counts: Mapping[str, Any],
    stored: Sequence[tuple[str, str, int]],
    learned: Mapping[str, Any],
    releases: tuple[int, int],
    kills: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The report as `--json` prints it.

    Args:
        plan: what was flown.
        statuses: last status.json of each agent, by device.
        fleet: the store's devices.
        alarms: the store's alarms.
        counts: the store's totals.
        stored: identities in the store (device, outbox, seq).
        learned: what `covey federated train` said.
        releases: numbers of the first and the second release.
        kills: which parts were killed on the way.
        seconds: per phase.
    """
    reported = {row["device"]: row["release"] for row in fleet}
    devices = [_device(d, statuses[d.id], alarms, reported.get(d.id, 0), releases[0]) for d in plan.devices]
    messages = _messages(statuses, stored, counts)
    problems = [p for d, row in zip(plan.devices, devices, strict=True) for p in _problems(d, row, releases[1])]
    if messages["written"] == 0:
        problems.append("messages: agents wrote none")
    problems += [f"messages: 0 {f} expected, {messages[f]} found" for f in ("lost", "duplicate") if messages[f]]
    if "gateway" not in kills:
        problems.append("gateway: a kill on the way expected, none happened")
    values = statuses.values()
    return {
        "ok": not problems,
        "problems": problems,
        "engine": learned["engine"],
        "windows": sum(s.get("windows", 0) for s in values),
        "devices": devices,
        "flights": [
            {
                "file": d.test.file,
                "fault": d.fault,
                "judged": d.judged,
                "windows": row["windows"],
                "alarms": row["alarms"],
            }
            for d, row in zip(plan.devices, devices, strict=True)
        ],
        "messages": messages,
        "bytes": {
            "raw": sum(s.get("raw_bytes", 0) for s in values),
            "uplink": sum(s.get("uplink_bytes", 0) for s in values),
            "downlink_model": sum(s.get("downlink_model_bytes", 0) for s in values)
            + learned["clients"] * learned["bytes_down_per_device"],
            "uplink_model": learned["clients"] * learned["bytes_up_per_device"],
        },
        "round": {"teachers": learned["teachers"], "evidence": learned["evidence"]},
        "killed": list(kills),
        "memory_bytes": {s["device"]: s.get("memory_bytes", 0) for s in values},
        "seconds": dict(seconds),
        "embedded": EMBEDDED,
    }


def _device(
    device: Device, status: Mapping[str, Any], alarms: Sequence[dict[str, Any]], release: int, first: int
) -> dict[str, Any]:
    own = sorted((a for a in alarms if a["device"] == device.id), key=lambda a: a["begin_s"] or 0.0)
    windows = sum(f["windows"] for f in status.get("flights", []))
    began = status.get("first_window_s")
    alarm = own[0] if own else None
    delay = None
    if alarm is not None and began is not None and alarm["begin_s"] is not None:
        # from the first sample that was scored to the end of the window that raised the alarm
        delay = round(alarm["begin_s"] + status.get("window_s", 0.0) - began, 2)
    return {
        "id": device.id,
        "runtime": status.get("runtime", ""),
        "fault": device.fault,
        "windows": windows,
        "alarms": len(own),
        "alarm_delay_s": delay,
        "top_channel": alarm["top_channel"] if alarm is not None else "",
        "release_before": first,
        "release_after": release,
    }


def _messages(
    statuses: Mapping[str, dict[str, Any]], stored: Sequence[tuple[str, str, int]], counts: Mapping[str, Any]
) -> dict[str, int]:
    written = {
        (name, s["outbox"]["id"], seq)
        for name, s in statuses.items()
        if "outbox" in s
        for seq in range(1, s["outbox"]["last_seq"] + 1)
    }
    unique = set(stored)
    return {
        "written": len(written),
        "stored": len(stored),
        "lost": len(written - unique),
        "duplicate": len(stored) - len(unique),
        "unknown": len(unique - written),
        "repeats_refused": counts.get("duplicates_refused", 0),
    }


def _problems(device: Device, row: Mapping[str, Any], second: int) -> list[str]:
    found = []
    if row["windows"] == 0:
        found.append(f"{device.id}: windows expected, none scored")
    if device.must_alarm and row["alarms"] == 0:
        found.append(f"{device.id}: {device.fault}: an alarm expected, none raised")
    if device.judged and device.test.healthy and row["alarms"]:
        found.append(f"{device.id}: healthy: no alarm expected, {row['alarms']} raised")
    if row["release_after"] != second:
        found.append(f"{device.id}: release {second} expected, {row['release_after']} reported")
    return found
