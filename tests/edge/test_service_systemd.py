"""The service under a real systemd, in namespaces: it runs in its sandbox, comes back, and goes without a trace."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud
from secured import mosquitto_password, write_secret
from servers import Mosquitto, free_port, unique, wait_for
from systemd_room import Room

pytestmark = pytest.mark.broker
UNIT = "covey-edge.service"
COVEY = [sys.executable, "-m", "covey", "edge"]


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def everybody(path):
    return path.exists() and path.stat().st_mode & 0o006 == 0o006


@pytest.fixture
def room(tmp_path):
    with Room(tmp_path / "room") as systemd:
        yield systemd


def test_the_service_runs_in_its_sandbox_comes_back_after_kill_9_and_is_removed_without_a_trace(tmp_path, room):
    device, port = unique("d"), free_port()
    password = mosquitto_password(tmp_path / "users", device, "secret word")
    broker = f"listener {port} 127.0.0.1\npassword_file {password}\nallow_anonymous true\nmax_queued_messages 100000\n"
    make_bundle(tmp_path / "m.covey")
    write_flight(tmp_path / "f.csv", 20_000, 4)
    write_secret(tmp_path / "word", "secret word")
    home = room.path("/home/pilot")
    home.mkdir(mode=0o700, parents=True)
    for name in ("m.covey", "f.csv", "word"):
        shutil.copy(tmp_path / name, home / name)
    (home / "word").chmod(0o600)  # root's: the service gets it as a credential
    (home / "private").write_text("nobody's business")
    (home / "edge.toml").write_text(
        f'device = "{device}"\nmqtt = "127.0.0.1:{port}"\nmqtt_user = "{device}"\nmqtt_password_file = "word"\n'
        'bundle = "m.covey"\nsources = ["f.csv"]\nrepeat = true\nsummary_interval_s = 0.2\n'
    )
    before = {str(one) for one in room.path("/etc").rglob("*")}

    with Mosquitto(tmp_path / "broker", broker, port), Cloud(port) as cloud:
        room.run("sh", "-c", f"cd /home/pilot && exec {' '.join(COVEY)} install --config edge.toml")
        wait_for(lambda: cloud.data("summary"), 60, "a summary of the service")
        wait_for(lambda: room.show(UNIT, "ActiveState") == "active", 30, "readiness, told to systemd")
        pids = room.pids(UNIT)
        said = status_of(pids[0])
        assert said["Uid"][0] != "0"
        assert (said["NoNewPrivs"], said["Seccomp"], said["CapBnd"]) == (["1"], ["2"], ["0" * 16])
        inside = f"/proc/{pids[0]}/root"
        assert sorted(one.name for one in Path(f"{inside}/home/pilot").iterdir()) == [
            "f.csv",
            "m.covey",
        ]  # the rest of it is hidden
        assert os.access(f"{inside}/etc/covey/edge.toml", os.R_OK)
        state = room.path("/var/lib/covey")
        assert (state.stat().st_mode & 0o777, state.stat().st_uid) == (0o700, int(said["Uid"][0]))
        examined = json.loads(room.run(*COVEY, "doctor", "--json").stdout)  # of /etc/covey/edge.toml, as root
        found = {one["name"]: one for one in examined["checks"]}
        assert (examined["ok"], found["broker mqtt"]["state"], found["model"]["state"]) == (True, "ok", "ok"), examined
        assert "an agent runs on it" in found["state"]["detail"]
        assert json.loads(room.run(*COVEY, "status", "--state", "/var/lib/covey", "--json").stdout)["device"] == device
        assert room.pids(UNIT)[0] == pids[0]
        events = len(cloud.events)

        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: room.pids(UNIT)[:1] not in ([], pids[:1]), 30, "a new process")
        wait_for(lambda: len(cloud.events) > events + 3, 60, "events of the new process")

        room.run("systemctl", "stop", UNIT)
        seqs = sorted({identity.seq for identity, _, _ in cloud.events})
        assert seqs == list(range(1, seqs[-1] + 1))
        assert cloud.data("status")[-1].kind == "stop"  # an orderly end is told, and acknowledged, before it comes

    told = json.loads(room.run(*COVEY, "uninstall", "--json").stdout)
    assert "/etc/covey/edge.toml" in told["removed"]
    after = {str(one) for one in room.path("/etc").rglob("*")}
    assert {one for one in after - before if not one.endswith(("passwd-", "group-", "shadow-", "gshadow-"))} <= {
        str(room.path("/etc/.pwd.lock"))
    }
    assert (state / "outbox.db").exists()
    assert room.run("systemctl", "cat", UNIT, check=False).returncode != 0


def test_what_systemd_is_told_it_acts_upon(room):
    """Ready, status and the watchdog: a process that no longer turns is killed and started anew."""
    code = (
        "import time; from edge.notify import Notifier; n = Notifier(); n.ready('scoring')\n"
        "for turn in range(40): n.alive(); time.sleep(0.05)\n"
        "n.status('hangs'); time.sleep(600)"
    )
    room.path("/srv/turns.py").write_text(code)
    room.path(f"/etc/systemd/system/{UNIT}").write_text(
        f"[Service]\nType=notify\nExecStart={sys.executable} /srv/turns.py\nWatchdogSec=1\nRestart=always\nRestartSec=60\n"
    )
    room.run("systemctl", "daemon-reload")
    room.run("systemctl", "start", UNIT)  # returns when it is ready
    assert (room.show(UNIT, "ActiveState"), room.show(UNIT, "StatusText")) == ("active", "scoring")
    wait_for(lambda: room.show(UNIT, "Result") == "watchdog", 30, "the end of a process that hangs")
    assert room.show(UNIT, "StatusText") == "hangs"  # so it lived through the two seconds in which it turned


def test_a_serial_port_is_the_only_device_that_the_service_may_open(room):
    port = Path("/dev/ttyS0")
    other = next((path for path in (Path("/dev/fuse"), Path("/dev/net/tun")) if everybody(path)), None)
    if not port.exists() or not port.stat().st_gid or port.stat().st_mode & 0o060 != 0o060 or other is None:
        pytest.skip("no /dev/ttyS0 of a group here, or no other device that everybody may open")
    room.path("/srv/look.py").write_text(
        "import os, sys\n"
        "def may(path):\n"
        "    try: os.close(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)); return 'yes'\n"
        "    except OSError as error: return error.strerror\n"
        "print([may(path) for path in sys.argv[1:]], file=open('/var/lib/covey/seen', 'w'))\n"
    )
    words = ["--device", "d1", "--mqtt", "127.0.0.1:1", "--source", f"mavlink+serial://{port}?baud=57600", "--no-start"]
    room.run(*COVEY, "install", *words)
    override = room.path(f"/etc/systemd/system/{UNIT}.d")
    override.mkdir()
    look = f"{sys.executable} /srv/look.py {port} {other} /dev/null"
    (override / "test.conf").write_text(
        f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart={look}\n"
    )
    room.run("systemctl", "daemon-reload")
    room.run("systemctl", "start", UNIT)
    assert room.path("/var/lib/covey/seen").read_text() == "['yes', 'Operation not permitted', 'yes']\n"
