"""Partitions of nobody: told after one look, mended after two, by one member, less often where it does not help."""

from __future__ import annotations

from cloud.stream.unread import MOST_LOOKS, Rule

THERE = [("t", 0), ("t", 1), ("t", 2)]
WHOLE = {"a": {("t", 1), ("t", 2)}, "b": {("t", 0)}}
LACKS_0 = {"a": {("t", 1), ("t", 2)}, "b": set[tuple[str, int]]()}


def test_a_group_that_reads_all_has_nothing_to_mend() -> None:
    rule = Rule("b")
    assert [rule.look(WHOLE, THERE) for _ in range(3)] == [(frozenset(), False)] * 3


def test_the_member_with_the_fewest_mends_what_two_looks_have_seen() -> None:
    a, b = Rule("a"), Rule("b")
    unread = frozenset({("t", 0)})
    assert [b.look(LACKS_0, THERE) for _ in range(2)] == [(unread, False), (unread, True)]
    assert [a.look(LACKS_0, THERE) for _ in range(2)] == [(unread, False), (unread, False)]


def test_of_members_with_as_many_the_first_by_name_mends() -> None:
    members = {"b": {("t", 0)}, "a": {("t", 1)}}
    tries = {}
    for name in members:
        rule = Rule(name)
        tries[name] = [rule.look(members, THERE)[1] for _ in range(2)]
    assert tries == {"b": [False, False], "a": [False, True]}


def test_another_partition_at_the_second_look_is_a_rebalance_on_its_way() -> None:
    rule = Rule("b")
    lacks_1 = {"a": {("t", 0), ("t", 2)}, "b": set[tuple[str, int]]()}
    assert [rule.look(members, THERE)[1] for members in (LACKS_0, lacks_1, LACKS_0)] == [False, False, False]


def test_tries_that_do_not_help_become_rare_and_a_whole_group_begins_anew() -> None:
    rule = Rule("b")
    tries = [n for n in range(40) if rule.look(LACKS_0, THERE)[1]]
    # After each try 2, 4, 8 looks are skipped; the last of them counts as the first of two.
    assert tries == [1, 4, 9, 18, 35]
    for _ in range(2000):
        rule.look(LACKS_0, THERE)
    looks = [n for n in range(300) if rule.look(LACKS_0, THERE)[1]]
    assert looks[1] - looks[0] == MOST_LOOKS + 1
    rule.look(WHOLE, THERE)
    assert [rule.look(LACKS_0, THERE)[1] for _ in range(2)] == [False, True]
