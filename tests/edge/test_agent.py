"""The agent as a process against real brokers: nothing lost, order, acknowledgements, learning, updates, going back."""

import json
import re
import sqlite3
import stat

import pytest

from covey import wire
from covey.ring import FITTED, RingReader
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from servers import Iotcore, Mosquitto, unique, wait_for

pytestmark = pytest.mark.broker
CHATTY = {"COVEY_EDGE_IDLE_SUMMARY_INTERVAL_S": "0.2"}  # an idle agent that writes all the same


@pytest.fixture(scope="module", params=[Mosquitto, Iotcore], ids=["mosquitto", "iotcore"])
def broker(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.name)) as server:
        yield server


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_bundle(folder / "m.covey")
    write_flight(folder / "calm.csv", 400, 1)
    write_flight(folder / "more.csv", 400, 2)
    write_flight(folder / "bad.csv", 400, 3, bad=(200, 260))
    write_flight(folder / "long.csv", 20_000, 4)
    return folder


def options(files, *more):
    return ("--bundle", str(files / "m.covey"), "--summary-interval-s", "0.2", *more)


def outbox_rows(folder, device):
    with sqlite3.connect(f"file:{folder / device / 'outbox.db'}?mode=ro", uri=True) as db:
        return [seq for (seq,) in db.execute("SELECT seq FROM rows ORDER BY seq")]


def test_every_acknowledged_row_is_deleted_and_the_first_delivery_is_in_order(tmp_path, broker, files):
    device = unique("d")
    with Cloud(broker.port) as cloud:
        agent = start_agent(
            tmp_path, broker.port, device,
            *options(files, "--commission", str(files / "calm.csv"), "--source", str(files / "bad.csv"), "--speed", "0"),
            "--exit-when-done",
        )  # fmt: skip
        assert agent.wait(60) == 0, agent.tail()
        status = json.loads((tmp_path / device / "status.json").read_text())
        assert status["outbox"]["pending"] == 0
        assert status["state"] == "done"
        assert outbox_rows(tmp_path, device) == []
        # iotcore keeps a log per topic: order over kinds is the store's business there, by seq
        for kinds in [("summary",), ("alarm",), ("status",)] + [wire.TYPE_OF_KIND] * isinstance(broker, Mosquitto):
            mine = [i.seq for i, kind, _ in cloud.events if i.device == device and kind in kinds]
            first = list(dict.fromkeys(mine))
            assert first == sorted(first), kinds
        assert set(cloud.seqs()) == set(range(1, status["outbox"]["last_seq"] + 1))
        [flight] = status["flights"]
        assert (flight["name"], flight["windows"], flight["alarms"], flight["top_channel"]) == ("bad.csv", 100, 1, "ay")
        assert flight["first_alarm_s"] - flight["first_window_s"] == pytest.approx(
            204.0, abs=0.001
        )  # rows 204-207: the second window above
        own = [(p.online) for name, p in cloud.presences if name == device]
        assert own == [True, False]
        kinds = [status.kind for status in cloud.data("status")]
        assert kinds == ["start", "stop"]


def test_the_state_folder_is_private(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port):
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv"), "--exit-when-done"),
            "--source", str(files / "calm.csv"), "--speed", "0",
        )  # fmt: skip
        assert agent.wait(60) == 0, agent.tail()
    state = tmp_path / device
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("outbox.db", "ring.bin", "status.json", "slots/a/bundle.zip"):
        assert stat.S_IMODE((state / name).stat().st_mode) & 0o077 == 0, name


