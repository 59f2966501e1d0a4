"""What a change's parameters may be in a scenario: one value, a range, or a choice; and what is drawn from them.

`3.0` is that value; `[2.0, 4.0]` is evenly between both (whole numbers where the fault wants one, ends included); a list of
texts or of any other length is a choice; `{ one_of = [1, 3] }` is a choice whatever it holds. What the fault allows is the
fault's own business (world/faults.py): every corner of the ranges is tried on it.
"""

from __future__ import annotations

from dataclasses import MISSING
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from covey.errors import UsageError
from firmware_sim.world.faults import KINDS, MACHINE, QUADROTOR, SENSORS, make_fault, parameters_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CORNERS = 4096  # combinations tried; more than the faults we know have


def draw(kind: str, key: str, value: object, part: float) -> object:
    """The parameter's value at `part` of what it may be, [0, 1)."""
    options, low, high = _options(value)
    if options:
        return options[int(part * len(options))]
    if _whole(kind, key):
        return int(low) + int(part * (int(high) - int(low) + 1))
    told = float(f"{low + part * (high - low):.4g}")  # as people say it
    return min(max(told, float(low)), float(high))


def problems(kind: str, body: str, params: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with the parameters, by key; empty key when it is none of them."""
    wrong: dict[str, str] = {}
    known = [f.name for f in parameters_of(kind)]
    for key, value in params.items():
        if key not in known:
            wrong[key] = f"unknown parameter of {kind} ({', '.join(known)} exist)"
        elif (problem := _form(kind, key, value)) is not None:
            wrong[key] = problem
    for field in parameters_of(kind):
        if field.default is MISSING and field.name not in params:
            wrong[field.name] = "missing"
    usable = {key: _corners(value) for key, value in params.items() if key not in wrong}
    usable |= {key: [_harmless(kind, key)] for key in wrong if key in known}  # so that the others are tried
    while (found := _refused(kind, usable, known)) is not None and found[0] not in wrong:
        wrong[found[0]] = found[1]
        if found[0]:
            usable[found[0]] = [_harmless(kind, found[0])]
    for sensor in _corners(params["sensor"]) if "sensor" in params and "sensor" not in wrong else ():
        if body not in SENSORS[str(sensor)].bodies:
            there = ", ".join(name for name, s in SENSORS.items() if body in s.bodies)
            wrong["sensor"] = f"a sensor of a {body} expected ({there}), {sensor!r} came"
    return wrong


def _refused(kind: str, usable: Mapping[str, list[Any]], known: list[str]) -> tuple[str, str] | None:
    """Key and problem of the first combination that the fault refuses."""
    for corner in islice(product(*usable.values()), MAX_CORNERS):
        try:
            make_fault(kind, 0.0, dict(zip(usable, corner, strict=True)))
        except UsageError as error:
            return _told(str(error), kind, known)
    return None


def _harmless(kind: str, key: str) -> object:
    """A value that the fault takes."""
    (told,) = (f.metadata for f in parameters_of(kind) if f.name == key)
    if "choices" in told:
        return told["choices"][0]
    return "" if "longest" in told else min(max(0, told["low"]), told["high"])


def bodies_of(kind: str) -> tuple[str, ...]:
    """The bodies that a kind of fault fits."""
    return tuple(body for body in (QUADROTOR, MACHINE) if body in KINDS[kind].bodies)


def _options(value: Any) -> tuple[list[Any], float, float]:
    if isinstance(value, dict):
        return value["one_of"], 0.0, 0.0
    if not isinstance(value, list):
        return [value], 0.0, 0.0
    if len(value) == 2 and all(_is_number(item) for item in value):
        return [], value[0], value[1]
    return value, 0.0, 0.0


def _corners(value: object) -> list[Any]:
    options, low, high = _options(value)
    return options or [low, high]


def _form(kind: str, key: str, value: object) -> str | None:
    if isinstance(value, dict):
        if value.keys() != {"one_of"} or not isinstance(value["one_of"], list):
            return f"a table with one_of = [...] expected, {value!r} came"
        value = value["one_of"]
    elif isinstance(value, list) and len(value) == 2 and all(_is_number(item) for item in value):
        whole = not _whole(kind, key) or all(float(item).is_integer() for item in value)
        if value[0] > value[1] or not whole:
            return f"[low, high]{'' if whole else ' in whole numbers'} expected, {value!r} came"
        return None
    choices = value if isinstance(value, list) else [value]
    bad = [item for item in choices if isinstance(item, bool) or not isinstance(item, (int, float, str))]
    if bad or not choices:
        return f"{'a number or a text' if bad else 'at least one choice'} expected, {(bad or [value])[0]!r} came"
    return None


def _told(message: str, kind: str, known: list[str]) -> tuple[str, str]:
    """Key and problem of `fault KIND: KEY: problem`."""
    said = message.removeprefix(f"fault {kind}: ")
    key, _, problem = said.partition(": ")
    return (key, problem) if key in known and problem else ("", said)


def _whole(kind: str, key: str) -> bool:
    return any(f.name == key and f.metadata.get("whole") for f in parameters_of(kind))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
