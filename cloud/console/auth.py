"""Who may ask what: the role of each route, CSRF tokens on changes, logging in. Sessions are sessions.py's, limits limits.py's.

Without accounts (and without OIDC) a console on loopback knows one person, the admin `local`; anywhere else it knows nobody.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from cloud.console import sessions
from cloud.console.limits import Limit, network
from cloud.console.problems import Refused
from cloud.console.sessions import Who
from cloud.console.tries import Tries
from cloud.desk import accounts, audit
from cloud.desk.accounts import ROLES
from cloud.desk.audit import Actor
from cloud.store import schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from cloud.config import ConsoleConfig

COOKIE = "covey_session"
LOCAL = "local"
WHO = "covey_who"  # key of the ASGI scope
CHANGES = frozenset({"POST", "PATCH", "PUT", "DELETE"})
_HASHING = 2  # passwords hashed at once: 64 MiB each
_HASH_WAIT_S = 10.0


class Asked(Protocol):
    """What a connection says of who asks."""

    cookies: Any
    client: Any


class Doors:
    """Sessions, logins and limits of one console."""

    def __init__(self, engine: Engine, config: ConsoleConfig) -> None:
        self._engine, self._config = engine, config
        self.secret = sessions.secret(engine)
        self._tries = Tries(engine, config.login_tries, config.login_window_s)
        self._requests = Limit(max(1, round(10 * config.requests_per_s)), 10.0)
        self._hashing = threading.BoundedSemaphore(_HASHING)

    def open_to_all(self) -> bool:
        """Whether everyone here is the admin `local`."""
        return self._config.on_loopback and not self._config.oidc_issuer and not accounts.exists(self._engine)

    def who(self, token: str | None) -> Who:
        """Whose request this is, by its cookie."""
        if token:
            found = sessions.find(self._engine, token[:128], self._config.idle_hours * 3600)
            if found is not None:
                return found
        if self.open_to_all():
            return Who(LOCAL, "admin", sessions.signed(self.secret, LOCAL))
        return Who("-", None, sessions.signed(self.secret, "nobody"))

    def request(self, who: Who, address: str) -> None:
        """Count a request.

        Raises:
            Refused: too many of this session or address of late.
        """
        wait_s = self._requests.wait_s(who.token_sha256 or network(address), time.monotonic())
        if wait_s:
            raise Refused(429, f"fewer requests expected: wait {wait_s:.1f} s", retry_s=wait_s)

    def login(self, name: str, password: str, address: str) -> tuple[str, Who]:
        """Check a password and begin a session; returns its token.

        Raises:
            Refused: 401 wrong name or password, told alike; 429 too many tries.
        """
        role = self._check(name, "-", password, address)
        self._tries.forgive(name)
        return self.begin(name, role, address)

    def begin(self, name: str, role: accounts.Role, address: str) -> tuple[str, Who]:
        """A session for an account that has shown who it is."""
        token, csrf = sessions.begin(self._engine, name, self._config.session_hours * 3600)
        self._told("login", name, address, by=name)
        return token, Who(name, role, csrf)

    def end(self, who: Who, address: str) -> None:
        """End a session."""
        if who.token_sha256:
            sessions.end(self._engine, who.token_sha256)
            self._told("logout", who.name, address, by=who.name)

    def verify(self, who: Who, password: str, address: str) -> None:
        """Check the password of who is logged in already, limited as a login is.

        Raises:
            Refused: 401, 429.
        """
        self._check(who.name, who.name, password, address)
        self._tries.forgive(who.name)

    def count_address(self, address: str) -> None:
        """Count a login that another proves.

        Raises:
            Refused: 429, too many from this address.
        """
        wait_s = self._tries.wait_s(None, address, time.time())
        if wait_s:
            raise Refused(429, f"fewer logins expected: wait {wait_s:.0f} s", retry_s=wait_s)

    def _check(self, name: str, by: str, password: str, address: str) -> accounts.Role:
        """A name's role where the password fits; every try counts, of the name and of the address."""
        wait_s = self._tries.wait_s(name, address, time.time())
        if wait_s:
            # Not in the audit log: who knocks all night must not fill it.
            raise Refused(429, f"fewer logins expected: wait {wait_s:.0f} s", retry_s=wait_s)
        if not self._hashing.acquire(timeout=_HASH_WAIT_S):
            raise Refused(429, "too many logins at once: try again", retry_s=2.0)
        try:
            role = accounts.check_password(self._engine, name, password)
        finally:
            self._hashing.release()
        if role is None:
            self._told("login_failed", name, address, by)
            raise Refused(401, "name and password of an account expected", "wrong_login")
        return role

    def _told(self, action: str, target: str, address: str, by: str = "-") -> None:
        with schema.write(self._engine) as connection:
            audit.record(connection, Actor(by, address), action, target)


def who_of(connection: Any) -> Who:
    """Who asks, as the gate has found."""
    found: Who = connection.scope[WHO]
    return found


def actor_of(connection: Any) -> Actor:
    """Who asks, for the audit log."""
    return Actor(who_of(connection).name, address_of(connection.scope))


def address_of(scope: Any) -> str:
    """The browser's address, as the server has it (of a trusted proxy: as the proxy says)."""
    client = scope.get("client")
    return str(client[0])[:64] if client else ""


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Before a route: its role, and the CSRF token where it changes something.

    Raises:
        Refused: 401 login_needed, 403 csrf, 403 forbidden.
    """
    if "role" not in handler.opt:
        return
    who, needed = who_of(connection), handler.opt["role"]
    if needed is not None and who.role is None:
        raise Refused(401, "a login expected: POST /api/login")
    if connection.scope.get("method") in CHANGES:
        given = connection.headers.get("x-csrf-token", "")
        if not sessions.same(given, who.csrf):
            raise Refused(403, "the session's token in X-CSRF-Token expected: GET /api/me tells it", "csrf")
    if needed is not None and who.role is not None and ROLES.index(who.role) < ROLES.index(needed):
        raise Refused(403, f"role {needed} expected, {who.name} is {who.role}")


async def in_thread(call: Any, *arguments: Any) -> Any:
    """Ask the store beside the event loop."""
    return await anyio.to_thread.run_sync(call, *arguments)
