"""Devices as operators change them: add, move to a group, label, retire, parameters. What devices say is apply.py's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from cloud.config import DEFAULT_GROUP, is_group
from cloud.desk import audit
from cloud.learn import desired
from cloud.store import changes, schema, tables
from covey.errors import NameTaken, UnknownName, UsageError
from covey.topics import is_device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from sqlalchemy.engine import Connection, Engine

    from cloud.desk.audit import Actor
    from covey import wire

MAX_LABELS = 32
MAX_LABEL = 256
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._/-]{0,63}")


def add(engine: Engine, device: str, group: str, labels: Mapping[str, str], actor: Actor) -> None:
    """Name a device before it is first heard.

    Raises:
        UsageError: the name is not a device's, or the group's or a label's is not one.
        NameTaken: the device is known.
    """
    if not is_device(device):
        raise UsageError(
            f"device: 1-64 letters, digits, `.`, `_`, `-`, beginning with a letter or digit, expected, {device[:80]!r} received"
        )
    _check_group(group)
    kept = _merged({}, labels, device)
    with schema.write(engine, alone=True) as connection:
        if _row(connection, device) is not None:
            raise NameTaken(f"{device}: a new device expected, it is known already")
        connection.execute(
            sa.insert(tables.devices).values(
                device=device, group=group, labels=_json(kept), changed=changes.number(connection)
            )
        )
        audit.record(connection, actor, "add", device, f"group {group}")


def move(engine: Engine, device: str, group: str, base_url: str, actor: Actor) -> int | None:
    """Put a device into another group, and want that group's newest release of it.

    Returns:
        The release wanted; None where the group has none and what was wanted stays.

    Raises:
        UsageError: the group's name is not one.
        UnknownName: the device is not known.
    """
    _check_group(group)
    with schema.write(engine, alone=True) as connection:
        before = _known(connection, device).group
        if before == group:
            return None
        _set(connection, device, group=group)
        release = desired.want_newest(connection, device, base_url)
        told = f"release {release} wanted" if release is not None else "no release there"
        audit.record(connection, actor, "move", device, f"{before} -> {group}; {told}")
        return release


def label(engine: Engine, device: str, labels: Mapping[str, str | None], actor: Actor) -> dict[str, str]:
    """Set labels, or take away those that are None; the others stay.

    Returns:
        All labels that the device has then.

    Raises:
        UsageError: a key or value is none, or there would be more than 32.
        UnknownName: the device is not known.
    """
    with schema.write(engine, alone=True) as connection:
        kept = _merged(msgspec.json.decode(_known(connection, device).labels, type=dict[str, str]), labels, device)
        _set(connection, device, labels=_json(kept))
        told = ", ".join(f"-{key}" if value is None else f"{key}={value}" for key, value in labels.items())
        audit.record(connection, actor, "label", device, told)
        return kept


def set_state(engine: Engine, device: str, state: Literal["active", "retired"], actor: Actor) -> None:
    """Retire a device (it leaves the fleet's views; its data stay), or take it back.

    Raises:
        UnknownName: the device is not known.
    """
    with schema.write(engine, alone=True) as connection:
        if _known(connection, device).state == state:
            return
        _set(connection, device, state=state)
        audit.record(connection, actor, "retire" if state == "retired" else "reinstate", device)


def set_parameters(engine: Engine, device: str, changes_: Mapping[str, object], actor: Actor) -> wire.Parameters:
    """Have a device use other parameters, through `desired`; None gives one back to the device.

    Raises:
        UsageError: no release is wanted of it yet, or a parameter is unknown or out of bounds.
        UnknownName: the device is not known.
    """
    with schema.write(engine, alone=True) as connection:
        _known(connection, device)
        parameters = desired.change_parameters(connection, device, changes_)
        _set(connection, device)
        audit.record(connection, actor, "parameters", device, ", ".join(f"{k}={v}" for k, v in changes_.items()))
        return parameters


def _check_group(group: str) -> None:
    if not is_group(group):
        raise UsageError(
            f"group: 1-64 letters, digits, `.`, `_`, `-`, as {DEFAULT_GROUP}, expected, {group[:80]!r} received"
        )


def _row(connection: Connection, device: str) -> sa.Row[tuple[object, ...]] | None:
    return connection.execute(sa.select(tables.devices).where(tables.devices.c.device == device)).first()


def _known(connection: Connection, device: str) -> sa.Row[tuple[object, ...]]:
    row = _row(connection, device)
    if row is None:
        raise UnknownName(f"device: one that is known expected, {device[:80]!r} received")
    return row


def _set(connection: Connection, device: str, **values: object) -> None:
    table = tables.devices
    stamped = {**values, "changed": changes.number(connection)}
    connection.execute(sa.update(table).where(table.c.device == device).values(stamped))


def _merged(have: Mapping[str, str], labels: Mapping[str, str | None], device: str) -> dict[str, str]:
    kept = dict(have)
    for key, value in labels.items():
        if _KEY.fullmatch(key) is None:
            raise UsageError(f"{device}: a label's name of letters, digits and `._/-` expected, {key[:80]!r} received")
        if value is None:
            kept.pop(key, None)
        elif len(value) > MAX_LABEL:
            raise UsageError(f"{device}: label {key}: at most {MAX_LABEL} characters expected, {len(value)} received")
        else:
            kept[key] = value
    if len(kept) > MAX_LABELS:
        raise UsageError(f"{device}: at most {MAX_LABELS} labels expected, {len(kept)} would be")
    return kept


def _json(labels: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(sorted(labels.items()))).decode()
