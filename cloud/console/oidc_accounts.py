"""The account behind an OIDC login: found by its subject, taken over by its name, or made."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from cloud.console.problems import Refused
from cloud.desk import audit
from cloud.desk.accounts import ROLES, Role
from cloud.desk.audit import Actor
from cloud.store import schema, tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection, Engine

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9._@+-]")


def greatest(roles: Iterable[Role | None]) -> Role | None:
    """The one that may do most."""
    return max((role for role in roles if role is not None), key=ROLES.index, default=None)


def settle(engine: Engine, subject: str, wanted_name: str, role: Role | None, address: str) -> tuple[str, Role]:
    """The account of a login by OIDC, with the role that the provider's claim gives now.

    An account that an admin made without a password, and that nobody has used, is taken over by who comes with its name. One with a
    password never is: a provider's name is no proof for it.

    Args:
        engine: an open store.
        subject: "<issuer> <sub>".
        wanted_name: how the provider calls the person.
        role: of the claim; None: it says nothing, and an account that is there keeps its own.
        address: of the browser.

    Raises:
        Refused: 403, disabled, or no role and no account.
    """
    name = _NOT_IN_NAMES.sub("-", wanted_name).lstrip("._@+-")[:56] or "oidc"
    table = tables.accounts
    with schema.write(engine, alone=True) as connection:
        row = connection.execute(sa.select(table).where(table.c.subject == subject)).first()
        if row is None:
            waiting = sa.and_(table.c.name == name, table.c.subject == "", table.c.password_hash == "")
            row = connection.execute(sa.select(table).where(waiting)).first()
        if row is None:
            if role is None:
                raise Refused(403, f"a role for {name} expected: none of the provider's claims is in oidc_roles")
            free = _free(connection, name)
            values = {"name": free, "role": role, "subject": subject, "disabled": False, "created_s": time.time()}
            connection.execute(sa.insert(table).values(values))
            audit.record(connection, Actor(free, address), "account_add", free, f"{role}, by OIDC")
            return free, role
        if row.disabled:
            raise Refused(403, f"an enabled account expected, {row.name} is disabled")
        now: Role = role or row.role
        if now != row.role or row.subject != subject:
            connection.execute(sa.update(table).where(table.c.name == row.name).values(role=now, subject=subject))
            audit.record(connection, Actor(row.name, address), "account_change", row.name, f"role {now}, by OIDC")
        return row.name, now


def _free(connection: Connection, name: str) -> str:
    """This name, or with the first number that is free."""
    table, free, number = tables.accounts, name, 1
    while connection.execute(sa.select(table.c.name).where(table.c.name == free)).first() is not None:
        number += 1
        free = f"{name}-{number}"
    return free
