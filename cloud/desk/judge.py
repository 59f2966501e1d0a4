"""Verdicts on alarms: acknowledged, confirmed, rejected, undone. Told on covey.feedback; a rejection goes to the device, too.

Acknowledging says that someone looks at it, a verdict says what it was; they are apart, as cleared is from both.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Literal, get_args

import sqlalchemy as sa

from cloud.desk import audit
from cloud.desk.commands import enqueue_command
from cloud.store import changes, schema, tables
from cloud.store.writer import enqueue
from covey import topics, wire
from covey.errors import UnknownName, UsageError
from covey.wire_alarms import Feedback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor

Verdict = Literal["acknowledged", "confirmed", "rejected", "undone"]
MAX_AT_ONCE = 500
MAX_NOTE = 256


def judge(engine: Engine, alarms: Sequence[tuple[str, str]], verdict: Verdict, note: str, actor: Actor) -> int:
    """Say of alarms what they were: all in one transaction, or none.

    A rejected alarm's device gets the command `false-alarm`, so that its windows go back into its ring. An undone rejection does not take
    them out again: the device forgets old windows by itself.

    Args:
        engine: an open store.
        alarms: (device, alarm id), each once, at most 500.
        verdict: `undone` takes back the last of what was said: the verdict, else the acknowledgement.
        note: at most 256 characters.
        actor: who says so.

    Returns:
        How many alarms this changed; one that has this verdict already is left as it is.

    Raises:
        UsageError: too many, an unknown verdict or too long a note.
        UnknownName: an alarm is not known; nothing is changed.
    """
    if verdict not in get_args(Verdict):
        raise UsageError(f"verdict: one of {', '.join(get_args(Verdict))} expected, {verdict[:40]!r} received")
    if len(alarms) > MAX_AT_ONCE:
        raise UsageError(f"at most {MAX_AT_ONCE} alarms at once expected, {len(alarms)} received")
    if len(note) > MAX_NOTE:
        raise UsageError(f"note: at most {MAX_NOTE} characters expected, {len(note)} received")
    # By device, as batches do, so that the two seldom wait for each other in a circle.
    return schema.whole(
        engine,
        lambda connection: sum(_judge(connection, *key, verdict, note, actor) for key in sorted(alarms)),
        alone=True,
    )


def find(engine: Engine, alarm_id: str, device: str | None = None) -> tuple[str, str]:
    """The one alarm of this id, for people who give only that.

    Raises:
        UnknownName: there is none.
        UsageError: several devices have one of this id.
    """
    table = tables.alarms
    query = sa.select(table.c.device).where(table.c.alarm_id == alarm_id).order_by(table.c.device)
    if device is not None:
        query = query.where(table.c.device == device)
    with schema.read(engine) as connection:
        found = list(connection.execute(query).scalars())
    if not found:
        raise UnknownName(f"alarm: one that is known expected, {alarm_id[:80]!r} received")
    if len(found) > 1:
        raise UsageError(f"alarm {alarm_id[:80]}: --device expected, {', '.join(found)[:200]} have one of this id")
    return found[0], alarm_id


def _judge(connection: Connection, device: str, alarm_id: str, verdict: Verdict, note: str, actor: Actor) -> int:
    table = tables.alarms
    key = sa.and_(table.c.device == device, table.c.alarm_id == alarm_id)
    row = connection.execute(sa.select(table).where(key)).mappings().first()
    if row is None:
        raise UnknownName(f"alarm: one that is known expected, {device[:64]} {alarm_id[:80]!r} received")
    now = time.time()
    values = _values(row, verdict, actor, now)
    if not values:
        return 0
    connection.execute(sa.update(table).where(key).values({**values, "changed": changes.number(connection)}))
    connection.execute(
        sa.insert(tables.verdicts).values(
            device=device, alarm_id=alarm_id, verdict=verdict, by=actor.name, time_s=now, note=note
        )
    )
    audit.record(connection, actor, verdict, f"{device} {alarm_id}", note)
    if "verdict" in values and verdict != "acknowledged":
        feedback = Feedback(
            id=f"fb-{secrets.token_hex(8)}",
            device=device,
            alarm_id=alarm_id,
            verdict=verdict,
            by=actor.name,
            time_s=now,
            release=row["release"],
            digest=row["digest"],
            top_channel=row["top_channel"],
            note=note,
        )
        enqueue(connection, [(topics.FEEDBACK, device, wire.encode(feedback))])
        if verdict == "rejected":
            enqueue_command(connection, device, "false-alarm", wire.MAX_COMMAND_LIFE_S, alarm_id=alarm_id)
    return 1


def _values(row: sa.RowMapping, verdict: Verdict, actor: Actor, now: float) -> dict[str, object]:
    """What changes in the alarm's row; empty where it says so already."""
    unseen = {"acknowledged_s": None, "acknowledged_by": ""}
    unjudged = {"verdict": "", "verdict_s": None, "verdict_by": ""}
    seen = {"acknowledged_s": now, "acknowledged_by": actor.name}
    if verdict == "acknowledged":
        return {} if row["acknowledged_s"] is not None else seen
    if verdict == "undone":
        if row["verdict"]:
            return dict(unjudged)
        return {} if row["acknowledged_s"] is None else dict(unseen)
    if row["verdict"] == verdict:
        return {}
    judged: dict[str, object] = {"verdict": verdict, "verdict_s": now, "verdict_by": actor.name}
    return judged if row["acknowledged_s"] is not None else judged | seen
