"""Names on MQTT: parse is the inverse of format."""

from __future__ import annotations

import hashlib

import pytest

from covey import topics
from covey.errors import WireError


@pytest.mark.parametrize("device", ["a", "drone-07", "E8_log01", "x" * 64, "0.1"])
@pytest.mark.parametrize("kind", [*topics.UP_KINDS, *topics.DOWN_KINDS, topics.PRESENCE])
def test_parse_is_the_inverse_of_mqtt_topic(device, kind):
    shard = hashlib.sha256(device.encode()).hexdigest()[:2]
    assert topics.mqtt_topic(device, kind) == f"covey/v1/{shard}/{device}/{kind}"
    assert topics.parse(topics.mqtt_topic(device, kind)) == (shard, device, kind)


def test_the_gateways_own_topic_is_no_device():
    assert topics.parse(topics.gateway_topic("0a")) == ("0a", "", "gateway")
    assert not topics.is_device("gateway")


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a\n", "x" * 65, "ä", "a b", "#", "+"])
def test_a_name_that_could_break_a_topic_is_no_device(name):
    assert not topics.is_device(name)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "covey/v1",
        "other/v1/00/a/summary",
        "covey/v1/zz/a/summary",
        "covey/v1/00/drone-07/summary",
        "covey/v1/ca/a/secret",
        "covey/v1/ca/a/summary/x",
        "covey/v1/zz/gateway",
    ],
)
def test_a_topic_that_is_not_ours_is_refused(topic):
    with pytest.raises(WireError) as caught:
        topics.parse(topic)
    assert caught.value.reason == "bad_topic"


def test_filters_of_some_shards_name_them_and_of_all_use_a_wildcard():
    assert topics.uplink_filters()[0] == "covey/v1/+/+/summary"
    assert topics.uplink_filters(("0a",)) == tuple(
        f"covey/v1/0a/+/{k}" for k in ("summary", "alarm", "status", "presence")
    )
