"""What a device tells of its alarms' traces: window, score, and the way to the cloud's acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from covey import tracing, wire
from covey.telemetry import new_trace
from edge import spans
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_770_000_000.0


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.endpoint)
        yield one


def alarm(state: str, start_s: float) -> wire.Alarm:
    return wire.Alarm(
        "a1", state, wire.WindowRef(start_s, start_s + 1, "cd" * 32), 3, 1, "ab" * 32, "", "litert", 3.0, 3.5, 2.0,
        0.99, "motor.m1", [], "1" * 32,
    )  # fmt: skip


def test_an_alarm_is_the_root_and_window_score_and_end_hang_below_it(collector: Collector) -> None:
    traces = tracing.start("edge")
    assert traces is not None
    trace_id, root = new_trace()
    spans.tell_alarm(traces, "d1", alarm("begin", NOW - 1.25), root, NOW)
    spans.tell_alarm(traces, "d1", alarm("end", NOW + 8), root, NOW + 10)
    traces.close()
    told = {span.name: span for span in collector.spans(trace_id)}
    assert sorted(told) == ["alarm", "alarm end", "score", "window"]
    assert (told["alarm"].span_id, told["alarm"].parent_id) == (root[36:52], "")
    assert {told[name].parent_id for name in ("alarm end", "score", "window")} == {root[36:52]}
    assert (told["window"].start_s, told["window"].end_s) == pytest.approx((NOW - 1.25, NOW - 0.25), abs=1e-6, rel=0)
    assert (told["score"].start_s, told["score"].end_s) == pytest.approx((NOW - 0.25, NOW), abs=1e-6, rel=0)
    assert told["alarm"].attributes["covey.alarm_id"] == "a1"


def test_a_recordings_clock_is_told_as_now(collector: Collector) -> None:
    traces = tracing.start("edge")
    assert traces is not None
    trace_id, root = new_trace()
    spans.tell_alarm(traces, "d1", alarm("begin", 5.0), root, NOW)
    traces.close()
    window = next(span for span in collector.spans(trace_id) if span.name == "window")
    assert (window.start_s, window.end_s) == pytest.approx((NOW - 1.0, NOW), abs=1e-6, rel=0)


def test_uplink_lasts_from_the_first_sending_to_the_acknowledgement(collector: Collector) -> None:
    traces = tracing.start("edge")
    assert traces is not None
    trace_id, root = new_trace()
    body = wire.make_event(wire.Identity("d1", "0" * 16, 1), "alarm", NOW, alarm("begin", NOW), root)
    plain = wire.make_event(wire.Identity("d1", "0" * 16, 2), "alarm", NOW, alarm("begin", NOW))
    sent = spans.Sent(traces)
    sent.sent(5, body, NOW)
    sent.sent(6, plain, NOW)
    sent.sent(5, body, NOW + 3)  # again
    sent.acknowledged([(1, 4)], NOW + 4)
    sent.acknowledged([(5, 6)], NOW + 7)
    sent.acknowledged([(5, 6)], NOW + 9)  # a repeated ack
    traces.close()
    (told,) = collector.spans()
    assert (told.name, told.trace_id, told.parent_id) == ("uplink", trace_id, root[36:52])
    assert (told.start_s, told.end_s) == pytest.approx((NOW, NOW + 7), abs=1e-6, rel=0)
