"""The verdict sees each crime, and nothing else."""

from __future__ import annotations

from chaos.verdict import compare, read_journal

OUTBOX = "00112233aabbccdd"


def journal(*lines: str) -> list[str]:
    return [f"open a-1 {OUTBOX} 0", *lines]


def put(seq: int, sha256: str = "aa", windows: int = 10) -> str:
    return f"put a-1 {OUTBOX} {seq} {sha256} {windows}"


def stored(seq: int, sha256: str = "aa", device: str = "a-1") -> dict[str, object]:
    return {"device": device, "outbox": OUTBOX, "seq": seq, "sha256": sha256, "kind": "summary"}


def judge(lines: list[str], events: list[dict[str, object]], windows: int):
    return compare(read_journal(lines), events, {"a-1": windows}, "a")


def test_everything_once_is_good() -> None:
    found = judge(journal(put(1), put(2)), [stored(1), stored(2), stored(9, device="b-1")], 20)
    assert (found.good, found.written, found.stored, found.bad) == (True, 2, 2, [])


def test_each_crime_is_counted_and_named() -> None:
    lines = journal(put(1), put(2), put(3))
    assert judge(lines, [stored(1), stored(3)], 20).bad == [f"lost: a-1/{OUTBOX}/2"]
    assert judge(lines, [stored(1), stored(2), stored(2), stored(3)], 30).double == 1
    assert judge(lines, [stored(1), stored(2, "bb"), stored(3)], 30).conflicting == 1
    assert judge(lines, [stored(1), stored(2), stored(3), stored(4)], 30).unknown == 1
    assert judge(lines, [stored(1), stored(2), stored(3)], 40).windows_off == 1
    for events, windows in (([stored(1)], 10), ([stored(1), stored(2), stored(3)], 40)):
        assert not judge(lines, events, windows).good


def test_what_was_told_as_dropped_is_not_lost_and_what_came_all_the_same_counts_as_stored() -> None:
    found = judge(journal(put(1), put(2), put(3), f"dropped a-1 {OUTBOX} 1 2"), [stored(2), stored(3)], 20)
    assert (found.good, found.lost, found.given_up, found.stored) == (True, 0, 1, 2)


def test_what_never_reached_the_disk_is_void_and_its_number_is_given_again() -> None:
    killed = journal(put(1), put(2, "aa"), f"open a-1 {OUTBOX} 1", put(2, "bb"))
    assert judge(killed, [stored(1), stored(2, "bb")], 20).good
    assert judge(killed, [stored(1), stored(2, "aa")], 20).conflicting == 1
    unfinished = journal(put(1), put(2), f"open a-1 {OUTBOX} 1")
    assert judge(unfinished, [stored(1)], 10).good
    assert judge(unfinished, [stored(1), stored(2)], 20).unknown == 1
