"""The gateway against the examples of docs/protocol.md: what a device may send is accepted, what it gets is as written."""

import json
import re
from pathlib import Path

import pytest

from covey import topics, wire
from gateway.acks import AckBook
from gateway.admit import Accept, Admission, RateLimit, Refused, dead_letter
from gateway.desired import DesiredBook
from gateway.mapping import Mapping, envelope

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLES = {name: text.encode() for name, text in re.findall(r"```json (\w+)\n(.*?)\n```", PAGE, re.DOTALL)}
DEVICE = "drone-07"


def _admission() -> Admission:
    return Admission("gw-1", wire.MAX_EVENT_BYTES, RateLimit(1e6, 1_000), 0)


def _topic(kind: str) -> bytes:
    return topics.mqtt_topic(DEVICE, kind).encode()


@pytest.mark.parametrize("kind", ["summary", "alarm", "status", "presence"])
def test_every_example_of_the_road_up_is_accepted_and_carried_to_its_topic(kind: str) -> None:
    verdict = _admission().admit(_topic(kind), EXAMPLES[kind], 0.0)
    assert isinstance(verdict, Accept)
    row = next(line for line in PAGE.splitlines() if line.startswith("| `covey.summaries`, `covey.alarms`"))
    assert f"`{verdict.topic}`" in row
    if kind != "presence":
        assert verdict.value == EXAMPLES[kind]


def test_a_summary_with_an_impossible_sketch_is_put_aside() -> None:
    event = json.loads(EXAMPLES["summary"])
    event["data"]["score"]["sketch"] = [[0, 0], [3, -1]]
    verdict = _admission().admit(_topic("summary"), json.dumps(event).encode(), 0.0)
    assert isinstance(verdict, Refused)
    assert (verdict.reason, str(verdict.identity)) == ("bad_sketch", event["id"])


def test_the_ack_example_is_what_the_gateway_writes() -> None:
    ack = json.loads(EXAMPLES["ack"])
    book = AckBook(0.5)
    (part,) = ack["acks"]
    for first, last in part["ranges"]:
        for seq in range(first, last + 1):
            book.add(wire.Identity(DEVICE, part["outbox"], seq), 0.0)
    ((device, payload, _),) = book.due(0.5)
    assert (device, json.loads(payload)) == (DEVICE, ack)


def test_the_desired_example_goes_down_as_it_is() -> None:
    book = DesiredBook()
    assert book.put(DEVICE, EXAMPLES["desired"])
    assert book.take() == (DEVICE, EXAMPLES["desired"])


def test_every_reason_of_a_refusal_is_in_the_table_and_the_letter_has_the_fields_of_the_example() -> None:
    refused = _admission().admit(_topic("summary"), b"hello", 1.0)
    assert isinstance(refused, Refused)
    letter = json.loads(dead_letter(refused, _topic("summary"), b"hello", 1.0))
    example = json.loads(EXAMPLES["deadletter"])
    assert set(letter) == set(example)
    assert (letter["reason"], letter["payload"], letter["topic"]) == (
        example["reason"],
        example["payload"],
        example["topic"],
    )
    for reason in ("bad_topic", "topic_mismatch", "too_large", "too_fast", refused.reason):
        assert f"| `{reason}` |" in PAGE


@pytest.mark.parametrize(
    ("example", "topic", "payload", "number", "traceparent"),
    [
        (
            "mqtt",
            "tele/plug/SENSOR",
            b'{"Time":"2026-11-23T08:00:10","ENERGY":{"Total":3.50,"Power":12}}',
            1795420810250001,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("mqtt_bytes", "tele/plug/LWT", b"Online", 1795420810250002, ""),
    ],
)
def test_the_envelope_of_a_plain_message_is_that_of_the_example_byte_for_byte(
    example: str, topic: str, payload: bytes, number: int, traceparent: str
) -> None:
    mapping = Mapping(filter="tele/+/+", topic="tasmota", key="{1}", payload="envelope", headers=True)
    made = envelope(mapping, topic, payload, 1_795_420_810.25, "gw-1", number, traceparent)
    assert made == EXAMPLES[example]
    section = PAGE.split("## Plain MQTT")[1].split("\n## ")[0]
    assert all(f"| `{field}` |" in section for field in json.loads(made))
