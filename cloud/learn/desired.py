"""Who is wanted to run which release: assigns, and has `covey.desired` and `covey.learning` told in the same transaction.

Revisions count per device and only grow, past what the device itself says it acted on: a lost store starts above it.
Signs nothing and fetches nothing; a release is in the repository before it is assigned.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from cloud.config import DEFAULT_BASE_URL
from cloud.store import changes, schema, tables
from cloud.store.writer import enqueue, tell_learning
from covey import topics, wire
from covey.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

    from cloud.learn.releases import Release

_BASE_URL = "base_url"


def record_releases(engine: Engine, releases: Iterable[Release]) -> None:
    """Take up releases that the repository has and the store does not: an `add` that was cut short.

    They belong to nobody until they are assigned.
    """
    with schema.write(engine, alone=True) as connection:
        for release in releases:
            _record(connection, release, wide=False)


def assign(engine: Engine, release: Release, base_url: str, to: Sequence[str] = ()) -> list[str]:
    """Want a release of its group's devices, or of named ones only, who join the group if they were not in it.

    Args:
        engine: an open store.
        release: in the repository already.
        base_url: of the repository, as devices see it.
        to: device names; empty: every device of the group, and those that appear in it later.

    Returns:
        The devices assigned, by name.

    Raises:
        UsageError: a name is not a device's.
    """
    return schema.whole(engine, lambda connection: assign_in(connection, release, base_url, to), alone=True)


def assign_in(connection: Connection, release: Release, base_url: str, to: Sequence[str] = ()) -> list[str]:
    """What `assign` does, in the caller's transaction (`schema.write`, alone).

    Raises:
        UsageError: a name is not a device's.
    """
    bad = [name for name in to if not topics.is_device(name)]
    if bad:
        raise UsageError(f"--to: a device name expected, {bad[0][:80]!r} received")
    table = tables.devices
    _record(connection, release, wide=not to)
    tell_learning(connection, [_step("release", release, detail=release.note)])
    for name in sorted(to):  # as batches do, so that the two do not wait for each other in a circle
        statement = schema.insert(connection, table).values({"device": name, "group": release.group})
        connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_={"group": release.group}))
    query = sa.select(table.c.device).where(table.c.group == release.group).order_by(table.c.device)
    if to:
        query = query.where(table.c.device.in_(list(to)))
    names = [row.device for row in connection.execute(query)]
    for name in names:
        _want(connection, name, release, base_url)
    return names


def adopt(engine: Engine, base_url: str) -> list[str]:
    """Want its group's newest group-wide release of every device that nothing was wanted of yet."""
    table, want, release = tables.devices, tables.desired, tables.releases
    newest = (
        sa.select(sa.func.max(release.c.number))
        .where(release.c.group == table.c.group, release.c.wide)
        .correlate(table)
        .scalar_subquery()
    )
    query = (
        sa.select(table.c.device, release)
        .select_from(table.join(release, sa.and_(release.c.group == table.c.group, release.c.number == newest)))
        .where(table.c.device.not_in(sa.select(want.c.device)))
        .order_by(table.c.device)
    )
    with schema.read(engine) as connection:  # most of the time there is none, and no lock is taken
        if connection.execute(query.limit(1)).first() is None:
            return []
    with schema.write(engine, alone=True) as connection:
        rows = connection.execute(query).mappings().all()
        for row in rows:
            _want(connection, row["device"], release_of(row), base_url)
        return [row["device"] for row in rows]


