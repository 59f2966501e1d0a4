"""Plans from a TOML file and options, and which of their parts go together: every bad key is named in one message.

A table says what each family allows; no I/O but reading the file, no NumPy.

| family | rules | clip, compress | privacy | masked |
|---|---|---|---|---|
| pca | exact sums; finite, shape, norm, semidefinite, distance | no: a sum that is shortened or rounded is none | no | yes |
| autoencoders | averages, trimmed by default; finite, shape, norm, clip, distance | yes | fedavg, fedprox | no |
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from covey.errors import ConfigError
from federated.config import RULES, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BY_OPTION = ("strict",)  # the caller's, never a file's


def read_plan(path: Path) -> dict[str, Any]:
    """The keys of a plan file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: TOML expected: {error}") from error


def make_plan(told: Mapping[str, Any], where: str) -> Plan:
    """A plan from plain values; what is left out is the plan's own default.

    Args:
        told: key -> value, tables as dictionaries.
        where: for messages: the file, or "options".

    Raises:
        ConfigError: unknown keys, values out of range, or parts that do not go together; names them all.
    """
    known = {field.encode_name: field for field in msgspec.structs.fields(Plan)}
    wrong: list[str] = []
    good: dict[str, Any] = {}
    for name, value in told.items():
        if name not in known or (name in BY_OPTION and where != "options"):
            wrong.append(f"{name}: no such key")
            continue
        kind = known[name].type
        try:
            good[name] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            wrong += _table(name, value, kind) or [f"{name}: {_plain(error)}"]
    if "family" not in good and not any(text.startswith("family") for text in wrong):
        wrong.append("family: expected, missing")
    if not wrong:
        plan = Plan(**good)
        wrong = misfits(plan, named=told.keys())
        if not wrong:
            return plan
    raise ConfigError(f"{where}: " + "; ".join(wrong))


def _table(name: str, value: Any, kind: Any) -> list[str]:
    """Every bad key of a table, which msgspec would name one at a time."""
    options = [part for part in getattr(kind, "__args__", (kind,)) if isinstance(part, type)]
    structs = [part for part in options if issubclass(part, msgspec.Struct)]
    if not structs or not isinstance(value, dict):
        return []
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(structs[0])}
    wrong = []
    for key, part in value.items():
        if key not in fields:
            wrong.append(f"{name}.{key}: no such key")
            continue
        try:
            msgspec.convert(part, fields[key])
        except msgspec.ValidationError as error:
            wrong.append(f"{name}.{key}: {_plain(error)}")
    return wrong


def _plain(error: msgspec.ValidationError) -> str:
    text = str(error)
    return f"{text[:1].lower()}{text[1:]}"


def misfits(plan: Plan, named: Any = ()) -> list[str]:
    """Why the parts of a plan do not go together; empty when they do.

    Args:
        plan: in range, each part for itself.
        named: the keys that somebody set; a default is no mistake.
    """
    wrong: list[str] = []
    rules = RULES[plan.family]
    if plan.rule not in rules:
        why = " (its sums are exact: an average of the parts that are left after trimming is none)"
        wrong.append(
            f"strategy: family {plan.family} takes {', '.join(rules)}, {plan.rule!r} came"
            + (why if plan.family == "pca" else "")
        )
    if plan.family == "pca":
        wrong += [
            f"{name}: of autoencoders only, family pca sends exact sums"
            for name in ("clip", "compress", "keep", "privacy", "dense", "server")
            if name in named
        ]
    elif plan.masked:
        wrong.append(
            f"masked: sums of family pca only, {plan.family} is merged by {plan.rule}, which needs each update"
        )
    if plan.rule == "fedprox" and not plan.dense.proximal > 0:
        wrong.append("strategy fedprox: dense.proximal above 0 expected, 0 came")
    wrong += _private(plan, named) if plan.privacy is not None else []
    needed = fewest(plan.rule, plan.server.hostile or 0)
    if plan.server.hostile is not None and plan.rule not in {"krum", "multikrum", "bulyan"}:
        wrong.append(f"server.hostile: of krum, multikrum and bulyan, strategy is {plan.rule}")
    elif plan.server.hostile and "min_clients" in named and plan.min_clients < needed:
        wrong.append(
            f"min_clients: at least {needed} expected, so that {plan.rule} bears {plan.server.hostile} hostile devices, "
            f"{plan.min_clients} came"
        )
    return wrong


def _private(plan: Plan, named: Any) -> list[str]:
    wrong = []
    if plan.family != "pca" and plan.rule not in {"fedavg", "fedprox"}:
        wrong.append(f"privacy: strategy fedavg or fedprox expected (the noise is that of a mean), {plan.rule} came")
    if "clip" in named:
        wrong.append("clip: privacy.clip is the bound of a private run")
    if plan.privacy is not None and plan.privacy.side == "client" and plan.compress != "none":
        wrong.append(f"compress: 'none' expected with privacy.side client (rounding lengthens), {plan.compress!r} came")
    return wrong


def fewest(rule: str, hostile: int) -> int:
    """Updates that a rule needs to bear so many hostile ones.

    Source: Blanchard et al., NeurIPS 2017 (Krum: 2 f + 3); El Mhamdi et al., ICML 2018 (Bulyan: 4 f + 3).
    """
    if rule in {"krum", "multikrum"}:
        return 2 * hostile + 3
    if rule == "bulyan":
        return 4 * hostile + 3
    return 1
