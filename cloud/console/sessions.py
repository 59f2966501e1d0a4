"""Sessions of the console: a random token in the browser's cookie, its hash in the store, and who stands behind it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from cloud.desk.accounts import Role
from cloud.store import schema, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_SECRET = "console_secret"  # noqa: S105  # the name of a setting
_SEEN_EVERY_S = 60.0  # a request writes nothing more often than this


class Who(NamedTuple):
    """Who asks. `role` None: nobody is logged in; `token_sha256` "": there is no session (`local`, or nobody)."""

    name: str
    role: Role | None
    csrf: str
    token_sha256: str = ""


def begin(engine: Engine, name: str, life_s: float) -> tuple[str, str]:
    """A new session of an account; returns its token, for the cookie, and its CSRF token. Expired ones are cleared away."""
    token, csrf, now = secrets.token_urlsafe(32), secrets.token_hex(32), time.time()
    table = tables.sessions
    with schema.write(engine) as connection:
        connection.execute(sa.delete(table).where(table.c.expires_s <= now))
        connection.execute(
            sa.insert(table).values(
                token_sha256=_hashed(token), name=name, csrf=csrf, created_s=now, seen_s=now, expires_s=now + life_s
            )
        )
    return token, csrf


def find(engine: Engine, token: str, idle_s: float, now_s: float | None = None) -> Who | None:
    """Whose session this is, with the role that the account has now; None: none, ended, or the account is disabled."""
    now = time.time() if now_s is None else now_s
    table, account = tables.sessions, tables.accounts
    query = sa.select(table, account.c.role, account.c.disabled).join(account, account.c.name == table.c.name)
    with schema.read(engine) as connection:
        row = connection.execute(query.where(table.c.token_sha256 == _hashed(token))).first()
    if row is None or row.disabled or row.expires_s <= now or row.seen_s + idle_s <= now:
        return None
    if row.seen_s + _SEEN_EVERY_S <= now:
        with schema.write(engine) as connection:
            connection.execute(sa.update(table).where(table.c.token_sha256 == row.token_sha256).values(seen_s=now))
    role: Role = row.role
    return Who(row.name, role, row.csrf, row.token_sha256)


def end(engine: Engine, token_sha256: str) -> None:
    """End one session."""
    with schema.write(engine) as connection:
        connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.token_sha256 == token_sha256))


def secret(engine: Engine) -> bytes:
    """The store's own secret, made on first use: CSRF tokens of who has no session, and OIDC's state, are signed with it."""
    table = tables.settings
    wanted = sa.select(table.c.value).where(table.c.name == _SECRET)
    with schema.read(engine) as connection:
        found = connection.execute(wanted).scalar_one_or_none()
    if found is None:
        with schema.write(engine) as connection:
            fresh = schema.insert(connection, table).values(name=_SECRET, value=secrets.token_hex(32))
            connection.execute(fresh.on_conflict_do_nothing())
            found = connection.execute(wanted).scalar_one()
    return bytes.fromhex(found)


def signed(key: bytes, what: str) -> str:
    """HMAC-SHA-256 in hex."""
    return hmac.new(key, what.encode(), "sha256").hexdigest()


def same(one: str, other: str) -> bool:
    """Comparison that takes as long whether or not they are."""
    return hmac.compare_digest(one.encode(), other.encode())


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
