"""Mappings as plain fleets need them: Tasmota, Zigbee2MQTT, Sparkplug B; every mistake of a configuration told at once."""

import base64
import json
import time
from pathlib import Path

import pytest

from covey.config import load
from covey.errors import ConfigError
from gateway import layout
from gateway.config import GatewayConfig
from gateway.mapping import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Mapping,
    Mappings,
    envelope,
    groups,
    headers,
    problems,
    traceparent_of,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FLEETS = (
    Mapping(filter="tele/+/SENSOR", topic="tasmota.sensors", key="{1}"),
    Mapping(filter="tele/+/LWT", topic="tasmota.presence", key="{1}"),
    Mapping(filter="stat/+/+", topic="tasmota.results", key="{1}"),
    Mapping(filter="zigbee2mqtt/bridge/#", topic="zigbee.bridge", key="bridge"),
    Mapping(filter="zigbee2mqtt/#", topic="zigbee.devices", key="{1:}"),
    Mapping(filter="spBv1.0/STATE/+", topic="sparkplug.state", key="{2}"),
    Mapping(filter="spBv1.0/+/+/+/#", topic="sparkplug", key="{1}/{3}"),
)


def _m(name="a/+", topic="t", key="{topic}", **more) -> Mapping:
    return Mapping(filter=name, topic=topic, key=key, **more)


def _route(mappings, topic):
    route = Mappings(mappings).find(topic)
    return None if route is None else (route.mapping.topic, route.key)


@pytest.mark.parametrize(
    ("topic", "kafka", "key"),
    [
        ("tele/kitchen_plug/SENSOR", "tasmota.sensors", b"kitchen_plug"),
        ("tele/kitchen_plug/LWT", "tasmota.presence", b"kitchen_plug"),
        ("stat/kitchen_plug/RESULT", "tasmota.results", b"kitchen_plug"),
        ("stat/kitchen_plug/POWER1", "tasmota.results", b"kitchen_plug"),
        ("zigbee2mqtt/bridge/state", "zigbee.bridge", b"bridge"),
        ("zigbee2mqtt/bridge", "zigbee.bridge", b"bridge"),
        ("zigbee2mqtt/0x00158d0001", "zigbee.devices", b"0x00158d0001"),
        ("zigbee2mqtt/attic/north window", "zigbee.devices", b"attic/north window"),
        ("zigbee2mqtt/Küche", "zigbee.devices", "Küche".encode()),
        ("spBv1.0/Plant1/NBIRTH/edge-7", "sparkplug", b"Plant1/edge-7"),
        ("spBv1.0/Plant1/NDATA/edge-7", "sparkplug", b"Plant1/edge-7"),
        ("spBv1.0/Plant1/DDATA/edge-7/pump", "sparkplug", b"Plant1/edge-7"),
        ("spBv1.0/STATE/scada-1", "sparkplug.state", b"scada-1"),
    ],
)
def test_messages_of_plain_fleets_find_their_topic_and_key(topic, kafka, key) -> None:
    assert _route(FLEETS, topic) == (kafka, key)


def test_the_example_fleets_are_valid_and_subscribe_nothing_twice() -> None:
    assert problems(FLEETS) == []
    mappings = Mappings(FLEETS)
    assert mappings.filters == (
        "tele/+/SENSOR",
        "tele/+/LWT",
        "stat/+/+",
        "zigbee2mqtt/#",  # covers zigbee2mqtt/bridge/#, whose messages a broker would send twice
        "spBv1.0/STATE/+",
        "spBv1.0/+/+/+/#",
    )
    assert mappings.topics == tuple(m.topic for m in FLEETS)
    assert not mappings.wants_properties
    assert Mappings((*FLEETS, _m(headers=True))).wants_properties


def test_mappings_that_share_a_subscription_stay_together() -> None:
    grouped = groups(FLEETS)
    assert [len(g) for g in grouped] == [1, 1, 1, 2, 1, 1]
    assert [m for g in grouped for m in g] == list(FLEETS)
    for group in grouped:
        assert len(Mappings(group).filters) == 1


