"""The newest revision of each device wins."""

import pytest

from covey import wire
from covey.errors import WireError
from gateway.desired import DesiredBook


def _bytes(revision: int, device: str = "d1", url: str = "http://x") -> bytes:
    return wire.encode(wire.Desired(device, revision, "g", 1, "t", "0" * 64, 5, url))


def test_newest_revision_wins_whatever_the_order_of_arrival() -> None:
    book = DesiredBook()
    assert book.put("d1", _bytes(2))
    assert not book.put("d1", _bytes(1))
    assert not book.put("d1", _bytes(2))
    assert book.take() == ("d1", _bytes(2))
    assert book.take() is None
    assert book.put("d1", _bytes(3))
    assert book.take() == ("d1", _bytes(3))


def test_the_bytes_are_those_that_came() -> None:
    book = DesiredBook()
    odd = b" " + _bytes(1)[:-1] + b', "newer": [1]}'
    book.put("d1", odd)
    assert book.take() == ("d1", odd)


def test_what_was_not_yet_published_is_published_once_at_its_newest() -> None:
    book = DesiredBook()
    book.put("d1", _bytes(1))
    book.put("d2", _bytes(1, "d2"))
    book.put("d1", _bytes(2))
    assert [book.take(), book.take(), book.take()] == [("d1", _bytes(2)), ("d2", _bytes(1, "d2")), None]


def test_everything_again() -> None:
    book = DesiredBook()
    book.put("d1", _bytes(1))
    book.take()
    book.again()
    assert book.take() == ("d1", _bytes(1))


def test_a_tombstone_clears_once() -> None:
    book = DesiredBook()
    book.put("d1", _bytes(4))
    book.take()
    assert book.put("d1", None)
    assert book.take() == ("d1", b"")
    assert not book.put("d1", None)
    book.again()
    assert (len(book), book.take()) == (0, None)
    assert book.put("d1", _bytes(1))  # wanted anew: revisions may begin again
    assert (len(book), book.take()) == (1, ("d1", _bytes(1)))


def test_a_tombstone_of_an_unknown_device_clears_what_the_broker_may_still_have() -> None:
    book = DesiredBook()  # compaction has removed what it cleared
    assert book.put("d1", None)
    assert (len(book), book.take()) == (0, ("d1", b""))


def test_between_partitions_kafkas_time_says_whether_a_tombstone_is_newer() -> None:
    book = DesiredBook()
    assert book.put("d1", None, 4, 2_000)
    assert not book.put("d1", _bytes(9), 1, 1_999)  # left behind in the partition of before
    assert book.put("d1", _bytes(1), 1, 2_001)
    assert not book.put("d1", None, 4, 2_000)
    assert book.put("d1", None, 1, 5)  # same partition: the later place wins, whatever the clock said
    assert book.take() == ("d1", b"")


def test_after_a_resumed_session_only_what_is_recent_is_published_again() -> None:
    book = DesiredBook()
    for number, published_s in ((1, 100.0), (2, 200.0), (3, 300.0)):
        book.put(f"d{number}", _bytes(1, f"d{number}"))
        book.take(published_s)
    book.again(200.0)
    assert [book.take(400.0), book.take(400.0), book.take(400.0)] == [
        ("d2", _bytes(1, "d2")),
        ("d3", _bytes(1, "d3")),
        None,
    ]
    book.again(301.0)  # publishing again does not make it recent
    assert book.take() is None


def test_each_is_published_once_more_per_interval_and_evenly() -> None:
    book = DesiredBook()
    for n in range(10):
        book.put(f"d{n}", _bytes(1, f"d{n}"))
    book.put("gone", None)
    while book.take():
        pass
    taken: list[list[str]] = []
    for second in range(81):
        book.trickle(float(second), 80.0)
        taken.append([])
        while (one := book.take()) is not None:
            taken[-1].append(one[0])
    assert sorted(d for part in taken for d in part) == sorted(f"d{n}" for n in range(10))  # one in 8 s
    assert max(map(len, taken)) == 1


def test_what_may_not_have_arrived_is_published_again() -> None:
    book = DesiredBook()
    book.put("d1", _bytes(1))
    book.take()
    book.reopen("d1")
    book.reopen("never heard of")
    assert [book.take(), book.take()] == [("d1", _bytes(1)), None]


@pytest.mark.parametrize(("key", "value"), [("d1", b"{"), ("d2", _bytes(1)), ("", _bytes(1, "")), ("d1", b"{}")])
def test_what_cannot_be_read_is_refused_and_changes_nothing(key: str, value: bytes) -> None:
    book = DesiredBook()
    with pytest.raises(WireError):
        book.put(key, value)
    assert (len(book), book.take()) == (0, None)
