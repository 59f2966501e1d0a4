"""The health port: /healthz (alive, and all counts), /readyz, /metrics. Reads a snapshot; changes nothing."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

from covey import exposition
from covey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class View(NamedTuple):
    """What the health port shows at one moment."""

    alive: bool  # the loop turns
    ready: bool  # subscribed, and Kafka takes what comes
    status: dict[str, object]
    metrics: Callable[[], str]  # Prometheus text, made when asked for


@contextmanager
def serve(host: str, port: int, view: Callable[[], View]) -> Iterator[None]:
    """Serve until the block ends; port 0 serves nothing.

    Raises:
        LinkError: the port is taken.
    """
    if port == 0:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a silent client must not hold a thread

        def do_GET(self) -> None:
            seen = view()
            if self.path == "/healthz":
                self._answer(200 if seen.alive else 503, "application/json", json.dumps(seen.status))
            elif self.path == "/readyz":
                self._answer(200 if seen.ready else 503, "application/json", json.dumps({"ready": seen.ready}))
            elif self.path == "/metrics":
                self._answer(200, exposition.CONTENT_TYPE, seen.metrics())
            else:
                self._answer(404, "text/plain", "one of /healthz, /readyz, /metrics expected\n")

        def _answer(self, code: int, kind: str, text: str) -> None:
            body = text.encode()
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
        raise LinkError(f"health port {host}:{port}: {error.strerror or error}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2.0)
