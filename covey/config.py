"""Configuration: a TOML file, then `COVEY_<ROLE>_<KEY>`, then options, into one frozen struct.

Unknown keys are refused, and one message names every bad key. Secrets come by file path only. A key that is itself a struct is a
table of the file ([console]); environment and options name its keys with the table before them: `console_port`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

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

_NAME = r"\s*(?P<quote>[\"']?)(?P<key>[A-Za-z0-9_-]+)(?P=quote)\s*"
_KEY = re.compile(_NAME + "[.=]")
_TABLE = re.compile(rf"\s*\[\[?{_NAME}[.\]]")


class Setting(NamedTuple):
    """One key of a configuration that was settled."""

    key: str
    value: object
    source: str  # default | FILE:LINE | environment NAME | option --NAME


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
    return explain(kind, role, path, options, environ, also)[0]


def explain(
    kind: type[C],
    role: str,
    path: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    also: Callable[[Mapping[str, object]], list[str]] | None = None,
    flags: Mapping[str, str] | None = None,
) -> tuple[C, list[Setting]]:
    """Build a role's configuration as `load` does, and tell for each key, in the struct's order, where its value came from.

    Args:
        kind: as for `load`, like what is not named here.
        role: as for `load`.
        path: as for `load`.
        options: as for `load`.
        environ: as for `load`.
        also: as for `load`.
        flags: options that are not called as their key is: {"sources": "--source"}.

    Raises:
        ConfigError: as for `load`.
    """
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind, include_extras=True)
    where = str(path) if path is not None else f"{role} configuration"
    problems: list[str] = []
    values: dict[str, tuple[object, str, str]] = {}  # key -> value, said by, source
    put = _Putter(hints, values).put
    read, lines = _read(path) if path is not None else ({}, {})
    for key, value in read.items():
        if key in fields:
            values[key] = (value, key, f"{path}:{lines[key]}" if key in lines else str(path))
        else:
            problems.append(f"unknown key {key!r}")
    prefix = f"COVEY_{role.upper()}_"
    for name, text in sorted((os.environ if environ is None else environ).items()):
        key = name.removeprefix(prefix).lower()
        if name.startswith(prefix) and not put(key, text, name, f"environment {name}"):
            problems.append(f"unknown variable {name}")
    for key, value in (options or {}).items():
        if value is not None:
            flag = (flags or {}).get(key, f"--{key.replace('_', '-')}")
            put(key, value, flag, f"option {flag}")
    ready: dict[str, object] = {}
    for key, (value, said_by, _) in values.items():
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
    return made, [
        Setting(name, getattr(made, name), values[name][2] if name in values else "default") for name in fields
    ]


class _Putter:
    """Settles keys by their flat names: a table's key `port` is `console_port`."""

    def __init__(self, hints: Mapping[str, Any], values: dict[str, tuple[object, str, str]]) -> None:
        self._hints, self._values = hints, values
        self._inner = {
            f"{table}_{f.name}": (table, f.name)
            for table, hint in hints.items()
            if _is_struct(hint)
            for f in msgspec.structs.fields(hint)
        }

    def put(self, key: str, value: object, said_by: str, source: str) -> bool:
        """Settle one; False: there is no such key."""
        if key in self._hints:
            self._values[key] = (value, said_by, source)
            return True
        if key not in self._inner:
            return False
        table, name = self._inner[key]
        before = self._values.get(table, ({}, table, ""))[0]
        self._values[table] = ({**(before if isinstance(before, dict) else {}), name: value}, table, source)
        return True


def _default(field: msgspec.structs.FieldInfo) -> object:
    """A key's default; None where it has none."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.required else field.default


def _wrong(said_by: str, value: object, hint: Any, error: msgspec.ValidationError) -> list[str]:
    """What is wrong with one key's value; of tables ([[key]], or [key.name]) every key of every table."""
    single = _is_struct(hint)
    table = hint if single else next((a for a in get_args(hint) if _is_struct(a)), None)
    if table is None:
        return [f"{said_by}: {_lower(error)}"]
    named = get_origin(hint) is dict
    kind, shape = (dict, f"[{said_by}.NAME]") if named else (list, "[[...]]")
    if single:
        kind, shape, value = list, f"[{said_by}]", [value]
    if not isinstance(value, kind) or not all(isinstance(row, dict) for row in _rows(value).values()):
        return [f"{said_by}: tables in the TOML file expected ({shape}), {type(value).__name__} given"]
    hints = get_type_hints(table, include_extras=True)
    required = [f.name for f in msgspec.structs.fields(table) if f.required]
    problems: list[str] = []
    for where, row in ((said_by if single else f"{said_by}{name}", row) for name, row in _rows(value).items()):
        problems += [f"{where}: unknown key {key!r}" for key in row if key not in hints]
        problems += [f"{where}: missing key {key!r}" for key in required if key not in row]
        for key in sorted(hints.keys() & row.keys()):
            try:
                msgspec.convert(row[key], hints[key], strict=False)
            except msgspec.ValidationError as wrong:
                problems.append(f"{where}.{key}: {_lower(wrong)}, {str(row[key])[:60]!r} given")
    return problems or [f"{said_by}: {_lower(error)}"]


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _rows(value: Any) -> dict[str, Any]:
    """Tables by what is put behind their key to name them: [0] or .name."""
    if isinstance(value, dict):
        return {f".{name}": row for name, row in value.items()}
    return {f"[{index}]": row for index, row in enumerate(value)}


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A TOML file's keys and values, and the lines on which keys are set."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), _lines(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _lines(text: str) -> dict[str, int]:
    """Line of each top-level key, where it is plain to see: a text of several lines may hold anything, so it ends there."""
    found: dict[str, int] = {}
    in_table = False
    for number, line in enumerate(text.splitlines(), 1):
        if '"""' in line or "'''" in line:
            break
        header = _TABLE.match(line)
        in_table = in_table or header is not None
        key = header if in_table else _KEY.match(line)
        if key:
            found.setdefault(key["key"], number)
    return found
