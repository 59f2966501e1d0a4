"""The outbox on a real disk: what survives kill -9, what goes first when there is no room, what is told of it."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from itertools import pairwise

import pytest

from covey.wire import Dropped
from edge.outbox import GROUP_ROWS, Outbox, count
from servers import wait_for


def body(identity, size=200):
    return str(identity).encode().ljust(size, b".")


def put(outbox, kind="summary", size=200, tells=()):
    return outbox.put(kind, lambda identity: body(identity, size), tells)


def seqs(outbox):
    return [row.place for row in outbox.batch(0, 100_000)]


@pytest.fixture
def outbox(tmp_path):
    with Outbox(tmp_path / "outbox.db", "d1") as box:
        yield box


def test_events_keep_their_bytes_order_and_kind(outbox):
    for kind in ("summary", "alarm", "status"):
        put(outbox, kind)
    outbox.commit()
    rows = outbox.batch(0, 10)
    assert [(row.place, row.kind) for row in rows] == [(1, "summary"), (2, "alarm"), (3, "status")]
    assert rows[1].body == body(f"d1/{outbox.id}/2")
    assert [row.place for row in outbox.batch(1, 1)] == [2]


def test_the_file_is_private(outbox):
    put(outbox, "alarm")
    for name in ("outbox.db", "outbox.db-wal"):
        assert stat.S_IMODE((outbox.path.parent / name).stat().st_mode) == 0o600


def test_a_row_is_sent_only_after_it_is_on_disk(outbox):
    put(outbox)
    assert seqs(outbox) == []
    assert outbox.depth == 1
    outbox.commit()
    assert seqs(outbox) == [1]


def test_an_alarm_is_on_disk_at_once_with_what_came_before(outbox):
    put(outbox)
    put(outbox, "alarm")
    assert seqs(outbox) == [1, 2]


def test_a_full_group_is_committed_and_a_waiting_one_in_time(outbox):
    for _ in range(GROUP_ROWS):
        put(outbox)
    assert len(seqs(outbox)) == GROUP_ROWS
    put(outbox)

    def committed():
        outbox.tick()
        return len(seqs(outbox)) == GROUP_ROWS + 1

    wait_for(committed, 5, "the group's 250 ms")


def test_acknowledgement_deletes_exactly_those_rows(outbox):
    for _ in range(10):
        put(outbox)
    outbox.commit()
    assert outbox.acknowledge([(2, 3), (7, 7), (9, 40)]) == 5
    assert seqs(outbox) == [1, 4, 5, 6, 8]
    assert outbox.depth == 5
    assert outbox.acknowledge([(2, 3)]) == 0


def test_numbers_go_on_after_everything_was_acknowledged_and_after_a_restart(tmp_path):
    path = tmp_path / "outbox.db"
    with Outbox(path, "d1") as first:
        put(first, "alarm")
        first.acknowledge([(1, 1)])
        name = first.id
    with Outbox(path, "d1") as second:
        assert (second.id, second.last_seq, second.depth) == (name, 1, 0)
        assert put(second).seq == 2


def test_two_files_have_two_ids(tmp_path):
    with Outbox(tmp_path / "a.db", "d1") as a, Outbox(tmp_path / "b.db", "d1") as b:
        assert a.id != b.id
        assert len(a.id) == 16


def test_an_uncommitted_row_leaves_no_gap_after_kill_9(tmp_path):
    path = tmp_path / "outbox.db"
    code = "put a; put b without commit"
    run_child(
        path, "box.put('alarm', build)\nbox.put('summary', build)\nprint('ready', flush=True)\ntime.sleep(60)", code
    )
    with Outbox(path, "d1") as box:
        assert seqs(box) == [1]
        assert put(box).seq == 2


def run_child(path, statements, what, lines=1):
    """Run statements on an outbox in a child, kill it with -9 after so many lines; returns the lines."""
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from edge.outbox import Outbox
        box = Outbox(Path(sys.argv[1]), "d1")
        build = lambda identity: str(identity).encode().ljust(200, b".")
        """
    ) + textwrap.dedent(statements)
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    seen = []
    try:
        while len(seen) < lines:
            line = child.stdout.readline()
            assert line, f"{what}: the child ended early"
            seen.append(line.strip())
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    return seen


def test_no_committed_row_is_lost_to_kill_9(tmp_path):
    path = tmp_path / "outbox.db"
    total = 0
    for _ in range(3):
        said = run_child(
            path,
            """
            while True:
                box.put("summary", build)
                if box.last_seq % 7 == 0 and box.commit():
                    print(box.last_seq, flush=True)
            """,
            "writer",
            lines=30,
        )
        promised = int(said[-1])
        with Outbox(path, "d1") as box:
            have = seqs(box)
            assert have == list(range(1, len(have) + 1))
            assert len(have) >= promised > total
            assert all(row.body == body(f"d1/{box.id}/{row.place}") for row in box.batch(0, 100_000))
            assert box.last_seq == len(have)
            total = len(have)


