"""Orders to devices that are written with a transaction and produced after it, for those who do not wait for the answer.

`covey cloud command` waits and says it again; this one is told once, and the device's answer is an ordinary status event.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from cloud.desk import audit
from cloud.store import schema, tables
from cloud.store.writer import enqueue
from covey import topics, wire
from covey.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor

EXPIRES_S = 300.0  # someone sits before a screen: an order that comes tomorrow is no longer meant


def command(engine: Engine, device: str, kind: Literal["ping", "summarise"], actor: Actor) -> tuple[str, float]:
    """Give a device an order.

    Returns:
        Its id and when it expires, seconds since the epoch.

    Raises:
        UsageError: the kind is not one of these, or the device is retired.
        UnknownName: the device is not known.
    """
    if kind not in ("ping", "summarise"):
        raise UsageError(f"kind: ping or summarise expected, {kind[:40]!r} received")
    table = tables.devices
    with schema.write(engine, alone=True) as connection:
        state = connection.execute(sa.select(table.c.state).where(table.c.device == device)).scalar_one_or_none()
        if state is None:
            raise UnknownName(f"device: one that is known expected, {device[:80]!r} received")
        if state == "retired":
            raise UsageError(f"{device}: an active device expected, it is retired")
        given = enqueue_command(connection, device, kind, EXPIRES_S)
        audit.record(connection, actor, "command", device, f"{kind} {given.id}")
        return given.id, given.expires_s


def enqueue_command(
    connection: Connection,
    device: str,
    kind: Literal["ping", "summarise", "false-alarm"],
    life_s: float,
    alarm_id: str = "",
) -> wire.Command:
    """Have a command produced once this transaction is done."""
    given = wire.Command(f"cmd-{secrets.token_hex(8)}", kind, time.time() + life_s, alarm_id)
    enqueue(connection, [(topics.COMMANDS, device, wire.encode(given))])
    return given
