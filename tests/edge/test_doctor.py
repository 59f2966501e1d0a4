"""`covey edge doctor`: the rules on facts made by hand, the looks on real brokers, ports, files and certificates."""

import dataclasses
import datetime as dt
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from certificates import DAY, Authority
from covey.certificates import Certificate
from covey.credentials import Credentials
from edge.check_mqtt import check_mqtt
from edge.doctor import Clock, Disk, Facts, Line, Machine, Model, Root, Secured, judge
from edge.doctor_probe import cpu_flags, l4t_release, life_used_percent, limits_memory, look_at_disk, look_at_root
from edge.doctor_sources import look_at
from edge_bundles import make_bundle
from secured import mosquitto_password, mosquitto_tls, write_secret
from servers import Mosquitto, free_port

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.timezone.utc)
MACHINE = Machine("3.11.7", "aarch64", (2, 36), memory_bytes=4 << 30, available_bytes=3 << 30, numpy="1.26.4")
CLOCK = Clock(NOW.timestamp(), True, NOW.timestamp() - 60)
DISK = Disk("/var/lib/covey", True, free_bytes=1 << 30, total_bytes=8 << 30, outbox_bytes=64 << 20, fsync_s=0.004)
RUNTIME = {"runtime": "litert", "ok": True}


def lines(machine=MACHINE, clock=CLOCK, runtimes=(RUNTIME,), **more):
    found = {}
    for line in judge(Facts(machine, clock, runtimes=runtimes, **more)):
        found.setdefault(line.name, line)
    return found


def changed(facts, **changes):
    return dataclasses.replace(facts, **changes)


# -- rules ---------------------------------------------------------------------------------------------------------


def test_a_good_device_has_nothing_to_mend():
    found = lines(disk=DISK, model=Model("slot a", "litert", 0.2, 0.4))
    assert {line.state for line in found.values()} == {"ok"}
    assert not any(line.fix for line in found.values())


