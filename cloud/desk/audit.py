"""The audit log: who did what to what, written in the transaction that did it.

Rows are never deleted, and changed only where a forgotten device is named: by its hash from then on (erase.py).
"""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from cloud.store import schema, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

MAX_ACTOR = 64
MAX_TEXT = 256


class Actor(NamedTuple):
    """Who acts, and from where."""

    name: str  # an account, or `cli:<user>`
    address: str = ""  # of the browser; "" on the command line


def command_line() -> Actor:
    """The operating system's user, as an actor."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry for this uid, as in a container
        user = "?"
    return Actor(f"cli:{user}"[:MAX_ACTOR])


def record(connection: Connection, actor: Actor, action: str, target: str, detail: str = "") -> None:
    """Write one row. `action` is one word of docs/console.md's list; texts are cut to the columns' widths."""
    connection.execute(
        sa.insert(tables.audit).values(
            time_s=time.time(),
            actor=actor.name[:MAX_ACTOR],
            action=action,
            target=target[:MAX_TEXT],
            detail=detail[:MAX_TEXT],
            address=actor.address[:64],
        )
    )


def entries(engine: Engine, limit: int = 100, after: int | None = None) -> list[dict[str, Any]]:
    """Rows, newest first; `after`: only those older than the row of this id."""
    table = tables.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(table.c.id < after)
    with schema.read(engine) as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
