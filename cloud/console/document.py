"""The OpenAPI document: Litestar's, with what it leaves out of bodies and parameters.

Litestar 2.25 tells of structs neither that unknown fields are refused nor the bounds of parts that are optional or may be left unset, and loses a parameter's
least value of 0. msgspec's own schemas say what msgspec checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_REF = "#/components/schemas/{name}"


def document(found: dict[str, Any], modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Mend a document.

    Args:
        found: Litestar's, as JSON values; changed in place.
        modules: whose structs are the bodies of requests and answers.
    """
    structs = {value for module in modules for value in vars(module).values() if _is_struct(value)}
    _, schemas = msgspec.json.schema_components(sorted(structs, key=lambda one: one.__name__), ref_template=_REF)
    held = found["components"]["schemas"]
    for name in held:
        held[name] = schemas[name]  # a struct of two modules would have two names there: a KeyError says so
    found["components"]["schemas"] |= {name: schema for name, schema in schemas.items() if _is_used(name, held)}
    for methods in found["paths"].values():
        for route in methods.values():
            for parameter in route.get("parameters", []):
                parameter["schema"] = _of_parameter(parameter["schema"])
    return found


def _is_struct(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct


def _is_used(name: str, held: dict[str, Any]) -> bool:
    return f'"{_REF.format(name=name)}"' in msgspec.json.encode(held).decode()


def _of_parameter(schema: dict[str, Any]) -> dict[str, Any]:
    """One type, with its bounds; where it may be left out, `null` says the same (msgspec reads the word so)."""
    told = dict(schema)
    parts = told.pop("oneOf", [])
    some = [one for one in parts if one.get("type") != "null"]
    if len(some) == 1:
        told = some[0] | told
        if len(parts) > 1 and told["type"] != "string":
            told["type"] = [told["type"], "null"]
    if "maximum" in told:
        told.setdefault("minimum", 0)
    return told
