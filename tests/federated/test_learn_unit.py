"""covey-learn under a real systemd, in namespaces: nothing runs until a request comes, one run, and nothing is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federated.join_unit import SERVICE
from flower_rigs import COMMAND, SuperLinkRig, make_device
from servers import wait_for
from systemd_room import Room

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COVEY = [sys.executable, "-P", "-m", "covey", "federated"]


def install(*words):
    return subprocess.run([*COVEY, "install", *words], capture_output=True, text=True, timeout=60, check=False)


def test_an_image_gets_three_files_and_loses_exactly_those(tmp_path):
    root = tmp_path / "image"
    done = install("--root", str(root), "--command", "/opt/covey/bin/covey", "--trusted", "/etc/covey/signer.pub")
    assert done.returncode == 0, done.stderr
    units = root / "etc/systemd/system"
    assert sorted(str(one.relative_to(units)) for one in units.rglob("*") if not one.is_dir()) == [
        "covey-learn.path",
        "covey-learn.service",
        "multi-user.target.wants/covey-learn.path",
    ]
    service = (units / SERVICE).read_text()
    assert "ExecStart=/opt/covey/bin/covey federated join --request /var/lib/covey/learn.json " in service
    assert "--trusted /etc/covey/signer.pub\n" in service
    assert "Restart=no\n" in service
    verified = shutil.which("systemd-analyze")
    if verified:
        text = service.replace("/opt/covey/bin/covey", sys.executable)
        (tmp_path / SERVICE).write_text(text)
        said = subprocess.run(
            [verified, "verify", str(tmp_path / SERVICE)], capture_output=True, text=True, timeout=60, check=False
        )
        assert "Unknown" not in said.stderr, said.stderr
    gone = subprocess.run(
        [*COVEY, "uninstall", "--root", str(root)], capture_output=True, text=True, timeout=60, check=False
    )
    assert gone.returncode == 0, gone.stderr
    assert not [one for one in units.rglob("*") if not one.is_dir()]


def test_a_unit_that_is_somebody_elses_is_neither_replaced_nor_removed(tmp_path):
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / SERVICE).write_text("[Service]\nExecStart=/bin/true\n")
    done = install("--root", str(tmp_path), "--command", "/opt/covey/bin/covey")
    assert (done.returncode, "move it away first" in done.stderr) == (2, True)
    gone = subprocess.run(
        [*COVEY, "uninstall", "--root", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (gone.returncode, "kept" in gone.stderr) == (2, True)
    assert [one.name for one in units.iterdir()] == [SERVICE]


def test_a_key_that_is_missing_is_told_before_anything_is_written(tmp_path):
    done = install("--key", str(tmp_path / "none.key"), "--ca", str(tmp_path / "none.pem"))
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert not Path("/etc/systemd/system/covey-learn.service").exists()


@pytest.mark.broker
def test_a_request_starts_the_learner_for_one_run_in_its_sandbox(tmp_path):
    device = make_device(tmp_path, 0)
    rig = SuperLinkRig(tmp_path / "superlink")
    with Room(tmp_path / "room") as room:
        try:
            rig.start()
            rig.register([device])
            room.run("useradd", "--system", "--no-create-home", "covey")
            state, etc = room.path("/var/lib/covey"), room.path("/etc/covey")
            for folder in (state, etc):
                folder.mkdir(parents=True)
            shutil.copy(device.ring, state / "ring.bin")
            shutil.copy(device.key, etc / "node.key")
            shutil.copy(rig.folder / "tls" / "ca.pem", etc / "superlink-ca.pem")
            room.run(
                "sh", "-c", "chmod 700 /var/lib/covey && chown -R covey /var/lib/covey && chmod 600 /etc/covey/node.key"
            )
            room.run(*COVEY, "install")
            assert room.show(SERVICE, "ActiveState") == "inactive"

            request = {"superlink": f"127.0.0.1:{rig.port}", "deadline_s": time.time() + 240, "command": "c-1"}
            (state / ".learn").write_text(json.dumps(request))
            room.run(
                "sh", "-c", "chown covey /var/lib/covey/.learn && mv /var/lib/covey/.learn /var/lib/covey/learn.json"
            )
            with rig.control() as control:
                try:
                    wait_for(lambda: control.nodes()[0].status == "online", 60, "the device at the SuperLink")
                except AssertionError:
                    raise AssertionError(
                        room.run("journalctl", "-u", SERVICE, check=False).stdout + room.process.tail(40)
                    ) from None
            pids = room.pids(SERVICE)
            assert len(pids) >= 2  # the node, and what starts ClientApps
            status = Path(f"/proc/{pids[0]}/status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            assert Path(f"/proc/{pids[0]}").stat().st_uid == state.stat().st_uid != 0
            assert not (state / "learn.json").exists()
            assert room.show(SERVICE, "MemoryMax") == str(768 * 1024 * 1024)
            words = ["train", "--engine", "flower", "--superlink", str(rig.folder), "--family", "pca", "--window", "4"]
            words += [
                "--min-clients",
                "1",
                "--timeout-s",
                "60",
                "--checkpoint",
                str(tmp_path / "runs"),
                "--out",
                str(tmp_path / "m.zip"),
            ]
            done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stderr
            wait_for(lambda: room.show(SERVICE, "ActiveState") == "inactive", 40, "the learner gone")
            assert room.show(SERVICE, "Result") == "success"
            assert room.pids(SERVICE) == []
            assert int(room.show(SERVICE, "NRestarts")) == 0
            assert not (state / "learn").exists()
            room.run(*COVEY, "uninstall")
            assert "not-found" in room.show(SERVICE, "LoadState")
        finally:
            rig.stop()
