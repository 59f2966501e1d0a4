"""docs/protocol.md is the contract: its examples decode, and encode to the same values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from covey import wire, wire_alarms
from covey.bundle import Calibration
from covey.errors import WireError
from covey.sketch import Sketch

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```json (\w+)\n(.*?)\n```", PAGE, re.DOTALL))
EVENTS = {"summary": wire.Summary, "alarm": wire.Alarm, "status": wire.Status}
MESSAGES = {
    "presence": wire.Presence,
    "ack": wire.Ack,
    "desired": wire.Desired,
    "command": wire.Command,
    "learn_command": wire.Command,
    "gateway": wire.GatewayPresence,
    "deadletter": wire.DeadLetter,
    "learning": wire.Learning,
    "feedback": wire_alarms.Feedback,
    "calibration": Calibration,
}
PLAIN = {"mqtt", "mqtt_bytes"}  # made by the gateway: test_gateway_protocol.py


def test_every_example_of_the_page_is_checked_here():
    assert set(EXAMPLES) == set(EVENTS) | set(MESSAGES) | {"sketch", "round_event", "enriched", "routed"} | PLAIN


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_example_decodes_to_its_struct_and_keeps_every_field(kind):
    payload = EXAMPLES[kind].encode()
    event, identity = wire.decode_event(payload)
    data = wire.decode_data(event)
    assert type(data) is EVENTS[kind]
    assert identity.device == "drone-07"
    written = json.loads(wire.make_event(identity, kind, 0.0, data, event.traceparent))
    promised = json.loads(payload)
    assert written["data"].keys() >= promised["data"].keys()
    for field, value in promised["data"].items():
        if isinstance(value, dict) and isinstance(written["data"][field], dict):
            assert {k: written["data"][field][k] for k in value} == value
        else:
            assert written["data"][field] == value, field


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_example_survives_decoding_and_encoding(kind):
    message = wire.decode(MESSAGES[kind], EXAMPLES[kind].encode())
    assert json.loads(wire.encode(message)) == json.loads(EXAMPLES[kind])


def test_a_round_event_example_survives_decoding_and_encoding():
    data = wire.decode_round_event(EXAMPLES["round_event"].encode())
    assert (data.run, data.seq, data.kind, data.round) == ("0123456789abcdef", 9, "round", 2)
    assert json.loads(wire.make_round_event(data)) == json.loads(EXAMPLES["round_event"])


def test_an_enriched_and_a_routed_example_survive_decoding_and_encoding():
    identity, enriched, trace = wire_alarms.decode_enriched(EXAMPLES["enriched"].encode())
    assert str(identity) == "drone-07/00c0ffee00c0ffee/41"
    assert json.loads(wire_alarms.make_enriched(identity, enriched, trace)) == json.loads(EXAMPLES["enriched"])
    identity, routed, trace = wire_alarms.decode_routed(EXAMPLES["routed"].encode())
    assert json.loads(wire_alarms.make_routed(identity, routed, trace)) == json.loads(EXAMPLES["routed"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(id="0123456789abcdef/8"), "bad_identity"),
        (lambda e: e.update(source="/covey/learning/ffffffffffffffff"), "bad_identity"),
        (lambda e: e.update(type="covey.alarm.v1"), "unknown_type"),
        (lambda e: e["data"].update(kind="paused"), "bad_schema"),
        (lambda e: e["data"].update(run="0123456789ABCDEF"), "bad_schema"),
    ],
)
def test_a_round_event_that_breaks_the_page_is_refused(change, reason):
    event = json.loads(EXAMPLES["round_event"])
    change(event)
    with pytest.raises(WireError) as told:
        wire.decode_round_event(json.dumps(event).encode())
    assert told.value.reason == reason


def test_the_sketch_example_has_the_quantiles_worked_by_hand():
    sketch = Sketch.from_wire(json.loads(EXAMPLES["sketch"]))
    # six values: 0 0 0, one in bin 0, two in bin 35; gamma = 1.01/0.99
    assert sketch.count == 6
    assert sketch.quantile(0.4) == 0.0
    assert sketch.quantile(0.6) == pytest.approx(2 / (1.01 / 0.99 + 1))  # 0.99
    assert sketch.quantile(1.0) == pytest.approx(2 * (1.01 / 0.99) ** 35 / (1.01 / 0.99 + 1))


def test_every_field_of_every_message_is_on_the_page():
    for kind in (
        *EVENTS.values(),
        *MESSAGES.values(),
        wire.RoundEvent,
        wire.Reported,
        wire.Health,
        wire.Drift,
        wire.Scores,
        wire_alarms.Enriched,
        wire_alarms.Context,
        wire_alarms.ModelOpinion,
        wire_alarms.Routed,
    ):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"[`.\"]{field.encode_name}[`\"]|`{field.encode_name} ", PAGE), (
                f"{kind.__name__}.{field.name}"
            )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(specversion="0.3"), "bad_schema"),
        (lambda e: e.update(id="drone-07/xyz/1"), "bad_identity"),
        (lambda e: e.update(id="drone-07/00c0ffee00c0ffee/0"), "bad_identity"),
        (lambda e: e.update(id="drone-07/00c0ffee00c0ffee/42\n"), "bad_identity"),
        (lambda e: e.update(id="drone-07/00c0ffee00c0ffee/9007199254740992"), "bad_identity"),
        (lambda e: e.update(source="/covey/drone-08"), "source_mismatch"),
        (lambda e: e.update(traceparent="00-1-2-3"), "bad_schema"),
        (lambda e: e.pop("data"), "bad_schema"),
        (lambda e: e["data"].update(junk="x" * 70_000), "too_large"),
    ],
)
def test_a_broken_envelope_is_refused_with_its_dead_letter_reason(change, reason):
    event = json.loads(EXAMPLES["summary"])
    change(event)
    with pytest.raises(WireError) as caught:
        wire.decode_event(json.dumps(event).encode())
    assert caught.value.reason == reason
    assert f"`{reason}`" in PAGE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(type="covey.other.v1"), "unknown_type"),
        (lambda e: e["data"].pop("windows"), "bad_schema"),
        (lambda e: e["data"].update(windows=-1), "bad_schema"),
        (lambda e: e["data"].update(windows="many"), "bad_schema"),
        (lambda e: e["data"]["score"].update(p50=-0.1), "bad_schema"),
        (lambda e: e["data"]["reported"].update(state="flying"), "bad_schema"),
    ],
)
def test_broken_data_is_refused_with_its_dead_letter_reason(change, reason):
    event = json.loads(EXAMPLES["summary"])
    change(event)
    decoded, _ = wire.decode_event(json.dumps(event).encode())
    with pytest.raises(WireError) as caught:
        wire.decode_data(decoded)
    assert caught.value.reason == reason


@pytest.mark.parametrize("payload", [b"", b"hello", b"\xff\xfe", b"[1,2", b"[" * 100_000, b"null", b"{}"])
def test_what_is_no_event_is_refused_without_a_traceback(payload):
    with pytest.raises(WireError) as caught:
        wire.decode_event(payload)
    assert caught.value.reason in {"not_json", "bad_schema", "too_large"}


def test_a_field_of_a_newer_device_is_ignored():
    event = json.loads(EXAMPLES["status"])
    event["data"]["new_field"] = [1, 2, 3]
    event["extension"] = "x"
    decoded, _ = wire.decode_event(json.dumps(event).encode())
    assert wire.decode_data(decoded).kind == "start"
