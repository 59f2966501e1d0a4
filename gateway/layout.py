"""Which process of several serves what: the shards and the mappings of each, and its configuration as a file. Pure.

Every shard and every mapping belongs to exactly one process, so each device keeps its order.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config import GatewayConfig


def split(shards: Sequence[str], parts: int) -> list[tuple[str, ...]]:
    """Contiguous ranges of the sorted shards, whose lengths differ by one at most.

    Args:
        shards: two hex digits each, no repeats.
        parts: from 1 to the number of shards.
    """
    ordered = sorted(shards)
    edges = [len(ordered) * i // parts for i in range(parts + 1)]
    return [tuple(ordered[a:b]) for a, b in pairwise(edges)]


def of_processes(config: GatewayConfig) -> list[GatewayConfig]:
    """One configuration for each of `config.processes`, in order; each is that of an ordinary gateway."""
    return [
        msgspec.structs.replace(
            config,
            name=f"{config.name}-{i}",
            shards=shards,
            processes=1,
            health_host="127.0.0.1",
            **_mappings(config, i),
        )
        for i, shards in enumerate(split(config.own_shards(), config.processes))
    ]


def _mappings(config: GatewayConfig, process: int) -> dict[str, Any]:
    """The mappings of one process, in their order: group i belongs to process i % N.

    Mappings of one subscription belong together, and so do those of one Kafka topic: two processes that write to it
    would mix up the order of a device that sends on several MQTT topics.
    """
    parts: list[tuple[mapping.Mapping, ...]] = []
    for group in mapping.groups(config.mappings):
        shared = [p for p in parts if {m.topic for m in p} & {m.topic for m in group}]
        rest = [p for p in parts if p not in shared]
        parts = [*rest, tuple(m for p in (*shared, group) for m in p)]
    parts.sort(key=lambda part: min(map(config.mappings.index, part)))
    mine = [m for part in parts[process :: config.processes] for m in part]
    return {"mappings": tuple(m for m in config.mappings if m in mine)}


def shown(shards: Sequence[str]) -> str:
    """A range of shards for people: `00-54`."""
    return shards[0] if len(shards) == 1 else f"{shards[0]}-{shards[-1]}"


def to_toml(config: GatewayConfig) -> str:
    """A configuration as a TOML file that `covey.config.load` reads back as the same."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, dict):
        return _table(value)
    # numbers, booleans and strings are written as in JSON, but for DEL and for pairs of \u escapes (TOML 1.0, String)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in values.items() if v is not None) + "}"