@pytest.mark.parametrize(
    ("facts", "name", "state", "words"),
    [
        ({"runtimes": ()}, "runtimes", "FAIL", "none runs"),
        ({"runtimes": ({"ok": False},)}, "runtimes", "FAIL", "none runs"),
        ({"machine": changed(MACHINE, missing=("tuf",))}, "libraries", "FAIL", "tuf"),
        ({"machine": changed(MACHINE, numpy="2.1.0", tflite_runtime=True)}, "numpy", "warn", "2.1.0"),
        ({"machine": changed(MACHINE, foreign=("cloud by x",))}, "package names", "FAIL", "another distribution"),
        ({"machine": changed(MACHINE, machine="armv7l")}, "cpu", "warn", "32-bit"),
        ({"machine": changed(MACHINE, glibc=(2, 27))}, "glibc", "warn", "2.27"),
        ({"machine": changed(MACHINE, available_bytes=100 << 20)}, "memory", "warn", "100 MB left"),
        ({"machine": changed(MACHINE, memory_limits=False)}, "memory limit", "note", "limits no"),
        ({"machine": changed(MACHINE, l4t="32.7.1")}, "jetpack", "warn", "4 (L4T 32.7.1)"),
        ({"machine": changed(MACHINE, l4t="36.3.0")}, "jetpack", "ok", "6 (L4T 36.3.0)"),
        (
            {"machine": changed(MACHINE, l4t="36.3.0", onnxruntimes=("onnxruntime",), onnx_providers=("CPUExecutionProvider",))},
            "jetpack", "note", "CPU only",
        ),
        (
            {"machine": changed(MACHINE, onnxruntimes=("onnxruntime", "onnxruntime-gpu"))},
            "onnxruntime", "warn", "overwrite",
        ),
        ({"clock": changed(CLOCK, now_s=0.0)}, "clock", "warn", "never set"),
        ({"clock": changed(CLOCK, now_s=0.0, needed=True)}, "clock", "FAIL", "never set"),
        ({"clock": changed(CLOCK, newest_file_s=NOW.timestamp() + 10 * 86_400)}, "clock", "warn", "10.0 days behind"),
        ({"clock": changed(CLOCK, synchronised=False)}, "clock", "warn", "not synchronised"),
        ({"clock": changed(CLOCK, synchronised=None)}, "clock", "ok", "2026-05-01 12:00 UTC"),
        ({"disk": changed(DISK, problem="is mounted read-only")}, "disk", "FAIL", "read-only"),
        ({"disk": changed(DISK, outbox_bytes=71, total_bytes=100)}, "disk", "FAIL", "70 %"),
        ({"disk": changed(DISK, free_bytes=10 << 20)}, "disk", "warn", "10 MB free"),
        ({"disk": changed(DISK, fsync_s=0.8)}, "fsync", "warn", "800.0 ms"),
        ({"disk": changed(DISK, worn_percent=90)}, "flash", "warn", "90 %"),
        ({"disk": changed(DISK, mode=0o755)}, "state", "warn", "others"),
        ({"disk": changed(DISK, foreign_owner="pi")}, "state", "FAIL", "pi"),
        ({"disk": changed(DISK, there=False)}, "state", "note", "first start"),
        ({"model": Model("bundle", problem="no such file")}, "model", "FAIL", "no such file"),
        ({"root": Root("r.json", "no such file")}, "trusted root", "FAIL", "no such file"),
        ({"root": Root("r.json", "", 3, NOW - DAY)}, "trusted root", "warn", "version 3 expired 2026-04-30"),
        ({"root": Root("r.json", "", 3, NOW + DAY)}, "trusted root", "ok", "version 3"),
        ({"secured": Secured(("mqtt_cert x: expired",))}, "certificates", "FAIL", "expired"),
    ],
)  # fmt: skip
def test_each_rule_tells_one_line_and_a_fix(facts, name, state, words):
    line = lines(**facts)[name]
    assert (line.state, words in line.detail) == (state, True), line
    assert bool(line.fix) == (state in ("warn", "FAIL")) or state == "note"
    assert line.ok == (state != "FAIL")


def test_the_quota_may_be_seventy_percent_and_no_more():
    assert lines(disk=changed(DISK, outbox_bytes=70 << 20, total_bytes=100 << 20, free_bytes=90 << 20))["disk"].ok
    assert not lines(disk=changed(DISK, outbox_bytes=(70 << 20) + 1, total_bytes=100 << 20))["disk"].ok


def test_a_certificates_age_is_told():
    cert = Certificate("CN=d1", "CN=ca", NOW - 3 * DAY, NOW + 27 * DAY)
    assert lines(secured=Secured(cert=cert))["certificates"] == Line(
        "certificates", "ok", "CN=d1: 3 days old, 27 days left"
    )


# -- looks ---------------------------------------------------------------------------------------------------------