def test_kill_9_midway_loses_nothing_and_repeats_have_the_same_bytes(tmp_path, broker, files):
    device = unique("d")
    words = options(files, "--commission", str(files / "calm.csv"), "--speed", "0")
    words += tuple(word for _ in range(2) for word in ("--source", str(files / "bad.csv")))
    with Cloud(broker.port, acknowledging=False) as cloud:
        agent = start_agent(tmp_path, broker.port, device, *words)
        wait_for(lambda: cloud.seqs().count(3) > 0, 30, "three events")
        agent.kill9()
        waiting = outbox_rows(tmp_path, device)
        assert len(waiting) >= 3
        cloud.acknowledging = True
        agent = start_agent(tmp_path, broker.port, device, *words)
        wait_status(tmp_path, device, pid=agent.pid, state="done")
        wait_for(lambda: outbox_rows(tmp_path, device) == [] or None, 30, "acknowledgements")
        agent.stop()
        status = json.loads((tmp_path / device / "status.json").read_text())
        assert set(waiting) <= set(cloud.seqs())
        assert set(cloud.seqs()) == set(range(1, status["outbox"]["last_seq"] + 1))
        bodies = {}
        for identity, _, body in cloud.events:
            assert bodies.setdefault(identity, body) == body


def test_a_puback_deletes_nothing_and_a_hole_is_sent_again(tmp_path, broker, files):
    device = unique("d")
    config = tmp_path / "agent.toml"
    config.write_text("ack_timeout_s = 0.5\n")
    with Cloud(broker.port) as cloud:
        cloud.holes = {2}
        agent = start_agent(
            tmp_path, broker.port, device, *options(files, "--config", str(config)),
            "--commission", str(files / "calm.csv"), "--source", str(files / "calm.csv"), "--speed", "100",
        )  # fmt: skip
        wait_for(lambda: cloud.seqs().count(2) >= 2, 30, "the hole, sent again")
        assert outbox_rows(tmp_path, device)[0] == 2
        assert 1 not in outbox_rows(tmp_path, device)
        cloud.holes = set()
        wait_for(lambda: 2 not in outbox_rows(tmp_path, device), 30, "the hole acknowledged")
        agent.stop()


def test_an_agent_with_nothing_new_to_say_keeps_quiet(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(files / "calm.csv"), "--speed", "0",
        )  # fmt: skip
        status = wait_status(tmp_path, device, state="done")
        seen = {status["written_s"]}

        def three_more_seconds():
            seen.add(json.loads((tmp_path / device / "status.json").read_text())["written_s"])
            return len(seen) > 3

        wait_for(three_more_seconds, 30, "three more looks at the status")  # fifteen intervals of 0.2 s
        assert len(list(cloud.data("summary"))) <= 3
        agent.stop()


def test_rows_are_held_back_until_a_gateway_shows_itself(tmp_path, files):
    device = unique("d")
    with Mosquitto(tmp_path / "m") as server, Cloud(server.port, gateway=False) as cloud:
        agent = start_agent(
            tmp_path, server.port, device, *options(files, "--commission", str(files / "calm.csv")), env=CHATTY
        )
        wait_status(tmp_path, device, connected=True)
        wait_for(lambda: len(outbox_rows(tmp_path, device)) >= 3, 10, "rows on disk")
        assert cloud.events == []
        cloud.say_gateway(device, online=True)
        wait_for(lambda: len(set(cloud.seqs())) >= 3, 5, "rows")
        agent.stop()


def test_without_a_gateway_they_are_not_held_back_for_ever(tmp_path, files):
    device = unique("d")
    config = tmp_path / "agent.toml"
    config.write_text("hold_s = 0.3\n")
    with Mosquitto(tmp_path / "m") as server, Cloud(server.port, gateway=False) as cloud:
        agent = start_agent(
            tmp_path, server.port, device,
            *options(files, "--config", str(config), "--commission", str(files / "calm.csv")), env=CHATTY,
        )  # fmt: skip
        wait_for(lambda: len(set(cloud.seqs())) >= 3, 20, "rows")
        agent.stop()


def test_the_agent_outlives_its_broker(tmp_path, files):
    device = unique("d")
    with Mosquitto(tmp_path / "m") as server:
        with Cloud(server.port) as cloud:
            agent = start_agent(
                tmp_path, server.port, device, *options(files, "--commission", str(files / "calm.csv")), env=CHATTY
            )
            wait_for(cloud.seqs, 20, "the first event")
            server.kill9()
        wait_for(lambda: len(outbox_rows(tmp_path, device)) >= 4, 20, "rows on disk meanwhile")
        server.restart()
        with Cloud(server.port) as again:
            wait_for(lambda: len(set(again.seqs())) >= 4, 40, "what was written meanwhile")
            agent.stop()
            last = json.loads((tmp_path / device / "status.json").read_text())["outbox"]["last_seq"]
            assert set(cloud.seqs()) | set(again.seqs()) == set(range(1, last + 1))


