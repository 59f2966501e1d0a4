"""Spans told to a collector: ids that travel with the message, one trace, and nothing where no collector is named."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from covey import tracing
from covey.telemetry import is_traceparent, new_trace
from otlp import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

T0 = 1_770_000_000.0


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.endpoint)
        yield one


def started(role: str) -> tracing.Tracing:
    traces = tracing.start(role)
    assert traces is not None
    return traces


def test_a_child_stays_in_its_trace_with_an_id_of_its_own() -> None:
    _, parent = new_trace()
    own = tracing.child(parent)
    assert is_traceparent(own)
    assert own[:36] == parent[:36]
    assert own[36:52] != parent[36:52]
    assert own[52:] == "-01"


def test_spans_arrive_with_the_ids_that_travelled_with_the_message(collector: Collector) -> None:
    trace_id, root = new_trace()
    own = tracing.child(root)
    traces = started("edge")
    traces.record("alarm", root, "", T0, T0 + 1.5, {"covey.device": "d1", "covey.score": 2.5})
    traces.record("gateway", own, root, T0 + 2, T0 + 1, {})  # a clock that went back
    traces.close()
    first, second = sorted(collector.spans(trace_id), key=lambda span: span.name)
    assert (first.service, first.name, first.span_id, first.parent_id) == ("covey-edge", "alarm", root[36:52], "")
    assert (first.start_s, first.end_s) == (T0, T0 + 1.5)
    assert first.attributes == {"covey.device": "d1", "covey.score": 2.5}
    assert (second.span_id, second.parent_id) == (own[36:52], root[36:52])
    assert second.end_s == second.start_s == T0 + 2


def test_two_threads_do_not_mix_their_ids(collector: Collector) -> None:
    traces = started("cloud")
    roots = [new_trace()[1] for _ in range(200)]

    def tell(part: list[str]) -> None:
        for root in part:
            traces.record("one", root, "", T0, T0, {"own": root})

    threads = [threading.Thread(target=tell, args=(roots[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    traces.close()
    told = {span.attributes["own"]: f"00-{span.trace_id}-{span.span_id}-01" for span in collector.spans()}
    assert told == {root: root for root in roots}


def test_without_a_collector_nothing_is_loaded() -> None:
    code = "import sys; from covey import tracing; print(tracing.start('edge'), 'opentelemetry' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}, timeout=60)
    assert told.stdout.split() == ["None", "False"]


def test_a_missing_library_is_told_and_ends_nothing(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    assert tracing.start("edge") is None
    assert "pip install 'covey[telemetry]'" in caplog.text


def test_a_collector_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as gone:
        endpoint = gone.endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    traces = started("edge")
    for _ in range(5_000):  # more than its queue holds
        traces.record("one", new_trace()[1], "", T0, T0, {})
    closer = threading.Thread(target=traces.close, daemon=True)
    closer.start()
    closer.join(60.0)
    assert not closer.is_alive()
