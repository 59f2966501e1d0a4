"""What the ring may believe: nothing from shortly before or after an alarm."""

from edge.core import Kept
from edge.quarantine import Quarantine


def kept(*numbers, flight=1):
    return [Kept(b"", 0.0, n, flight) for n in numbers]


def numbers(windows):
    return [w.index for w in windows]


def test_a_window_waits_until_enough_calm_ones_have_followed():
    q = Quarantine(3)
    assert numbers(q.take(kept(0, 1, 2), alarm=False)) == []
    assert numbers(q.take(kept(3, 4), alarm=False)) == [0, 1]
    assert numbers(q.take(kept(5), alarm=False)) == [2]


def test_an_alarm_casts_out_what_waits_and_keeps_out_what_follows_too_soon():
    q = Quarantine(3)
    assert numbers(q.take(kept(0, 1, 2, 3), alarm=False)) == [0]
    assert numbers(q.take(kept(4), alarm=True)) == []  # 1 to 4 are gone
    assert numbers(q.take(kept(9, 10), alarm=True)) == []  # it has just ended
    assert numbers(q.take(kept(11, 12, 13, 14, 15), alarm=False)) == []  # 11 to 13 came too soon
    assert numbers(q.take(kept(16, 17), alarm=False)) == [14]


def test_a_calm_flights_end_lets_everything_in_and_an_alarmed_ones_nothing():
    q = Quarantine(100)
    q.take(kept(0, 1), alarm=False)
    assert numbers(q.end()) == [0, 1]
    q.take(kept(0, 1, flight=2), alarm=False)
    q.take([], alarm=True)
    q.take(kept(5, 6, flight=2), alarm=False)
    assert numbers(q.end()) == []


def test_a_new_flight_ends_the_one_before():
    q = Quarantine(100)
    q.take(kept(0, 1), alarm=False)
    assert numbers(q.take(kept(0, flight=2), alarm=False)) == [0, 1]
    q.take([], alarm=True)
    assert numbers(q.take(kept(0, flight=3), alarm=False)) == []
    assert numbers(q.end()) == [0]  # the alarm was of the flight before


def test_a_changed_model_forgets_what_waits():
    q = Quarantine(100)
    q.take(kept(0), alarm=False)
    q.drop()
    assert q.end() == []
