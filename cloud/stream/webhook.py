"""Posts a routed alarm to a webhook: Standard Webhooks' headers, no redirects followed, TLS verified, one deadline.

Source: Standard Webhooks specification 1.0, "Signature scheme": v1 is base64(HMAC-SHA256(key, "<id>.<timestamp>.<body>")).
"""

from __future__ import annotations

import base64
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
    from cloud.stream.rules_file import Webhook


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


def post(hook: Webhook, message: str, body: bytes) -> Answer:
    """One try; whatever goes wrong is told in the answer.

    Args:
        hook: where to.
        message: id of the event, the same in every try.
        body: the event's bytes.
    """
    parts = urlsplit(hook.url)
    host = parts.hostname or ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection: http.client.HTTPConnection | None = None
    try:
        key = secret(hook.secret_file) if hook.secret_file else None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=hook.ca_file or None)
            connection = http.client.HTTPSConnection(host, parts.port, timeout=hook.timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=hook.timeout_s)
        connection.request("POST", path, body, headers(message, int(time.time()), body, key))
        response = connection.getresponse()
        return judged(response.status, response.reason, response.getheader("Retry-After"), time.time())
    except ConfigError as error:
        return Answer(taken=False, error=str(error)[:256])
    except (OSError, http.client.HTTPException) as error:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Answer(taken=False, error=f"{parts.scheme}://{host}: {told}"[:256], busy=True)
    finally:
        if connection is not None:
            connection.close()


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
