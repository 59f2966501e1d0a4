"""The way up on its own thread: errors reach the agent, commands come once."""

from contextlib import contextmanager

import pytest

from covey.errors import StoreError
from edge.keeper import Keeper
from edge.road import Road


def test_what_opening_raises_reaches_who_opens():
    @contextmanager
    def opened():
        raise StoreError("no room")
        yield

    with pytest.raises(StoreError, match="no room"):
        Road(opened)


def test_the_keeper_does_jobs_in_order_and_hands_answers_and_errors_back():
    keeper = Keeper()
    done = []
    keeper.do(lambda: done.append(1))
    keeper.do(lambda: "two")
    keeper.wait()
    assert (done, keeper.take()) == ([1], ["two"])

    def fails():
        raise ValueError("three")

    keeper.do(fails)
    keeper.do(lambda: "four")
    keeper.wait()
    with pytest.raises(ValueError, match="three"):
        keeper.take()
    assert keeper.take() == ["four"]
    keeper.do(lambda: done.append(5))
    keeper.close()
    assert done == [1, 5]
