"""The fleet's view model, by cases worked by hand."""

from __future__ import annotations

import random
import time
from typing import Any

import msgspec
import pytest

from cloud.console import incidents
from cloud.console.fleet import Fleet, Picture
from cloud.console.status import Alarm, Device, status_of

NOW = 1_800_000_000.0
DAY = 86_400.0


def device(name: str = "d1", group: str = "north", **changes: Any) -> Device:
    """Well: heard a second ago, far below its threshold, running what is wanted."""
    values = {"release": 3, "wanted": 3, "online": True, "seen_s": NOW - 1, "period_s": 10.0, "first_s": NOW - 30 * DAY}
    return Device(name, group, **{**values, "score_max": 1.0, "threshold": 2.0, "drift_psi": 0.0, **changes})


def alarm(name: str = "d1", alarm_id: str = "a1", channel: str = "baro", **changes: Any) -> Alarm:
    values = {"ratio": 1.5, "begin_s": NOW - 60, "received_s": NOW - 59}
    return Alarm(name, alarm_id, channel, **{**values, **changes})


def fleet_of(devices: list[Device], alarms: list[Alarm] | None = None) -> Fleet:
    fleet = Fleet()
    fleet.replace(devices, alarms or [], NOW)
    return fleet


def status(fleet: Fleet, name: str = "d1") -> str:
    row = fleet.device(name)
    assert row is not None
    return row[2]


def test_each_rule_of_a_status_in_the_order_in_which_they_win():
    cases = [
        (device(), "ok"),
        (device(wanted=4), "updating"),
        (device(wanted=None), "ok"),
        (device(slot="shadow"), "updating"),
        (device(slot="refused"), "ok"),
        (device(score_max=1.6), "watch"),  # exactly .8 of 2
        (device(score_max=1.59), "ok"),
        (device(drift_psi=0.25), "ok"),
        (device(drift_psi=0.26), "watch"),
        (device(drift_psi=0.26, wanted=4), "watch"),
        (device(online=False), "silent"),
        (device(online=False, score_max=9.0), "silent"),
        (device(seen_s=None), "silent"),
        (device(seen_s=NOW - 119), "ok"),  # three periods are 30 s, and 120 s hold
        (device(seen_s=NOW - 120), "silent"),
        (device(seen_s=NOW - 179, period_s=60.0), "ok"),  # three periods are 180 s
        (device(seen_s=NOW - 180, period_s=60.0), "silent"),
        (device(score_max=None, threshold=None, drift_psi=None, period_s=None), "ok"),
    ]
    assert [(status_of(one, alarming=False, unjudged_s=float("-inf"), now_s=NOW)[0]) for one, _ in cases] == [
        word for _, word in cases
    ]
    assert status_of(device(online=False), alarming=True, unjudged_s=NOW, now_s=NOW)[0] == "alarm"


def test_an_ended_alarm_is_watched_for_a_day_unless_it_is_judged():
    ended = alarm(ended_s=NOW - DAY + 10)
    assert status(fleet_of([device()], [ended])) == "watch"
    assert status(fleet_of([device()], [msgspec.structs.replace(ended, verdict="confirmed")])) == "ok"
    fleet = fleet_of([device(seen_s=NOW + DAY)], [ended])  # heard all the while
    fleet.tick(NOW + 9)
    assert status(fleet) == "watch"
    fleet.tick(NOW + 10)
    assert status(fleet) == "ok"
    assert fleet.counts() == {"alarm": 0, "watch": 0, "silent": 0, "updating": 0, "ok": 1, "inbox": 1, "seen": 0}


def test_a_rejected_alarm_that_has_not_ended_is_no_alarm():
    fleet = fleet_of([device()], [alarm()])
    assert status(fleet) == "alarm"
    fleet.take([], [alarm(verdict="rejected")], NOW)
    assert status(fleet) == "ok"
    fleet.take([], [alarm(verdict="")], NOW)  # undone
    assert status(fleet) == "alarm"