def test_processes_share_the_mappings_out_and_no_subscription_is_made_twice(tmp_path) -> None:
    made = layout.of_processes(GatewayConfig(mappings=FLEETS, processes=3))
    assert sorted(m.topic for c in made for m in c.mappings) == sorted(m.topic for m in FLEETS)
    filters = [name for c in made for name in Mappings(c.mappings).filters]
    assert sorted(filters) == sorted(Mappings(FLEETS).filters)
    file = tmp_path / "child.toml"
    for config in made:
        file.write_text(layout.to_toml(config), encoding="utf-8")
        assert load(GatewayConfig, "gateway", file, None, {}) == config


@pytest.mark.parametrize(
    ("key", "topic", "wanted"),
    [
        ("{0}", "a/b/c", b"a"),
        ("{2}", "a/b/c", b"c"),
        ("{1:}", "a/b/c", b"b/c"),
        ("{0:}", "a/b/c", b"a/b/c"),
        ("{topic}", "a/b/c", b"a/b/c"),
        ("{1}-{0}.{1}", "a/b/c", b"b-a.b"),
        ("x{{{1}}}y", "a/b/c", b"x{b}y"),
        ("{{1}}", "a/b/c", b"{1}"),
        ("all", "a/b/c", b"all"),
        ("{1}/", "a//c", b"/"),
        ("{3:}", "a/b/c", None),  # no such level
        ("{2}", "a/b", None),
        ("x{2}", "a/b", None),  # text beside it does not make up for it
        ("{1}", "a//c", None),  # empty: Kafka's clients would spread such records over all partitions
        ("{1}", "a/" + "b" * MAX_KEY_BYTES, b"b" * MAX_KEY_BYTES),
        ("{1}", "a/" + "b" * (MAX_KEY_BYTES + 1), None),
    ],
)
def test_a_key_template_makes_keys_of_levels(key, topic, wanted) -> None:
    mappings = Mappings((_m("a/#", key=key),))
    route = mappings.find(topic)
    assert (route and route.key) == wanted
    if wanted is None:
        assert "mappings[0].key" in mappings.why_not(topic)
        assert "\n" not in mappings.why_not(topic)


def test_a_topic_without_a_mapping_has_no_route_and_a_reason() -> None:
    assert Mappings(FLEETS).find("cmnd/kitchen_plug/POWER") is None
    assert Mappings(FLEETS).why_not("cmnd/x") == "no mapping for 'cmnd/x'"
    assert Mappings(()).find("a") is None
    assert Mappings(()).filters == Mappings(()).topics == ()


def test_the_first_of_the_mappings_that_match_is_taken() -> None:
    mappings = (_m("a/b/c", "one"), _m("a/+/c", "two"), _m("a/#", "three"))
    assert problems(mappings) == []
    assert [_route(mappings, t)[0] for t in ("a/b/c", "a/x/c", "a/b", "a")] == ["one", "two", "three", "three"]


