"""The road down as admins steer it: want a release, begin a training run. One run at a time, whoever asks for it and wherever.

A run belongs to the console that has started its process; that one says so in the store as long as the run goes on. Of a console that
was killed, whose run ends with it, the word holds for `KEEP_S` more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from cloud.desk import audit
from cloud.learn import desired
from cloud.store import schema, tables
from covey.errors import NameTaken, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor

KEEP_S = 60.0  # clocks of two machines are less apart
_RUN = "training_run"  # the setting's name


class _Run(msgspec.Struct):
    holder: str
    until_s: float


def want(engine: Engine, group: str, number: int, to: Sequence[str], actor: Actor) -> list[str]:
    """Want a release of its group's devices, or of named ones only, as `desired.assign` does.

    Returns:
        The devices of which it is wanted now.

    Raises:
        UnknownName: there is no such release.
        UsageError: a name is not a device's.
    """
    table = tables.releases

    def work(connection: Connection) -> list[str]:
        query = sa.select(table).where(table.c.group == group, table.c.number == number)
        row = connection.execute(query).mappings().first()
        if row is None:
            raise UnknownName(f"release: one that is known expected, {group[:64]} {number} received")
        names = desired.assign_in(connection, desired.release_of(row), desired.base_url_in(connection), to)
        told = f"{len(names)} devices" if not to else ", ".join(to)
        audit.record(connection, actor, "want", f"{group} {number}", told)
        return names

    return schema.whole(engine, work, alone=True)


def begin_run(engine: Engine, holder: str, actor: Actor) -> None:
    """Say that a run begins, before its process is started.

    Args:
        engine: an open store.
        holder: a word of the console's own.
        actor: who has asked for it.

    Raises:
        NameTaken: one is going on.
    """
    now = time.time()
    with schema.write(engine, alone=True) as connection:
        going = _going(connection)
        if going is not None and going.until_s > now:
            raise NameTaken("one run at a time expected, one is going on")
        _say(connection, _Run(holder, now + KEEP_S))
        audit.record(connection, actor, "train", "run")


def keep_run(engine: Engine, holder: str) -> bool:
    """Say that it goes on, well before `KEEP_S` are over; False: it was not said in time, and another has begun."""
    with schema.write(engine, alone=True) as connection:
        going = _going(connection)
        if going is None or going.holder != holder:
            return False
        _say(connection, _Run(holder, time.time() + KEEP_S))
        return True


def end_run(engine: Engine, holder: str, failed: str = "", actor: Actor | None = None) -> None:
    """Say that it is over; `failed`: why it never began, for the audit log."""
    table = tables.settings
    with schema.write(engine, alone=True) as connection:
        going = _going(connection)
        if going is not None and going.holder == holder:
            connection.execute(sa.delete(table).where(table.c.name == _RUN))
        if failed and actor is not None:
            audit.record(connection, actor, "train_failed", "run", failed)


def _going(connection: Connection) -> _Run | None:
    table = tables.settings
    found = connection.execute(sa.select(table.c.value).where(table.c.name == _RUN)).scalar_one_or_none()
    return None if found is None else msgspec.json.decode(found, type=_Run)


def _say(connection: Connection, run: _Run) -> None:
    value = msgspec.json.encode(run).decode()
    statement = schema.insert(connection, tables.settings).values(name=_RUN, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))
