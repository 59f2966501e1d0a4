"""The ring file: bounded, private, and a torn write costs one window."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys

import pytest

from covey.errors import DataError
from covey.ring import HEADER_BYTES, RingInfo, RingReader, RingWriter, create_ring

INFO = RingInfo(("a", "b"), 100.0, 3, 5)


def window(n):
    return struct.pack("<6f", *[float(n)] * 6)


@pytest.fixture
def path(tmp_path):
    create_ring(tmp_path / "ring.bin", INFO)
    return tmp_path / "ring.bin"


def read(path):
    with RingReader(path) as ring:
        return list(ring.records())


def test_a_ring_is_private(path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_newest_windows_remain_in_order_when_the_ring_is_full(path):
    with RingWriter(path) as ring:
        ring.begin_flight()
        for n in range(8):
            ring.append(window(n), start_s=n / 10, index=n)
    records = read(path)
    assert [r.seq for r in records] == [4, 5, 6, 7, 8]
    assert [r.samples for r in records] == [window(n) for n in range(3, 8)]
    assert path.stat().st_size == HEADER_BYTES + 5 * (40 + 24)


def test_a_new_writer_goes_on_where_the_last_one_stopped(path):
    with RingWriter(path) as ring:
        ring.begin_flight()
        ring.append(window(1), 0.0, 0)
    with RingWriter(path) as ring:
        assert ring.count == 1
        assert ring.begin_flight() == 2
        assert ring.append(window(2), 0.1, 0, flags=1) == 2
    assert [(r.flight, r.flags) for r in read(path)] == [(1, 0), (2, 1)]


@pytest.mark.parametrize("offset", [0, 8, 16, 24, 28, 32, 40, 63])
def test_a_changed_byte_anywhere_in_a_record_costs_that_record_only(path, offset):
    with RingWriter(path) as ring:
        ring.begin_flight()
        for n in range(3):
            ring.append(window(n), 0.0, n)
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + 64 + offset] ^= 0x40
    path.write_bytes(raw)
    assert [r.index for r in read(path)] == [0, 2]


def test_a_second_writer_is_refused_and_a_reader_is_not(path):
    with RingWriter(path), pytest.raises(DataError, match="one writer expected"):
        RingWriter(path)
    assert read(path) == []


@pytest.mark.parametrize("content", [b"", b"COVR", b"X" * 5000, b"COVRING1" + b"\xff" * 5000])
def test_what_is_no_ring_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError, match="a ring expected"):
        RingReader(path)


def test_a_window_of_another_size_is_refused(path):
    with RingWriter(path) as ring, pytest.raises(DataError, match="24 bytes a window expected, 20 received"):
        ring.append(b"x" * 20, 0.0, 0)


def test_a_writer_killed_at_work_leaves_only_whole_windows(path):
    script = (
        "import sys, struct; from pathlib import Path; from covey.ring import RingWriter\n"
        "w = RingWriter(Path(sys.argv[1])); w.begin_flight(); n = 0\n"
        "while True:\n"
        "    w.append(struct.pack('<6f', *[float(n)] * 6), 0.0, n); n += 1\n"
        "    if n == 50: print('running', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"running\n"
        while_running = read(path)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    for record in [*while_running, *read(path)]:
        assert record.samples == window(record.index)
    assert len(read(path)) >= INFO.capacity - 1
