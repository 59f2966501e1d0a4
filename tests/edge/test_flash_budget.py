"""What learning may write to a card: the bucket, by hand, and the ring that honours it."""

import logging
import time

import pytest

from covey.bundle import Features, Inputs
from covey.ring import RingInfo, RingReader, RingWriter, create_ring
from edge.commission import Ring
from edge.core import Kept
from edge.flash_budget import FlashBudget

LOG = logging.getLogger("test")
DAY_S = 86_400.0


def test_without_a_limit_everything_may_be_written():
    budget = FlashBudget(0, 0.0)
    assert all(budget.take(10**9, 0.0) for _ in range(100))
    assert budget.refused == 0


def test_a_day_s_bytes_and_then_whole_stretches():
    budget = FlashBudget(86_400, 0.0)  # one byte a second
    assert [budget.take(28_800, 0.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.take(100, 600.0)  # 600 bytes are there again, but not an hour's share
    assert budget.take(3_000, 3_600.0)  # 3,600 are
    assert budget.take(600, 3_600.0)
    assert not budget.take(1, 3_600.0)
    assert budget.refused == 3


def test_what_must_be_written_is_counted():
    budget = FlashBudget(1_000, 0.0)
    assert budget.take(1_500, 0.0, must=True)
    assert budget.left == -500
    assert not budget.take(1, 0.0)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    budget = FlashBudget(1_000, 50.0)
    assert budget.take(1_000, 50.0)
    assert not budget.take(1, 10.0)
    assert budget.left == 0


@pytest.mark.parametrize(
    ("left", "away_s", "expected"),
    [(100.0, DAY_S / 4, 600.0), (100.0, -DAY_S, 100.0), (100.0, 10 * DAY_S, 2000.0), (None, 0.0, 2000.0), (1e9, 0.0, 2000.0)],
)  # fmt: skip
def test_the_next_process_goes_on_with_what_was_left(left, away_s, expected):
    assert FlashBudget(2_000, 0.0, left, away_s).left == expected


INPUTS = Inputs(["a"], 10.0, 15, 15, Features("lag"))
RECORD = 40 + 4 * 15  # bytes


def kept(n, flight=0):
    return Kept(bytes(60), float(n), n, flight)


def indexes(path):
    with RingReader(path) as ring:
        return [(record.flight, record.index) for record in ring.records()]


def test_a_ring_leaves_out_what_is_over_the_day_s_bytes_also_after_a_restart(tmp_path):
    path = tmp_path / "ring.bin"
    ring = Ring(path, INPUTS, 100, LOG, 10 * RECORD)
    for n in range(12):
        ring.append(kept(n))
    assert (ring.windows, ring.skipped) == (10, 2)
    ring.close()
    ring = Ring(path, INPUTS, 100, LOG, 10 * RECORD)
    ring.append(kept(12))
    assert (ring.windows, ring.skipped) == (10, 1)
    ring.take_back([kept(3, flight=7), kept(4, flight=7), kept(9, flight=8)])
    ring.close()
    assert indexes(path) == [(1, n) for n in range(10)] + [(2, 3), (2, 4), (3, 9)]


def test_a_process_that_is_killed_forgets_a_hundredth_at_most(tmp_path):
    path = tmp_path / "ring.bin"
    ring = Ring(path, INPUTS, 1000, LOG, 200 * RECORD)
    for n in range(150):
        ring.append(kept(n))
    ring._writer.close()  # as after kill -9: nothing was noted at the end
    ring = Ring(path, INPUTS, 1000, LOG, 200 * RECORD)
    assert 49 * RECORD <= ring.budget.left <= 53 * RECORD
    ring.close()


def test_what_was_noted_is_not_part_of_the_description_and_a_torn_note_is_none(tmp_path):
    path = tmp_path / "ring.bin"
    info = RingInfo(("a" * 3900,), 1.0, 3, 5)
    create_ring(path, info)
    with RingWriter(path) as ring:
        assert ring.flash_left() is None
        ring.note_flash_left(12.5, time.time())
        assert ring.info == info
        left = ring.flash_left()
        assert left is not None
        assert left[0] == 12.5
    raw = bytearray(path.read_bytes())
    raw[4090] ^= 1
    path.write_bytes(raw)
    with RingWriter(path) as ring:
        assert ring.flash_left() is None
