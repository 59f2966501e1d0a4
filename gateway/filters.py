"""MQTT topic filters: which topics they match, and how two of them stand to each other. Pure.

Source of every rule: MQTT 5.0, section 4.7 (topic names and filters) and 1.5.4 (UTF-8 strings).
"""

from __future__ import annotations

MAX_BYTES = 65_535  # 4.7.3: the length is two bytes


def levels(name: str) -> tuple[str, ...]:
    """Levels of a filter; `+/#` and `#` match the same topics and are the same here (4.7.1.2: `#` with its parent)."""
    parts = tuple(name.split("/"))
    return ("#",) if parts == ("+", "#") else parts


def problem(name: str) -> str:
    """What is wrong with a filter, as one line; "" when it may be subscribed."""
    size = len(name.encode(errors="replace"))
    if not 1 <= size <= MAX_BYTES or "\0" in name:
        return f"an MQTT filter of 1-{MAX_BYTES} bytes without NUL expected, {name[:40]!r} ({size} bytes) given"
    parts = name.split("/")
    if parts[0] == "$share":
        return f"no shared subscription expected, {name[:120]!r} given: it would break the order of each device"
    if any("#" in part for part in parts[:-1]) or ("#" in parts[-1] and parts[-1] != "#"):
        return f"'#' as the last level alone expected, {name[:120]!r} given"
    if any("+" in part and part != "+" for part in parts):
        return f"'+' as a whole level expected, {name[:120]!r} given"
    return ""


def most_levels(name: str) -> int | None:
    """How many levels a topic has that the filter matches; None where `#` leaves it open."""
    parts = levels(name)
    return None if parts[-1] == "#" else len(parts)


def cross(one: str, other: str) -> bool:
    """Whether some topic matches both filters."""
    a, b = levels(one), levels(other)
    if _dollar_apart(a, b) or _dollar_apart(b, a):
        return False
    for x, y in zip(a, b, strict=False):
        if "#" in (x, y):
            return True
        if x != y and "+" not in (x, y):
            return False
    rest = a[len(b) :] or b[len(a) :]
    return rest in ((), ("#",))


def covers(broad: str, narrow: str) -> bool:
    """Whether every topic that matches `narrow` matches `broad` too."""
    a, b = levels(broad), levels(narrow)
    if _dollar_apart(a, b):
        return False
    for x, y in zip(a, b, strict=False):
        if x == "#":
            return True
        if y == "#" or (x not in ("+", y)):
            return False
    return a[len(b) :] in ((), ("#",)) and len(b) <= len(a)


def _dollar_apart(wild: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """4.7.2: a filter that begins with a wildcard does not match topics that begin with `$`."""
    return wild[0] in ("+", "#") and other[0].startswith("$")
