"""A real agent under harm: killed at random instants, with a wrong clock, without a broker. Nothing lost, order kept, once."""

import json
import time

import pytest

from covey import wire
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from harm import kills
from harm.clock import Clock
from harm.images import LONG
from servers import Mosquitto, free_port, unique, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow]
DAY_S = 86_400.0
AWAY_S = 300.0 if LONG else 4.0


@pytest.fixture
def flying(tmp_path):
    """Words of an agent that flies a calm and a bad flight again and again, and says much."""
    make_bundle(tmp_path / "m.covey")
    calm = write_flight(tmp_path / "calm.csv", 400, 1)
    bad = write_flight(tmp_path / "bad.csv", 400, 3, bad=(200, 260))
    (tmp_path / "agent.toml").write_text("repeat = true\nack_timeout_s = 2\nflush_s = 5\n")
    words = ("--bundle", str(tmp_path / "m.covey"), "--config", str(tmp_path / "agent.toml"), "--commission", str(calm))
    return (*words, "--source", str(bad), "--speed", "400", "--summary-interval-s", "0.1")


@pytest.mark.timeout(1800 if LONG else 180)
def test_an_agent_killed_at_random_instants_loses_nothing_that_was_on_disk(tmp_path):
    count = 120 if LONG else 8
    figures = kills.trial(tmp_path, count, 5)
    assert figures["kills"] == count
    assert figures["kills_with_rows"] >= count // 3  # else nothing was at stake
    assert figures["outboxes"] == 1  # the boot is one, and the file was never a copy


def test_whatever_the_clock_says_order_is_kept_and_nothing_ends(tmp_path, mosquitto, flying):
    clock, device = Clock(tmp_path), unique("d")
    clock.ahead_s(60.0 - time.time())  # a minute after 1970 began: no network time yet
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(tmp_path, mosquitto.port, device, *flying, env=clock.env)
        wait_status(tmp_path, device, connected=True)
        jumps = (0.0, 10 * DAY_S, -10 * DAY_S, 10 * DAY_S, 60.0 - time.time(), -3.0, 0.0, 150 * 365 * DAY_S, 0.0)
        for offset_s in jumps:
            clock.ahead_s(offset_s)
            before = len(cloud.events)
            wait_for(lambda before=before: len(cloud.events) >= before + 4, 30, f"events {offset_s:g} s ahead")
        agent.stop()
        assert agent.wait(30) == 0, agent.tail()
        events = [one for one in cloud.events if one[0].device == device]
    assert "Traceback" not in (tmp_path / "agent.log").read_text()
    assert (
        kills.check_order(events) == json.loads((tmp_path / device / "status.json").read_text())["outbox"]["last_seq"]
    )
    times = [wire.decode_event(body)[0].time for _, _, body in events]
    assert {one[:4] for one in times} >= {"1970"}
    assert times != sorted(times)  # the clock did jump
    for _, _, body in events:
        wire.decode_data(wire.decode_event(body)[0])


@pytest.mark.timeout(900 if LONG else 120)
def test_what_is_written_while_the_broker_is_away_arrives_in_order_and_once(tmp_path, flying):
    port, device = free_port(), unique("d")
    with Mosquitto(tmp_path / "m1", port=port) as broker:
        with Cloud(port) as cloud:
            agent = start_agent(tmp_path, port, device, *flying)
            wait_status(tmp_path, device, connected=True)
            wait_for(lambda: len(cloud.events) > 3, 30, "events")
            broker.kill9()
            before = list(cloud.events)
        gone_s = time.monotonic()

        def long_enough():
            pending = json.loads((tmp_path / device / "status.json").read_text())["outbox"]["pending"]
            return time.monotonic() - gone_s > AWAY_S and pending > 20

        wait_for(long_enough, AWAY_S + 60, "the outage")
        broker.start()
        with Cloud(port) as again:
            wait_for(
                lambda: (
                    json.loads((tmp_path / device / "status.json").read_text())["outbox"]["pending"] <= 3
                    and again.events
                ),
                90,
                "the backlog's end",
            )
            agent.stop()
            assert agent.wait(30) == 0, agent.tail()
            after = list(again.events)
    last = json.loads((tmp_path / device / "status.json").read_text())["outbox"]["last_seq"]
    assert kills.check_order(before + after) == last
    # once: what comes twice is what was on its way when the broker died, or when the gateway was heard of
    twice = len(before) + len(after) - last
    assert twice <= 256 + 8
