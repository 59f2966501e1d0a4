"""Engine `flower` with real processes: TLS, registered keys, trusted signers, a device killed, and what outsiders reach.

One SuperLink and one run serve all of these tests: every message to a device is a new process of one to three seconds.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING

import psutil
import pytest

from covey.bundle import read_bundle
from federated.engines import flower
from federated.events import read
from federated.training import read_report
from flower_rigs import COMMAND, SuperLinkRig, make_device
from processes import Process, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from covey import wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

PLAN = ["--family", "pca", "--window", "4", "--rounds", "2", "--min-clients", "2", "--timeout-s", "60"]
ROUND_S = 120.0


@dataclass
class Ran:
    """One run, and what was left of it."""

    folder: Path
    rig: SuperLinkRig
    events: list[wire.RoundEvent]
    joined: dict[str, Process]
    code: int
    children: list[psutil.Process]


def covey(*words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four devices join by TLS: d2 is killed after the first round, d3 trusts another signer."""
    folder = tmp_path_factory.mktemp("flower")
    for name in ("signer", "stranger"):
        covey("keys", "signer", "--out", str(folder / f"{name}.key"))
    covey("keys", "sign", "--key", str(folder / "signer.key"), "--out", str(folder / "app.json"))
    devices = [make_device(folder, number) for number in range(4)]
    rig = SuperLinkRig(folder / "superlink", ["--app", str(folder / "app.json")])
    rig.start()
    rig.register(devices)
    joined: dict[str, Process] = {}
    train = None
    try:
        for device in devices:
            signer = "stranger" if device.name == "d3" else "signer"
            joined[device.name] = rig.join(device, "--trusted", str(folder / f"{signer}.key.pub"))
        words = ["train", "--engine", "flower", "--superlink", str(rig.folder), *PLAN]
        words += ["--checkpoint", str(folder / "runs"), "--out", str(folder / "model.zip")]
        words += ["--events", str(folder / "lines.jsonl")]
        train = Process("train", [*COMMAND, *words], folder / "train.log").start()
        lines = folder / "runs" / "events.jsonl"

        def first_round() -> bool:
            assert train.alive, train.tail()
            return lines.exists() and b'"kind":"round"' in lines.read_bytes()

        wait_for(first_round, 2 * ROUND_S, "the first round")
        doomed = psutil.Process(joined["d2"].pid)
        children = doomed.children(recursive=True)
        joined["d2"].kill9()
        code = train.wait(3 * ROUND_S)
        yield Ran(folder, rig, read(lines), joined, code, children)
    finally:
        for process in (*joined.values(), *([train] if train else [])):
            process.stop()
        rig.stop()


def test_a_run_over_tls_ends_with_a_bundle_and_a_report(ran):
    assert ran.code == 0, (ran.folder / "train.log").read_text()
    report = read_report(ran.folder / "runs")
    assert (report.engine, report.rounds, report.clients) == ("flower", 2, 2)
    assert read_bundle(ran.folder / "model.zip").digest == report.digest
    assert report.bytes_up_per_device > 1000  # three answers at least, as the SuperLink counted them
    assert ran.events[-1].kind == "released"


def test_a_device_that_was_killed_is_missing_and_the_run_goes_on(ran):
    # missing when the time is up, refused where Flower has noticed before that it is gone
    left_out = {(one.round, one.device) for one in ran.events if one.kind in ("missing", "refused")}
    assert (2, "d2") in left_out
    assert (1, "d2") not in left_out
    _gone, alive = psutil.wait_procs(ran.children, timeout=15)
    assert not alive, alive  # its launcher and ClientApps watch it


def test_a_device_runs_no_app_that_its_own_signers_did_not_sign(ran):
    refused = {one.detail for one in ran.events if one.kind == "refused" and one.device == "d3"}
    assert len(refused) == 1
    assert "could not be verified" in refused.pop()
    assert not any(one.kind == "answered" and one.device == "d3" for one in ran.events)


def test_devices_leave_when_the_run_is_over(ran):
    for name in ("d0", "d1"):
        assert ran.joined[name].wait(60) == 0, ran.joined[name].tail()
        assert "the run is over" in ran.joined[name].tail()


def test_an_unregistered_key_is_refused_in_one_line(ran):
    stranger = make_device(ran.folder, 9)
    process = ran.rig.join(stranger)
    assert process.wait(60) == 1
    last = process.tail(1)
    assert "refused: the key" in last
    assert "is not registered there" in last


def test_a_superlink_with_another_ca_is_not_believed(ran):
    from federated.engines.flower_keys import own_tls

    other = own_tls(ran.folder / "other", ["127.0.0.1"])
    device = make_device(ran.folder, 8)
    words = [*COMMAND, "join", "--superlink", f"127.0.0.1:{ran.rig.port}", "--ring", str(device.ring)]
    process = Process("join d8", [*words, "--key", str(device.key), "--ca", other.ca], ran.folder / "d8.log").start()
    assert process.wait(60) == 1
    assert "certificate" in process.tail(1).lower()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "//v1/control/list-nodes",
        "/V1/control/list-nodes",
    ],
)
def test_from_outside_only_the_fleet_api_is_there(ran, path):
    context = ssl.create_default_context(cafile=str(ran.rig.folder / "tls" / "ca.pem"))
    line = HTTPSConnection("127.0.0.1", ran.rig.port, timeout=10, context=context)
    token = (ran.rig.folder / "control.token").read_text()
    line.request("POST", path, b"", {"content-type": "application/x-protobuf", "x-covey-control": token})
    assert line.getresponse().status == 404


