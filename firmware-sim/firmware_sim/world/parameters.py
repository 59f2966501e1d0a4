"""Fields of dataclasses that know their unit, bounds and meaning, and the check that they agree with a value."""

from __future__ import annotations

import math
from dataclasses import Field, field
from typing import Any

from covey.errors import UsageError


def bounds(unit: str, low: float, high: float, what: str) -> dict[str, Any]:
    """Metadata of a number."""
    return {"unit": unit, "low": low, "high": high, "what": what}


def quantity(unit: str, low: float, high: float, what: str, default: float | None = None) -> Any:
    """A float field with its unit and bounds; without a default it must be given."""
    told = bounds(unit, low, high, what)
    return field(metadata=told) if default is None else field(default=default, metadata=told)


def whole(low: int, high: int, what: str) -> Any:
    """A field that holds a whole number."""
    return field(metadata={"unit": "", "low": low, "high": high, "what": what, "whole": True})


def choice(choices: tuple[str, ...], what: str) -> Any:
    """A field that holds one of some words."""
    return field(metadata={"unit": "", "choices": choices, "what": what})


def text(longest: int, what: str) -> Any:
    """A field that holds a short text, empty by default."""
    return field(default="", metadata={"unit": "", "longest": longest, "what": what})


def check(owner: str, parameter: Field[Any], value: object) -> None:
    """Refuse a value that its field does not allow.

    Raises:
        UsageError: names the owner, the field, what was expected and what came.
    """
    told, where = parameter.metadata, f"{owner}: {parameter.name}"
    if "choices" in told:
        if value not in told["choices"]:
            raise UsageError(f"{where}: one of {', '.join(told['choices'])} expected, {value!r} came")
        return
    if "longest" in told:
        if not isinstance(value, str) or len(value) > told["longest"] or not value.isprintable():
            raise UsageError(f"{where}: a text of at most {told['longest']} characters expected, {value!r} came")
        return
    wanted = f"{told['low']:g} to {told['high']:g} {told['unit']}".rstrip()
    if told.get("whole"):
        right = isinstance(value, int) and not isinstance(value, bool) and told["low"] <= value <= told["high"]
        if not right:
            raise UsageError(f"{where}: a whole number {wanted} expected, {value!r} came")
        return
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not told["low"] <= number <= told["high"]:
        raise UsageError(f"{where}: {wanted} expected, {value!r} came")