def test_silence_comes_by_time_and_is_told_as_a_change():
    fleet = fleet_of([device()])
    assert fleet.changes() is not None
    assert fleet.changes() is None
    fleet.tick(NOW + 118.9)
    assert fleet.changes() is None
    fleet.take([device(seen_s=NOW + 100)], [], NOW + 118.9)  # heard again: the old moment passes without effect
    fleet.changes()
    fleet.tick(NOW + 219.9)
    assert fleet.changes() is None
    fleet.tick(NOW + 220)
    told = fleet.changes()
    assert told is not None
    assert told.devices == [("d1", 0, "silent", 0.5, 3, NOW + 100, None, None)]
    assert told.counts == {"alarm": 0, "watch": 0, "silent": 1, "updating": 0, "ok": 0, "inbox": 0, "seen": 0}


def test_incidents_are_of_one_group_and_channel_and_ten_minutes():
    devices = [device(f"d{n}", "north") for n in range(8)] + [device(f"e{n}", "south") for n in range(2)]
    alarms = [
        alarm("d0", begin_s=NOW - 900),
        alarm("d1", begin_s=NOW - 300),  # 600 s after the first: still with it
        alarm("d2", begin_s=NOW - 299),  # too late for the first: begins the next
        alarm("d3", begin_s=NOW - 10),
        alarm("d3", "a2", begin_s=NOW - 5),  # the same device twice is one device
        alarm("d4", channel="acc.z"),  # another channel, alone
        alarm("e0"),
        alarm("e0", "a2"),  # one device is no incident
    ]
    found = fleet_of(devices, alarms).snapshot().incidents
    assert isinstance(found, list)
    assert [(one.id, one.devices, one.share) for one in found] == [
        (f"north/baro/{NOW - 900:.0f}", 2, 0.25),
        (f"north/baro/{NOW - 299:.0f}", 2, 0.25),
    ]
    later = next(one for one in found if one.begin_s == NOW - 299)
    assert later.alarms == [("d2", "a1"), ("d3", "a1"), ("d3", "a2")]
    assert later.last_s == NOW - 5
    assert later.text == "2 devices in north alarm alike on baro"


def test_incidents_are_ranked_by_lift_over_what_is_usual_not_by_count():
    # Usual of north is one in ten minutes: lift 3 / (1 + 1) = 1.5. South never alarms: 2 / 1.
    devices = [device(f"d{n}", "north") for n in range(4)] + [device(f"e{n}", "south") for n in range(4)]
    fleet = fleet_of(devices, [alarm(f"d{n}") for n in range(3)] + [alarm(f"e{n}") for n in range(2)])
    fleet.expect({"north": 1.0, "south": 0.0})
    picture = fleet.snapshot()
    assert isinstance(picture.incidents, list)
    assert [(one.group, one.devices, one.lift, one.share) for one in picture.incidents] == [
        ("south", 2, 2.0, 0.5),
        ("north", 3, 1.5, 0.75),
    ]
    assert msgspec.to_builtins(picture.headline) == {
        "text": "2 devices in south alarm alike",
        "detail": "baro; 2.0 times its usual rate; 1 more incident",
        "group": "south",
    }


def test_what_is_usual_leaves_out_the_last_hour_and_a_young_group_has_none():
    assert incidents.usual(1002, 30 * DAY) == pytest.approx(1.0)  # 7 days less an hour are 1,002 times ten minutes
    assert incidents.usual(138, DAY) == pytest.approx(1.0)  # a day old: 138 times
    assert incidents.usual(6, 2 * 3600) == pytest.approx(1.0)  # an hour is left: 6 times
    assert incidents.usual(6, 2 * 3600 - 1) is None


def test_an_incident_of_a_young_group_says_no_rate_and_counts_as_unheard_of():
    devices = [device(f"d{n}", "north") for n in range(4)] + [device(f"e{n}", "south") for n in range(4)]
    fleet = fleet_of(devices, [alarm(f"d{n}") for n in range(3)] + [alarm(f"e{n}") for n in range(4)])
    fleet.expect({"south": 0.5})  # 4 / 1.5 = 2.67: less than the 3 that north would have if it had never alarmed
    picture = fleet.snapshot()
    assert isinstance(picture.incidents, list)
    assert [(one.group, one.lift) for one in picture.incidents] == [("north", None), ("south", 2.67)]
    assert isinstance(picture.headline, incidents.Headline)
    assert (picture.headline.text, picture.headline.detail) == (
        "3 devices in north alarm alike",
        "baro; 1 more incident",
    )


