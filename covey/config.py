"""Configuration: a TOML file, then `COVEY_<ROLE>_<KEY>`, then options, into one frozen struct.

Unknown keys are refused, and one message names every bad key. Secrets come by file path only.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import msgspec

from covey.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

C = TypeVar("C", bound=msgspec.Struct)


def load(
    kind: type[C],
    role: str,
    path: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    also: Callable[[Mapping[str, object]], list[str]] | None = None,
) -> C:
    """Build a role's configuration.

    Args:
        kind: frozen msgspec struct with defaults; it may raise ValueError in `__post_init__` for cross-field rules.
        role: names the environment variables: `COVEY_EDGE_DEVICE` sets `device` of role `edge`.
        path: TOML file, or None.
        options: values from the command line; None values are left out.
        environ: the environment; the process's own by default.
        also: further problems (files that do not exist), from every key's value, default or None; called also when other keys
            are wrong, so that one message holds all.

    Raises:
        ConfigError: the file is missing or is not TOML, keys are unknown, or values are wrong; names each of them.
    """
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind, include_extras=True)
    where = str(path) if path is not None else f"{role} configuration"
    problems: list[str] = []
    values: dict[str, tuple[object, str]] = {}
    for key, value in (_read(path) if path is not None else {}).items():
        if key in fields:
            values[key] = (value, key)
        else:
            problems.append(f"unknown key {key!r}")
    prefix = f"COVEY_{role.upper()}_"
    for name, text in sorted((os.environ if environ is None else environ).items()):
        key = name.removeprefix(prefix).lower()
        if name.startswith(prefix) and key in fields:
            values[key] = (text, name)
        elif name.startswith(prefix):
            problems.append(f"unknown variable {name}")
    for key, value in (options or {}).items():
        if value is not None:
            values[key] = (value, f"--{key.replace('_', '-')}")
    ready: dict[str, object] = {}
    for key, (value, said_by) in values.items():
        try:
            # strict=False: environment variables are strings, and "1883" is a port
            ready[key] = msgspec.convert(value, hints[key], strict=False)
        except msgspec.ValidationError as error:
            problems += _wrong(said_by, value, hints[key], error)
    missing = [name for name, f in fields.items() if f.required and name not in values]
    problems += [f"missing key {name!r}" for name in missing]
    made: C | None = None
    if all(name in ready for name, f in fields.items() if f.required):
        try:
            made = kind(**ready)  # without the keys that are wrong already: the rules between the others are told, too
        except ValueError as error:
            problems.append(str(error))
    if also is not None:
        problems += also({name: _default(f) for name, f in fields.items()} | ready)
    if problems or made is None:
        raise ConfigError(f"{where}: " + "; ".join(problems))
    return made


def _default(field: msgspec.structs.FieldInfo) -> object:
    """A key's default; None where it has none."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.required else field.default


def _wrong(said_by: str, value: object, hint: Any, error: msgspec.ValidationError) -> list[str]:
    """What is wrong with one key's value; of a list of tables ([[key]]) every key of every table."""
    table = next((a for a in get_args(hint) if isinstance(a, type) and issubclass(a, msgspec.Struct)), None)
    if table is None:
        return [f"{said_by}: {_lower(error)}"]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        return [f"{said_by}: tables in the TOML file expected ([[...]]), {type(value).__name__} given"]
    hints = get_type_hints(table, include_extras=True)
    required = [f.name for f in msgspec.structs.fields(table) if f.required]
    problems: list[str] = []
    for index, row in enumerate(value):
        where = f"{said_by}[{index}]"
        problems += [f"{where}: unknown key {key!r}" for key in row if key not in hints]
        problems += [f"{where}: missing key {key!r}" for key in required if key not in row]
        for key in sorted(hints.keys() & row.keys()):
            try:
                msgspec.convert(row[key], hints[key], strict=False)
            except msgspec.ValidationError as wrong:
                problems.append(f"{where}.{key}: {_lower(wrong)}, {str(row[key])[:60]!r} given")
    return problems or [f"{said_by}: {_lower(error)}"]


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
