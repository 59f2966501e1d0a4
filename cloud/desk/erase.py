"""Forgetting a device: everything the store has of it, in one transaction, with a receipt that names it by its hash only.

The receipt also says what the store cannot reach: Kafka's topics until their retention, backups, and the device itself, which
appears as a new one when it is heard again.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from cloud.desk import audit
from cloud.store import schema, tables
from cloud.store.writer import enqueue
from covey import topics, wire
from covey.errors import UnknownName

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor

LEFT = (
    "Kafka topics keep messages until their own retention; keyed by device, so they can be found",
    "backups of the store made before this moment",
    "the audit log keeps who did what to the device; there it is named by this hash from now on",
    "a device that is heard again appears as a new one; switch it off or revoke its credentials first",
)


def forget(engine: Engine, device: str, actor: Actor) -> dict[str, Any]:
    """Erase all data of a device.

    Returns:
        The receipt: id, device_sha256, time_s, by, rows erased per table, what is left elsewhere.

    Raises:
        UnknownName: the device is not known.
    """
    hashed = hashlib.sha256(device.encode()).hexdigest()
    receipt = schema.whole(engine, lambda connection: _forget(connection, device, hashed, actor), alone=True)
    _forget_pages(engine)
    return receipt


def _forget(connection: Connection, device: str, hashed: str, actor: Actor) -> dict[str, Any]:
    table = tables.devices
    if connection.execute(sa.select(table.c.device).where(table.c.device == device)).first() is None:
        raise UnknownName(f"device: one that is known expected, {device[:80]!r} received")
    if connection.dialect.name == "postgresql":
        # A batch that is under way ends first, and the next one waits: it would leave what it has of the device behind.
        connection.exec_driver_sql("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
    if connection.dialect.name == "sqlite":  # deleted rows are overwritten, not only unlinked
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    erased = _erase(connection, device, hashed)
    # Compacted topic and retained MQTT message: what was wanted of it is wanted no more.
    enqueue(connection, [(topics.DESIRED, device, b"")])
    receipt = {
        "device_sha256": hashed,
        "time_s": time.time(),
        "by": actor.name,
        "erased": erased,
        "left": list(LEFT),
    }
    number = connection.execute(
        sa.insert(tables.receipts).values(
            device_sha256=hashed,
            time_s=receipt["time_s"],
            by=actor.name,
            body=msgspec.json.encode({"erased": erased, "left": LEFT}).decode(),
        )
    ).inserted_primary_key
    audit.record(connection, actor, "forget", f"sha256:{hashed}")
    return {"id": None if number is None else number[0], **receipt}


def _erase(connection: Connection, device: str, hashed: str) -> dict[str, int]:
    """Table -> rows erased; every table that has a column `device`, and those that name it otherwise."""
    erased: dict[str, int] = {}
    for table in tables.metadata.sorted_tables:
        if "device" in table.c:
            erased[table.name] = connection.execute(sa.delete(table).where(table.c.device == device)).rowcount
    letters, outgoing, rounds = tables.dead_letters, tables.outgoing, tables.rounds
    named = letters.c.topic.like(f"%/{topics.shard(device)}/{_escaped(device)}/%", escape="\\")
    erased[letters.name] = connection.execute(sa.delete(letters).where(named)).rowcount
    erased[outgoing.name] = connection.execute(sa.delete(outgoing).where(outgoing.c.key == device)).rowcount
    erased[rounds.name] = 0
    # A run's lines are counted without gaps, so a line stays and loses the name.
    for row in connection.execute(sa.select(rounds).where(rounds.c.kind.in_(("answered", "refused", "missing")))).all():
        line = wire.decode(wire.RoundEvent, row.body)
        if line.device == device:
            body = wire.encode(msgspec.structs.replace(line, device="", detail=""))
            key = sa.and_(rounds.c.run == row.run, rounds.c.seq == row.seq)
            connection.execute(sa.update(rounds).where(key).values(body=body))
            erased[rounds.name] += 1
    audits = tables.audit
    about = sa.or_(audits.c.target == device, audits.c.target.like(f"{_escaped(device)} %", escape="\\"))
    connection.execute(sa.update(audits).where(about).values(target=f"sha256:{hashed}", detail=""))
    return {name: count for name, count in erased.items() if count}


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _forget_pages(engine: Engine) -> None:
    """Write SQLite's log back into the file and cut it: it still holds the erased rows' pages."""
    if engine.dialect.name != "sqlite":
        return
    with schema.told(str(engine.url)):
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            raw.close()