def want_newest(connection: Connection, device: str, base_url: str) -> int | None:
    """Want the newest group-wide release of the group that a device is in now.

    Returns:
        Its number; None where the group has none: what was wanted before stays wanted.
    """
    table, release = tables.devices, tables.releases
    query = (
        sa.select(release)
        .join(table, table.c.group == release.c.group)
        .where(table.c.device == device, release.c.wide)
        .order_by(release.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    _want(connection, device, release_of(row), base_url)
    return int(row["number"])


def change_parameters(connection: Connection, device: str, given: Mapping[str, object]) -> wire.Parameters:
    """Send a device other parameters with what is wanted of it already, as a new revision.

    Raises:
        UsageError: nothing is wanted of it yet, a parameter is not one, or its value is out of bounds.
    """
    table = tables.desired
    old = connection.execute(sa.select(table.c.message).where(table.c.device == device)).scalar_one_or_none()
    if old is None:
        raise UsageError(f"{device}: a wanted release expected, which parameters travel with; none is wanted yet")
    message = wire.decode(wire.Desired, old)
    unknown = sorted(set(given) - set(wire.Parameters.__struct_fields__))
    if unknown:
        known = ", ".join(wire.Parameters.__struct_fields__)
        raise UsageError(f"{device}: parameters {known} expected, {', '.join(unknown)[:200]} received")
    try:
        parameters = msgspec.convert(msgspec.structs.asdict(message.parameters) | dict(given), wire.Parameters)
    except msgspec.ValidationError as error:
        raise UsageError(f"{device}: parameters: {error}") from error
    message = msgspec.structs.replace(message, parameters=parameters, revision=_next_revision(connection, device))
    _save(connection, message)
    enqueue(connection, [(topics.DESIRED, device, wire.encode(message))])
    return parameters


def republish(engine: Engine, base_url: str) -> int:
    """Tell every desired release again: an embedded broker forgets them; returns how many.

    Where the repository has moved to another address meanwhile, it is a new revision with that address.
    """
    table = tables.desired
    with schema.write(engine, alone=True) as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.device)).all()
        for row in rows:
            message = wire.decode(wire.Desired, row.message)
            if message.url != base_url:
                revision = _next_revision(connection, row.device)
                message = msgspec.structs.replace(message, url=base_url, revision=revision)
                _save(connection, message)
            enqueue(connection, [(topics.DESIRED, row.device, wire.encode(message))])
        return len(rows)


def say_base_url(engine: Engine, base_url: str) -> None:
    """Leave the repository's address for commands that are not told it."""
    with schema.write(engine) as connection:
        statement = schema.insert(connection, tables.settings).values(name=_BASE_URL, value=base_url)
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": base_url}))


def known_base_url(engine: Engine) -> str:
    """What `say_base_url` left, or the default."""
    with schema.read(engine) as connection:
        return base_url_in(connection)


def base_url_in(connection: Connection) -> str:
    """What `known_base_url` says, in the caller's transaction."""
    table = tables.settings
    found = connection.execute(sa.select(table.c.value).where(table.c.name == _BASE_URL)).scalar_one_or_none()
    return found or DEFAULT_BASE_URL


def release_of(row: sa.RowMapping) -> Release:
    """A release from its row in the store."""
    from cloud.learn.releases import Release  # brings the signing libraries

    return msgspec.convert({name: row[name] for name in Release.__struct_fields__}, Release)


def _record(connection: Connection, release: Release, *, wide: bool) -> None:
    table = tables.releases
    statement = schema.insert(connection, table).values({**msgspec.structs.asdict(release), "wide": wide})
    if wide:
        connection.execute(statement.on_conflict_do_update(index_elements=["group", "number"], set_={"wide": wide}))
    else:
        connection.execute(statement.on_conflict_do_nothing())


def _want(connection: Connection, device: str, release: Release, base_url: str) -> None:
    old = connection.execute(
        sa.select(tables.desired.c.message).where(tables.desired.c.device == device)
    ).scalar_one_or_none()
    parameters = wire.Parameters() if old is None else wire.decode(wire.Desired, old).parameters
    message = wire.Desired(
        device=device,
        revision=_next_revision(connection, device),
        group=release.group,
        release=release.number,
        target=release.target,
        digest=release.digest,
        size_bytes=release.size_bytes,
        url=base_url,
        parameters=parameters,
    )
    _save(connection, message)
    enqueue(connection, [(topics.DESIRED, device, wire.encode(message))])
    tell_learning(connection, [_step("desired", release, device=device, detail=f"revision {message.revision}")])


def _next_revision(connection: Connection, device: str) -> int:
    want, table = tables.desired, tables.devices
    ours = connection.execute(sa.select(want.c.revision).where(want.c.device == device)).scalar_one_or_none()
    theirs = connection.execute(sa.select(table.c.revision).where(table.c.device == device)).scalar_one_or_none()
    return max(ours or 0, theirs or 0) + 1


def _save(connection: Connection, message: wire.Desired) -> None:
    values = {
        "device": message.device,
        "revision": message.revision,
        "group": message.group,
        "release": message.release,
        "message": wire.encode(message),
        "created_s": time.time(),
    }
    statement = schema.insert(connection, tables.desired).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))
    device = tables.devices  # live views show what is wanted beside what runs
    stamped = sa.update(device).where(device.c.device == message.device).values(changed=changes.number(connection))
    connection.execute(stamped)


def _step(kind: str, release: Release, device: str = "", detail: str = "") -> wire.Learning:
    return wire.Learning(
        kind="release" if kind == "release" else "desired",
        time_s=time.time(),
        group=release.group,
        device=device,
        release=release.number,
        digest=release.digest,
        detail=detail,
    )