def test_the_disk_is_looked_at_without_leaving_a_trace(tmp_path):
    state = tmp_path / "state"
    seen = look_at_disk(str(state), 1 << 20)
    assert (seen.there, seen.problem, list(tmp_path.iterdir())) == (False, "", [])
    state.mkdir(mode=0o700)
    (state / "lock").touch()
    seen = look_at_disk(str(state), 1 << 20)
    assert (seen.there, seen.locked, seen.mode) == (True, False, 0o700)
    assert 0 < seen.fsync_s < 60
    room = os.statvfs(state)
    assert seen.total_bytes == room.f_blocks * room.f_frsize
    with (state / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look_at_disk(str(state), 1 << 20).locked
    assert sorted(one.name for one in state.iterdir()) == ["lock"]


def test_a_jetson_is_known_by_its_release_file_or_its_package():
    file = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 2023\n"
    assert l4t_release(file, "") == "35.4.1"
    packages = "Package: bash\nVersion: 5.1.16-1\n\nPackage: nvidia-l4t-core\nStatus: ok\nVersion: 36.3.0-20240506102626\n\nPackage: z\n"
    assert l4t_release("", packages) == "36.3.0"
    assert l4t_release("", "Package: bash\nVersion: 5.1.16-1\n") == ""


def test_processors_and_kernels_are_read_as_they_write():
    assert {"asimddp", "fp"} <= cpu_flags("processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n")
    assert "avx2" in cpu_flags("model name\t: x\nflags\t\t: fpu avx2\n")
    head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
    assert not limits_memory(f"{head}memory\t0\t70\t0\npids\t0\t70\t1\n")  # Raspberry Pi OS as it comes
    assert limits_memory(f"{head}memory\t0\t70\t1\npids\t0\t70\t0\n")
    assert limits_memory("")


@pytest.mark.parametrize(
    ("told", "percent"), [("0x01 0x02\n", 20), ("0x0b 0x01\n", 110), ("0x00 0x00\n", None), ("?", None)]
)
def test_a_cards_wear_is_the_worse_of_its_two_estimates(tmp_path, told, percent):
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "life_time").write_text(told)
    assert life_used_percent(tmp_path) == percent
    assert life_used_percent(tmp_path / "none") is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"signed": 1}', '{"signed": {"_type": "timestamp"}}', '{"signed": {"_type": "root"}}']
)
def test_what_is_no_trusted_root_is_told(tmp_path, content):
    path = tmp_path / "root.json"
    path.write_text(content)
    assert "expected" in look_at_root(str(path)).problem


def test_a_trusted_root_tells_its_version_and_end(tmp_path):
    path = tmp_path / "root.json"
    path.write_text(json.dumps({"signed": {"_type": "root", "version": 4, "expires": "2030-01-02T03:04:05Z"}}))
    seen = look_at_root(str(path))
    assert (seen.problem, seen.version, seen.expires) == (
        "",
        4,
        dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc),
    )