def test_commissioning_is_done_once_and_marks_what_was_fitted(tmp_path, mosquitto, files):
    device = unique("d")
    words = options(
        files, "--commission", str(files / "calm.csv"), "--commission-fitted", str(files / "more.csv"), "--no-learn",
        "--source", str(files / "bad.csv"), "--speed", "0", "--exit-when-done",
    )  # fmt: skip
    with Cloud(mosquitto.port):
        for _ in range(2):
            agent = start_agent(tmp_path, mosquitto.port, device, *words)
            assert agent.wait(60) == 0, agent.tail()
            with RingReader(tmp_path / device / "ring.bin") as ring:
                flags = [record.flags for record in ring.records()]
            assert flags == [FITTED] * 100 + [0] * 100


def test_a_flight_with_an_alarm_teaches_nothing_and_a_calm_one_everything(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port):
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(files / "bad.csv"), "--source", str(files / "more.csv"), "--speed", "0", "--exit-when-done",
        )  # fmt: skip
        assert agent.wait(60) == 0, agent.tail()
        status = json.loads((tmp_path / device / "status.json").read_text())
        assert [(f["name"], f["alarms"]) for f in status["flights"]] == [("bad.csv", 1), ("more.csv", 0)]
    with RingReader(tmp_path / device / "ring.bin") as ring:
        flights = [record.flight for record in ring.records()]
    first, *_, last = flights
    assert flights == [first] * 100 + [last] * 100  # what it was commissioned with, and the calm flight
    assert last > first


def test_without_windows_enough_it_learns_silently_then_calibrates_and_alarms(tmp_path, mosquitto, files):
    device = unique("d")
    write_flight(tmp_path / "early.csv", 60, 9, bad=(10, 40))  # 15 windows: not enough, and some of them are bad
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--source", str(tmp_path / "early.csv")),
            "--source", str(files / "calm.csv"), "--source", str(files / "calm.csv"), "--speed", "0", "--exit-when-done",
        )  # fmt: skip
        assert agent.wait(60) == 0, agent.tail()
        status = json.loads((tmp_path / device / "status.json").read_text())
        assert status["flights"][0]["alarms"] == 0
        assert status["calibrated"]
        reported = [summary.reported.calibration for summary in cloud.data("summary")]
        assert reported[0] == ""
        assert re.fullmatch("[0-9a-f]{64}", reported[-1])


def test_commands_are_answered_once(tmp_path, mosquitto, files):
    import time

    device = unique("d")
    with Cloud(mosquitto.port) as cloud:
        words = ("--bundle", str(files / "m.covey"), "--summary-interval-s", "600")
        agent = start_agent(tmp_path, mosquitto.port, device, *words)
        wait_status(tmp_path, device, connected=True)
        for _ in range(2):
            cloud.tell(device, "command", wire.Command("c1", "summarise", time.time() + 60))
        cloud.tell(device, "command", wire.Command("c2", "ping", time.time() - 60))
        wait_for(lambda: len([s for s in cloud.data("status") if s.kind == "command"]) >= 2, 10, "answers")
        answers = [(s.command, s.ok) for s in cloud.data("status") if s.kind == "command"]
        assert answers == [("c1", True), ("c2", False)]
        assert len(cloud.data("summary")) == 1
        agent.stop()


