"""Change numbers: how a live view learns what is new without missing a row or reading all of them.

Every transaction that writes rows people look at stamps them with its number; a reader asks for rows from its cursor up to
the horizon, below which no transaction is still under way, and the horizon is its next cursor (docs/decisions/0031-live-views.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_NAME = "changes"  # of the counter, on SQLite


def number(connection: Connection) -> int:
    """This transaction's change number; the same for all of its rows. Call inside `schema.write`."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(sa.text("SELECT pg_current_xact_id()::text::bigint")).scalar_one())
    # One writer at a time: the counter's order is the order of commits.
    statement = sa.text(
        "INSERT INTO counters (name, value) VALUES (:name, 1) "
        "ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value"
    )
    return int(connection.execute(statement, {"name": _NAME}).scalar_one())


def horizon(connection: Connection) -> int:
    """Every change below this number is visible in this read, and none will appear there later. Call inside `schema.read`.

    PostgreSQL numbers transactions when they begin to write, and they end in any order: what counts is the oldest that is
    still under way (its manual, "System Information Functions", pg_snapshot_xmin).
    """
    if connection.dialect.name == "postgresql":
        query = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        return int(connection.execute(sa.text(query)).scalar_one())
    found = connection.execute(sa.text("SELECT value FROM counters WHERE name = :name"), {"name": _NAME})
    return int(found.scalar_one_or_none() or 0) + 1