def test_from_outside_a_body_of_unknown_length_is_refused(ran):
    context = ssl.create_default_context(cafile=str(ran.rig.folder / "tls" / "ca.pem"))
    line = HTTPSConnection("127.0.0.1", ran.rig.port, timeout=10, context=context)
    line.request("POST", "/v1/fleet/pull-messages", iter([b"x"]), {}, encode_chunked=True)
    assert line.getresponse().status == 413


def test_control_asks_for_the_token_that_only_its_user_can_read(ran):
    host, _, port = flower.find(ran.rig.folder).control.rpartition(":")
    assert host == "127.0.0.1"
    for shown in ({}, {"x-covey-control": "guess"}):
        line = HTTPConnection(host, int(port), timeout=10)
        line.request("POST", "/v1/control/list-nodes", b"", {"content-type": "application/x-protobuf", **shown})
        assert line.getresponse().status == 401
    assert (ran.rig.folder / "control.token").stat().st_mode & 0o777 == 0o600
    listed = covey("keys", "list", "--folder", str(ran.rig.folder), "--json")
    assert [one["device"] for one in json.loads(listed.stdout)] == ["d0", "d1", "d2", "d3"]


def test_every_line_was_handed_on_as_it_is_kept(ran):
    assert (ran.folder / "lines.jsonl").read_bytes() == (ran.folder / "runs" / "events.jsonl").read_bytes()


def test_a_key_that_was_taken_from_the_list_is_refused(ran):
    done = covey("keys", "unregister", "d3", "--folder", str(ran.rig.folder))
    assert done.returncode == 0, done.stderr
    listed = covey("keys", "list", "--folder", str(ran.rig.folder), "--json")
    assert [one["device"] for one in json.loads(listed.stdout)] == ["d0", "d1", "d2"]
    again = covey("keys", "unregister", "d3", "--folder", str(ran.rig.folder))
    assert again.returncode == 2
    assert "d3: a registered device expected" in again.stderr


def test_too_few_devices_end_the_waiting_with_their_names(ran):
    words = ["train", "--engine", "flower", "--superlink", str(ran.rig.folder), *PLAN, "--wait-s", "1"]
    done = covey(
        *words, "--min-clients", "3", "--checkpoint", str(ran.folder / "few"), "--out", str(ran.folder / "few.zip")
    )
    assert done.returncode == 1
    assert "devices: at least 3 expected to join within 1 s" in done.stderr.splitlines()[-1]
    assert not (ran.folder / "few.zip").exists()


def test_a_run_with_a_superlink_of_its_own_takes_it_along_when_it_is_killed(tmp_path):
    device = make_device(tmp_path, 0)
    database = tmp_path / "own" / "superlink.db"
    words = ["train", "--database", str(database), "--listen", "127.0.0.1:0", *PLAN, "--out", str(tmp_path / "m.zip")]
    train = Process("train", [*COMMAND, *words], tmp_path / "train.log").start()
    ready = database.parent / "superlink.json"
    wait_for(lambda: ready.exists() or not train.alive, 90, "its SuperLink")
    assert train.alive, train.tail()
    done = covey("keys", "register", "d0", f"{device.key}.pub", "--folder", str(database.parent))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "registered devices have joined" in train.tail(), 30, "it to wait")
    children = psutil.Process(train.pid).children(recursive=True)
    assert len(children) >= 2  # the SuperLink, and what starts ServerApps
    train.kill9()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, alive
    # what was registered is in the database: a second one knows it, and says who did not come
    again = covey(*words, "--wait-s", "1", timeout_s=120)
    assert again.returncode == 1
    assert "0 did (not: d0)" in again.stderr.splitlines()[-1]
    assert not ready.exists()


def test_a_device_joins_only_with_a_ring_and_a_leave_to_learn(tmp_path):
    device = make_device(tmp_path, 0)
    words = ["join", "--superlink", "127.0.0.1:9", "--key", str(device.key), "--ca", str(device.key)]
    none = covey(*words, "--ring", str(tmp_path / "none.bin"))
    assert (none.returncode, "this device's ring expected" in none.stderr) == (2, True)
    (device.folder / "status.json").write_text(json.dumps({"may_learn": "armed"}))
    held = covey(*words, "--ring", str(device.ring))
    assert (held.returncode, "may not be learned from now: armed" in held.stderr) == (1, True)
    both = covey("join", "--ring", str(device.ring))
    assert (both.returncode, "one of them expected" in both.stderr) == (2, True)
    foreign = tmp_path / "photographs"
    foreign.mkdir()
    (foreign / "one.jpg").touch()
    (device.folder / "status.json").unlink()
    kept = covey(*words, "--ring", str(device.ring), "--home", str(foreign))
    assert (kept.returncode, "it holds other files" in kept.stderr) == (2, True)
    assert [one.name for one in foreign.iterdir()] == ["one.jpg"]
