"""In front of every route and file: which hosts are answered, who asks, how often, and the headers of every response.

Paths of alarms go on as they were sent, `%2F` and all: api_alarms.py decodes their parts.

Refuses a request for another host name, so that a page of some other site that has its name point here (DNS rebinding) reads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec
from litestar.datastructures import Headers
from litestar.enums import ScopeType

from cloud.config import ConsoleConfig, is_loopback
from cloud.console.auth import COOKIE, WHO, address_of, in_thread
from cloud.console.problems import Problem, Refused, of_error
from covey.errors import CoveyError

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

    from cloud.console.auth import Doors

_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
]
# Load balancers and Kubernetes ask by an instance's address, whatever the console's name is; one word is all there is to read.
_FOR_PROBES = frozenset({"/healthz", "/readyz"})
_IN_PARTS = b"/api/alarms/"  # routes that decode each part of their path themselves
_YEAR = (b"strict-transport-security", b"max-age=31536000")


class Gate:
    """An ASGI application around the console's."""

    def __init__(self, app: ASGIApp, config: ConsoleConfig, doors: Doors) -> None:
        self._app, self._config, self._doors = app, config, doors
        self._public_host = urlsplit(config.public_url).hostname or ""
        self._headers = [*_HEADERS, _YEAR] if config.tls_cert or config.public_url.startswith("https://") else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        if scope["raw_path"].startswith(_IN_PARTS):
            # As it was sent: an alarm's id may hold `/`, and decoded it would end a part of the path.
            scope["path"] = scope["raw_path"].decode("latin-1")
        try:
            if scope["path"] not in _FOR_PROBES:
                self._check_host(scope)
            if scope["path"].startswith("/api/"):
                token = _cookie(scope, COOKIE)
                who = await in_thread(self._doors.who, token)
                self._doors.request(who, address_of(scope))
                cast("dict[str, object]", scope)[WHO] = who
        except CoveyError as error:
            await _refuse(answer, of_error(error))
            return
        await self._app(scope, receive, answer)

    def _check_host(self, scope: Scope) -> None:
        """Raises Refused for a host that is not ours.

        On loopback only loopback's names and the public one are; elsewhere the public one where it is told.
        """
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        name = (urlsplit(f"//{host}").hostname or "") if host.isprintable() else ""
        if name and name == self._public_host:
            return
        if self._config.on_loopback or self._public_host:
            if not is_loopback(name):
                raise Refused(403, f"host: {self._public_host or 'localhost'} expected, {host[:80]!r} received")
        elif not name:
            raise Refused(400, "a Host header expected")


def _cookie(scope: Scope, name: str) -> str | None:
    for part in Headers.from_scope(scope).get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return None


async def _refuse(send: Any, refused: Refused) -> None:
    body = msgspec.json.encode(Problem(str(refused), refused.code))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.retry_s is not None:
        headers.append((b"retry-after", str(max(1, round(refused.retry_s + 0.5))).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
