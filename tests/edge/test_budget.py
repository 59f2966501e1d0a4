"""What a link may cost, worked by hand."""

import socket

import pytest

from edge.budget import OVERHEAD_BYTES, Budget, LinkLimit, interface_of


def test_without_a_limit_everything_is_sent_at_once():
    budget = Budget({})
    budget.sent(10**9, summary=True)
    assert budget.may_send(0.0)
    assert budget.interval_s(10.0) == 10.0
    assert not budget.metered


def test_a_limit_lets_ten_minutes_worth_through_and_then_its_rate():
    budget = Budget({"*": LinkLimit(bytes_per_hour=36_000)})  # 10 a second: 6000 in ten minutes
    sent, now_s = 0, 0.0
    while budget.may_send(now_s):
        budget.sent(1000 - OVERHEAD_BYTES, summary=True)
        sent += 1
    assert sent == 6
    assert not budget.may_send(now_s + 0.0)
    for _ in range(20):  # the bucket is at 0: the next is free when it has 1 byte more
        now_s += 100.0
        assert budget.may_send(now_s)
        budget.sent(1000 - OVERHEAD_BYTES, summary=True)
        assert not budget.may_send(now_s)


def test_summaries_come_as_seldom_as_they_must_to_fit():
    budget = Budget({"*": LinkLimit(bytes_per_hour=36_000)})
    for _ in range(200):
        budget.sent(1000 - OVERHEAD_BYTES, summary=True)
    assert budget.interval_s(10.0) == pytest.approx(100.0)  # 1000 bytes at 10 a second
    assert budget.interval_s(300.0) == 300.0


def test_each_interface_has_its_own_terms():
    budget = Budget({"wwan0": LinkLimit(metered=True, bytes_per_hour=3600), "*": LinkLimit()})
    budget.on("wlan0")
    assert (budget.metered, budget.interval_s(1.0)) == (False, 1.0)
    budget.on("wwan0")
    assert budget.metered
    assert budget.interval_s(1.0) > 1000
    budget.on("")
    assert not budget.metered


def test_the_interface_of_an_address_is_found():
    names = dict(socket.if_nameindex()).values()
    assert "lo" in names
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("::ffff:127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") == ""  # nobody's: RFC 5737
    assert interface_of("no address") == ""
