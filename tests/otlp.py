"""A collector of traces for the tests: takes OTLP over HTTP (protobuf) on loopback and keeps what came."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Span(NamedTuple):
    """One span as it came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str  # "" of a root
    start_s: float
    end_s: float
    attributes: dict[str, Any]


class Collector:
    """Runs in `with`; `endpoint` goes into OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if len(body) < int(self.headers["Content-Length"]):  # who sent it was killed meanwhile
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                collector._spans += _spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def spans(self, trace_id: str | None = None) -> list[Span]:
        """What has come, of one trace or of all."""
        return [span for span in list(self._spans) if trace_id in (None, span.trace_id)]

    def names(self, trace_id: str | None = None) -> list[str]:
        """Names of spans, sorted."""
        return sorted(span.name for span in self.spans(trace_id))


def _spans(request: Any) -> list[Span]:
    found = []
    for resource in request.resource_spans:
        service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                times = (span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9)
                found.append(Span(service, span.name, *ids, *times, attributes))
    return found
