"""Spans of traced events, told to an OpenTelemetry collector by OTLP over HTTP: from the window on the device to the store.

Off unless the environment names a collector (OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), and then only events that
carry a trace context are told: every alarm, and of summaries the share that devices trace. A span's ids are made before it is told, as they
travel with the message (`child`); it is told when it is over (`record`), so that no hot path holds one open.
The library is an extra (`telemetry`), loaded when tracing is on; a device goes on without it, and says so.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace.id_generator import IdGenerator

_log = logging.getLogger("tracing")

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S = 2.0  # for what is left when a role ends


def child(traceparent: str) -> str:
    """The trace context of a span to be, under the one that `traceparent` names: the same trace, an id of its own."""
    return f"{traceparent[:36]}{secrets.token_hex(8)}{traceparent[52:]}"


def start(role: str) -> Tracing | None:
    """Begin to tell spans as the service `covey-<role>` (OTEL_SERVICE_NAME wins); None when no collector is named."""
    if not any(os.environ.get(name) for name in VARIABLES):
        return None
    try:
        return Tracing(role)
    except ModuleNotFoundError as error:
        _log.warning("no traces are told: %s is not installed: pip install 'covey[telemetry]'", error.name)
        return None


class Tracing:
    """One process's spans on their way to the collector, sent by a thread of the library's own; a full queue drops the newest."""

    def __init__(self, role: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # An outage of the collector is told by the library for every batch: once in its own words is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        name = os.environ.get("OTEL_SERVICE_NAME") or f"covey-{role}"
        self._ids = _Ids()
        self._provider = TracerProvider(
            id_generator=cast("IdGenerator", self._ids),
            resource=Resource.create({"service.name": name}),
            shutdown_on_exit=False,  # it would wait for a collector that is gone
        )
        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("covey")
        _log.info("telling traces to %s", next(os.environ[name] for name in VARIABLES if os.environ.get(name)))

    def record(
        self,
        name: str,
        own: str,
        parent: str,
        start_s: float,
        end_s: float,
        attributes: Mapping[str, str | int | float | bool],
    ) -> None:
        """Tell one span that is over.

        Args:
            name: of what was done.
            own: trace context whose parent id is the span's own, as `child` or the device made it.
            parent: trace context of the span above it; "": it is the root.
            start_s: seconds since the epoch.
            end_s: the same; never before the start.
            attributes: what it was done to.
        """
        from opentelemetry import trace

        self._ids.next = int(own[3:35], 16), int(own[36:52], 16)
        above: Any
        if parent:
            remote = trace.SpanContext(
                int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=trace.TraceFlags(1)
            )
            above = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        else:
            above = trace.set_span_in_context(trace.INVALID_SPAN)
        begun_ns = int(start_s * 1e9)
        span = self._tracer.start_span(name, context=above, start_time=begun_ns, attributes=dict(attributes))
        span.end(end_time=max(begun_ns, int(end_s * 1e9)))

    def close(self) -> None:
        """Send what is left, for two seconds at most: the library itself would try a collector that is gone for half a minute."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(FLUSH_S)
        if sender.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's


class _Ids(threading.local):
    """The library's id generator, which gives out the ids that travel with the message, to each thread its own."""

    next = (0, 0)

    def generate_trace_id(self) -> int:
        return self.next[0]

    def generate_span_id(self) -> int:
        return self.next[1]

    def is_trace_id_random(self) -> bool:
        return True