def test_a_command_answered_before_a_restart_is_not_answered_after_it(tmp_path, mosquitto, files):
    import time

    device = unique("d")
    words = ("--bundle", str(files / "m.covey"), "--summary-interval-s", "600")
    with Cloud(mosquitto.port) as cloud:

        def answers():
            return [s.command for s in cloud.data("status") if s.kind == "command"]

        for n in (1, 2):
            agent = start_agent(tmp_path, mosquitto.port, device, *words)
            wait_status(tmp_path, device, connected=True, pid=agent.pid)
            for name in ("c1", f"c-{n}"):
                cloud.tell(device, "command", wire.Command(name, "ping", time.time() + 60))
            wait_for(lambda n=n: f"c-{n}" in answers(), 10, "answers")
            agent.kill9()
        assert answers() == ["c1", "c-1", "c-2"]


def test_a_gateway_that_comes_after_the_birth_is_told_of_it_once(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port, gateway=False) as cloud:
        agent = start_agent(tmp_path, mosquitto.port, device, *options(files))
        wait_status(tmp_path, device, connected=True)
        mine = [(device, True)]

        def births():
            return [(name, p.online) for name, p in cloud.presences if name == device]

        wait_for(lambda: births() == mine, 10, "birth")
        cloud.say_gateway(device, online=True)
        wait_for(lambda: births() == 2 * mine, 10, "birth, again")
        cloud.say_gateway(device, online=True)  # it says so every 30 s
        cloud.say_gateway(device, online=False)
        cloud.say_gateway(device, online=True)
        wait_for(lambda: len(births()) >= 3, 10, "birth, to a gateway that was away")
        assert births() == 3 * mine
        assert len({p.session for name, p in cloud.presences if name == device}) == 1
        agent.stop()


def test_two_agents_do_not_share_a_state(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port):
        first = start_agent(tmp_path, mosquitto.port, device, *options(files))
        wait_status(tmp_path, device, connected=True)
        second = start_agent(tmp_path, mosquitto.port, device, *options(files), log="second.log")
        assert second.wait(30) == 2
        assert "another agent runs on it" in second.tail()
        first.stop()


def test_no_model_is_one_line(tmp_path, mosquitto):
    agent = start_agent(tmp_path, mosquitto.port, "d1")
    assert agent.wait(30) == 2
    assert agent.tail().strip().splitlines()[-1].startswith("covey: bundle: a bundle expected")


def test_windows_are_scored_while_the_disk_takes_nothing(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(files / "long.csv"), "--speed", "200", "--repeat",
        )  # fmt: skip
        wait_for(lambda: cloud.seqs() or None, 30, "the first event")
        with sqlite3.connect(tmp_path / device / "outbox.db", isolation_level=None) as lock:
            lock.execute("BEGIN IMMEDIATE")  # every commit waits for it
            before = wait_status(tmp_path, device, pid=agent.pid)["windows"]

            def scored_on():
                return json.loads((tmp_path / device / "status.json").read_text())["windows"] > before + 150 or None

            wait_for(scored_on, 30, "150 windows more, three seconds' worth")
            told = len(cloud.seqs())
            lock.execute("ROLLBACK")
        wait_for(lambda: len(cloud.seqs()) > told + 2 or None, 30, "events after the disk was free")
        agent.stop()
        seqs = list(dict.fromkeys(cloud.seqs()))
        assert seqs == list(range(1, seqs[-1] + 1))


def test_a_stuck_sensor_reaches_the_cloud_as_an_alarm_of_its_own_kind(tmp_path, mosquitto, files):
    lines = (files / "calm.csv").read_text().splitlines()
    ax = lines[101].split(",")[0]
    stuck = [f"{ax},{line.split(',')[1]}" if 101 <= n < 200 else line for n, line in enumerate(lines)]
    (tmp_path / "stuck.csv").write_text("\n".join(stuck) + "\n")
    device = unique("d")
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(tmp_path / "stuck.csv"), "--speed", "0", "--exit-when-done",
        )  # fmt: skip
        assert agent.wait(60) == 0, agent.tail()
        alarms = [alarm for alarm in cloud.data("alarm") if alarm.kind == "sensor"]
    assert [(alarm.state, alarm.top_channel) for alarm in alarms] == [("begin", "ax"), ("end", "ax")]


