"""The truth ledger as flash: on disk before it is given out, acknowledged exactly once, and nothing lost by a kill -9."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from covey.errors import StoreError, UsageError
from firmware_sim.truth.facts import read_facts
from firmware_sim.truth.ledger import Device, Flight, Ledger, Truth
from firmware_sim.truth.spans import extend, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from covey import wire

DEVICES = [Device(f"sim-{n:05d}", "quadrotor", "lte") for n in range(1, 4)]


def body(identity: wire.Identity) -> bytes:
    return f"event {identity}".encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.ledger"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path, {"seed": 7}) as one:
        one.register(DEVICES)
        yield one


def put(ledger: Ledger, i: int, count: int = 1, kind: str = "summary") -> None:
    for _ in range(count):
        ledger.put(i, kind, 100.0 + ledger.last_seq(i), body)


def seqs(ledger: Ledger, i: int, after: int = 0, limit: int = 100) -> list[int]:
    return [row.seq for row in ledger.batch(i, after, limit)]


def test_an_event_is_given_out_only_after_the_commit(ledger: Ledger) -> None:
    put(ledger, 1, 2)
    assert (ledger.last_seq(1), ledger.depth(1), seqs(ledger, 1)) == (2, 2, [])
    ledger.commit()
    (first, second) = ledger.batch(1, 0, 10)
    assert (first.seq, first.kind, second.seq) == (1, "summary", 2)
    assert first.body == f"event sim-00002/{ledger.outbox(1)}/1".encode()


def test_devices_count_apart_and_batches_go_on_after_a_number(ledger: Ledger) -> None:
    put(ledger, 0, 5)
    put(ledger, 2, 1)
    ledger.commit()
    assert seqs(ledger, 0, after=1, limit=2) == [2, 3]
    assert seqs(ledger, 0, after=3, limit=9) == [4, 5]
    assert seqs(ledger, 0, after=5) == seqs(ledger, 1) == []
    assert seqs(ledger, 2) == [1]


def test_acknowledged_events_go_at_once_and_for_good(ledger: Ledger, path: Path) -> None:
    put(ledger, 0, 6)
    ledger.commit()
    assert ledger.acknowledge(0, ledger.outbox(0), [(2, 3), (5, 9)], 120.0) == 4
    assert (seqs(ledger, 0), ledger.depth(0)) == ([1, 4], 2)
    assert ledger.acknowledge(0, ledger.outbox(0), [(1, 5)], 121.0) == 2  # 2, 3 and 5 had gone before
    ledger.commit()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM queue").fetchone() == (0,)
    facts = read_facts(path)
    assert facts.events.acked_s.tolist() == [121.0, 120.0, 120.0, 121.0, 120.0, 120.0]


def test_what_is_not_on_disk_or_of_another_outbox_cannot_be_acknowledged(ledger: Ledger) -> None:
    put(ledger, 0, 1)
    assert ledger.acknowledge(0, ledger.outbox(0), [(1, 1)], 120.0) == 0
    ledger.commit()
    assert ledger.acknowledge(0, ledger.outbox(1), [(1, 1)], 120.0) == 0
    assert (seqs(ledger, 0), ledger.depth(0)) == ([1], 1)


def test_it_keeps_what_was_written_for_ever_and_the_bytes_of_alarms(ledger: Ledger, path: Path) -> None:
    put(ledger, 0, 1)
    identity = ledger.put(0, "alarm", 102.5, body)
    ledger.commit()
    ledger.acknowledge(0, ledger.outbox(0), [(1, 2)], 103.0)
    ledger.commit()
    events = read_facts(path).events
    assert events.kind.tolist() == [0, 2]
    assert events.true_s.tolist() == [100.0, 102.5]
    assert events.size_bytes.tolist() == [len(body(identity))] * 2
    assert events.sha256[1].tobytes() == hashlib.sha256(body(identity)).digest()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT body FROM alarms").fetchall() == [(body(identity),)]


def test_truth_flights_notes_and_meta_come_back_as_told(path: Path) -> None:
    cut = Truth("propeller-cut", "fault", 130.5, None, {"motor": 3, "cut_mm": 2.5})
    season = Truth("season", "drift", 120.0, 140.0, {"temperature_c": -10.0})
    with Ledger.create(path, {"scenario": "night-shift", "seed": 7}) as ledger:
        ledger.register([("a", "quadrotor", "lte", -1.5, [cut, season], [Flight(100.0, 126.0)])])
        ledger.note(None, "kill", 111.0, "gateway")
        ledger.note(0, "lost", 110.0)
        ledger.remember("end_s", 160.0)
    facts = read_facts(path)
    assert facts.meta == {"scenario": "night-shift", "seed": 7, "end_s": 160.0}
    (device,) = facts.devices
    assert (device.name, device.body, device.link, device.clock_offset_s) == ("a", "quadrotor", "lte", -1.5)
    assert [one.item for one in facts.truth] == [season, cut]
    assert facts.flights.tolist() == [[0.0, 100.0, 126.0]]
    assert [tuple(note) for note in facts.notes] == [(110.0, 0, "lost", ""), (111.0, None, "kill", "gateway")]
    assert not facts.live


def test_opened_again_it_goes_on_where_it_was(path: Path) -> None:
    with Ledger.create(path, {}) as ledger:
        ledger.register(DEVICES)
        put(ledger, 0, 4)
        put(ledger, 1, 1)
        ledger.commit()
        ledger.acknowledge(0, ledger.outbox(0), [(1, 1), (3, 3)], 120.0)
        before = [ledger.outbox(i) for i in range(3)]
    with Ledger.open(path) as ledger:
        assert list(ledger.names) == [one.name for one in DEVICES]
        assert [ledger.outbox(i) for i in range(3)] == before
        assert [ledger.last_seq(i) for i in range(3)] == [4, 1, 0]
        assert [ledger.depth(i) for i in range(3)] == [2, 1, 0]
        assert seqs(ledger, 0) == [2, 4]
        assert ledger.put(0, "status", 130.0, body).seq == 5


def test_the_same_fleet_twice_has_other_outboxes(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        with Ledger.create(tmp_path / name, {"seed": 7}) as ledger:
            ledger.register(DEVICES)
            ids |= {ledger.outbox(i) for i in range(3)}
    assert len(ids) == 6
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)


def test_a_disk_that_takes_nothing_loses_nothing_and_gives_nothing_out(ledger: Ledger) -> None:
    put(ledger, 0, 1)
    ledger.commit()
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    put(ledger, 0, 500)
    with pytest.raises(StoreError, match="full"):
        ledger.commit()
    assert (seqs(ledger, 0), ledger.last_seq(0), ledger.depth(0)) == ([1], 501, 501)
    ledger._db.execute("PRAGMA max_page_count = 100000")
    ledger.commit()
    assert seqs(ledger, 0, limit=1000) == list(range(1, 502))


def test_the_file_is_private_and_has_one_writer(ledger: Ledger, path: Path) -> None:
    put(ledger, 0)
    ledger.commit()
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}.lock")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="another process writes this ledger"):
        Ledger.open(path)
    assert read_facts(path).live
    put(ledger, 0)
    ledger.commit()  # the refused one took nothing away


def test_an_existing_file_is_not_written_over(path: Path) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="a new file expected"):
        Ledger.create(path, {})
    assert path.read_bytes() == b"mine"


def test_a_name_that_comes_twice_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="one came twice"):
        ledger.register([DEVICES[0]])
    assert len(ledger) == 3


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")


def newer(path: Path) -> None:
    Ledger.create(path, {}).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")


def damaged(path: Path) -> None:
    with Ledger.create(path, {}) as ledger:
        ledger.register(DEVICES)
        put(ledger, 0, 400)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))


def with_a_hole(path: Path) -> None:
    with Ledger.create(path, {}) as ledger:
        ledger.register(DEVICES)
        put(ledger, 0, 4)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM events WHERE key = 2")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: path.write_bytes(b"hello, I am a text file, not a ledger" * 40),
            "a ledger of covey sim expected",
        ),
        (lambda path: path.write_bytes(b""), "a ledger of covey sim expected"),
        (other_database, "another SQLite file came"),
        (newer, "newer covey?"),
        (damaged, "ledger cannot be used"),
        (with_a_hole, "4 events of device 0 expected, 3 found"),
        (lambda _: None, "no such file"),
    ],
)
def test_what_is_no_ledger_is_one_line_that_names_the_file(path: Path, make, says: str) -> None:
    make(path)
    with pytest.raises((StoreError, UsageError), match=r"fleet\.ledger") as told:
        Ledger.open(path)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_ranges_by_hand() -> None:
    ranges: list[tuple[int, int]] = []
    extend(ranges, 1, 3)
    extend(ranges, 4, 9)
    assert ranges == [(1, 9)]
    assert take(ranges, 4, 5) == [(4, 5)]
    assert ranges == [(1, 3), (6, 9)]
    assert take(ranges, 3, 6) == [(3, 3), (6, 6)]
    assert take(ranges, 20, 30) == take(ranges, 4, 5) == []
    extend(ranges, 10, 10)
    assert ranges == [(1, 2), (7, 10)]


WRITER = """
import secrets, sys
from pathlib import Path
from firmware_sim.truth.ledger import Ledger

