"""Desired to swap: an agent as a process, a real broker, the cloud's own repository and bundle server."""

import json
import os
import threading
from types import SimpleNamespace

import pytest

from cloud.learn.releases import Repository
from cloud.learn.serve import Server
from covey import wire
from covey.ring import RingReader
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from servers import Mosquitto, unique, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture
def shop(tmp_path):
    """Releases as a device meets them: release 1 is the agent's first bundle; `add` signs another one."""
    repository = Repository(tmp_path / "repository")
    repository.create()
    server = Server("127.0.0.1", 0, repository.public_dir, 8)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    revision = iter(range(1, 100))

    def add(device, name, **changed):
        path = tmp_path / name
        make_bundle(path, **changed)
        release = repository.add_release(path.read_bytes(), "default")
        return wire.Desired(
            device=device,
            revision=next(revision),
            group="default",
            release=release.number,
            target=release.target,
            digest=release.digest,
            size_bytes=release.size_bytes,
            url=f"http://127.0.0.1:{server.port}",
        )

    yield SimpleNamespace(add=add, root=tmp_path / "root.json", folder=tmp_path, repository=repository)
    server.shutdown()
    server.server_close()


@pytest.fixture
def agent_on(tmp_path, shop, mosquitto):
    """Starts agents of one device whose first bundle is release 1 of the shop."""
    device = unique("d")
    shop.add(device, "one.covey")
    shop.root.write_bytes((shop.repository.public_dir / "metadata" / "1.root.json").read_bytes())
    calm = write_flight(tmp_path / "calm.csv", 400, 1)
    started = []

    def start(*more, config="", env=None):
        (tmp_path / "agent.toml").write_text("flush_s = 0.5\n" + config)  # nobody acknowledges at the end
        agent = start_agent(
            tmp_path, mosquitto.port, device, "--bundle", str(tmp_path / "one.covey"), "--commission", str(calm),
            "--trusted-root", str(shop.root), "--summary-interval-s", "0.3", "--config", str(tmp_path / "agent.toml"),
            *more, env=env,
        )  # fmt: skip
        started.append(agent)
        return agent

    yield SimpleNamespace(device=device, start=start, folder=tmp_path, calm=calm)
    for agent in started:
        agent.stop()


def reported(cloud, release):
    return [s for s in cloud.data("summary") if s.reported.release == release]


def refused(folder, device, target):
    status = json.loads((folder / device / "status.json").read_text())
    update = status["update"]
    return update if (update["state"], update["target"]) == ("refused", target) else None


