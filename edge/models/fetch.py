"""HTTP(S) GET in bounded pieces, with byte ranges: the one transport of updates, and its dress as python-tuf's fetcher.

Every wait is bounded: silence by `Limits.silence_s`, the whole by a deadline, so that a server that sends a byte now and then
holds nobody. It follows no redirect and reads no proxy from the environment; it trusts nothing that it carries.
"""

from __future__ import annotations

import http.client
import re
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from covey.errors import UpdateError

if TYPE_CHECKING:
    import ssl
    import threading
    from collections.abc import Iterator

CHUNK_BYTES = 16 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


@dataclass(frozen=True)
class Limits:
    """What fetching may cost."""

    silence_s: float = 15.0  # to connect, and between two pieces
    metadata_s: float = 60.0  # all the metadata of one fetch
    target_s: float = 1800.0  # one bundle; what came until then is kept for the next fetch
    metadata_bytes: int = 65_536  # of one file
    timestamp_bytes: int = 8_192
    root_rotations: int = 32  # new roots accepted in one fetch
    tries: int = 4  # connections in a row that bring nothing, before a fetch gives up
    pause_s: float = 0.5  # between two connections, doubled each time


class Cut(UpdateError):
    """A connection failed or ended early: worth another try."""


class Body:
    """An answer whose head was read: `start` is the offset of its first byte in the file."""

    def __init__(self, start: int, answer: http.client.HTTPResponse) -> None:
        self.start = start
        self._answer = answer

    def pieces(self) -> Iterator[bytes]:
        """The bytes as they come.

        Raises:
            http.client.HTTPException, OSError: the connection broke or ended early.
        """
        while True:
            # read1 returns what is there: a slow line is not a silent one. It does not notice an early end by itself.
            piece = self._answer.read1(CHUNK_BYTES)
            if not piece:
                if self._answer.length:
                    raise http.client.IncompleteRead(b"", self._answer.length)
                return
            yield piece


@contextmanager
def get(url: str, silence_s: float, tls: ssl.SSLContext | None, start: int = 0) -> Iterator[tuple[int, Body]]:
    """Ask for a file from byte `start` on.

    Yields:
        Status (200 or 206, or what the server says instead) and body.

    Raises:
        UpdateError: the address is not http or https with a host.
        http.client.HTTPException, OSError: no connection, or no sound answer.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UpdateError(f"{url}: an address expected: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UpdateError(f"{url}: an address http:// or https:// with a host expected")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=silence_s, context=tls)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=silence_s)
    with closing(connection):
        headers = {"User-Agent": "covey", "Accept-Encoding": "identity", "Connection": "close"}
        if start:
            headers["Range"] = f"bytes={start}-"
        connection.request("GET", parts.path or "/", headers=headers)
        answer = connection.getresponse()
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        yield answer.status, Body(int(match[1]) if answer.status == 206 and match else 0, answer)


class TufFetcher(FetcherInterface):
    """Brings python-tuf its metadata; counts the bytes, stops when told."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext | None, stop: threading.Event) -> None:
        self._limits = limits
        self._tls = tls
        self._stop = stop
        self._deadline = time.monotonic() + limits.metadata_s
        self.fetched_bytes = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with get(url, self._limits.silence_s, self._tls) as (status, body):
                if status != 200:
                    raise DownloadHTTPError(f"{url}: status 200 expected, {status} received", status)
                for piece in body.pieces():
                    self.fetched_bytes += len(piece)
                    if self._stop.is_set():
                        raise DownloadError(f"{url}: stopped")
                    if time.monotonic() > self._deadline:
                        raise SlowRetrievalError(f"{url}: all metadata within {self._limits.metadata_s:g} s expected")
                    yield piece
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{url}: {told(error)}") from error
        except UpdateError as error:
            raise DownloadError(str(error)) from error


def told(error: BaseException) -> str:
    """One line for a failed connection."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended {error.expected} bytes early"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