@pytest.mark.parametrize(
    ("mapping", "key", "said"),
    [
        (_m("a/#/b"), "filter", "'#' as the last level"),
        (_m("a+"), "filter", "'+' as a whole level"),
        (_m(""), "filter", "1-65535 bytes"),
        (_m("$share/g/a"), "filter", "order"),
        (_m("#"), "filter", "covey"),
        (_m("+/#"), "filter", "covey"),
        (_m("+/v1/+/+/summary"), "filter", "covey"),
        (_m("covey/v1/00/drone/summary"), "filter", "covey"),
        (_m("covey/v1/mine"), "filter", "covey"),
        (_m("+/+/+/gateway"), "filter", "covey"),
        (_m("+/+/00/#"), "filter", "covey"),
        (_m(topic="covey.summaries"), "topic", "not covey's own"),
        (_m(topic="covey.mine"), "topic", "not covey's own"),
        (_m(topic="covey_acks"), "topic", "not covey's own"),
        (_m(topic="__consumer_offsets"), "topic", "not Kafka's own"),
        (_m(topic="."), "topic", "1-249"),
        (_m(topic=".."), "topic", "1-249"),
        (_m(topic=""), "topic", "1-249"),
        (_m(topic="a b"), "topic", "'a b' given"),
        (_m(topic="a\n"), "topic", "1-249"),
        (_m(topic="é"), "topic", "1-249"),
        (_m(topic="a" * 250), "topic", "1-249"),
        (_m(key=""), "key", "1-1024 characters"),
        (_m(key="k" * 1_025), "key", "1025 given"),
        (_m(key="{"), "key", "braces"),
        (_m(key="{x}"), "key", "braces"),
        (_m(key="{-1}"), "key", "braces"),
        (_m(key="{1:2}"), "key", "braces"),
        (_m(key="a}b"), "key", "braces"),
        (_m("a/+", key="{2}"), "key", "{0} to {1} expected"),
        (_m("a", key="{1:}"), "key", "{0} to {0} expected"),
        (_m(max_bytes=0), "max_bytes", f"1 to {MAX_VALUE_BYTES}"),
        (_m(max_bytes=MAX_VALUE_BYTES + 1), "max_bytes", "given"),
    ],
)
def test_each_mistake_is_told_with_index_and_key(mapping, key, said) -> None:
    (told,) = problems((_m("ok/+"), mapping))
    assert told.startswith(f"mappings[1].{key}: ")
    assert said in told
    assert "expected" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "mapping",
    [
        _m("$SYS/#"),
        _m("coveys/#"),
        _m("covey/v2/#"),
        _m("+/+/data"),  # site first, as many plain fleets have it
        _m("+/v1/+/+/+/+"),
        _m("a/#", key="{9}"),
        _m(topic="a" * 249),
        _m(topic="Coveys.x"),
    ],
)
def test_what_only_looks_like_a_mistake_is_taken(mapping) -> None:
    assert problems((mapping,)) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a/+", "a/+"), "that of mappings[0]"),
        (("a/#", "a/b"), "narrower filter first"),
        (("a/#", "a"), "narrower filter first"),
        (("a/+/c", "a/b/+"), "sends twice"),
        (("a/+", "+/b"), "sends twice"),
        (("x/y", "a/b/#", "a/+/c"), "sends twice"),
    ],
)
def test_filters_of_which_a_broker_would_send_messages_twice_are_refused(names, said) -> None:
    (told,) = problems(tuple(_m(n) for n in names))
    assert told.startswith(f"mappings[{len(names) - 1}].filter: ")
    assert said in told


def test_filters_that_cross_below_one_that_covers_both_are_taken() -> None:
    mappings = (_m("a/+/c", "one"), _m("a/b/+", "two"), _m("a/#", "three"))
    assert problems(mappings) == []
    assert Mappings(mappings).filters == ("a/#",)
    assert _route(mappings, "a/b/c") == ("one", b"a/b/c")


def test_kafka_topics_that_kafka_cannot_tell_apart_are_refused() -> None:
    (told,) = problems((_m("a", "x.y"), _m("b", "x.y"), _m("c", "x_y")))
    assert told.startswith("mappings[2].topic: ")


_FILE = """
[[mappings]]
filter = "tele/+/SENSOR"
topic = "tasmota"
key = "{1}"

[[mappings]]
"""


def _told(tmp_path: Path, rest: str, environ=None) -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(_FILE + rest)
    with pytest.raises(ConfigError) as told:
        load(GatewayConfig, "gateway", file, None, environ or {})
    assert "\n" not in str(told.value)
    return str(told.value)


def test_all_mistakes_of_all_mappings_are_in_one_message(tmp_path) -> None:
    told = _told(
        tmp_path,
        'filter = "a/#/b"\ntopic = "covey.x"\nkey = "{"\n[[mappings]]\nfilter = "tele/#"\ntopic = "t"\nkey = "{1}"\n'
        '[[mappings]]\nfilter = "tele/x/#"\ntopic = "t"\nkey = "{0}"\nmax_bytes = 0\n',
    )
    for part in ("[1].filter", "[1].topic", "[1].key", "[3].filter", "[3].max_bytes"):
        assert f"mappings{part}: " in told
    assert "mappings[2]." not in told


def test_wrong_types_and_unknown_keys_of_all_mappings_are_in_one_message(tmp_path) -> None:
    told = _told(
        tmp_path,
        'filter = 5\nkey = "k"\npayload = "xml"\nqos = 2\n[[mappings]]\nfilter = "b"\ntopic = []\nkey = "k"\nheaders = "maybe"\n',
    )
    for part in ("[1].filter: ", "[1]: missing key 'topic'", "[1].payload: ", "[1]: unknown key 'qos'", "[2].topic: "):
        assert f"mappings{part}" in told
    assert "mappings[2].headers: expected `bool`, got `str`, 'maybe' given" in told
    assert "mappings[0]" not in told


