"""What is accepted, and the reason of each refusal."""

import base64
import json

import pytest

from covey import topics, wire
from gateway.admit import Accept, Admission, RateLimit, Refused, dead_letter

NOW = 1_700_000_000.0
ME = wire.Identity("drone-1", "0123456789abcdef", 7)
STATUS = wire.Status("start", wire.Reported(0, "", "onnx"))


def _admission(rate_s: float = 1e9, burst: int = 1_000_000, most: int = wire.MAX_EVENT_BYTES) -> Admission:
    return Admission("north", most, RateLimit(rate_s, burst), first_presence=100)


def _topic(kind: str = "status", device: str = "drone-1") -> bytes:
    return topics.mqtt_topic(device, kind).encode()


def _event(**changes: object) -> bytes:
    body = json.loads(wire.make_event(ME, "status", NOW, STATUS))
    body.update(changes)
    return json.dumps(body).encode()


def _refused(topic: bytes, payload: bytes, admission: Admission | None = None) -> Refused:
    verdict = (admission or _admission()).admit(topic, payload, NOW)
    assert isinstance(verdict, Refused)
    return verdict


def test_an_event_goes_on_byte_for_byte_under_its_device() -> None:
    payload = _event(extra="of a newer device")
    assert _admission().admit(_topic(), payload, NOW) == Accept("covey.status", "drone-1", payload, ME, "status")


@pytest.mark.parametrize(
    ("payload", "reason", "known"),
    [
        (b"{nope", "not_json", False),
        (b"\xff\xfe", "not_json", False),
        (b'{"x":' + b"[" * 30_000, "not_json", False),
        (b"{}", "bad_schema", False),
        (_event(id="drone-1/xyz/1"), "bad_identity", False),
        (_event(source="/covey/drone-2"), "source_mismatch", True),
        (_event(type="covey.other.v1"), "unknown_type", True),
        (_event(data={"kind": "start"}), "bad_schema", True),
        (_event(specversion="2.0"), "bad_schema", True),
        (_event(type="covey.alarm.v1"), "topic_mismatch", True),
        (_event(id="drone-2/0123456789abcdef/7", source="/covey/drone-2"), "topic_mismatch", False),
        (b" " * wire.MAX_EVENT_BYTES + _event(), "too_large", True),
    ],
)
def test_bad_events_are_refused_with_their_reason_and_their_own_identity(
    payload: bytes, reason: str, known: bool
) -> None:
    refused = _refused(_topic(), payload)
    assert (refused.reason, refused.device) == (reason, "drone-1")
    assert refused.identity == (ME if known else None)


@pytest.mark.parametrize(
    "topic",
    [
        b"covey/v1/00/drone-1/status",  # not its shard
        b"covey/v1/c2/drone-1/telemetry",
        b"covey/v1/c2/\xff\xfe/status",
        b"covey/v1/c2/-bad/status",
        _topic("ack"),
    ],
)
def test_bad_topics_are_refused_without_an_identity(topic: bytes) -> None:
    refused = _refused(topic, _event())
    assert refused.reason == "bad_topic"
    assert refused.identity is None


def test_a_device_over_its_rate_is_refused_and_the_others_are_not() -> None:
    admission = _admission(rate_s=1.0, burst=2)
    assert isinstance(admission.admit(_topic(), _event(), NOW), Accept)
    assert isinstance(admission.admit(_topic(), _event(), NOW), Accept)
    refused = _refused(_topic(), _event(), admission)
    assert (refused.reason, refused.identity) == ("too_fast", ME)
    other = wire.make_event(wire.Identity("drone-2", ME.outbox, 1), "status", NOW, STATUS)
    assert isinstance(admission.admit(_topic(device="drone-2"), other, NOW), Accept)
    assert isinstance(admission.admit(_topic(), _event(), NOW + 1.0), Accept)


def test_a_clock_that_goes_back_gives_nothing_and_forgetting_full_buckets_changes_nothing() -> None:
    rate = RateLimit(1.0, 1)
    assert rate.allow("d", 100.0)
    assert not rate.allow("d", 50.0)
    for n in range(10_000):
        rate.allow(f"other-{n}", 50.5)
    assert not rate.allow("d", 50.9)
    assert rate.allow("d", 51.0)


def test_presence_becomes_an_event_outside_the_sequence_with_ids_of_its_own() -> None:
    admission = _admission()
    payload = wire.encode(wire.Presence(online=False, session="00000000000000ff"))
    ids = set()
    for _ in range(2):
        verdict = admission.admit(_topic("presence"), payload, NOW)
        assert isinstance(verdict, Accept)
        assert (verdict.topic, verdict.key, verdict.identity) == ("covey.status", "drone-1", None)
        event = json.loads(verdict.value)
        ids.add(event["id"])
        assert event["type"] == "covey.presence.v1"
        assert event["time"] == "2023-11-14T22:13:20.000Z"
        assert event["data"] == {"online": False, "session": "00000000000000ff", "gateway": "north"}
    assert ids == {"drone-1/presence/north/101", "drone-1/presence/north/102"}


def test_presence_that_is_none_is_refused() -> None:
    assert _refused(_topic("presence"), b"").reason == "not_json"
    assert _refused(_topic("presence"), b'{"online":true}').reason == "bad_schema"


def test_a_dead_letter_keeps_reason_topic_and_bounded_bytes() -> None:
    payload = bytes(range(256)) * 100
    letter = json.loads(dead_letter(Refused("not_json", "x" * 5_000, "d", None, "status"), b"a/\xff", payload, NOW))
    assert letter["reason"] == "not_json"
    assert letter["topic"] == "a/\ufffd"
    assert (letter["size_bytes"], letter["truncated"], letter["received_s"]) == (25_600, True, NOW)
    assert base64.b64decode(letter["payload"]) == payload[:16_384]
    wire.decode(wire.DeadLetter, json.dumps(letter).encode())
