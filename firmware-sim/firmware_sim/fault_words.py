"""Faults as words on the command line, `KIND:key=value,...`, and the table of all kinds. Pure."""

from __future__ import annotations

from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from covey.errors import UsageError
from firmware_sim.world.faults import KINDS, make_fault, parameters_of

if TYPE_CHECKING:
    from firmware_sim.world.faults import Fault

ONSET = "onset_s"


def parse_fault(words: str, onset_s: float = 0.0) -> Fault:
    """A fault from `propeller-cut:motor=3,cut_mm=3.0`; `onset_s=...` among the keys goes before the argument.

    Raises:
        UsageError: one line that names the kind and the key.
    """
    kind, _, rest = words.partition(":")
    known = {f.name: f for f in parameters_of(kind)}
    params: dict[str, object] = {}
    for pair in rest.split(",") if rest else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"fault {kind}: key=value expected, {pair!r} came")
        if key in params:
            raise UsageError(f"fault {kind}: {key} once expected, twice came")
        is_text = key in known and {"choices", "longest"} & known[key].metadata.keys()
        params[key] = value if is_text else _number(value)
    onset = params.pop(ONSET, onset_s)
    return make_fault(kind, onset, params)  # type: ignore[arg-type]  # an onset that is no number is refused with the rest


def _number(text: str) -> float | int | str:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def describe() -> list[dict[str, Any]]:
    """One object per kind: kind, category, bodies, what it is, and its parameters with units and bounds."""
    return [
        {
            "kind": kind,
            "category": fault.category,
            "bodies": list(fault.bodies),
            "what": (fault.__doc__ or "").strip().split("\n")[0].rstrip("."),
            "parameters": [
                {
                    "name": p.name,
                    "what": p.metadata["what"],
                    "unit": p.metadata["unit"],
                    **({} if "low" not in p.metadata else {"low": p.metadata["low"], "high": p.metadata["high"]}),
                    **({} if "choices" not in p.metadata else {"choices": list(p.metadata["choices"])}),
                    "default": None if p.default is MISSING else p.default,
                    "needed": p.default is MISSING,
                }
                for p in parameters_of(kind)
            ],
        }
        for kind, fault in KINDS.items()
    ]


def table() -> list[str]:
    """The same for people: a line per kind and one per parameter."""
    lines = []
    for fault in describe():
        lines.append(f"{fault['kind']} ({fault['category']}; {', '.join(fault['bodies'])}): {fault['what']}")
        for p in fault["parameters"]:
            if "choices" in p:
                values = ", ".join(p["choices"])
            elif "low" in p:
                values = f"{p['low']:g} to {p['high']:g} {p['unit']}".rstrip()
            else:
                values = "text"
            default = "" if p["needed"] else f"; {p['default']!r} when left out"
            lines.append(f"    {p['name']}: {p['what']}; {values}{default}")
    return lines