def test_one_table_where_many_are_meant_and_a_variable_are_told_plainly(tmp_path) -> None:
    file = tmp_path / "one.toml"
    file.write_text('[mappings]\nfilter = "a"\n')
    with pytest.raises(ConfigError, match=r"mappings: tables in the TOML file expected \(\[\[...\]\]\), dict given"):
        load(GatewayConfig, "gateway", file, None, {})
    with pytest.raises(ConfigError, match=r"COVEY_GATEWAY_MAPPINGS: tables in the TOML file expected .*str given$"):
        load(GatewayConfig, "gateway", None, None, {"COVEY_GATEWAY_MAPPINGS": "[]"})


def test_defaults_carry_the_bytes_as_they_came(tmp_path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(_FILE.removesuffix("[[mappings]]\n"))
    (mapping,) = load(GatewayConfig, "gateway", file, None, {}).mappings
    assert (mapping.payload, mapping.headers, mapping.max_bytes) == ("raw", False, 950_000)


TASMOTA = b'{"Time":"2026-11-23T08:00:10","ENERGY":{"Total":3.50,"Power":12}}'


def test_an_envelope_of_json_keeps_the_bytes_of_the_payload() -> None:
    traced = _m(headers=True)
    made = envelope(traced, "tele/plug/SENSOR", TASMOTA, 1_795_420_810.25, "gw-1", 7, PARENT)
    assert TASMOTA in made  # 3.50 stays 3.50
    assert b"traceparent" not in envelope(FLEETS[0], "tele/plug/SENSOR", TASMOTA, 0.0, "gw-1", 7, PARENT)
    assert json.loads(made) == {
        "specversion": "1.0",
        "id": "gw-1/7",
        "source": "/covey/gateway/gw-1",
        "type": "covey.mqtt.v1",
        "time": "2026-11-23T08:00:10.250Z",
        "subject": "tele/plug/SENSOR",
        "traceparent": PARENT,
        "datacontenttype": "application/json",
        "data": json.loads(TASMOTA),
    }


@pytest.mark.parametrize("payload", [b"12", b"true", b"null", b' "on" ', b"[]", b"\n{}\n", '"é"'.encode()])
def test_every_json_value_is_data(payload) -> None:
    event = json.loads(envelope(FLEETS[0], "t", payload, 0.0, "g", 1))
    assert event["data"] == json.loads(payload)
    assert "data_base64" not in event
    assert "traceparent" not in event


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"Online",
        b"ON",
        b"\x08\xff\x00",
        b'"\xff"',
        b"NaN",
        b'{"a":1',
        b"{} {}",
        b'"\\ud800"',
        b"[" * 50_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json_is_carried_in_base64(payload) -> None:
    event = json.loads(envelope(_m(headers=True), 'a/"\\/\u20ac', payload, 0.0, "g", 1, "not a traceparent"))
    assert base64.b64decode(event["data_base64"]) == payload
    assert (event["datacontenttype"], event["subject"]) == ("application/octet-stream", 'a/"\\/€')
    assert not {"data", "traceparent"} & event.keys()


def test_user_properties_become_headers_in_order_with_repeats() -> None:
    user = (("b", "1"), ("a", ""), ("b", "é"), ("traceparent", PARENT), ("tracestate", "x=1"))
    assert headers(user) == [
        ("b", b"1"),
        ("a", b""),
        ("b", b"\xc3\xa9"),
        ("traceparent", PARENT.encode()),
        ("tracestate", b"x=1"),
    ]
    assert traceparent_of(user) == PARENT
    assert traceparent_of(()) == traceparent_of((("traceparent", "00-1-2-3"),)) == ""
    assert traceparent_of((*user, ("traceparent", PARENT))) == ""  # which of the two?


def test_a_hundred_mappings_do_not_slow_down_a_hundred_thousand_topics() -> None:
    """Against a table of one mapping: a look at each filter in turn would take tens of times as long."""
    many = Mappings(tuple(_m(f"site{n}/+/data", key="{1}") for n in range(100)))
    one = Mappings((_m("site99/+/data", key="{1}"),))
    names = [f"site99/d{n}/data" for n in range(100_000)]

    def cpu_s(mappings: Mappings) -> float:
        began_s = time.process_time()
        for name in names:
            mappings.find(name)
        return time.process_time() - began_s

    assert cpu_s(many) < 3 * cpu_s(one) + 0.5
