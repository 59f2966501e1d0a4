"""How far commands are settled: nothing is committed past one that no device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import commands
from gateway.commands import CommandBook

if TYPE_CHECKING:
    import pytest


def _book(*offsets: int, expires_s: float = 100.0, partition: int = 0, first: int = 10) -> CommandBook:
    book = CommandBook()
    book.begin({partition: first})
    for offset in offsets:
        book.read(partition, offset)
        book.put(partition, offset, f"d{offset}", b"x", expires_s)
    return book


def test_the_position_is_the_lowest_that_is_not_settled() -> None:
    book = _book(10, 11, 13)
    book.read(0, 14)  # not ours
    first, second, third = (book.take(0.0, 0.0) for _ in range(3))
    assert book.take(0.0, 0.0) is None
    assert book.to_commit() == {0: 10}
    book.settle(second)
    assert book.to_commit() == {0: 10}
    book.settle(first)
    assert book.to_commit() == {0: 13}
    book.settle(third)
    assert book.to_commit() == {0: 15}
    book.committed({0: 15})
    assert book.to_commit() == {}


def test_what_is_expired_is_settled_counted_and_never_given_out() -> None:
    book = _book(10, 11, expires_s=50.0)
    assert book.take(0.0, 50.0) is None
    assert (book.expired, book.to_commit(), len(book)) == (2, {0: 12}, 0)


def test_given_back_comes_first_and_in_order() -> None:
    book = _book(10, 11, 12)
    taken = [book.take(0.0, 0.0), book.take(0.0, 0.0)]
    book.give_back(taken)
    assert [book.take(0.0, 0.0).offset for _ in range(3)] == [10, 11, 12]


def test_a_device_that_is_away_is_tried_after_1_2_4_8_then_every_15_seconds_and_holds_nobody_up() -> None:
    book = _book(10, 11, expires_s=1e9)
    command, now_s, waits = book.take(0.0, 0.0), 0.0, []
    book.try_later(command, 0.0)
    assert book.take(0.0, 0.0).offset == 11
    for _ in range(6):
        began_s = now_s
        while (again := book.take(now_s, 0.0)) is None:
            now_s += 0.5
        waits.append(now_s - began_s)
        book.try_later(again, now_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert book.to_commit() == {0: 10}


def test_after_beginning_anew_old_commands_settle_nothing() -> None:
    book = _book(10)
    old = book.take(0.0, 0.0)
    book.begin({0: 10})
    book.read(0, 10)
    book.put(0, 10, "d10", b"x", 100.0)
    book.settle(old)
    book.give_back([old])
    book.try_later(old, 0.0)
    assert (len(book), book.to_commit()) == (1, {0: 10})


def test_an_offset_below_what_was_read_begins_its_partition_anew() -> None:
    book = _book(10, 11)
    book.read(0, 3)
    book.put(0, 3, "d3", b"x", 100.0)
    assert book.to_commit() == {0: 3}
    while (command := book.take(0.0, 0.0)) is not None:
        book.settle(command)
    assert book.to_commit() == {0: 4}


def test_reading_stops_when_too_many_wait_and_those_tried_most_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_WAITING", 2)  # the bound, not the code
    monkeypatch.setattr(commands, "MAX_LATER", 2)
    book = _book(10)
    assert not book.full
    book.read(0, 11)
    book.put(0, 11, "d11", b"x", 100.0)
    assert book.full
    often = book.take(0.0, 0.0)
    book.try_later(often, 0.0)
    book.give_back([])
    other = book.take(0.0, 0.0)
    book.try_later(book.take(1.0, 0.0), 1.0)  # `often`, for the second time
    book.try_later(other, 1.0)
    book.read(0, 12)
    book.put(0, 12, "d12", b"x", 100.0)
    book.try_later(book.take(1.0, 0.0), 1.0)
    assert (book.given_up, len(book)) == (1, 2)
    assert book.to_commit() == {0: 11}
