"""Dead letters judged again, without a broker: what may go, where to, and what never."""

import json

import pytest

from covey import topics, wire
from gateway.admit import Refused, dead_letter
from gateway.config import GatewayConfig
from gateway.letters import Choice, Judge, Left, Outcome, Send, open_letter
from gateway.mapping import Mapping

BOX = "0123456789abcdef"
T0 = 1_770_000_000.0


def _event(device: str, seq: int = 1, kind: str = "status", detail: str = "") -> bytes:
    return wire.make_event(
        wire.Identity(device, BOX, seq), kind, T0, wire.Status("start", wire.Reported(0, "", "onnx"), detail=detail)
    )


def _record(reason: str, topic: bytes, payload: bytes, device: str = "", detail: str = "") -> bytes:
    return dead_letter(Refused(reason, detail, device, None, ""), topic, payload, T0)


def _judge(
    key: bytes | None,
    value: bytes,
    max_event_bytes: int = 65_536,
    mappings: tuple[Mapping, ...] = (),
    place: tuple[int, int] = (0, 0),
) -> Send | Left:
    config = GatewayConfig(max_event_bytes=max_event_bytes, mappings=mappings)
    return Judge(config).judge(open_letter(*place, key, value, T0))


def test_a_letter_that_todays_limit_lets_through_is_sent_as_the_device_wrote_it() -> None:
    payload = b"  " + _event("d1")[:-1] + b', "later": 1.50, "more": "' + b"x" * 64 + b'" }'
    value = _record("too_large", topics.mqtt_topic("d1", "status").encode(), payload, "d1")
    assert _judge(b"d1", value) == Send("covey.status", b"d1", payload)
    still = _judge(b"d1", value, max_event_bytes=256)
    assert isinstance(still, Left)
    assert (still.outcome, still.reason) == (Outcome.REFUSED, "too_large")


def test_pace_is_no_reason_to_refuse_a_letter_again() -> None:
    judge = Judge(GatewayConfig())
    topic = topics.mqtt_topic("d1", "status").encode()
    letter = open_letter(0, 0, b"d1", _record("too_fast", topic, _event("d1"), "d1"), T0)
    burst = GatewayConfig().rate_burst
    assert all(isinstance(judge.judge(letter), Send) for _ in range(burst + 2))


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
    letter = open_letter(0, 0, None, _record("identity_conflict", b"covey.status", _event("d1")), T0)
    assert (letter.by_store, letter.device, letter.event_id) == (True, "d1", f"d1/{BOX}/1")
    assert Choice().takes(letter)
    assert Choice().waits(letter)
    assert not Choice(reasons=frozenset({"identity_conflict"})).waits(letter)
    assert Judge(GatewayConfig()).judge(letter) == Send("covey.status", b"d1", _event("d1"))


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
    letter = open_letter(0, 0, b"d1", _record("too_large", topics.mqtt_topic("d1", "status").encode(), payload), T0)
    assert (letter.event_id, letter.size_bytes) == (f"d1/{BOX}/42", len(payload))
    verdict = Judge(GatewayConfig()).judge(letter)
    assert isinstance(verdict, Left)
    assert (verdict.outcome, verdict.detail) == (Outcome.TRUNCATED, f"16384 of {len(payload)} bytes were kept")


def test_a_choice_takes_what_all_its_fields_agree_on() -> None:
    topic = topics.mqtt_topic("d1", "status")
    letter = open_letter(0, 0, b"d1", _record("too_large", topic.encode(), _event("d1"), "d1"), T0)
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


TASMOTA = Mapping(filter="tele/+/SENSOR", topic="tasmota.sensors", key="{1}", max_bytes=400)
SPARKPLUG = Mapping(filter="spBv1.0/#", topic="sparkplug", key="{1}", payload="envelope", max_bytes=400)


def test_a_plain_devices_letter_goes_by_todays_mappings_as_the_bytes_it_was() -> None:
    value = _record("bad_topic", b"tele/plug-1/SENSOR", b"\x00\xff 21.5", "")
    assert _judge(b"", value, mappings=(TASMOTA,)) == Send("tasmota.sensors", b"plug-1", b"\x00\xff 21.5")
    still = _judge(b"", value, mappings=(SPARKPLUG,))
    assert isinstance(still, Left)
    assert (still.outcome, still.reason) == (Outcome.REFUSED, "bad_topic")
    large = _judge(b"plug-1", _record("too_large", b"tele/plug-1/SENSOR", b"x" * 401), mappings=(TASMOTA,))
    assert isinstance(large, Left)
    assert (large.outcome, large.reason) == (Outcome.REFUSED, "too_large")


def test_an_envelope_of_a_letter_has_its_time_of_receipt_and_the_same_id_whenever_it_is_sent() -> None:
    value = _record("too_large", b"spBv1.0/plant/DDATA/node", b"\x08\x01", "plant")
    once, again = (_judge(b"plant", value, mappings=(SPARKPLUG,), place=(3, 77)) for _ in range(2))
    other = _judge(b"plant", value, mappings=(SPARKPLUG,), place=(3, 78))
    assert isinstance(once, Send)
    assert isinstance(other, Send)
    assert once == again
    event = json.loads(once.value)
    assert event["id"] == "gateway-replay/1770000000000000377"  # milliseconds of receipt, partition, offset
    assert (event["time"], event["subject"]) == ("2026-02-02T02:40:00.000Z", "spBv1.0/plant/DDATA/node")
    assert event["data_base64"] == "CAE="
    assert json.loads(other.value)["id"] != event["id"]


def test_a_mappings_record_that_kafka_found_too_large_goes_as_it_was_made_and_no_device_can_forge_one() -> None:
    made = _record("too_large", b"tasmota.sensors", b"21.5", "plug-1", "kafka: message size too large")
    assert _judge(b"plug-1", made, mappings=(TASMOTA,)) == Send("tasmota.sensors", b"plug-1", b"21.5")
    gone = _judge(b"plug-1", made)
    assert isinstance(gone, Left)
    assert gone.outcome is Outcome.REFUSED
    # a plain device's MQTT topic that is called as a Kafka topic, and an event of somebody else in it
    plain = Mapping(filter="+", topic="plain", key="d1", max_bytes=400)
    forged = _record("too_large", b"covey.status", _event("d1"), "d1", "at most 10 bytes expected")
    assert _judge(b"d1", forged, mappings=(plain,)) == Send("plain", b"d1", _event("d1"))