def test_an_acknowledgement_is_told_to_everybody():
    fleet = fleet_of([device(), device("d2")], [alarm(), alarm("d2", "a2", "acc.z")])
    fleet.changes()
    fleet.take([], [alarm(seen_by="ada")], NOW)
    told = fleet.changes()
    assert told is not None
    assert isinstance(told.counts, dict)
    assert (told.counts["inbox"], told.counts["seen"]) == (2, 1)
    assert isinstance(told.alarms, list)
    assert [(one.alarm_id, one.seen_by) for one in told.alarms] == [("a1", "ada"), ("a2", "")]


def test_the_sentence_of_each_state_of_a_fleet():
    def said(devices: list[Device], alarms: list[Alarm] | None = None) -> tuple[str, str, str]:
        line = fleet_of(devices, alarms).snapshot().headline
        assert isinstance(line, incidents.Headline)
        return line.text, line.detail, line.group

    well = [device(f"w{n}") for n in range(3)]
    quiet = [device(f"q{n}", "south", online=False) for n in range(2)]
    assert said([]) == ("no device is known yet", "the first one appears when it is heard", "")
    assert said(well) == ("all 3 devices are well", "", "")
    assert said([device()]) == ("1 device, and it is well", "", "")
    assert said(well + quiet) == ("2 devices are silent in south", "", "south")
    assert said([*quiet, device("n1", online=False)]) == ("3 devices are silent", "2 of them in south", "south")
    assert said([*well, device("x", wanted=9)]) == ("1 device is updating in north", "", "north")
    assert said(well + quiet, [alarm("w0")]) == ("w0 in north alarms on baro", "2 silent", "north")
    two = [alarm("w0"), alarm("w1", channel="acc.z")]
    assert said(well + quiet, two) == ("2 devices alarm, each in its own way in north", "2 silent", "north")


def test_devices_are_listed_by_group_then_name_and_groups_keep_their_numbers():
    fleet = fleet_of([device("b", "south"), device("a", "south"), device("c", "north")])
    fleet.take([device("z", "middle"), device("c", "south")], [], NOW)  # a new group, and the last one leaves north
    picture = fleet.snapshot()
    assert msgspec.to_builtins(picture.groups) == [
        {"name": "north", "devices": 0},
        {"name": "south", "devices": 3},
        {"name": "middle", "devices": 1},
    ]
    assert [row[:2] for row in picture.devices or []] == [("a", 1), ("b", 1), ("c", 1), ("z", 2)]


def test_a_retired_device_leaves_with_its_alarms_and_returns_with_them():
    fleet = fleet_of([device("d1"), device("d2")], [alarm("d1"), alarm("d2")])
    fleet.changes()
    fleet.take([device("d1", active=False)], [], NOW)
    told = fleet.changes()
    assert told is not None
    assert told.gone == ["d1"]
    assert told.incidents == []
    assert [one.device for one in told.alarms or []] == ["d2"]
    assert isinstance(told.counts, dict)
    assert (told.counts["alarm"], told.counts["inbox"]) == (1, 1)
    fleet.take([device("d1")], [], NOW)
    told = fleet.changes()
    assert told is not None
    assert isinstance(told.counts, dict)
    assert (told.counts["alarm"], told.counts["inbox"]) == (2, 2)
    assert isinstance(told.incidents, list)
    assert told.incidents[0].devices == 2


def test_a_move_takes_the_alarm_along():
    fleet = fleet_of([device("d1", "north"), device("d2", "south")], [alarm("d1"), alarm("d2")])
    assert fleet.snapshot().incidents == []
    fleet.take([device("d1", "south")], [], NOW)
    found = fleet.snapshot().incidents
    assert isinstance(found, list)
    assert [(one.group, one.devices, one.share) for one in found] == [("south", 2, 1.0)]


def test_fifty_newest_alarms_that_need_a_verdict_are_listed_and_all_are_counted():
    alarms = [alarm("d1", f"a{n}", received_s=NOW - n, ended_s=NOW - n + 0.5) for n in range(1, 61)]
    alarms.append(alarm("d1", "judged", begin_s=NOW, ended_s=NOW, verdict="confirmed"))
    picture = fleet_of([device()], alarms).snapshot()
    assert [one.alarm_id for one in picture.alarms or []] == [f"a{n}" for n in range(1, 51)]
    assert isinstance(picture.counts, dict)
    assert picture.counts["inbox"] == 60


