"""What a simulated device's files gave is read once, and anew when they change."""

import os
from pathlib import Path

import numpy as np
import pytest

from covey.errors import DataError
from edge.sources.files import read_recording
from federated import recordings
from federated.recordings import Shelf, keeping, read
from federated_rigs import walk, write_csv


@pytest.fixture
def table(tmp_path):
    return str(write_csv(tmp_path / "m.csv", walk(50, seed=1)))


def same(one, other):
    return one.channels == other.channels and np.array_equal(one.samples, other.samples)


def test_outside_nothing_is_kept(table):
    assert read(table, None, None).samples is not read(table, None, None).samples


def test_inside_a_file_is_read_once_and_nobody_may_write_to_it(table):
    with keeping(Shelf()):
        first = read(table, None, None)
        assert read(table, None, None) is first
        assert not first.samples.flags.writeable
        assert same(first, read_recording(table))


def test_columns_of_a_kept_table_are_those_a_reader_gives(table):
    shelf = Shelf()
    with keeping(shelf):
        read(table, None, None)
        assert same(read(table, ["c", "a"], None), read_recording(table, ["c", "a"]))
        assert len(shelf.kept) == 1
        assert same(read(table, ["c", "a"], (3, 9)), read_recording(table, ["c", "a"], (3, 9)))
        with pytest.raises(DataError, match="no column d"):
            read(table, ["a", "d"], None)


def test_a_file_that_changed_is_read_anew(table, tmp_path):
    with keeping(Shelf()):
        read(table, None, None)
        write_csv(tmp_path / "m.csv", walk(50, seed=2))
        os.utime(table, ns=(1, 1))
        assert same(read(table, None, None), read_recording(table))


def test_a_file_that_is_gone_is_told_though_it_was_kept(table):
    with keeping(Shelf()):
        read(table, None, None)
        Path(table).unlink()
        with pytest.raises(DataError, match="readable table expected"):
            read(table, None, None)


def test_the_shelf_is_bounded_and_the_longest_unused_goes_first(tmp_path):
    paths = [str(write_csv(tmp_path / f"m{n}.csv", walk(50, seed=n))) for n in range(3)]
    shelf = Shelf(2 * 50 * 3 * 4)
    with keeping(shelf):
        first = [read(path, None, None) for path in paths[:2]]
        read(paths[0], None, None)
        read(paths[2], None, None)
        assert [key[0] for key in shelf.kept] == [paths[0], paths[2]]
        assert shelf.size == shelf.most
        assert read(paths[0], None, None) is first[0]
    assert not recordings._shelves  # nothing outlives the block


def test_what_is_larger_than_the_shelf_is_not_kept(table):
    shelf = Shelf(10)
    with keeping(shelf):
        assert same(read(table, None, None), read_recording(table))
        assert not shelf.kept
