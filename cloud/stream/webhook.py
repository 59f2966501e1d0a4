"""Posts a routed alarm to a webhook: Standard Webhooks' headers, no redirects followed, TLS verified, one deadline.

Source: Standard Webhooks specification 1.0, "Signature scheme": v1 is base64(HMAC-SHA256(key, "<id>.<timestamp>.<body>")).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cloud.stream import retry
from cloud.stream.rules_file import secret
from covey.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

    from cloud.stream.rules_file import Webhook

MOST_READ = 65_536  # bytes of an answer; after more, or an unknown length, the connection is made anew


class Answer(NamedTuple):
    """What became of one try."""

    taken: bool
    error: str = ""
    again: bool = True  # whether it makes sense to try again
    asked_s: float | None = None  # Retry-After
    busy: bool = False  # or not there: other messages would fare no better now


def signature(key: bytes, message: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`."""
    signed = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers(message: str, timestamp: int, body: bytes, key: bytes | None) -> dict[str, str]:
    """What is sent beside the body."""
    found = {
        "content-type": "application/cloudevents+json",
        "user-agent": "covey",
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
    }
    if key is not None:
        found["webhook-signature"] = signature(key, message, timestamp, body)
    return found


class Line:
    """One webhook's connection, kept open over messages. Use in `with`, from one thread.

    A receiver may close it between two messages, and a message that finds it closed is sent once more on a new one: it may
    have been heard, and carries the same id.
    """

    def __init__(self, hook: Webhook) -> None:
        self._hook = hook
        self._connection: http.client.HTTPConnection | None = None
        parts = urlsplit(hook.url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def post(self, message: str, body: bytes) -> Answer:
        """One try; whatever goes wrong is told in the answer.

        Args:
            message: id of the event, the same in every try.
            body: the event's bytes.
        """
        try:
            key = secret(self._hook.secret_file) if self._hook.secret_file else None
            sent = headers(message, int(time.time()), body, key)
            if self._connection is not None:
                with contextlib.suppress(ConnectionError, http.client.BadStatusLine):  # RemoteDisconnected is both
                    return self._exchange(self._connection, body, sent)
                self._close()
            self._connection = self._connect()
            return self._exchange(self._connection, body, sent)
        except ConfigError as error:
            return Answer(taken=False, error=str(error)[:256])
        except (OSError, http.client.HTTPException) as error:
            self._close()
            told = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Answer(taken=False, error=f"{self._scheme}://{self._host}: {told}"[:256], busy=True)

    def _connect(self) -> http.client.HTTPConnection:
        timeout_s = self._hook.timeout_s
        if self._scheme == "https":
            context = ssl.create_default_context(cafile=self._hook.ca_file or None)
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes, sent: dict[str, str]) -> Answer:
        connection.request("POST", self._path, body, sent)
        response = connection.getresponse()
        answer = judged(response.status, response.reason, response.getheader("Retry-After"), time.time())
        # What it says beside that is of no interest, but has to be read before the next message, if there is little of it.
        length = response.length
        if response.will_close or length is None or length > MOST_READ:
            self._close()
        else:
            try:
                response.read()
            except (OSError, http.client.HTTPException):  # it has answered all the same
                self._close()
        return answer

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def judged(status: int, reason: str, retry_header: str | None, now_s: float) -> Answer:
    """What an answer's status means. Pure."""
    if status in retry.TAKEN:
        return Answer(taken=True)
    said = f"{status} {reason}".strip()[:200]
    if status == retry.GONE:
        return Answer(taken=False, error=said, again=False)
    if status in retry.BUSY:
        return Answer(taken=False, error=said, asked_s=retry.retry_after(retry_header, now_s), busy=True)
    return Answer(taken=False, error=said)
