"""How far commands are settled: nothing is committed past one that no device has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import commands
from gateway.commands import CommandBook

if TYPE_CHECKING:
    import pytest


def _book(*offsets: int, expires_s: float = 100.0, partition: int = 0, first: int = 10) -> CommandBook:
    book = CommandBook()
    book.begin({partition: (first, "")})
    for offset in offsets:
        book.read(partition, offset)
        book.put(partition, offset, f"d{offset}", b"x", expires_s)
    return book


def _positions(book: CommandBook) -> dict[int, int]:
    return {partition: offset for partition, (offset, _) in book.to_commit().items()}


def test_the_position_is_the_lowest_that_is_not_settled() -> None:
    book = _book(10, 11, 13)
    book.read(0, 14)  # not ours
    first, second, third = (book.take(0.0, 0.0) for _ in range(3))
    assert book.take(0.0, 0.0) is None
    assert _positions(book) == {0: 10}
    book.settle(second)
    assert _positions(book) == {0: 10}
    book.settle(first)
    assert _positions(book) == {0: 13}
    book.settle(third)
    assert book.to_commit() == {0: (15, "")}
    book.committed({0: (15, "")})
    assert book.to_commit() == {}


def test_what_is_settled_above_the_position_is_not_sent_again_by_the_next_life() -> None:
    book = _book(10, 11, 12, 13)
    book.read(0, 14)
    taken = [book.take(0.0, 0.0) for _ in range(4)]
    book.settle(taken[1])
    book.settle(taken[3])
    commit = book.to_commit()
    assert commit == {0: (10, "0 2 5")}  # open: 10 and 12; told up to 15
    book = CommandBook()
    book.begin(commit)
    for offset in (10, 11, 12, 13, 15):
        book.read(0, offset)
        book.put(0, offset, f"d{offset}", b"x", 100.0)
    again = [book.take(0.0, 0.0) for _ in range(3)]
    assert [command.offset for command in again] == [10, 12, 15]
    assert book.take(0.0, 0.0) is None
    book.settle(again[0])
    assert book.to_commit() == {0: (12, "0 3 4")}


def test_a_commit_in_the_middle_of_reading_again_forgets_nothing_and_claims_nothing() -> None:
    book = CommandBook()
    book.begin({0: (10, "0 2 5")})  # 10 and 12 are open, 11, 13 and 14 settled
    assert book.to_commit() == {0: (10, "0 2 5")}
    book.read(0, 10)
    book.put(0, 10, "d10", b"x", 100.0)
    assert book.to_commit() == {0: (10, "0 2 5")}
    book.settle(book.take(0.0, 0.0))
    assert book.to_commit() == {0: (11, "1 4")}
    book.read(0, 11)
    book.put(0, 11, "d11", b"x", 100.0)
    book.read(0, 12)
    book.put(0, 12, "d12", b"x", 100.0)
    book.settle(book.take(0.0, 0.0))
    assert book.to_commit() == {0: (13, "2")}
    book.read(0, 15)
    assert book.to_commit() == {0: (16, "")}


def test_a_note_that_does_not_fit_tells_less_and_never_too_much() -> None:
    book = _book(*range(0, 20_000, 2), first=0)
    (position, note) = book.to_commit()[0]
    assert position == 0
    assert 3_000 < len(note) < 4_096
    last = int(note.split()[-1])
    anew = CommandBook()
    anew.begin({0: (0, note)})
    for offset in (last - 1, last, last + 1):
        anew.read(0, offset)
        anew.put(0, offset, f"d{offset}", b"x", 100.0)
    assert [anew.take(0.0, 0.0).offset for _ in range(2)] == [last, last + 1]
    assert anew.take(0.0, 0.0) is None


def test_a_note_that_is_not_ours_settles_nothing() -> None:
    book = CommandBook()
    book.begin({0: (10, "someone's")})
    book.read(0, 10)
    book.put(0, 10, "d10", b"x", 100.0)
    assert book.take(0.0, 0.0).offset == 10


def test_what_is_expired_is_settled_counted_and_never_given_out() -> None:
    book = _book(10, 11, expires_s=50.0)
    assert book.take(0.0, 50.0) is None
    assert (book.expired, _positions(book), len(book)) == (2, {0: 12}, 0)


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
    assert _positions(book) == {0: 10}


def test_after_beginning_anew_old_commands_settle_nothing() -> None:
    book = _book(10)
    old = book.take(0.0, 0.0)
    book.begin({0: (10, "")})
    book.read(0, 10)
    book.put(0, 10, "d10", b"x", 100.0)
    book.settle(old)
    book.give_back([old])
    book.try_later(old, 0.0)
    assert (len(book), _positions(book)) == (1, {0: 10})


def test_an_offset_below_what_was_read_begins_its_partition_anew() -> None:
    book = _book(10, 11)
    book.read(0, 3)
    book.put(0, 3, "d3", b"x", 100.0)
    assert _positions(book) == {0: 3}
    while (command := book.take(0.0, 0.0)) is not None:
        book.settle(command)
    assert _positions(book) == {0: 4}


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
    assert _positions(book) == {0: 11}
