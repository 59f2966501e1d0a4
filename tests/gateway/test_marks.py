"""Which letters are done, against a plain set of integers."""

import random

from gateway.marks import METADATA_CHARS, Marks


def _offsets(marks: Marks, below: int) -> set[int]:
    return {offset for offset in range(below) if marks.done(offset)}


def test_marks_agree_with_a_set_whatever_is_added_and_come_back_from_their_text() -> None:
    for seed in range(500):
        rng = random.Random(seed)
        begin = rng.randrange(5)
        marks, truth = Marks(begin), set(range(begin))
        for _ in range(rng.randrange(30)):
            first = rng.randrange(60)
            last = first + rng.choice([-1, 0, 0, 1, 5])
            marks.add(first, last)
            truth |= set(range(first, last + 1))
        assert marks.next_offset == min(set(range(100)) - truth), seed
        text, left_out = marks.encode()
        assert left_out == 0
        assert _offsets(marks, 100) == truth, seed
        assert _offsets(Marks.decode(marks.next_offset, text), 100) == truth, seed


def test_what_does_not_fit_is_forgotten_from_the_end_and_never_invented() -> None:
    marks = Marks()
    for offset in range(1, 20_001, 2):  # every other one: 10,000 ranges
        marks.add(offset, offset)
    text, left_out = marks.encode()
    assert len(text) <= METADATA_CHARS
    known = _offsets(Marks.decode(0, text), 20_010)
    assert len(known) == 10_000 - left_out
    assert known == set(range(1, 2 * len(known), 2))
    assert len(known) > 1_400  # two bytes a range, four characters for three bytes
    assert Marks(7).encode() == ("", 0)
    assert marks.encode(0) == ("", 10_000)


def test_metadata_of_others_and_broken_metadata_leave_the_offset_alone() -> None:
    for text in ("", "reset by hand", "covey1:", "covey1:%%%", "covey1:gICA", "covey1:AA=", "covey2:AQE="):
        marks = Marks.decode(5, text)
        assert (marks.next_offset, marks.done(4), marks.done(5), marks.done(6)) == (5, True, False, False), text
    # gap 1, length 2, gap 300 (0xAC 0x02), length 1: offsets 6, 7 and 308
    assert _offsets(Marks.decode(5, "covey1:AQKsAgE="), 400) == {0, 1, 2, 3, 4, 6, 7, 308}
