"""An operator calls an alarm false: its windows go back into the ring, once, and the device calibrates with them."""

import time

import pytest

from covey import wire
from covey.ring import RingReader
from edge.alarmed import MOST, AlarmedWindows
from edge.core import Kept
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from servers import Mosquitto, unique, wait_for


def window(n):
    return Kept(bytes(8), n / 10, n, 0)


def test_the_windows_that_raised_an_alarm_are_its_windows_too_and_a_false_start_leaves_nothing():
    seen = AlarmedWindows()
    seen.add(window(1))
    seen.calm()  # one window above the threshold, then a calm one: no alarm came of it
    for n in (3, 4, 5):
        seen.add(window(n))
    assert seen.take() == []
    seen.over("d-1")
    assert [(name, [w.index for w in windows]) for name, windows in seen.take()] == [("d-1", [3, 4, 5])]
    assert seen.take() == []
    seen.over("d-2")
    assert seen.take() == []  # of an alarm without windows there is nothing to keep


def test_an_alarm_that_lasts_for_hours_keeps_its_first_windows():
    seen = AlarmedWindows()
    for n in range(3 * MOST):
        seen.add(window(n))
    seen.over("d-1")
    [(_, windows)] = seen.take()
    assert [w.index for w in windows] == list(range(MOST))


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.mark.timeout(120)
def test_windows_of_a_rejected_alarm_come_back_into_the_ring_once_and_the_device_calibrates_anew(tmp_path, mosquitto):
    device = unique("d")
    make_bundle(tmp_path / "m.covey")
    write_flight(tmp_path / "calm.csv", 400, 1)
    write_flight(tmp_path / "bad.csv", 400, 3, bad=(200, 260))
    with Cloud(mosquitto.port) as cloud:
        words = ("--bundle", str(tmp_path / "m.covey"), "--commission", str(tmp_path / "calm.csv"))
        words += ("--source", str(tmp_path / "bad.csv"), "--speed", "0", "--summary-interval-s", "0.2")
        agent = start_agent(tmp_path, mosquitto.port, device, *words)
        wait_status(tmp_path, device, state="done")
        wait_for(lambda: len(cloud.data("alarm")) == 2, 20, "an alarm's begin and end")
        begin, end = cloud.data("alarm")
        before = agent_ring(tmp_path, device)
        assert begin.window.start_s not in starts(before)  # an alarm teaches nothing
        wait_for(lambda: cloud.data("summary"), 20, "a summary")

        def told(name, alarm_id):
            cloud.tell(device, "command", wire.Command(name, "false-alarm", time.time() + 60, alarm_id))
            wait_for(lambda: name in [s.command for s in cloud.data("status")], 20, f"an answer to {name}")
            return next(s for s in cloud.data("status") if s.command == name)

        calibration = cloud.data("summary")[-1].reported.calibration
        answer = told("c-1", begin.alarm_id)
        assert answer.ok, answer.detail
        after = agent_ring(tmp_path, device)
        back = after[len(before) :]
        assert after[: len(before)] == before
        assert answer.detail == f"false-alarm: {len(back)} windows are back in the ring"
        assert len(back) >= end.windows  # those that raised it, and those until it ended
        assert {begin.window.start_s, end.window.start_s} <= starts(back)
        assert not {flight for flight, _ in back} & {flight for flight, _ in before}  # never chained with others
        again = told("c-2", begin.alarm_id)
        assert not again.ok
        assert again.detail == f"false-alarm: no windows are kept of alarm {begin.alarm_id}"
        assert agent_ring(tmp_path, device) == after
        wait_for(lambda: cloud.data("summary")[-1].reported.calibration != calibration, 20, "a new calibration")
        assert "another" in told("c-3", "another").detail
        agent.stop()
    assert list((tmp_path / device / "alarmed").iterdir()) == []


def agent_ring(folder, device):
    with RingReader(folder / device / "ring.bin") as ring:
        return [(record.flight, record.start_s) for record in ring.records()]


def starts(ring):
    return {round(start, 3) for _, start in ring}
