"""When rows are sent and sent again; time is a number here."""

import random

from covey.runtime import Backoff
from edge.resend import SendWindow


def window(limit=4, timeout_s=10.0, hold_s=5.0, probe=2, *, known=True):
    one = SendWindow(limit, timeout_s, hold_s, probe, Backoff(1.0, 8.0, random.Random(1)))
    one.connected(0.0)
    if known:
        one.gateway(0.0, online=True)
    return one


def send(one, now_s, rows):
    """Send what there is room for, of rows 1 to `rows`; returns what was sent."""
    out = []
    while one.room(now_s) and one.after < rows:
        out.append(one.after + 1)
        one.sent(one.after + 1, now_s)
    return out


def test_no_more_than_the_limit_is_in_flight_and_acks_make_room():
    one = window()
    assert send(one, 0.0, 10) == [1, 2, 3, 4]
    one.acknowledged([(1, 2)])
    assert send(one, 1.0, 10) == [5, 6]


def test_a_time_out_on_the_oldest_makes_everything_unacknowledged_due_again():
    one = window()
    send(one, 0.0, 4)
    one.acknowledged([(2, 4)])  # newer ones are acknowledged: the hole at 1 must not hide behind them
    assert not one.late(9.9)
    assert one.late(10.0)
    assert (one.after, one.in_flight) == (0, 0)
    assert not one.late(10.0)


def test_newer_acknowledgements_do_not_postpone_the_time_out_of_the_oldest():
    one = window()
    send(one, 0.0, 4)
    for now_s, seq in ((3.0, 2), (6.0, 3), (9.0, 4)):
        one.acknowledged([(seq, seq)])
        assert not one.late(now_s)
    assert one.late(10.0)


def test_rows_sent_later_do_not_postpone_the_time_out_of_the_oldest():
    one = window(limit=2)
    send(one, 0.0, 10)
    one.acknowledged([(2, 2)])
    assert send(one, 5.0, 10) == [3]
    assert one.late(10.0)


def test_time_outs_grow_and_progress_makes_them_short_again():
    one = window()
    now_s, waits = 0.0, []
    for _ in range(5):
        send(one, now_s, 4)
        began = now_s
        while not one.late(now_s):
            now_s += 0.5
        waits.append(round(now_s - began, 1))
    assert waits[0] == 10.0
    assert all(11.0 <= wait <= 18.5 for wait in waits[1:])
    send(one, now_s, 4)
    one.acknowledged([(1, 1)])
    assert not one.late(now_s + 9.9)
    assert one.late(now_s + 10.0)


def test_rows_are_held_back_while_no_gateway_is_known_and_then_a_few_are_tried():
    one = window(known=False)
    assert send(one, 4.9, 10) == []
    assert send(one, 5.0, 10) == [1, 2]
    assert send(one, 6.0, 10) == []


def test_what_was_sent_to_nobody_is_sent_again_when_the_gateway_shows_itself():
    one = window(known=False)
    assert send(one, 5.0, 10) == [1, 2]
    one.gateway(6.0, online=True)
    assert send(one, 6.0, 10) == [1, 2, 3, 4]
    one.gateway(7.0, online=True)  # it says so again and again
    assert send(one, 7.0, 10) == []


def test_a_gateway_that_leaves_holds_rows_back_for_a_while():
    one = window()
    one.gateway(100.0, online=False)
    assert send(one, 104.9, 10) == []
    assert send(one, 105.0, 10) == [1, 2]


def test_a_new_connection_begins_with_the_oldest_row():
    one = window()
    send(one, 0.0, 4)
    one.connected(50.0)
    one.gateway(50.0, online=True)
    assert send(one, 50.0, 4) == [1, 2, 3, 4]