def fill(outbox, kind, until_dropped=True, size=1000, limit=2000):
    for _ in range(limit):
        put(outbox, kind, size)
        outbox.commit()
        if until_dropped and outbox.dropped_rows():
            return
    assert not until_dropped


def test_the_file_never_grows_past_its_quota(tmp_path):
    quota = 256 * 1024
    with Outbox(tmp_path / "o.db", "d1", quota) as box:
        for _ in range(1500):
            put(box, "summary", 1000)
        box.commit()
        assert (tmp_path / "o.db").stat().st_size <= quota
        have = seqs(box)
        assert have[-1] == 1500
        assert len(have) > 100
        assert box.dropped_rows() == 1500 - len(have)
        assert box.size_bytes == 1000 * len(have)


def test_the_oldest_go_first_and_are_told_as_one_range(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        fill(box, "summary")
        have = seqs(box)
        assert have == list(range(have[0], box.last_seq + 1))
        assert box.dropped() == [Dropped(box.id, 1, have[0] - 1)]


def test_summaries_go_before_status_and_status_before_alarms(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        for kind in ("alarm", "status", "summary"):
            fill(box, kind, until_dropped=False, limit=40)
        for _ in range(400):
            put(box, "alarm", 1000)
            kinds = [row.kind for row in box.batch(0, 10_000)]
            lost_alarms = 40 + box.last_seq - 120 - kinds.count("alarm")
            if "summary" in kinds:
                assert kinds.count("status") == 40
            if "status" in kinds:
                assert lost_alarms == 0
        assert "summary" not in kinds
        assert "status" not in kinds
        assert lost_alarms > 0


def test_a_summary_does_not_push_out_an_alarm(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        fill(box, "alarm")
        alarms = seqs(box)
        for _ in range(100):
            put(box, "summary", 1000)
            box.commit()
        kinds = {row.kind for row in box.batch(0, 10_000)}
        assert set(alarms) <= set(seqs(box))
        assert "alarm" in kinds


def test_dropped_ranges_are_told_until_the_telling_event_is_safe(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        fill(box, "summary")
        told = box.dropped()
        assert told
        identity = put(box, "alarm", tells=told)
        assert box.dropped() == []
        assert box.dropped_rows() > 0
        box.acknowledge([(identity.seq, identity.seq)])
        assert (box.dropped(), box.dropped_rows()) == ([], 0)


def test_what_a_dropped_event_told_is_told_again(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        fill(box, "summary")
        told = box.dropped()
        identity = put(box, "summary", 1000, tells=told)
        box.commit()
        fill(box, "summary", until_dropped=False, limit=600)
        assert identity.seq < seqs(box)[0]
        [again] = box.dropped()
        assert again.first == told[0].first
        assert again.last >= identity.seq


def test_the_telling_survives_a_restart(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        fill(box, "summary")
        told = box.dropped()
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        assert box.dropped() == told


def test_what_can_never_be_sent_is_given_up_and_told(outbox):
    for _ in range(3):
        put(outbox)
    outbox.commit()
    outbox.give_up(2)
    assert seqs(outbox) == [1, 3]
    assert outbox.dropped() == [Dropped(outbox.id, 2, 2)]


def test_a_damaged_file_is_set_aside_and_a_new_outbox_begins(tmp_path):
    path = tmp_path / "outbox.db"
    with Outbox(path, "d1") as first:
        put(first, "alarm")
        old = first.id
    path.write_bytes(b"not a database at all" * 300)
    with Outbox(path, "d1") as second:
        assert second.damaged
        assert second.id != old
        assert put(second, "alarm").seq == 1
    assert (tmp_path / "outbox.db.damaged").exists()


def test_a_disk_that_takes_nothing_keeps_rows_in_memory_and_goes_on_later(tmp_path):
    """A lock held by another process stands for a disk that refuses: the same OperationalError, and it can be lifted."""
    with Outbox(tmp_path / "o.db", "d1") as box:
        box._db.execute("PRAGMA busy_timeout = 10")
        blocker = sqlite3.connect(tmp_path / "o.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        put(box)
        assert not box.commit()
        assert "locked" in box.trouble
        assert (box.depth, seqs(box)) == (1, [])
        blocker.execute("ROLLBACK")
        blocker.close()
        assert box.commit()
        assert (box.trouble, seqs(box)) == ("", [1])


def test_another_process_can_count_what_waits(outbox):
    put(outbox, "alarm", 300)
    assert count(outbox.path) == (1, 300)


def test_the_sequence_has_no_gaps_but_those_told(tmp_path):
    with Outbox(tmp_path / "o.db", "d1", 256 * 1024) as box:
        kinds = ("summary", "summary", "alarm", "summary", "status")
        for n in range(900):
            put(box, kinds[n % len(kinds)], 700)
            box.tick()
        box.commit()
        have = set(seqs(box))
        lost = {seq for one in box.dropped(10_000) for seq in range(one.first, one.last + 1)}
        assert have | lost == set(range(1, 901))
        assert not have & lost
        assert all(one.last + 1 < two.first for one, two in pairwise(box.dropped(10_000)))


# -- copies ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path):
    """Stands for /dev/shm; another folder is another boot or another machine."""
    return made(tmp_path / "memory")


def made(folder):
    folder.mkdir()
    return folder


def bodies(box):
    return [row.body.rstrip(b".").decode() for row in box.batch(0, 100_000)]


def grown(path, memory, count, kind="alarm"):
    """Some events more; returns (outbox, their sequence numbers)."""
    with Outbox(path, "d1", memory=memory) as box:
        return box.id, [put(box, kind).seq for _ in range(count)]


def test_a_card_copied_to_another_board_is_another_outbox_and_both_bring_everything(tmp_path, memory):
    one, two = made(tmp_path / "one"), tmp_path / "two"
    first, _ = grown(one / "o.db", memory, 3)
    shutil.copytree(one, two)
    other = made(tmp_path / "memory of the other board")
    with Outbox(one / "o.db", "d1", memory=memory) as a, Outbox(two / "o.db", "d1", memory=other) as b:
        put(a, "alarm")
        put(b, "alarm")
        common = [f"d1/{first}/{seq}" for seq in (1, 2, 3)]
        assert bodies(a) == [*common, f"d1/{first}/4"]
        assert bodies(b) == [*common, f"d1/{b.id}/1"]
        assert b.id != first
        assert not b.restored


def test_a_backup_put_back_on_the_same_boot_uses_no_number_again(tmp_path, memory):
    path, backup = tmp_path / "o.db", tmp_path / "backup.db"
    first, _ = grown(path, memory, 2)
    shutil.copy2(path, backup)
    grown(path, memory, 1)
    path.write_bytes(backup.read_bytes())  # the same inode, as `cp` leaves it
    with Outbox(path, "d1", memory=memory) as box:
        assert box.restored
        put(box, "alarm")
        assert bodies(box) == [f"d1/{first}/1", f"d1/{first}/2", f"d1/{box.id}/1"]
        assert box.id != first


def test_a_backup_of_another_file_in_its_place_is_another_outbox(tmp_path, memory):
    mine, theirs = tmp_path / "mine.db", tmp_path / "theirs.db"
    _, _ = grown(mine, memory, 1)
    other, _ = grown(theirs, memory, 5)
    mine.write_bytes(theirs.read_bytes())
    with Outbox(mine, "d1", memory=memory) as box:
        assert put(box, "alarm").seq == 1
        assert box.id != other


def test_each_boot_begins_an_outbox_and_order_holds_over_all_of_them(tmp_path):
    path = tmp_path / "o.db"
    said = []
    for boot in range(4):
        outbox, seqs_of_boot = grown(path, made(tmp_path / f"boot{boot}"), 2)
        assert seqs_of_boot == [1, 2]
        said += [f"d1/{outbox}/{seq}" for seq in seqs_of_boot]
    assert len({one.split("/")[1] for one in said}) == 4
    with Outbox(path, "d1", memory=made(tmp_path / "boot4")) as box:
        assert bodies(box) == said
        # a false alarm was harmless: each row is acknowledged by the outbox that it belongs to
        third = said[4].split("/")[1]
        assert box.acknowledge(box.places(third, [(2, 9)])) == 1
        assert bodies(box) == [*said[:5], *said[6:]]
        assert box.places("0" * 16, [(1, 9)]) == []
        assert box.places(box.id, [(1, 9)]) == []


def test_outboxes_without_rows_are_forgotten(tmp_path):
    path = tmp_path / "o.db"
    for boot in range(3):
        with Outbox(path, "d1", memory=made(tmp_path / f"boot{boot}")) as box:
            put(box, "alarm")
            box.acknowledge([(1, 99)])
            assert list(box._places.bases) == [box.id]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM outboxes").fetchone() == (1,)


def test_rows_dropped_from_several_outboxes_are_told_as_each_ones(tmp_path):
    path, told = tmp_path / "o.db", []
    for boot in range(3):
        with Outbox(path, "d1", 256 * 1024, memory=made(tmp_path / f"boot{boot}")) as box:
            for _ in range(20):
                put(box, "summary", 1000)
            told.append(Dropped(box.id, 1, 20))
    with Outbox(path, "d1", 256 * 1024, memory=made(tmp_path / "last")) as box:
        while len(box.dropped()) < 4:
            put(box, "summary", 1000)
            box.commit()
        assert box.dropped()[:3] == told
        assert (box.dropped()[3].outbox, box.dropped()[3].first) == (box.id, 1)
        identity = put(box, "alarm", tells=box.dropped())
        assert box.dropped() == []
        box.acknowledge(box.places(box.id, [(identity.seq, identity.seq)]))
        assert box.dropped_rows() == 0


@pytest.mark.parametrize("spoil", ["gone", "cut", "bit", "foreign", "link"])
def test_a_mark_that_cannot_be_believed_is_none(tmp_path, memory, spoil):
    path = tmp_path / "o.db"
    first, _ = grown(path, memory, 1)
    [mark] = memory.iterdir()
    content = mark.read_bytes()
    if spoil == "gone":
        mark.unlink()
    elif spoil == "cut":
        mark.write_bytes(content[:-5])
    elif spoil == "bit":
        mark.write_bytes(content.replace(first.encode(), b"f" * 16))
    elif spoil == "foreign":
        mark.chmod(0o666)
    else:
        elsewhere = tmp_path / "elsewhere"
        mark.rename(elsewhere)
        mark.symlink_to(elsewhere)
    second, seqs_of_second = grown(path, memory, 1)
    assert (second != first, seqs_of_second) == (True, [1])
    third, seqs_of_third = grown(path, memory, 1)
    assert (third, seqs_of_third) == (second, [2])


def test_marks_of_files_that_are_long_gone_are_swept(tmp_path, memory):
    for n in range(3):
        folder = made(tmp_path / str(n))
        grown(folder / "o.db", memory, 1)
        shutil.rmtree(folder)
    for mark in memory.iterdir():
        os.utime(mark, (1e9, 1e9))
    path = tmp_path / "o.db"
    grown(path, memory, 1)
    assert [mark.read_bytes().split(b"\n")[-2] for mark in memory.iterdir()] == [str(path).encode()]


def test_a_file_that_only_another_service_sees_keeps_its_mark(tmp_path, memory):
    path, hidden = tmp_path / "o.db", tmp_path / "hidden.db"
    first, _ = grown(path, memory, 1)
    path.rename(hidden)  # to whoever starts now it is gone
    grown(tmp_path / "other.db", memory, 1)
    hidden.rename(path)
    assert grown(path, memory, 1)[0] == first


def test_without_a_place_for_marks_each_start_is_a_new_outbox(tmp_path):
    path, nowhere = tmp_path / "o.db", tmp_path / "nowhere"
    ids = {grown(path, nowhere, 1)[0] for _ in range(3)}
    assert len(ids) == 3


def test_a_file_of_the_first_version_goes_on(tmp_path, memory):
    path = tmp_path / "o.db"
    with sqlite3.connect(path) as db:
        db.executescript(
            """
            CREATE TABLE meta (outbox TEXT NOT NULL, last_seq INTEGER NOT NULL);
            CREATE TABLE rows (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL);
            CREATE TABLE dropped (seq INTEGER PRIMARY KEY, last INTEGER NOT NULL, told_in INTEGER NOT NULL DEFAULT 0);
            INSERT INTO meta VALUES ('00c0ffee00c0ffee', 9); INSERT INTO rows VALUES (8, 2, x'41');
            INSERT INTO dropped VALUES (7, 7, 0); PRAGMA user_version = 1;
            """
        )
    with Outbox(path, "d1", memory=memory) as box:
        put(box, "alarm")
        assert box.dropped() == [Dropped("00c0ffee00c0ffee", 7, 7)]
        assert box.batch(0, 1)[0].body == b"A"
        assert box.acknowledge(box.places("00c0ffee00c0ffee", [(8, 8)])) == 1
        assert bodies(box) == [f"d1/{box.id}/1"]


def test_a_database_that_is_no_outbox_is_set_aside(tmp_path):
    path = tmp_path / "o.db"
    for script in (
        "CREATE TABLE other (x); PRAGMA user_version = 2",
        "CREATE TABLE meta (outbox TEXT, last_seq INTEGER); PRAGMA user_version = 1",
    ):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            db.executescript(script)
        with Outbox(path, "d1") as box:
            assert box.damaged
            assert put(box, "alarm").seq == 1


# -- room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", [512 * 1024, 4 * 1024 * 1024])
def test_file_log_index_and_spare_stay_within_the_quota_together(tmp_path, quota):
    folder = made(tmp_path / "state")
    largest = 0
    with Outbox(folder / "o.db", "d1", quota) as box:
        for n in range(quota // 250):
            put(box, ("summary", "status", "alarm")[n % 97 == 0], 300 + n % 900)
            if n % 20 == 0:
                box.commit()
                largest = max(largest, sum(file.stat().st_size for file in folder.iterdir()))
        assert box.dropped_rows() > 0
    assert quota // 2 < largest <= quota
