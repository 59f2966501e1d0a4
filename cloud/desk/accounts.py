"""Accounts of the console: names, roles, passwords as argon2id hashes. Who is logged in is cloud/console/sessions.py's.

Parameters are argon2-cffi's defaults, RFC 9106's second recommended option (64 MiB, 3 passes, 4 lanes).
"""

from __future__ import annotations

import re
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import sqlalchemy as sa

from cloud.desk import audit
from cloud.store import schema, tables
from covey.errors import NameTaken, UnknownName, UsageError

if TYPE_CHECKING:
    from argon2 import PasswordHasher
    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may
MIN_PASSWORD, MAX_PASSWORD = 12, 256  # NIST SP 800-63B asks for 8 at least, 64 at least allowed

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,63}")


def exists(engine: Engine) -> bool:
    """Whether there is any account, disabled ones too."""
    with schema.read(engine) as connection:
        return connection.execute(sa.select(tables.accounts.c.name).limit(1)).first() is not None


def all_accounts(engine: Engine) -> list[dict[str, Any]]:
    """Every account by name: name, role, disabled, oidc (no password here), created_s."""
    table = tables.accounts
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.name)).all()
    return [
        {
            "name": row.name,
            "role": row.role,
            "disabled": row.disabled,
            "oidc": not row.password_hash,
            "created_s": row.created_s,
        }
        for row in rows
    ]


def add(engine: Engine, name: str, role: Role, password: str | None, actor: Actor) -> None:
    """Make an account; without a password it logs in by OIDC only.

    Raises:
        UsageError: name, role or password is none.
        NameTaken: there is one of this name.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"account: 1-64 letters, digits, `._@+-` expected, {name[:80]!r} received")
    _check_role(role)
    hashed = "" if password is None else hash_password(password)
    with schema.write(engine, alone=True) as connection:
        if _row(connection, name) is not None:
            raise NameTaken(f"account {name}: a new name expected, there is one")
        values = {"name": name, "role": role, "password_hash": hashed, "disabled": False, "created_s": time.time()}
        connection.execute(sa.insert(tables.accounts).values(values))
        audit.record(connection, actor, "account_add", name, role)


def change(
    engine: Engine,
    name: str,
    actor: Actor,
    *,
    role: Role | None = None,
    password: str | None = None,
    disabled: bool | None = None,
) -> None:
    """Change what is given. A new password, another role or disabling ends the account's sessions.

    Raises:
        UsageError: role or password is none, or no admin would be left who can log in.
        UnknownName: there is no such account.
    """
    values: dict[str, object] = {}
    if role is not None:
        _check_role(role)
        values["role"] = role
    if password is not None:
        values["password_hash"] = hash_password(password)
    if disabled is not None:
        values["disabled"] = disabled
    with schema.write(engine, alone=True) as connection:
        _known(connection, name)
        if not values:
            return
        table = tables.accounts
        connection.execute(sa.update(table).where(table.c.name == name).values(values))
        _check_admin_left(connection)
        connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.name == name))
        told = ", ".join("password" if key == "password_hash" else f"{key} {value}" for key, value in values.items())
        audit.record(connection, actor, "account_change", name, told)


def remove(engine: Engine, name: str, actor: Actor) -> None:
    """Take an account away, and end its sessions. What it did stays in the audit log.

    Raises:
        UsageError: it is the last admin who can log in, and others would be left.
        UnknownName: there is no such account.
    """
    with schema.write(engine, alone=True) as connection:
        _known(connection, name)
        connection.execute(sa.delete(tables.accounts).where(tables.accounts.c.name == name))
        _check_admin_left(connection)
        connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.name == name))
        audit.record(connection, actor, "account_remove", name)


def check_password(engine: Engine, name: str, password: str) -> Role | None:
    """The account's role where name and password fit and it is not disabled, else None.

    A name that does not exist costs as much time as a wrong password.
    """
    with schema.read(engine) as connection:
        row = _row(connection, name)
    hashed = row.password_hash if row is not None and row.password_hash else _nobody()
    fits = _verify(hashed, password)
    if row is None or not fits or not row.password_hash or row.disabled:
        return None
    if _hasher().check_needs_rehash(hashed):
        with schema.write(engine) as connection:
            table = tables.accounts
            fresh = _hasher().hash(password)
            connection.execute(sa.update(table).where(table.c.name == name).values(password_hash=fresh))
    role: Role = row.role
    return role


def hash_password(password: str) -> str:
    """An argon2id hash.

    Raises:
        UsageError: shorter than 12 or longer than 256 characters.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UsageError(f"password: {MIN_PASSWORD} to {MAX_PASSWORD} characters expected, {len(password)} received")
    return _hasher().hash(password)


def _verify(hashed: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(hashed, password[:MAX_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobody() -> str:
    return _hasher().hash("no account has this password")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UsageError(f"role: one of {', '.join(ROLES)} expected, {role[:40]!r} received")


def _row(connection: Connection, name: str) -> Any:
    return connection.execute(sa.select(tables.accounts).where(tables.accounts.c.name == name)).first()


def _known(connection: Connection, name: str) -> None:
    if _row(connection, name) is None:
        raise UnknownName(f"account: one that is known expected, {name[:80]!r} received")


def _check_admin_left(connection: Connection) -> None:
    """Refuse a change after which accounts are left and none of them is an admin who can log in."""
    table = tables.accounts
    anyone = connection.execute(sa.select(table.c.name).limit(1)).first()
    admins = sa.select(table.c.name).where(table.c.role == "admin", table.c.disabled.is_(sa.false())).limit(1)
    if anyone is not None and connection.execute(admins).first() is None:
        raise UsageError("account: an enabled admin expected to be left, this is the last one")
