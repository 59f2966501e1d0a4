"""The order check sees each disorder, and nothing else."""

from __future__ import annotations

from chaos.order import Order


def told(*records: tuple[str, int, str, int]) -> Order:
    order = Order()
    for record in records:
        order.see(*record)
    return order


def stream(*seqs: int) -> Order:
    return told(*(("t", 0, "a/1", seq) for seq in seqs))


def test_ascending_with_gaps_is_in_order_since_the_gaps_are_other_kinds() -> None:
    order = stream(1, 2, 5, 9, 1_000)
    assert (order.records, order.repeats, order.disordered, order.bad) == (5, 0, 0, [])


def test_repeats_are_counted_and_say_nothing_about_order() -> None:
    order = stream(1, 2, 3, 1, 2, 3, 4, 4, 2)
    assert (order.records, order.repeats, order.disordered) == (9, 5, 0)


def test_a_first_record_behind_a_higher_one_is_disorder_also_when_it_comes_within_repeats() -> None:
    assert stream(1, 3, 2).disordered == 1
    assert stream(2, 1).bad == ["disordered: t: a/1/1 after 2"]
    late = stream(1, 2, 4, 1, 2, 3, 4, 5)  # 3 was skipped at first and came with what was sent again
    assert (late.disordered, late.repeats) == (1, 3)
    assert stream(4, 3, 2, 1).disordered == 3


def test_topics_devices_and_outboxes_have_an_order_of_their_own() -> None:
    order = told(("t", 0, "a/1", 5), ("u", 0, "a/1", 4), ("t", 0, "b/1", 3), ("t", 0, "a/2", 1))
    assert order.disordered == 0


def test_a_stream_in_two_partitions_has_no_order_that_anyone_could_see() -> None:
    assert told(("t", 0, "a/1", 1), ("t", 1, "a/1", 2)).disordered == 1
    assert told(("t", 0, "a/1", 1), ("t", 1, "a/1", 1), ("t", 0, "a/1", 2)).disordered == 0  # a repeat elsewhere


def test_a_million_events_are_told_in_little_memory() -> None:
    order = stream(*range(1, 1_000_001))
    assert (order.records, order.disordered) == (1_000_000, 0)
    (held,) = order._streams.values()  # memory is what is promised
    assert len(held.seen) < 3_000_000