# Bytes differ from one life to the next, so that a number given out twice shows.
with Ledger.open(Path(sys.argv[1])) as ledger:
    n = 0
    while True:
        for i in range(len(ledger)):
            for _ in range(1 + n % 5):
                ledger.put(i, "alarm" if n % 7 == 0 else "summary", float(n), lambda _: secrets.token_bytes(700))
        ledger.commit()
        for i in range(len(ledger)):
            rows = ledger.batch(i, 0, 8)
            lines = [f"{i} {row.seq} {row.body.hex()[:32]}" for row in rows]
            sys.stdout.write("".join(line + "\\n" for line in lines))
            sys.stdout.flush()
            if rows and n % 3:
                ledger.acknowledge(i, ledger.outbox(i), [(rows[0].seq, rows[len(rows) // 2].seq)], float(n))
        n += 1
"""


def test_killed_nine_times_no_number_has_two_contents_and_none_is_missing(path: Path) -> None:
    with Ledger.create(path, {}) as ledger:
        ledger.register(DEVICES)
        outboxes = [ledger.outbox(i) for i in range(3)]
    given: dict[tuple[int, int], str] = {}
    for life in range(9):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            for _ in range(40 + 97 * life):  # a kill at another point of its turn each time
                told = child.stdout.readline()
                assert told, "the writer ended by itself"
                device, seq, content = told.split()
                assert given.setdefault((int(device), int(seq)), content) == content
            os.kill(child.pid, signal.SIGKILL)
            for told in child.stdout:  # what it had given out before it died
                if told.endswith("\n"):
                    device, seq, content = told.split()
                    assert given.setdefault((int(device), int(seq)), content) == content
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        with Ledger.open(path) as ledger:
            assert [ledger.outbox(i) for i in range(3)] == outboxes
            for i in range(3):
                newest = max((seq for device, seq in given if device == i), default=0)
                assert ledger.last_seq(i) >= newest
                for row in ledger.batch(i, 0, 10_000):
                    assert given.get((i, row.seq), row.body.hex()[:32]) == row.body.hex()[:32]
    facts = read_facts(path)
    for i in range(3):
        of_device = facts.events.key[facts.events.device == i] & 0xFFFFFFFF
        assert of_device.tolist() == list(range(1, len(of_device) + 1))
    assert len(given) > 100
