"""Steps from each schema of the store to the next, by Alembic, in the caller's transaction.

A step is `versions/vNNNN_<what>.py`; it holds the tables as they were then, never today's. `HEAD` is the last one, and
what `cloud/store/tables` says must be what a store has that took every step (a test compares the two).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

HEAD = 2  # number of the newest step
FOLDER = Path(__file__).resolve().parent

_FIRST = "schema_version"  # covey 0.1's own table; its version 1 is step 1
_NOW = sa.table("alembic_version", sa.column("version_num", sa.String(32)))


def found(connection: Connection) -> int | None:
    """Number of the last step that the store took; None: it holds no tables of ours.

    Raises:
        ValueError: the table is there and holds no number.
    """
    there = sa.inspect(connection)
    if there.has_table(_NOW.name):
        return int(connection.execute(sa.select(_NOW.c.version_num)).scalar_one_or_none() or "none")
    if there.has_table(_FIRST):
        version = connection.execute(sa.text(f"SELECT version FROM {_FIRST}")).scalar_one_or_none()  # noqa: S608  # a constant
        return int("none" if version is None else version)
    return None


def upgrade(connection: Connection, to: int = HEAD) -> None:
    """Take the steps that are missing, or all of them where there is nothing yet.

    Args:
        connection: in a transaction, which the caller ends: an upgrade that is cut short never was.
        to: number of the last step to take.
    """
    from alembic import command  # half a second: only who upgrades pays for it

    if found(connection) is not None and not sa.inspect(connection).has_table(_NOW.name):
        command.stamp(_config(connection), _name(1))  # covey 0.1 kept its number itself
    command.upgrade(_config(connection), _name(to))


def stamp(connection: Connection) -> None:
    """Say that the store has today's tables: they were made at once."""
    connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(sa.insert(_NOW).values(version_num=_name(HEAD)))


def _name(number: int) -> str:
    return f"{number:04d}"


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
