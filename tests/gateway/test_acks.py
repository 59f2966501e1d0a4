"""Ranges and intervals of acknowledgements, worked by hand."""

from covey import wire
from gateway.acks import MAX_RANGES, AckBook, coalesce

BOX = "00000000000000aa"
OTHER = "00000000000000bb"


def _one(seq: int, device: str = "d1", outbox: str = BOX) -> wire.Identity:
    return wire.Identity(device, outbox, seq)


def _due(book: AckBook, now_s: float, *, everything: bool = False) -> list[tuple[str, wire.Ack, int]]:
    return [
        (one.device, wire.decode(wire.Ack, one.payload), one.events) for one in book.due(now_s, everything=everything)
    ]


def test_coalesce_joins_what_touches_and_nothing_else() -> None:
    assert coalesce([(5, 6), (1, 1), (2, 3), (8, 8), (3, 3), (6, 7)]) == [(1, 3), (5, 8)]
    assert coalesce([(1, 10), (2, 3)]) == [(1, 10)]
    assert coalesce([]) == []


def test_an_ack_gathers_for_one_interval_from_its_first_event() -> None:
    book = AckBook(0.5)
    book.add(_one(1), 10.0)
    book.add(_one(2), 10.1)
    book.add(_one(3), 10.49)
    assert _due(book, 10.49) == []
    assert _due(book, 10.5) == [("d1", wire.Ack([wire.AckRanges(BOX, [(1, 3)])]), 3)]
    book.add(_one(4), 10.5)
    assert _due(book, 10.99) == []
    assert _due(book, 11.0) == [("d1", wire.Ack([wire.AckRanges(BOX, [(4, 4)])]), 1)]
    assert _due(book, 99.0) == []


def test_devices_are_acknowledged_in_the_order_of_their_first_events() -> None:
    book = AckBook(0.5)
    for n in range(5):
        book.add(_one(1, device=f"d{n}"), 1.0 + n)
    assert [device for device, _, _ in _due(book, 3.5)] == ["d0", "d1", "d2"]
    assert [device for device, _, _ in _due(book, 99.0)] == ["d3", "d4"]


def test_repeats_and_holes_are_told_exactly() -> None:
    book = AckBook(0.5)
    for seq in (7, 3, 4, 4, 9, 8):
        book.add(_one(seq), 1.0)
    ((_, ack, events),) = _due(book, 1.5)
    assert ack.acks[0].ranges == [(3, 4), (7, 9)]
    assert events == 5


def test_outboxes_share_a_message_and_devices_do_not() -> None:
    book = AckBook(0.5)
    book.add(_one(1), 1.0)
    book.add(_one(5, outbox=OTHER), 1.0)
    book.add(_one(2, device="d2"), 1.0)
    told = {device: {part.outbox: part.ranges for part in ack.acks} for device, ack, _ in _due(book, 1.5)}
    assert told == {"d1": {BOX: [(1, 1)], OTHER: [(5, 5)]}, "d2": {BOX: [(2, 2)]}}


def test_ranges_over_the_bound_wait_for_the_next_message_and_each_message_is_valid() -> None:
    book = AckBook(0.5)
    holes = [2 * n for n in range(1, MAX_RANGES + 11)]
    for seq in holes:
        book.add(_one(seq), 1.0)
    ((_, first, _),) = _due(book, 1.5)
    assert _due(book, 1.7) == []
    ((_, second, _),) = _due(book, 2.0)
    seen = [r[0] for ack in (first, second) for r in ack.acks[0].ranges]
    assert seen == holes
    assert wire.decode(wire.Ack, wire.encode(first)) == first
    assert len(book) == 0


def test_everything_is_handed_out_at_a_stop() -> None:
    book = AckBook(60.0)
    for n in range(40):
        book.add(_one(1, outbox=f"{n:016x}"), 1.0)
    _due(book, 61.0)
    told = [part for _, ack, _ in _due(book, 61.1, everything=True) for part in ack.acks]
    assert len(told) == 40 - 16
    assert len(book) == 0


def test_ranges_of_the_store_are_merged_and_backward_ones_ignored() -> None:
    book = AckBook(0.5)
    book.add_ack("d1", wire.Ack([wire.AckRanges(BOX, [(1, 4), (9, 8), (5, 6)])]), 1.0)
    ((_, ack, events),) = _due(book, 1.5)
    assert ack.acks[0].ranges == [(1, 6)]
    assert events == 6