def rebuilt(view: dict[str, Any], told: Picture) -> dict[str, Any]:
    """What a browser does with a change."""
    new = msgspec.to_builtins(told)
    rows = {row[0]: row for row in view["devices"]} | {row[0]: row for row in new.pop("devices", [])}
    for name in new.pop("gone", []):
        rows.pop(name, None)  # one that came and went between two frames
    ordered = sorted(rows.values(), key=lambda row: (row[1], row[0]))
    return {**view, **new, "devices": ordered}


def test_a_view_built_from_changes_is_the_snapshot_after_any_history():
    rng = random.Random(7)
    fleet, now = Fleet(), NOW
    fleet.replace([device(f"d{n}", f"g{n % 3}") for n in range(20)], [], now)
    view = msgspec.to_builtins(fleet.snapshot())
    fleet.changes()
    for step in range(600):
        now += rng.choice([0.0, 0.3, 30.0])
        name = f"d{rng.randrange(25)}"
        kind = rng.randrange(5)
        if kind == 0:
            new = device(
                name, f"g{rng.randrange(5)}", active=rng.random() < 0.8, seen_s=now, score_max=rng.random() * 2
            )
            fleet.take([new], [], now)
        elif kind < 4:
            ended = rng.choice([None, now])
            said = rng.choice(["", "", "confirmed", "rejected"])
            fleet.take([], [alarm(name, f"a{rng.randrange(4)}", begin_s=now, ended_s=ended, verdict=said)], now)
        elif step % 50 == 0:
            fleet.replace([device(f"d{n}", f"g{n % 3}", seen_s=now) for n in range(rng.randrange(20))], [], now)
        fleet.tick(now)
        if rng.random() < 0.2:
            view = msgspec.to_builtins(fleet.snapshot())  # of a browser that comes before the change is told
            if rng.random() < 0.5:
                continue
        told = fleet.changes()
        if told is not None:
            view = rebuilt(view, told)
        fresh = msgspec.to_builtins(fleet.snapshot())
        assert {**view, "now_s": 0} == {**fresh, "now_s": 0}, step
        again = Fleet()  # the incremental one says what one built at once says
        again.replace(fleet._devices.values(), [a for some in fleet._alarms.values() for a in some.values()], now)
        built = again.snapshot()
        by_group = {one.id: one.devices for one in built.incidents or []}
        assert by_group == {one["id"]: one["devices"] for one in fresh["incidents"]}
        assert {row[0]: row[2] for row in built.devices or []} == {row[0]: row[2] for row in fresh["devices"]}
        assert built.counts == fresh["counts"]


def test_what_turned_back_before_it_was_told_is_told_to_who_saw_it():
    fleet = fleet_of([device("d1"), device("d2")])
    fleet.changes()
    fleet.take([], [alarm("d1"), alarm("d2")], NOW)
    view = msgspec.to_builtins(fleet.snapshot())
    assert view["counts"]["alarm"] == 2
    fleet.take([], [alarm("d1", verdict="rejected"), alarm("d2", verdict="rejected")], NOW)
    told = fleet.changes()
    assert told is not None
    assert rebuilt(view, told) == msgspec.to_builtins(fleet.snapshot())


def test_a_thousand_updates_a_second_among_ten_thousand_devices_cost_little():
    fleet = fleet_of(
        [device(f"cf-{n:05d}", f"g{n % 9}") for n in range(10_000)], [alarm(f"cf-{n:05d}") for n in range(300)]
    )
    fleet.changes()
    rows = [
        [
            device(f"cf-{n:05d}", f"g{n % 9}", seen_s=NOW + q, score_max=1.0 + q / 8)
            for n in range(q * 250, q * 250 + 250)
        ]
        for q in range(4)
    ]
    begin = time.process_time()
    for q in range(4):
        fleet.take(rows[q], [alarm(f"cf-{n:05d}", "b", begin_s=NOW) for n in range(q * 5, q * 5 + 5)], NOW + q / 4)
        fleet.tick(NOW + q / 4)
        told = fleet.changes()
        assert told is not None
        assert len(told.devices or []) >= 250
    assert time.process_time() - begin < 0.2  # of a second of one core; measured 0.02