def test_nothing_is_fetched_over_a_metered_link(tmp_path, mosquitto, files):
    device = unique("d")
    (tmp_path / "root.json").write_text("{}")
    config = tmp_path / "agent.toml"
    config.write_text(f'trusted_root = "{tmp_path / "root.json"}"\n[links.lo]\nmetered = true\n')
    with Cloud(mosquitto.port) as cloud:
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--config", str(config)),
            "--commission", str(files / "calm.csv"), "--source", str(files / "calm.csv"), "--speed", "0",
        )  # fmt: skip
        wait_status(tmp_path, device, connected=True, state="done")
        wanted = wire.Desired(device, 1, "g", 2, "g/2.covey", "a" * 64, 10, "http://127.0.0.1:9")
        cloud.tell(device, "desired", wanted)
        wait_status(tmp_path, device, update={"state": "fetching", "target": 2, "reason": "waits: metered link"})
        agent.stop()
    assert not (tmp_path / device / "update").exists()  # the child that fetches makes it first of all


def test_the_status_of_a_running_agent_is_no_wear_on_the_card_and_stays_when_it_ends(tmp_path, mosquitto, files):
    device = unique("d")
    with Cloud(mosquitto.port):
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(files / "calm.csv"), "--speed", "0",
        )  # fmt: skip
        wait_status(tmp_path, device, state="done")
        path = tmp_path / device / "status.json"
        memory = path.readlink()
        assert memory.parts[:3] == ("/", "dev", "shm")
        assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700
        agent.stop()
        assert not path.is_symlink()
        assert json.loads(path.read_text())["device"] == device
        assert not memory.parent.exists()


def test_the_service_manager_is_told_of_readiness_life_and_the_end(tmp_path, mosquitto, files):
    import socket

    device = unique("d")
    address = f"\0covey-test-{device}"
    with Cloud(mosquitto.port), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        agent = start_agent(
            tmp_path, mosquitto.port, device, *options(files, "--commission", str(files / "calm.csv")),
            "--source", str(files / "calm.csv"), "--speed", "0",
            env={"NOTIFY_SOCKET": "@" + address[1:], "WATCHDOG_USEC": "300000"},
        )  # fmt: skip
        said = [manager.recv(4096).decode()]
        while not any(one.startswith("READY=1") for one in said):
            said.append(manager.recv(4096).decode())
        lives = 0
        while lives < 3:
            lives += manager.recv(4096).decode() == "WATCHDOG=1"
        agent.stop()
        while not manager.recv(4096).decode().startswith("STOPPING=1"):
            pass
    assert said[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert "STATUS=release 1 on litert" in said[-1]


def test_json_lines_on_standard_input_are_scored_as_they_come(tmp_path, mosquitto, files):
    import subprocess
    import sys
    import time

    device = unique("d")
    code = "from edge.cli import app\napp()"
    words = ["run", "--device", device, "--mqtt", f"127.0.0.1:{mosquitto.port}", "--state", str(tmp_path / device)]
    words += [*options(files), "--source", "stdin:", "--exit-when-done"]
    with Cloud(mosquitto.port) as cloud:
        agent = subprocess.Popen([sys.executable, "-c", code, *words], stdin=subprocess.PIPE)
        try:
            assert agent.stdin is not None
            began_s = time.time()
            for n in range(40):  # its own clock, one reading a second: forty seconds are said in a moment
                line = {"t": began_s - 40 + n, "ax": n % 7 / 7, "ay": n % 5 / 5}
                agent.stdin.write((json.dumps(line) + "\n").encode())
                agent.stdin.flush()
            agent.stdin.close()
            assert agent.wait(60) == 0
        finally:
            agent.kill()
        status = json.loads((tmp_path / device / "status.json").read_text())
        assert status["windows"] in {9, 10}  # 40 s in windows of 4 s; the last one may lack its last sample
        assert status["source"]["counts"].get("bad", 0) == 0
        assert status["outbox"]["pending"] == 0
        assert [one.kind for one in cloud.data("status")] == ["start", "stop"]
