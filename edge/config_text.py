"""The agent's configuration as people read it: what each key is for, a commented TOML file, plain values. No I/O.

What a key is for stands once, beside its default in edge/config.py, and is read from there.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from edge.config import AgentConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from covey.config import Setting

_DOCUMENTED = re.compile(r"    (?P<key>[a-z_]+): .*?  # (?P<text>.+)")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEAD = """\
# What this device's agent runs with. Lines behind '#' are the defaults. After a change:
#   covey edge config --config {path} --check
#   covey edge install        (as root; fits the service to another source, and starts it anew)
# Passwords and keys stand in files of their own; here is only where.

"""


def comments() -> dict[str, str]:
    """Key -> what it is for; empty where Python's sources were not shipped."""
    try:
        source = inspect.getsource(AgentConfig)
    except OSError:
        return {}
    return {found["key"]: found["text"] for line in source.splitlines() if (found := _DOCUMENTED.fullmatch(line))}


def plain(value: object) -> Any:
    """A value as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def to_toml(settings: Iterable[Setting], path: str) -> str:
    """A TOML file with these settings; what is as by default stands in it as a comment.

    Args:
        settings: every key, as covey.config.explain gives them.
        path: where the file will be, for its first lines.
    """
    about = comments()
    defaults = {f.name: f for f in msgspec.structs.fields(AgentConfig)}
    lines: list[str] = []
    for key, value, _ in settings:
        field = defaults[key]
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        mark = "# " if not field.required and value == default else ""
        told = f"  # {about[key]}" if key in about else ""
        # TOML has no null
        lines.append(f"# {key}: not set{told}" if value is None else f"{mark}{key} = {toml_value(plain(value))}{told}")
    return _HEAD.format(path=path) + "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value of JSON's kinds in TOML 1.0, on one line.

    Raises:
        TypeError: TOML has no such value (null).
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_name(key)} = {toml_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inside} }}" if inside else "{}"
    raise TypeError(f"a value that TOML has expected, {type(value).__name__} came")


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_value(key)
