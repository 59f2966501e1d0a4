"""Dead letters judged again, without a broker: what may go, where to, and what never."""

import pytest

from covey import topics, wire
from gateway.admit import Refused, dead_letter
from gateway.letters import Choice, Judge, Left, Outcome, Send, filter_problem, matches, open_letter

BOX = "0123456789abcdef"
T0 = 1_770_000_000.0


def _event(device: str, seq: int = 1, kind: str = "status", detail: str = "") -> bytes:
    return wire.make_event(
        wire.Identity(device, BOX, seq), kind, T0, wire.Status("start", wire.Reported(0, "", "onnx"), detail=detail)
    )


def _record(reason: str, topic: bytes, payload: bytes, device: str = "", detail: str = "") -> bytes:
    return dead_letter(Refused(reason, detail, device, None, ""), topic, payload, T0)


def _judge(key: bytes | None, value: bytes, max_event_bytes: int = 65_536) -> Send | Left:
    return Judge(max_event_bytes).judge(open_letter(key, value, T0))


def test_a_letter_that_todays_limit_lets_through_is_sent_as_the_device_wrote_it() -> None:
    payload = b"  " + _event("d1")[:-1] + b', "later": 1.50 }'
    value = _record("too_large", topics.mqtt_topic("d1", "status").encode(), payload, "d1")
    assert _judge(b"d1", value) == Send("covey.status", b"d1", payload)
    still = _judge(b"d1", value, max_event_bytes=256)
    assert isinstance(still, Left)
    assert (still.outcome, still.reason) == (Outcome.REFUSED, "too_large")


def test_pace_is_no_reason_to_refuse_a_letter_again() -> None:
    judge = Judge(65_536)
    topic = topics.mqtt_topic("d1", "status").encode()
    for seq in range(1, 30_000):
        letter = open_letter(b"d1", _record("too_fast", topic, _event("d1", seq), "d1"), T0)
        assert isinstance(judge.judge(letter), Send), seq


@pytest.mark.parametrize("reason", ["source_mismatch", "topic_mismatch"])
def test_a_forged_sender_stays_refused(reason: str) -> None:
    value = _record(reason, topics.mqtt_topic("evil", "status").encode(), _event("victim"), "evil")
    verdict = _judge(b"evil", value)
    assert isinstance(verdict, Left)
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "topic_mismatch")


def test_what_kafka_found_too_large_goes_to_the_device_of_its_key_only() -> None:
    value = _record("too_large", b"covey.status", _event("d1"), "d1", "kafka: too large")
    assert _judge(b"d1", value) == Send("covey.status", b"d1", _event("d1"))
    for key in (b"d2", b""):  # an empty key is a gateway's that knew no device, not a store's
        other = _judge(key, value)
        assert isinstance(other, Left)
        assert other.outcome is Outcome.REFUSED


def test_what_the_store_refused_waits_until_its_reason_is_named_and_then_goes_to_its_device() -> None:
    letter = open_letter(None, _record("identity_conflict", b"covey.status", _event("d1")), T0)
    assert (letter.by_store, letter.device, letter.event_id) == (True, "d1", f"d1/{BOX}/1")
    assert Choice().takes(letter)
    assert Choice().waits(letter)
    assert not Choice(reasons=frozenset({"identity_conflict"})).waits(letter)
    assert Judge(65_536).judge(letter) == Send("covey.status", b"d1", _event("d1"))


def test_a_store_letter_whose_key_named_another_device_is_never_sent_on_the_events_word() -> None:
    verdict = _judge(None, _record("source_mismatch", b"covey.status", _event("victim")))
    assert isinstance(verdict, Left)
    assert verdict.outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("value", "outcome", "now"),
    [
        (b"\xff\x00garbage", Outcome.UNSENDABLE, "unreadable"),
        (b"", Outcome.UNSENDABLE, "unreadable"),
        (b"[" * 100_000, Outcome.UNSENDABLE, "unreadable"),
        (b'{"reason":"not_json"}', Outcome.UNSENDABLE, "unreadable"),
        (_record("bad_topic", b"covey/v1/\xff/d1/status", _event("d1")), Outcome.UNSENDABLE, "bad_topic"),
        (_record("bad_topic", b"a" * 2_000, _event("d1")), Outcome.UNSENDABLE, "bad_topic"),
        (_record("bad_topic", b"covey/v1/00/d1", _event("d1")), Outcome.REFUSED, "bad_topic"),
        (_record("not_json", topics.mqtt_topic("d1", "status").encode(), b"hello"), Outcome.REFUSED, "not_json"),
        (
            _record("too_fast", topics.mqtt_topic("d1", "presence").encode(), b'{"online":true}'),
            Outcome.UNSENDABLE,
            "presence",
        ),
    ],
)
def test_what_cannot_be_sent_is_left_with_its_reason_and_raises_nothing(value: bytes, outcome: str, now: str) -> None:
    verdict = _judge(b"", value)
    assert isinstance(verdict, Left)
    assert (verdict.outcome, verdict.reason) == (outcome, now)


def test_a_cut_payload_is_told_by_the_name_of_its_event() -> None:
    payload = _event("d1", 42, detail="x" * 256) + b" " * 20_000
    letter = open_letter(b"d1", _record("too_large", topics.mqtt_topic("d1", "status").encode(), payload), T0)
    assert (letter.event_id, letter.size_bytes) == (f"d1/{BOX}/42", len(payload))
    verdict = Judge(65_536).judge(letter)
    assert isinstance(verdict, Left)
    assert (verdict.outcome, verdict.detail) == (Outcome.TRUNCATED, f"16384 of {len(payload)} bytes were kept")


def test_a_choice_takes_what_all_its_fields_agree_on() -> None:
    topic = topics.mqtt_topic("d1", "status")
    letter = open_letter(b"d1", _record("too_large", topic.encode(), _event("d1"), "d1"), T0)
    taking = [
        Choice(),
        Choice(frozenset({"too_large", "not_json"}), frozenset({"d1"}), "covey/v1/+/d1/#", T0, T0),
        Choice(until_s=T0),
    ]
    leaving = [
        Choice(reasons=frozenset({"not_json"})),
        Choice(devices=frozenset({"d2"})),
        Choice(topic="covey/v1/+/+/alarm"),
        Choice(since_s=T0 + 0.001),
        Choice(until_s=T0 - 0.001),
    ]
    assert [choice.takes(letter) for choice in taking] == [True] * 3
    assert [choice.takes(letter) for choice in leaving] == [False] * 5


@pytest.mark.parametrize(  # MQTT 5.0, sections 4.7.1.2 and 4.7.1.3: the standard's own examples
    ("pattern", "topic", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "sport", True),
        ("sport/tennis", "sport/tennis/", False),
    ],
)
def test_filters_match_as_the_standard_says(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@pytest.mark.parametrize("pattern", ["sport/tennis#", "sport/#/ranking", "sport+", "a/b+/c"])
def test_filters_that_the_standard_forbids_are_named(pattern: str) -> None:
    assert filter_problem(pattern)
    assert filter_problem("sport/+/#") == ""