def test_sources_are_looked_at_as_they_are_written(tmp_path):
    (tmp_path / "f.csv").write_text("a\n1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, socket.create_server(("127.0.0.1", 0)) as local:
        taken.bind(("127.0.0.1", 0))
        busy = f"mavlink+udp://127.0.0.1:{taken.getsockname()[1]}"
        assert "in use" in look_at(busy, running=False).problem
        assert not look_at(busy, running=True).problem
        assert not look_at(f"mqtt://127.0.0.1:{local.getsockname()[1]}/a/b", running=False).problem
    assert "refused" in look_at(f"mqtt://127.0.0.1:{free_port()}/a", running=False).problem
    for good in (
        str(tmp_path / "f.csv"),
        f"tail://{tmp_path}/f.csv",
        "system:",
        f"mavlink+udp://127.0.0.1:{free_port()}",
    ):
        assert not look_at(good, running=False).problem
    assert not look_at("mavlink+serial:///dev/null", running=False).problem  # a character device that may be read
    for bad, words in (
        (str(tmp_path / "none.csv"), "no such file"),
        (f"mavlink+serial://{tmp_path}/f.csv", "a device expected"),
        ("mavlink+serial:///dev/ttyNONE", "no such device"),
        ("mavlink+udp://127.0.0.1", "a port expected"),
        ("mavlink+udp://127.0.0.1:99999", "not an address"),
        ("carrier+pigeon://x", "no such kind"),
    ):
        seen = look_at(bad, running=False)
        assert words in seen.problem, bad
        assert seen.fix


# -- the broker ----------------------------------------------------------------------------------------------------


def ask(port, host="127.0.0.1", **who):
    return {line.name: line for line in check_mqtt(host, port, "d1", Credentials("mqtt", **who))}


@pytest.mark.broker
def test_a_broker_that_takes_the_device_is_left_without_a_session(tmp_path):
    with Mosquitto(tmp_path) as broker:
        found = ask(broker.port)
        assert [line.state for line in found.values()] == ["ok", "ok"]
        log = broker.process.log.read_text()
    assert "d1-doctor-" in log
    assert "disconnected." in log  # by DISCONNECT, not by a time-out or a reset


@pytest.mark.broker
def test_user_and_password_are_tried_and_a_wrong_one_is_named(tmp_path):
    port = free_port()
    users = mosquitto_password(tmp_path / "users", "d1", "right")
    config = f"listener {port} 127.0.0.1\npassword_file {users}\nallow_anonymous false\n"
    with Mosquitto(tmp_path / "broker", config, port):
        right = write_secret(tmp_path / "right", "right")
        assert ask(port, user="d1", password_file=str(right))["broker mqtt"].ok
        wrong = write_secret(tmp_path / "wrong", "wrong")
        line = ask(port, user="d1", password_file=str(wrong))["broker mqtt"]
        assert (line.state, "refused: not authorized" in line.detail) == ("FAIL", True)
        assert "mqtt_password_file" in line.fix


@pytest.mark.broker
def test_tls_is_tried_with_the_devices_certificate(tmp_path):
    port, ours, theirs = free_port(), Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other ca")
    config = mosquitto_tls(
        port, ours, ours.issue("broker"), more="require_certificate true\nuse_identity_as_username true\n"
    )
    cert, key = ours.issue("d1", host="d1")
    with Mosquitto(tmp_path / "broker", config, port):
        found = ask(port, ca=str(ours.ca), cert=str(cert), key=str(key))
        assert [line.state for line in found.values()] == ["ok", "ok", "ok"], found
        assert "with its certificate" in found["broker mqtt"].detail
        stranger = ask(port, ca=str(theirs.ca), cert=str(cert), key=str(key))
        assert "not signed by mqtt_ca" in stranger["broker tls"].detail
        assert not all(line.ok for line in ask(port, ca=str(ours.ca)).values())  # no certificate of ours
        assert not all(line.ok for line in ask(port).values())  # no TLS
        assert not all(line.ok for line in ask(port, ca=str(tmp_path / "none.pem")).values())


def test_nobody_there_is_one_line():
    found = ask(free_port())
    assert (list(found), found["broker tcp"].state) == (["broker tcp"], "FAIL")


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 400\r\n\r\n", b"\x20\x02\x00\x00", b"\x20\xff\xff\xff\xff\xff", b"\x20\xff\xff\x7f", b"\x20\x08\x00"],
    ids=["closes", "http", "mqtt 3.1.1", "endless length", "huge", "half"],
)  # fmt: skip
def test_whatever_is_at_the_other_end_is_one_line(said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def answer():
            peer, _ = server.accept()
            with peer:
                peer.settimeout(10)
                peer.recv(1024)
                peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        line = ask(server.getsockname()[1])["broker mqtt"]
        thread.join(20)
    assert line.state == "FAIL"
    assert line.fix


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_the_command_looks_at_all_of_it_and_fails_only_for_what_is_required(tmp_path):
    make_bundle(tmp_path / "m.covey")
    (tmp_path / "f.csv").write_text("a\n1\n")
    with Mosquitto(tmp_path / "broker") as broker:
        (tmp_path / "a.toml").write_text(
            f'device = "d1"\nstate = "{tmp_path}/state"\nmqtt = "127.0.0.1:{broker.port}"\nbundle = "{tmp_path}/m.covey"\n'
            f'sources = ["{tmp_path}/f.csv"]\noutbox_bytes = 1000000\n'
        )
        command = [sys.executable, "-m", "covey", "edge", "doctor", "--config", str(tmp_path / "a.toml")]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=False)
        told = json.loads(done.stdout)
        states = {one["name"]: one["state"] for one in told["checks"]}
        assert (done.returncode, told["ok"]) == (0, True), done.stdout
        for name in ("disk", "fsync", "broker tcp", "broker mqtt", "model", "source"):
            assert states[name] == "ok", told
        assert not (tmp_path / "state").exists()
    (tmp_path / "m.covey").write_bytes(b"PK no longer")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert sorted(line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")) == [
        "broker",
        "model",
    ]
