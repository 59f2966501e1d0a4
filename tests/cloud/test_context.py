"""An alarm among its peers: worked by hand."""

from __future__ import annotations

import pytest

from cloud.stream.context import (
    Beginning,
    DeviceView,
    GroupView,
    Moment,
    Usual,
    build,
    lift,
    moment,
    stale,
    usual_share,
)
from cloud_events import DIGEST, alarm

WEEK_S = 604_800.0
T = 1_000_000.0
NOBODY = Moment(set(), {})


def view(**changes: object) -> DeviceView:
    values = {
        "group": "mine",
        "labels": {"site": "north"},
        "heard": True,
        "drift_psi": 0.3,
        "alarms_24h": 2,
        "alarms_7d": 5,
        "confirmed_30d": 1,
        "rejected_30d": 4,
    }
    return DeviceView(**{**values, **changes})  # type: ignore[arg-type]


def begun(device: str, at_s: float, channel: str = "motor.m1", *, is_open: bool = False) -> Beginning:
    return Beginning(device, f"{device}-1", channel, at_s, is_open)


def test_who_alarms_at_the_same_time() -> None:
    alarms = [
        begun("d1", T),  # itself
        begun("d2", T - 60),
        begun("d3", T + 60, "acc.z"),
        begun("d4", T - 61),
        begun("d5", T - 5000, is_open=True),
        begun("d2", T - 10, "acc.z"),
    ]
    found = moment(alarms, int(T), 60.0)
    assert found.devices == {"d1", "d2", "d3", "d5"}
    assert found.of_channel == {"motor.m1": {"d1", "d2", "d5"}, "acc.z": {"d2", "d3"}}


def test_usual_share_of_a_group() -> None:
    # 100 devices for a week; 50 alarms of 10 minutes in all 30,000 s, each counting a minute to both sides: 50 * 120 s more.
    assert usual_share(Usual(50, 30_000.0, 100, WEEK_S), 60.0) == pytest.approx(36_000 / (WEEK_S * 100))
    assert usual_share(Usual(0, 0.0, 0, 0.0), 60.0) == 0.0


def test_lift_is_smoothed_by_one_device() -> None:
    assert lift(0, 0, 0.0) == 1.0
    assert lift(11, 39, 0.0) == 12.0
    # a tenth of 40 peers alarm usually: (11 + 1) / (4 + 1)
    assert lift(11, 40, 0.1) == pytest.approx(2.4)


def test_context_of_an_alarm() -> None:
    # 41 heard, itself one of them; d2 and d3 alarm, d3 on another channel; usual: one device in a hundred.
    group = GroupView(41, (begun("d2", T), begun("d3", T, "acc.z"), begun("d1", T)), Usual(0, WEEK_S, 100, WEEK_S))
    published = {("mine", 1, DIGEST): T - 500.0, ("mine", 1, "0" * 64): T - 900.0}
    together = moment(group.alarms, int(T), 60.0)
    found = build("d1", alarm(score=3.0, threshold=2.0), T, view(), group, together, published, 60.0)
    assert (found.group, found.labels, found.score_ratio) == ("mine", {"site": "north"}, 1.5)
    assert (found.peers, found.peers_alarming, found.peers_same_channel) == (40, 2, 1)
    assert found.lift == pytest.approx(3 / 1.4)  # (2 + 1) / (.01 * 40 + 1)
    assert (found.alarms_24h, found.alarms_7d, found.confirmed_30d, found.rejected_30d) == (2, 5, 1, 4)
    assert (found.drift_psi, found.release_age_s, found.stale) == (0.3, 500.0, False)


def test_a_release_of_nobody_we_know_has_no_age() -> None:
    assert build("d1", alarm(release=9), T, view(), None, NOBODY, {("mine", 1, DIGEST): 0.0}, 60.0).release_age_s == 0.0


def test_peers_that_alarm_are_there_whatever_their_summaries_say() -> None:
    group = GroupView(1, tuple(begun(f"d{n}", T) for n in range(2, 7)), Usual(0, 0.0, 6, 0.0))
    found = build("d1", alarm(), T, view(), group, moment(group.alarms, int(T), 60.0), {}, 60.0)
    assert (found.peers, found.peers_alarming) == (5, 5)


def test_an_end_asks_nothing_of_the_peers_and_a_stranger_has_no_group() -> None:
    assert build("d1", alarm(state="end"), T, view(), None, NOBODY, {}, 60.0).peers == 0
    assert build("d1", alarm(), T, None, None, NOBODY, {}, 60.0).group == ""


def test_without_the_store_only_what_the_alarm_says() -> None:
    found = stale(alarm(score=4.0, threshold=2.0))
    assert (found.stale, found.score_ratio, found.peers) == (True, 2.0, 0)
    assert stale(alarm(score=4.0, threshold=0.0)).score_ratio == 1e9
    assert stale(alarm(score=0.0, threshold=0.0)).score_ratio == 0.0
