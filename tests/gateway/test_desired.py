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
    assert not book.put("d1", None)
    book.put("d1", _bytes(4))
    book.take()
    assert book.put("d1", None)
    assert book.take() == ("d1", b"")
    book.again()
    assert book.take() is None


@pytest.mark.parametrize(("key", "value"), [("d1", b"{"), ("d2", _bytes(1)), ("", _bytes(1, "")), ("d1", b"{}")])
def test_what_cannot_be_read_is_refused_and_changes_nothing(key: str, value: bytes) -> None:
    book = DesiredBook()
    with pytest.raises(WireError):
        book.put(key, value)
    assert (len(book), book.take()) == (0, None)