def test_a_new_release_is_fetched_checked_calibrated_swapped_and_reported(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start()
        wait_status(folder, device, connected=True)
        desired = shop.add(device, "two.covey", gain=2.0)
        cloud.tell(device, "desired", desired, retain=True)
        status = wait_status(folder, device, release=2)
        assert (status["digest"], status["calibrated"]) == (desired.digest, True)
        assert status["downlink_model_bytes"] > desired.size_bytes
        wait_for(lambda: reported(cloud, 2), 10, "a summary of release 2")
        summary = reported(cloud, 2)[0]
        assert (summary.reported.slot, summary.reported.revision) == ("b", desired.revision)
        assert len(summary.reported.calibration) == 64
        # gain 2 quadruples every score, and the threshold that this device calibrated with it
        first = cloud.data("summary")[0]
        assert summary.threshold == pytest.approx(4 * first.threshold, rel=0.1)
        updates = [s for s in cloud.data("status") if s.kind == "update"]
        assert [u.ok for u in updates] == [True]


def test_the_new_release_is_active_after_a_restart(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent = agent_on.start()
        wait_status(folder, device, connected=True)
        cloud.tell(device, "desired", shop.add(device, "two.covey", gain=2.0), retain=True)
        wait_status(folder, device, release=2)
        agent.stop()
        again = agent_on.start()
        assert wait_status(folder, device, pid=again.pid, connected=True)["release"] == 2


def test_a_release_that_breaks_its_promise_is_refused_and_the_old_one_stays(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start()
        wait_status(folder, device, connected=True)
        bad = shop.add(device, "bad.covey", gain=2.0, broken_golden=True)
        cloud.tell(device, "desired", bad, retain=True)
        update = wait_for(lambda: refused(folder, device, 2), 30, "refusal")
        assert "within" in update["reason"]
        wait_for(lambda: [s for s in cloud.data("summary") if s.reported.state == "refused"], 10, "told")
        before = json.loads((folder / device / "status.json").read_text())["downlink_model_bytes"]
        cloud.tell(device, "desired", bad, retain=True)  # the same again: not tried again
        good = shop.add(device, "good.covey", gain=1.5)
        cloud.tell(device, "desired", good, retain=True)
        status = wait_status(folder, device, release=3)
        assert status["downlink_model_bytes"] < before + good.size_bytes + 65_536


def test_a_release_that_finds_normal_windows_anomalous_is_refused_by_its_shadow(agent_on, shop, mosquitto):
    """Too few windows to calibrate: the group's threshold counts, and every window of this device is above it."""
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start()
        wait_status(folder, device, connected=True)
        bad = shop.add(device, "bad.covey", threshold=1e-6, commission_windows=10_000)
        cloud.tell(device, "desired", bad, retain=True)
        update = wait_for(lambda: refused(folder, device, 2), 30, "refusal")
        assert "above its threshold" in update["reason"]


def test_an_unsigned_release_is_refused(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start()
        wait_status(folder, device, connected=True)
        desired = shop.add(device, "two.covey", gain=2.0)
        forged = type(desired)(**{f: getattr(desired, f) for f in desired.__struct_fields__} | {"digest": "0" * 64})
        cloud.tell(device, "desired", forged, retain=True)
        wait_for(lambda: refused(folder, device, 2), 30, "refusal")
        assert wait_status(folder, device)["release"] == 1


def test_what_cannot_be_fetched_now_is_fetched_later(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start()
        wait_status(folder, device, connected=True)
        metadata = shop.repository.public_dir / "metadata"
        desired = shop.add(device, "two.covey", gain=2.0)
        metadata.rename(metadata.with_name("away"))
        cloud.tell(device, "desired", desired, retain=True)

        def failed():
            status = json.loads((folder / device / "status.json").read_text())
            return status["update"]["state"] == "fetching" and status["update"]["reason"]

        wait_for(failed, 20, "a fetch that failed")
        metadata.with_name("away").rename(metadata)
        wait_status(folder, device, 60, release=2)


def test_a_swap_waits_for_the_live_shadow(agent_on, shop, mosquitto, tmp_path):
    device, folder = agent_on.device, agent_on.folder
    long = write_flight(tmp_path / "long.csv", 40_000, 5)
    with Cloud(mosquitto.port) as cloud:
        agent_on.start("--source", str(long), "--speed", "100", config="shadow_windows = 60\n")
        wait_status(folder, device, connected=True)
        cloud.tell(device, "desired", shop.add(device, "two.covey", gain=2.0), retain=True)
        in_shadow = wait_for(
            lambda: [s for s in cloud.data("summary") if s.reported.state == "shadow"], 30, "a summary in shadow"
        )
        assert in_shadow[0].reported.release == 1
        status = wait_status(folder, device, release=2)
        assert status["state"] == "flying"
        wait_for(lambda: [s for s in reported(cloud, 2) if s.windows], 10, "windows under release 2")


def test_a_release_that_dies_at_work_twice_is_taken_back(agent_on, shop, mosquitto, tmp_path):
    device, folder = agent_on.device, agent_on.folder
    long = write_flight(tmp_path / "long.csv", 40_000, 5)
    flying = ("--source", str(long), "--speed", "40")
    trial = "trial_windows = 1000\nshadow_windows = 1\n"  # it would live through its trial after 100 s
    with Cloud(mosquitto.port) as cloud:
        agent = agent_on.start(*flying, config=trial)
        wait_status(folder, device, connected=True)
        desired = shop.add(device, "two.covey", gain=2.0)
        cloud.tell(device, "desired", desired, retain=True)
        for deaths in (1, 2):
            wait_for(lambda: marks(folder / device) == deaths, 30, f"release 2 at work, {deaths}")  # noqa: B023
            agent.kill9()
            agent = agent_on.start(*flying, config=trial)
        status = wait_status(folder, device, pid=agent.pid, connected=True)
        assert status["release"] == 1
        update = wait_for(lambda: refused(folder, device, 2), 10, "refusal after the desired came again")
        assert "died" in update["reason"]


def marks(state):
    try:
        trial = json.loads((state / "trial.json").read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return trial["marks"]


def test_an_orderly_stop_during_the_trial_is_not_held_against_a_release(agent_on, shop, mosquitto, tmp_path):
    device, folder = agent_on.device, agent_on.folder
    long = write_flight(tmp_path / "long.csv", 40_000, 5)
    flying = ("--source", str(long), "--speed", "40")
    trial = "trial_windows = 1000\nshadow_windows = 1\n"
    with Cloud(mosquitto.port) as cloud:
        agent = agent_on.start(*flying, config=trial)
        wait_status(folder, device, connected=True)
        cloud.tell(device, "desired", shop.add(device, "two.covey", gain=2.0), retain=True)
        for _ in range(3):
            wait_for(lambda: marks(folder / device) == 1, 30, "release 2 at work")
            agent.stop()
            assert marks(folder / device) == 0
            agent = agent_on.start(*flying, config=trial)
        assert wait_status(folder, device, pid=agent.pid, connected=True)["release"] == 2


def test_a_release_of_other_inputs_begins_a_new_ring_and_learns(agent_on, shop, mosquitto, tmp_path):
    device, folder = agent_on.device, agent_on.folder
    flight = write_flight(tmp_path / "flight.csv", 4000, 5)
    with Cloud(mosquitto.port) as cloud:
        agent_on.start("--source", str(flight), "--source", str(flight), "--speed", "200")
        wait_status(folder, device, connected=True)
        cloud.tell(device, "desired", shop.add(device, "two.covey", channels=("ay",), threshold=1e3), retain=True)
        status = wait_status(folder, device, release=2)
        wait_status(folder, device, release=2, calibrated=True)
        with RingReader(folder / device / "ring.bin") as ring:
            assert ring.info.channels == ("ay",)
        assert status["outbox"]["dropped"] == 0


def test_an_older_release_is_refused(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start(config="bundle_release = 5\n")
        wait_status(folder, device, connected=True)
        cloud.tell(device, "desired", shop.add(device, "two.covey", gain=2.0), retain=True)
        update = wait_for(lambda: refused(folder, device, 2), 20, "refusal")
        assert "older" in update["reason"]


def test_a_parameter_of_desired_sets_the_summary_interval(agent_on, shop, mosquitto):
    device, folder = agent_on.device, agent_on.folder
    with Cloud(mosquitto.port) as cloud:
        agent_on.start("--summary-interval-s", "600", env={"COVEY_EDGE_IDLE_SUMMARY_INTERVAL_S": "0.1"})
        status = wait_status(folder, device, connected=True)
        assert os.getpid() != status["pid"]
        desired = wire.Desired(
            device, 9, "default", 1, "default/1.covey", status["digest"], 10, "http://127.0.0.1:1",
            wire.Parameters(summary_interval_s=0.2),
        )  # fmt: skip
        cloud.tell(device, "desired", desired, retain=True)
        wait_for(lambda: len(cloud.data("summary")) >= 3, 10, "summaries every 200 ms")
        assert cloud.data("summary")[-1].reported.state == "idle"
