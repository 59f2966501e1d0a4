"""The report says ok only when all of it holds: each promise broken alone makes it fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from covey.demo.plan import Device, Flight, Plan
from covey.demo.report import judge

SICK = Device("sick", "A", Flight("c/A_log00", "A", "cut_3mm", False, "M3", 3.0), True, (), ())
WELL = Device("well", "B", Flight("n/B_log01", "B", "normal", True, "", 0.0), True, (), ())
LATER = Device("later", "B", Flight("n/B_log03", "B", "normal", True, "", 0.0), False, (), ())


def facts():
    statuses = {
        name: {
            "device": name,
            "runtime": "litert",
            "windows": 60,
            "first_window_s": 100.0,
            "window_s": 1.0,
            "raw_bytes": 30_000,
            "uplink_bytes": 3_000,
            "downlink_model_bytes": 20_000,
            "outbox": {"id": "0" * 16, "last_seq": 3},
            "flights": [{"name": "f", "windows": 60, "alarms": 0}],
        }
        for name in ("sick", "well", "later")
    }
    return {
        "plan": Plan(Path(), ("n/A_log00",), (SICK, WELL, LATER)),
        "statuses": statuses,
        "fleet": [{"device": name, "release": 2} for name in statuses],
        "alarms": [{"device": "sick", "begin_s": 104.5, "top_channel": "motor.m3"}],
        "counts": {"duplicates_refused": 1},
        "stored": [(name, "0" * 16, seq) for name in statuses for seq in (1, 2, 3)],
        "learned": {
            "engine": "local",
            "clients": 2,
            "bytes_up_per_device": 450,
            "bytes_down_per_device": 500,
            "teachers": ["well"],
            "evidence": {},
        },
        "releases": (1, 2),
        "kills": ["gateway"],
        "seconds": {"fly": 1.0},
    }


def test_when_all_of_it_holds_the_report_is_ok_and_adds_up():
    report = judge(**facts())
    assert report["ok"], report["problems"]
    assert report["windows"] == 180
    assert report["messages"] == {
        "written": 9,
        "stored": 9,
        "lost": 0,
        "duplicate": 0,
        "unknown": 0,
        "repeats_refused": 1,
    }
    assert report["bytes"] == {"raw": 90_000, "uplink": 9_000, "downlink_model": 61_000, "uplink_model": 900}
    sick = report["devices"][0]
    # first scored sample at 100.0; the window that raised it began at 104.5 and is 1 s long
    assert (sick["alarms"], sick["alarm_delay_s"], sick["top_channel"]) == (1, 5.5, "motor.m3")


def no_alarm(f):
    f["alarms"] = []


def false_alarm(f):
    f["alarms"].append({"device": "well", "begin_s": 101.0, "top_channel": "x"})


def lost(f):
    f["stored"].remove(("well", "0" * 16, 2))


def double(f):
    f["stored"].append(("well", "0" * 16, 2))


def old_release(f):
    f["fleet"][2]["release"] = 1


def unheard(f):
    f["fleet"].pop()


def no_kill(f):
    f["kills"] = []


def no_windows(f):
    f["statuses"]["well"]["flights"] = []


def nothing_written(f):
    f["stored"] = []
    for status in f["statuses"].values():
        status["outbox"]["last_seq"] = 0


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (no_alarm, "sick: cut_3mm: an alarm expected"),
        (false_alarm, "well: healthy: no alarm expected, 1 raised"),
        (lost, "0 lost expected, 1 found"),
        (double, "0 duplicate expected, 1 found"),
        (old_release, "later: release 2 expected, 1 reported"),
        (unheard, "later: release 2 expected, 0 reported"),
        (no_kill, "gateway: a kill on the way expected"),
        (no_windows, "well: windows expected"),
        (nothing_written, "agents wrote none"),
    ],
)
def test_each_promise_broken_alone_is_named(breaks, words):
    given = facts()
    breaks(given)
    report = judge(**given)
    assert not report["ok"]
    assert any(words in problem for problem in report["problems"]), report["problems"]


def test_an_alarm_on_a_flight_of_a_later_session_is_reported_and_not_judged():
    given = facts()
    given["alarms"].append({"device": "later", "begin_s": 101.0, "top_channel": "x"})
    report = judge(**given)
    assert report["ok"]
    assert report["flights"][2]["alarms"] == 1
