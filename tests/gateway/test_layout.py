"""Shards and mappings belong to exactly one process; a configuration survives its file."""

from pathlib import Path

import pytest

from covey import topics
from covey.config import load
from covey.errors import ConfigError
from gateway import layout
from gateway.config import GatewayConfig
from gateway.link import client_id
from gateway.mapping import Mapping
from gateway.move import left_behind


def test_every_shard_belongs_to_exactly_one_process_whatever_their_number() -> None:
    for parts in range(1, 257):
        ranges = layout.split(topics.SHARDS, parts)
        assert [s for r in ranges for s in r] == list(topics.SHARDS)  # all, once, in order: ranges
        assert {len(r) for r in ranges} <= {256 // parts, 256 // parts + 1}


def test_a_part_of_the_fleet_is_split_among_processes_with_names_of_their_own() -> None:
    config = GatewayConfig(name="north", shards=("0a", "ff", "03"), processes=2, health_port=8081)
    made = layout.of_processes(config)
    assert [(c.name, c.shards, c.processes) for c in made] == [("north-0", ("03",), 1), ("north-1", ("0a", "ff"), 1)]
    assert [layout.shown(c.own_shards()) for c in made] == ["03", "0a-ff"]


def test_a_configuration_reads_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    config = GatewayConfig(
        name="a.b-c",
        shards=("00", "ff"),
        mqtt_user='q"uo\\te \t\x7f\n\u00e9 \U0001f426',
        rate_events_s=0.5,
        log_json=True,
    )
    file = tmp_path / "0.toml"
    file.write_text(layout.to_toml(config), encoding="utf-8")
    assert load(GatewayConfig, "gateway", file, environ={}) == config
    file.write_text(layout.to_toml(GatewayConfig()), encoding="utf-8")  # shards = None is left out
    assert load(GatewayConfig, "gateway", file, environ={}) == GatewayConfig()


def test_more_processes_than_shards_or_a_name_without_room_are_refused_together() -> None:
    with pytest.raises(ConfigError) as told:
        load(GatewayConfig, "gateway", None, {"shards": ["00", "01"], "processes": 3, "name": "n" * 63}, {})
    assert "processes: at most one per shard (2)" in str(told.value)
    assert "name: room" in str(told.value)


def _mapping(name: str, topic: str) -> Mapping:
    return Mapping(filter=name, topic=topic, key="{1}")


def test_mappings_that_share_a_subscription_or_a_kafka_topic_stay_in_one_process() -> None:
    a = _mapping("z/bridge/#", "bridge")
    b = _mapping("tele/+/SENSOR", "tasmota")
    c = _mapping("z/#", "z")
    d = _mapping("stat/+/POWER", "tasmota")
    e = _mapping("e/+", "e")
    made = layout.of_processes(GatewayConfig(processes=2, mappings=(a, b, c, d, e)))
    assert [m.mappings for m in made] == [(a, c, e), (b, d)]  # groups ac, bd, e in turn
    three = layout.of_processes(GatewayConfig(processes=3, mappings=(a, b, c, d, e)))
    assert [m.mappings for m in three] == [(a, c), (b, d), (e,)]
    many = layout.of_processes(GatewayConfig(processes=8, mappings=(a, b)))
    assert [len(m.mappings) for m in many] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_only_sessions_of_this_name_that_nobody_will_resume_are_left_behind() -> None:
    two, three = GatewayConfig(name="g", processes=2), GatewayConfig(name="g", processes=3)
    present = [(s, c.name) for c in layout.of_processes(three) for s in c.own_shards()]
    old = {client_id(c) for c in layout.of_processes(three)}
    assert {client_id(c) for c in left_behind(two, present)} == old
    assert left_behind(three, present) == []  # the same layout: its sessions are resumed
    assert {client_id(c) for c in left_behind(GatewayConfig(name="g"), present)} == old  # back to one process
    alone = [(s, "g") for s in topics.SHARDS]
    assert client_id(GatewayConfig(name="g")) in {client_id(c) for c in left_behind(two, alone)}
    assert left_behind(GatewayConfig(name="g"), alone)[0].shards is not None  # never its own: only the other spelling
    assert left_behind(GatewayConfig(name="other"), present) == []
    assert left_behind(GatewayConfig(name="g", shards=("00",), processes=1), [("01", "g-1")]) == []  # a neighbour's
