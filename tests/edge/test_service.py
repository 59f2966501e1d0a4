"""`covey edge install` and `uninstall` below a root folder of their own, the unit's text, and what systemd's own tools say of it."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from covey.config import explain
from edge.cli import app
from edge.config import AgentConfig
from edge.config_text import comments, to_toml, toml_value
from edge.notify import Notifier
from edge.unit import Plan, absolute, modules_text, quoted, sysusers_text, tmpfiles_text, unit_text
from servers import absent

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNIT = "etc/systemd/system/covey-edge.service"
TOML = "etc/covey/edge.toml"


def config(**keys):
    return AgentConfig(**({"device": "d1", "state": "/var/lib/covey"} | keys))


def plan(systemd=252, code=("/usr",), user="covey", own_user=True, **keys):
    return Plan(config(**keys), "/etc/covey/edge.toml", ("/opt/covey/bin/covey",), user, own_user, systemd, code)


def lines(systemd=252, code=("/usr",), **keys):
    return unit_text(plan(systemd, code, **keys)).splitlines()


def value(text, name):
    found = [line.partition("=")[2] for line in text if line.startswith(f"{name}=")]
    return found[0] if len(found) == 1 else found


def install(root, *words):
    return CliRunner().invoke(app, ["install", "--prefix", str(root), "--command", "/usr/bin/true", *words])


def uninstall(root, *words):
    return CliRunner().invoke(app, ["uninstall", "--prefix", str(root), *words])


def tree(root):
    return {str(one.relative_to(root)) for one in root.rglob("*")}


# -- the unit ------------------------------------------------------------------------------------------------------


def test_a_service_without_a_serial_port_sees_no_device_and_no_home():
    text = lines(sources=("mavlink+udp://0.0.0.0:14550",))
    assert (value(text, "PrivateDevices"), value(text, "ProtectHome")) == ("yes", "yes")
    assert not value(text, "DeviceAllow")
    assert not value(text, "SupplementaryGroups")


def test_a_serial_port_is_allowed_by_its_class_also_when_it_is_plugged_in_later():
    usb = {"sources": ("mavlink+serial:///dev/ttyACM0?baud=921600",)}
    assert value(lines(**usb), "DeviceAllow") == ["char-ttyACM rw", "/dev/ttyACM0 rw"]
    assert value(lines(**usb), "SupplementaryGroups") == "dialout"
    assert not value(lines(**usb), "PrivateDevices")
    assert modules_text(plan(**usb)) == "cdc_acm\n"
    jetson = {"sources": ("mavlink+serial:///dev/ttyTHS1",)}
    assert value(lines(**jetson), "DeviceAllow") == ["char-ttyTHS rw", "/dev/ttyTHS1 rw"]
    assert modules_text(plan(**jetson)) == ""
    named = {"sources": ("mavlink+serial:///dev/serial/by-id/usb-Holybro-if00",)}
    link = "/dev/serial/by-id/usb-Holybro-if00 rw"
    assert value(lines(**named), "DeviceAllow") == ["char-ttyACM rw", "char-ttyUSB rw", link]


def test_secrets_are_credentials_where_systemd_knows_them():
    secret = {"mqtt_user": "d1", "mqtt_password_file": "/etc/covey/word"}
    text = lines(systemd=247, **secret)
    assert value(text, "LoadCredential") == "mqtt_password_file:/etc/covey/word"
    where = "COVEY_EDGE_MQTT_PASSWORD_FILE=/run/credentials/covey-edge.service/mqtt_password_file"
    assert where in value(text, "Environment")
    assert not value(lines(systemd=245, **secret), "LoadCredential")  # JetPack 5


def test_below_home_only_what_is_named_is_seen():
    text = lines(
        code=("/home/pi/venv", "/home/pi/venv/lib", "/usr"), bundle="/home/pi/m.covey", sources=("tail:///home/pi/log/a.csv",)
    )  # fmt: skip
    assert value(text, "ProtectHome") == "tmpfs"
    assert value(text, "BindReadOnlyPaths") == ["-/home/pi/log", "-/home/pi/m.covey", "-/home/pi/venv"]


def test_a_state_folder_elsewhere_is_made_and_may_be_written():
    assert value(lines(), "StateDirectory") == "covey"
    text = lines(state="/data/covey")
    assert (value(text, "ReadWritePaths"), value(text, "StateDirectory")) == ("/data/covey", [])
    assert tmpfiles_text(plan(state="/data/covey")) == "d /data/covey 0700 covey covey -\n"
    assert tmpfiles_text(plan()) == ""


def test_the_stop_waits_longer_than_the_flush():
    assert int(value(lines(flush_s=60.0), "TimeoutStopSec")) > 60


def test_it_never_gives_up_and_takes_its_time_where_systemd_can():
    for systemd, steps in ((252, []), (254, "5")):
        text = lines(systemd=systemd)
        assert (value(text, "Restart"), value(text, "StartLimitIntervalSec")) == ("always", "0")
        assert value(text, "RestartSteps") == steps


def test_a_user_that_was_there_is_not_made():
    assert sysusers_text(plan(user="pilot", own_user=False)) == ""
    assert sysusers_text(plan(user="pilot")) == 'u pilot - "covey edge agent" /var/lib/covey -\n'


@pytest.mark.parametrize(
    ("word", "written"),
    [("/a-b/c.d", "/a-b/c.d"), ("/50%", "/50%%"), ("/a b", '"/a b"'), ('/a"b\\c', '"/a\\"b\\\\c"')],
)
def test_words_are_quoted_as_systemd_reads_them(word, written):
    assert quoted(word) == written


def systemd_analyze(*words):
    if shutil.which("systemd-analyze") is None:
        absent("systemd", "systemd-analyze is not installed (as root: apt-get install systemd)")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"sources": ("mavlink+serial:///dev/ttyACM0",)},
        {"state": "/data/a b", "mqtt_user": "u", "mqtt_password_file": "/etc/50%/word", "bundle": "/home/pi/m 1.covey"},
    ],
    ids=["plain", "serial", "odd names"],
)
def test_systemd_finds_nothing_wrong_with_the_unit_and_little_exposed(tmp_path, keys):
    path = tmp_path / "covey-edge.service"
    made = Plan(config(**keys), "/etc/covey/edge.toml", ("/usr/bin/true",), "root", False, 252, ("/usr",))
    path.write_text(unit_text(made))
    said = systemd_analyze("verify", str(path))
    assert (said.returncode, [line for line in said.stderr.splitlines() if "covey" in line]) == (0, [])
    path.write_text(unit_text(made).replace("User=root", "User=covey"))
    rated = systemd_analyze("security", "--offline=yes", "--threshold=20", "--no-pager", str(path))
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]


# -- edge.toml -----------------------------------------------------------------------------------------------------


def test_edge_toml_holds_the_effective_configuration_and_says_what_each_key_is_for():
    keys = {"device": "d1", "state": "/s", "sources": ['a\x7f "b"\n', "c"], "mqtt_ca": "system", "speed": 0.5}
    made, settings = explain(AgentConfig, "edge", None, keys, {})
    text = to_toml(settings, "/etc/covey/edge.toml")
    assert tomllib.loads(text) == keys
    for line in text.splitlines():  # what is a comment is a default, and would be read as such
        if line.startswith("# ") and " = " in line:
            key, given = next(iter(tomllib.loads(line[2:]).items()))
            assert made == explain(AgentConfig, "edge", None, keys | {key: given}, {})[0]
    assert "# name in topics and identities" in text
    assert set(comments()) > {"device", "state", "mqtt", "outbox_bytes"}


def test_paths_are_made_absolute_and_addresses_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = absolute(config(state="s", sources=("a.csv", "tail:///b.csv", "system:"), mqtt_ca="system"))
    assert (made.state, made.mqtt_ca) == (str(tmp_path / "s"), "system")
    assert made.sources == (str(tmp_path / "a.csv"), "tail:///b.csv", "system:")


# -- files ---------------------------------------------------------------------------------------------------------


def test_uninstall_leaves_the_tree_as_it_was_and_keeps_the_state(tmp_path):
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    before = tree(tmp_path)
    assert install(tmp_path, "--device", "d1", "--source", "mavlink+serial:///dev/ttyACM0").exit_code == 0
    assert tree(tmp_path) - before == {
        UNIT, "etc/systemd/system/multi-user.target.wants", "etc/systemd/system/multi-user.target.wants/covey-edge.service",
        "etc/covey", TOML, "etc/covey/installed.json", "etc/sysusers.d", "etc/sysusers.d/covey-edge.conf",
        "etc/modules-load.d", "etc/modules-load.d/covey-edge.conf",
    }  # fmt: skip
    assert (tmp_path / "etc/systemd/system/multi-user.target.wants/covey-edge.service").resolve() == tmp_path / UNIT
    state = tmp_path / "var/lib/covey"
    state.mkdir(parents=True)
    (state / "lock").touch()
    assert uninstall(tmp_path).exit_code == 0
    assert tree(tmp_path) - before == {"var", "var/lib", "var/lib/covey", "var/lib/covey/lock"}
    assert install(tmp_path, "--device", "d1").exit_code == 0
    assert uninstall(tmp_path, "--purge").exit_code == 0
    assert tree(tmp_path) - before == {"var", "var/lib"}


def test_an_edited_configuration_is_never_overwritten_without_force(tmp_path):
    assert install(tmp_path, "--device", "d1").exit_code == 0
    (tmp_path / TOML).write_text('device = "d2"\nstate = "/data/covey"\n')
    refused = install(tmp_path, "--device", "d3")
    assert "says something else" in str(refused.exception)
    assert install(tmp_path).exit_code == 0  # takes what is there
    assert 'device = "d2"' in (tmp_path / TOML).read_text()
    assert "agent of d2" in (tmp_path / UNIT).read_text()
    assert "/data/covey" in (tmp_path / "etc/tmpfiles.d/covey-edge.conf").read_text()
    assert uninstall(tmp_path).exit_code == 0
    assert tree(tmp_path) == {"etc", "etc/covey", TOML}
    assert install(tmp_path, "--device", "d3", "--force").exit_code == 0
    made = tomllib.loads((tmp_path / TOML).read_text())
    assert (made["device"], made["state"]) == ("d3", "/data/covey")


def test_a_unit_that_somebody_else_wrote_is_not_replaced(tmp_path):
    (tmp_path / UNIT).parent.mkdir(parents=True)
    (tmp_path / UNIT).write_text("[Service]\nExecStart=/usr/bin/mine\n")
    before = tree(tmp_path)
    assert "not as `covey edge install` wrote it" in str(install(tmp_path, "--device", "d1").exception)
    assert tree(tmp_path) == before
    assert install(tmp_path, "--device", "d1", "--force").exit_code == 0


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/sysusers.d").write_text("a file where a folder should be")
    before = tree(tmp_path)
    assert "cannot be written" in str(install(tmp_path, "--device", "d1").exception)
    assert tree(tmp_path) == before


def test_purge_takes_no_folder_that_is_not_an_agents(tmp_path):
    assert install(tmp_path, "--device", "d1", "--state", "/home/pi").exit_code == 0
    (tmp_path / "home/pi").mkdir(parents=True)
    (tmp_path / "home/pi/photo").touch()
    assert uninstall(tmp_path, "--purge").exit_code == 0
    assert (tmp_path / "home/pi/photo").exists()
    refused = install(tmp_path, "--device", "d1", "--state", "/home/pi")
    assert "it holds other files" in str(refused.exception)


def test_dry_run_writes_nothing_and_prints_every_file(tmp_path):
    done = install(tmp_path, "--device", "d1", "--dry-run")
    assert done.exit_code == 0
    assert tree(tmp_path) == set()
    assert f"--- {tmp_path / UNIT}" in done.output
    assert "ProtectSystem=strict" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "a/b"), "device:"),
        (("--device", "d", "--source", "stdin:"), "not for a service"),
        (("--device", "d", "--user", "Bad User"), "--user"),
        (("--device", "d", "--bundle", "/tmp/m.covey"), "not below /tmp"),
    ],
)
def test_what_cannot_be_a_service_is_one_line_and_nothing_is_written(tmp_path, words, said):
    done = install(tmp_path, *words)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)
    assert tree(tmp_path) == set()


def test_uninstall_of_nothing_is_one_line(tmp_path):
    assert "nothing is installed" in str(uninstall(tmp_path).exception)


# -- sd_notify -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path):
    address = str(tmp_path / "s") if request.param == "path" else f"@covey-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        server.settimeout(5)
        yield server, address


def test_a_service_manager_hears_ready_alive_status_and_stopping(listener):
    server, address = listener
    now_s = [0.0]
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier(environ, lambda: now_s[0])
    assert environ == {"HOME": "/"}  # children do not speak for us
    assert notifier.watchdog_s == 3.0
    notifier.ready("flying\nhigh")
    for now_s[0] in (0.0, 0.5, 0.99, 1.0, 1.5, 2.0):
        notifier.alive()
    notifier.status("flying")
    notifier.status("flying")
    notifier.extend(2.5)
    notifier.stopping()
    notifier.close()
    heard = [server.recv(1024).decode() for _ in range(7)]
    assert heard == [
        "READY=1\nSTATUS=flying high",
        *["WATCHDOG=1"] * 3,
        "STATUS=flying",
        "EXTEND_TIMEOUT_USEC=2500000",
        "STOPPING=1",
    ]
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(1024)


def test_another_process_watchdog_is_not_ours(listener):
    environ = {"NOTIFY_SOCKET": listener[1], "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier(environ).watchdog_s == 0


@pytest.mark.parametrize("address", ["", "/nowhere/socket", "vsock:2:3", "@" + "x" * 200])
def test_without_a_service_manager_nothing_happens(address):
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    notifier.ready()
    notifier.alive()
    notifier.status("on")
    notifier.stopping()


def test_a_full_socket_never_holds_the_agent_up(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        now_s = [0.0]
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "s"), "WATCHDOG_USEC": "1000000"}, lambda: now_s[0])
        for turn in range(2000):  # nobody reads: the kernel queues some ten to some hundred datagrams
            now_s[0] = float(turn)
            notifier.alive()
        heard = server.recv(64)
        notifier.alive()
        assert heard == b"WATCHDOG=1"
    assert Path(tmp_path / "s").exists()


def test_this_shells_variables_do_not_bend_what_stands_in_the_kept_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_EDGE_FLUSH_S", "40")
    assert install(tmp_path, "--device", "d1").exit_code == 0
    assert tomllib.loads((tmp_path / TOML).read_text())["flush_s"] == 40.0
    monkeypatch.setenv("COVEY_EDGE_FLUSH_S", "90")
    assert install(tmp_path).exit_code == 0
    assert value((tmp_path / UNIT).read_text().splitlines(), "TimeoutStopSec") == "55"


def test_tables_by_name_are_written_so_that_they_are_read_again():
    links = {"wwan0": {"metered": True, "cap": None}, "*": {"bytes_per_hour": 5}}
    assert tomllib.loads(f"links = {toml_value(links)}") == {
        "links": {"wwan0": {"metered": True}, "*": {"bytes_per_hour": 5}}
    }
