"""The health port of `covey cloud run`: /healthz (its stages run), /readyz (each reads), /metrics. Changes nothing."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry


@contextmanager
def serve(host: str, port: int, registry: CollectorRegistry, state: Callable[[], dict[str, str]]) -> Iterator[None]:
    """Serve until the block ends; port 0 serves nothing.

    Args:
        host: to listen on.
        port: to listen on.
        registry: what /metrics shows.
        state: part -> `reading`, `waiting` or `ended`.

    Raises:
        UsageError: the port is taken.
    """
    if port == 0:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a silent client must not hold a thread

        def do_GET(self) -> None:
            parts = state()
            if self.path == "/healthz":
                self._answer(503 if "ended" in parts.values() else 200, "application/json", json.dumps(parts).encode())
            elif self.path == "/readyz":
                ready = set(parts.values()) <= {"reading"}
                self._answer(200 if ready else 503, "application/json", json.dumps({"ready": ready}).encode())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            else:
                self._answer(404, "text/plain", b"one of /healthz, /readyz, /metrics expected\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """A scrape every few seconds is no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UsageError(f"health port {host}:{port}: {error.strerror or error}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2.0)
