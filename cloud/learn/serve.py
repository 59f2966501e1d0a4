"""Serves the release repository over HTTP(S): whole files and byte ranges, to any device, read-only.

No listing, no path outside the folder, no more than a set number of connections at a time. What is served is signed;
TLS hides only who fetches what.
"""

from __future__ import annotations

import email.utils
import logging
import os
import re
import ssl
import threading
from contextlib import ExitStack
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from covey.errors import ConfigError, LinkError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud.serve")

IDLE_S = 15.0  # a silent connection gives its thread back
CHUNK_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


class Span(NamedTuple):
    """Bytes of a file to send: first and one past the last."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> Span | None:
    """The one byte range asked for, cut to the file; None: the whole file (RFC 9110, 14.1.2).

    Several ranges, other units and malformed headers are ignored, as the RFC allows.

    Raises:
        ValueError: the range lies outside the file (416).
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size or start >= stop:
        msg = f"a range within {size} bytes expected, {header} received"
        raise ValueError(msg)
    return Span(start, stop)


def find(root: Path, target: str) -> Path | None:
    """The regular file that a request target names below `root`; None for anything else."""
    path = unquote(urlsplit(target).path)
    parts = path.split("/")[1:]
    if (
        not path.startswith("/")
        or any(part in ("", ".", "..") or part.startswith(".") for part in parts)
        or "\0" in path
    ):
        return None
    try:
        found = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return found if found.is_file() and found.is_relative_to(root.resolve()) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "covey"
    sys_version = ""
    timeout = IDLE_S
    server: Server

    def setup(self) -> None:
        """Shake hands on this connection's own thread, so that a slow peer delays nobody."""
        self.request.settimeout(IDLE_S)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        """Send a file, or a part of it."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """What GET would say, without the file."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = find(self.server.root, self.path)
        if path is None:
            self._say(HTTPStatus.NOT_FOUND, {})
            return
        try:
            file = path.open("rb")
        except OSError:
            self._say(HTTPStatus.NOT_FOUND, {})
            return
        with file:
            self._send(file, path, body=body)

    def _send(self, file: BinaryIO, path: Path, *, body: bool) -> None:
        stat = os.fstat(file.fileno())  # of the open file: another may have its name by now
        etag = f'"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Last-Modified": email.utils.formatdate(stat.st_mtime, usegmt=True),
            "Cache-Control": "no-cache",
        }
        if self.headers.get("If-None-Match") == etag:
            self._say(HTTPStatus.NOT_MODIFIED, headers, length=None)
            return
        wanted = self.headers.get("Range")
        if self.headers.get("If-Range") not in (None, etag):
            wanted = None  # another version than the one it holds a part of: all of it
        try:
            span = parse_range(wanted, stat.st_size)
        except ValueError:
            self._say(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{stat.st_size}"})
            return
        status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
        if span is None:
            span = Span(0, stat.st_size)
        else:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{stat.st_size}"
        headers["Content-Type"] = "application/json" if path.suffix == ".json" else "application/octet-stream"
        self._say(status, headers, length=span.stop - span.start)
        if not body:
            return
        file.seek(span.start)
        left = span.stop - span.start
        while left:
            chunk = file.read(min(left, CHUNK_BYTES))
            if not chunk:
                self.close_connection = True  # shorter than promised: only a closed connection can say so
                return
            self.wfile.write(chunk)
            left -= len(chunk)

    def _say(self, status: HTTPStatus, headers: dict[str, str], length: int | None = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's signature
        """To the log, at debug: a fleet asks often."""
        _log.debug("%s " + format, self.client_address[0], *args)


class Server(ThreadingHTTPServer):
    """A bounded number of threads; connections past it are closed at once, and devices try again."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, root: Path, threads: int, tls: ssl.SSLContext | None = None) -> None:
        self.root = root
        self._tls = tls
        self._room = threading.BoundedSemaphore(threads)
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        """The next connection; TLS shakes hands later, on its thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Start a thread when there is room."""
        if not self._room.acquire(blocking=False):
            _log.warning("%s: closed, all threads are busy", client_address)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """One connection's life."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # the library's signature
        """Peers that go away or fail the handshake are ordinary."""
        _log.debug("%s: connection ended", client_address, exc_info=True)


def run(config: CloudConfig, stop: threading.Event, ready: Callable[[int], None] | None = None) -> None:
    """Serve `<repository_dir>/repository` until `stop`; `ready` is told the port.

    A repository that is not there yet is served when it appears.

    Raises:
        ConfigError: certificate or key cannot be loaded.
        LinkError: the address cannot be listened on.
    """
    root = Path(config.repository_dir) / "repository"
    where = f"{config.serve_host}:{config.serve_port}"
    tls = _tls(config) if config.tls_cert else None
    with ExitStack() as stack:
        try:
            server = Server(config.serve_host, config.serve_port, root, config.serve_threads, tls)
        except OSError as error:
            raise LinkError(f"serve: a free address expected, {where}: {error.strerror or error}") from error
        stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="serve", daemon=True)
        thread.start()
        stack.callback(server.shutdown)
        _log.info("serving %s on %s port %d", root, config.serve_host, server.port)
        if ready is not None:
            ready(server.port)
        while not stop.wait(0.5):
            if not thread.is_alive():
                raise LinkError(f"serve: {where}: the server's thread has ended")


def _tls(config: CloudConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_cert {config.tls_cert}, tls_key {config.tls_key}: {error}") from error
    return context
