"""Ranges and intervals of acknowledgements, worked by hand."""

from covey import wire
from gateway.acks import MAX_RANGES, AckBook, coalesce

BOX = "00000000000000aa"
OTHER = "00000000000000bb"


def _one(seq: int, device: str = "d1", outbox: str = BOX) -> wire.Identity:
    return wire.Identity(device, outbox, seq)


def test_coalesce_joins_what_touches_and_nothing_else() -> None:
    assert coalesce([(5, 6), (1, 1), (2, 3), (8, 8), (3, 3), (6, 7)]) == [(1, 3), (5, 8)]
    assert coalesce([(1, 10), (2, 3)]) == [(1, 10)]
    assert coalesce([]) == []


def test_first_ack_is_due_at_once_and_the_next_after_the_interval() -> None:
    book = AckBook(0.5)
    book.add(_one(1), 10.0)
    assert book.due(10.0) == [("d1", wire.Ack([wire.AckRanges(BOX, [(1, 1)])]), 1)]
    book.add(_one(2), 10.1)
    book.add(_one(3), 10.2)
    assert book.due(10.49) == []
    assert book.due(10.5) == [("d1", wire.Ack([wire.AckRanges(BOX, [(2, 3)])]), 2)]
    assert book.due(99.0) == []


def test_a_quiet_device_is_acknowledged_at_once_again() -> None:
    book = AckBook(0.5)
    book.add(_one(1), 10.0)
    book.due(10.0)
    book.add(_one(2), 20.0)
    assert len(book.due(20.0)) == 1


def test_repeats_and_holes_are_told_exactly() -> None:
    book = AckBook(0.5)
    for seq in (7, 3, 4, 4, 9, 8):
        book.add(_one(seq), 1.0)
    ((_, ack, events),) = book.due(1.0)
    assert ack.acks[0].ranges == [(3, 4), (7, 9)]
    assert events == 5


def test_outboxes_share_a_message_and_devices_do_not() -> None:
    book = AckBook(0.5)
    book.add(_one(1), 1.0)
    book.add(_one(5, outbox=OTHER), 1.0)
    book.add(_one(2, device="d2"), 1.0)
    told = {device: {part.outbox: part.ranges for part in ack.acks} for device, ack, _ in book.due(1.0)}
    assert told == {"d1": {BOX: [(1, 1)], OTHER: [(5, 5)]}, "d2": {BOX: [(2, 2)]}}


def test_ranges_over_the_bound_wait_for_the_next_message_and_each_message_is_valid() -> None:
    book = AckBook(0.5)
    holes = [2 * n for n in range(1, MAX_RANGES + 11)]
    for seq in holes:
        book.add(_one(seq), 1.0)
    ((_, first, _),) = book.due(1.0)
    assert book.due(1.2) == []
    ((_, second, _),) = book.due(1.5)
    seen = [r[0] for ack in (first, second) for r in ack.acks[0].ranges]
    assert seen == holes
    assert wire.decode(wire.Ack, wire.encode(first)) == first
    assert len(book) == 0


def test_everything_is_handed_out_at_a_stop() -> None:
    book = AckBook(60.0)
    for n in range(40):
        book.add(_one(1, outbox=f"{n:016x}"), 1.0)
    book.due(1.0)
    told = [part for _, ack, _ in book.due(1.1, everything=True) for part in ack.acks]
    assert len(told) == 40 - 16
    assert len(book) == 0


def test_ranges_of_the_store_are_merged_and_backward_ones_ignored() -> None:
    book = AckBook(0.5)
    book.add_ack("d1", wire.Ack([wire.AckRanges(BOX, [(1, 4), (9, 8), (5, 6)])]), 1.0)
    ((_, ack, events),) = book.due(1.0)
    assert ack.acks[0].ranges == [(1, 6)]
    assert events == 6
