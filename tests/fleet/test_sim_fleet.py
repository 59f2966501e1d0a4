"""`covey sim fleet` on a real broker: everything written arrives once, also over kills; devices behave as agents do."""

import json
import sqlite3
import sys
from collections import Counter
from hashlib import sha256

import pytest

from certificates import certificate
from covey import topics, wire
from edge_cloud import Cloud
from processes import Process, free_port, unique, wait_for
from servers import Mosquitto

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

SCENARIO = """\
title = "a test"
duration_s = {seconds}
devices = {devices}
prefix = "{prefix}"
summary_interval_s = 2
keepalive_s = 10
[vehicles]
pool_quadrotors = 2
flight_s = 14
rest_s = [2, 4]
first_flight_s = [0, 2]
commission_flights = 2
flights_per_vehicle = 1
{more}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A drone model, fitted by the commands a user would use."""
    folder = tmp_path_factory.mktemp("bundle")
    covey(folder, "flights", "sim", "flights", "--out", str(folder / "f"), "--vehicles", "3", "--damaged", "0")
    files = [word for path in sorted((folder / "f" / "normal_flight").iterdir()) for word in ("--data", str(path))]
    covey(folder, "fit", "model", "fit", *files, "--out", str(folder / "m.covey"))
    return folder / "m.covey"


def start(folder, name, *words):
    return Process(name, [sys.executable, "-m", "covey", *words], folder / f"{name}.log").start()


def covey(folder, name, *words, code=0, timeout_s=120):
    process = start(folder, name, *words)
    assert process.wait(timeout_s) == code, process.tail(2000)
    return (folder / f"{name}.log").read_text()


def order(folder, bundle, port, more="", devices=6, seconds=16):
    prefix = unique("f")
    path = folder / "scenario.toml"
    path.write_text(SCENARIO.format(prefix=prefix, more=more, devices=devices, seconds=seconds))
    words = ["sim", "fleet", "--scenario", str(path), "--mqtt", f"127.0.0.1:{port}", "--bundle", str(bundle)]
    return prefix, [*words, "--ledger", str(folder / "l.ledger"), "--seed", "5", "--json", "--quiet", "--drain-s", "60"]


def ledger(folder):
    """(device, outbox, seq) -> sha256 of all that was written, and of what is not acknowledged."""
    db = sqlite3.connect(f"file:{folder / 'l.ledger'}?mode=ro", uri=True)
    devices = {i: (name, outbox) for i, name, outbox in db.execute("SELECT device, name, outbox FROM devices")}
    written = {
        (*devices[key >> 32], key & 0xFFFFFFFF): bytes(digest)
        for key, digest in db.execute("SELECT key, sha256 FROM events")
    }
    (waiting,) = db.execute("SELECT count(*) FROM queue").fetchone()
    return written, waiting


def arrived(cloud, prefix):
    """Identity -> set of sha256 of what came from this fleet."""
    found = {}
    for identity, _, body in list(cloud.events):
        if identity.device.startswith(prefix):
            found.setdefault(tuple(identity), set()).add(sha256(body).digest())
    return found


def data(cloud, device, kind):
    events = {i.seq: body for i, k, body in list(cloud.events) if i.device == device and k == kind}
    return [wire.decode_data(wire.decode_event(events[seq])[0]) for seq in sorted(events)]


def test_a_killed_fleet_goes_on_and_all_that_was_ever_written_arrives(mosquitto, bundle, tmp_path):
    more = '[[changes]]\nkind = "propeller-cut"\nshare = 1.0\nonset_s = [0, 24]\nparams = {motor = 2, cut_mm = 4.0}\n'
    prefix, words = order(tmp_path, bundle, mosquitto.port, more, seconds=24)
    with Cloud(mosquitto.port) as cloud:
        first = start(tmp_path, "first", *words)
        wait_for(lambda: len(arrived(cloud, prefix)) > 20, 60, "the fleet is on the air")
        first.kill9()
        before, _ = ledger(tmp_path)
        assert set(arrived(cloud, prefix)) <= set(before)  # nothing was sent that the ledger does not know
        out = covey(tmp_path, "second", *words, "--resume")
        written, waiting = ledger(tmp_path)
        assert waiting == 0
        assert before.items() <= written.items()
        wait_for(lambda: len(arrived(cloud, prefix)) == len(written), 10, "all of it arrives")
        assert arrived(cloud, prefix) == {identity: {digest} for identity, digest in written.items()}
        result = json.loads(out.splitlines()[-1])
        assert (result["unacknowledged"], sum(result["written"].values())) == (0, len(written))


def test_devices_follow_parameters_and_answer_commands(mosquitto, bundle, tmp_path):
    prefix, words = order(tmp_path, bundle, mosquitto.port, devices=2, seconds=20)
    slow, quick = f"{prefix}-00001", f"{prefix}-00002"
    parameters = wire.Parameters(summary_interval_s=0.5)
    desired = wire.Desired(quick, 4, "default", 1, "default/1.covey", "3" * 64, 1, "http://127.0.0.1:1", parameters)
    with Cloud(mosquitto.port) as cloud:
        cloud.tell(quick, "desired", desired, retain=True)
        fleet = start(tmp_path, "fleet", *words)
        wait_for(lambda: data(cloud, slow, "summary"), 60, "the fleet is on the air")
        cloud.tell(slow, "command", wire.Command("c-1", "ping", 4e9))
        cloud.tell(slow, "command", wire.Command("c-1", "ping", 4e9))
        cloud.tell(slow, "command", wire.Command("c-2", "ping", 1.0))  # expired long ago
        assert fleet.wait(90) == 0, fleet.tail(2000)
        answers = [one.command for one in data(cloud, slow, "status") if one.kind == "command"]
        assert answers == ["c-1"]
        assert [one.kind for one in data(cloud, quick, "status")] == ["start", "stop"]
        assert len(data(cloud, quick, "summary")) > 2 * len(data(cloud, slow, "summary"))
        assert data(cloud, quick, "summary")[-1].reported.revision == 4
        births = Counter(one.online for device, one in cloud.presences if device == slow)
        assert births == {True: 1, False: 1}  # a birth, and a goodbye; no will
        cloud._client.publish(topics.mqtt_topic(quick, "desired"), b"", qos=1, retain=True).wait_for_publish(10)


def stopped(cloud, prefix):
    """Devices whose last words have come, whether acknowledged or not."""
    said = (b'"kind":"stop"', b'"kind": "stop"')
    return {i.device for i, kind, body in list(cloud.events) if kind == "status" and any(w in body for w in said)
            and i.device.startswith(prefix)}  # fmt: skip


def test_storms_and_reboots_lose_nothing_and_what_was_not_acknowledged_is_sent_again(mosquitto, bundle, tmp_path):
    more = "[[storms]]\nat_s = 5\n[[reboots]]\nat_s = 8\nshare = 0.5\noff_s = [2, 3]\n"
    prefix, words = order(tmp_path, bundle, mosquitto.port, more)
    with Cloud(mosquitto.port, acknowledging=False) as cloud:
        fleet = start(tmp_path, "fleet", *words)
        wait_for(lambda: len(stopped(cloud, prefix)) == 6, 90, "all have said their last words")
        # Nothing new is written from here on: only the time-out of what is in flight brings it again.
        cloud.acknowledging = True
        assert fleet.wait(120) == 0, fleet.tail(2000)
        written, waiting = ledger(tmp_path)
        assert waiting == 0
        assert arrived(cloud, prefix) == {identity: {digest} for identity, digest in written.items()}
        starts = Counter(i.device for i, kind, body in list(cloud.events) if kind == "status" and b'"kind":"start"' in body
                         and i.device.startswith(prefix) and i.seq > 1)  # fmt: skip
        assert 2 <= len(starts) <= 4  # half of them, give or take one, came back from a power cut
        for device in {name for name, _, _ in written}:
            seqs = sorted(seq for name, _, seq in written if name == device)
            assert seqs == list(range(1, len(seqs) + 1))


def test_a_fleet_trusts_the_authority_it_is_given_and_no_other(mosquitto_factory, bundle, tmp_path):
    cert, key = certificate(tmp_path)
    plain, secure = free_port(), free_port()
    broker = mosquitto_factory(
        f"listener {plain} 127.0.0.1\nlistener {secure} 127.0.0.1\ncertfile {cert}\nkeyfile {key}\n"
        + Mosquitto.DEFAULT,
        port=plain,
    )
    prefix, words = order(tmp_path, bundle, secure, devices=1, seconds=3)
    with Cloud(broker.port) as cloud:
        covey(tmp_path, "trusting", *words, "--ca", str(cert))
        written, waiting = ledger(tmp_path)
        assert (set(arrived(cloud, prefix)), waiting) == (set(written), 0)
    (tmp_path / "l.ledger").unlink()
    other = tmp_path / "other"
    other.mkdir()
    stranger, _ = certificate(other)
    said = covey(tmp_path, "doubting", *words[:-1], "1", "--ca", str(stranger), code=1)
    assert "no device could connect: tls: certificate verify failed" in said


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--mqtt", "nowhere"], 2, "--mqtt: host:port expected, 'nowhere' came"),
        (["--ca", "missing.pem"], 2, "--ca missing.pem, --cert none: "),
        (["--cert", "c.pem"], 2, "--cert, --key: --ca expected beside them"),
        (["--mqtt", "h:1", "--stack", "."], 2, "--mqtt, --stack: one of the two expected, both came"),
        (["--scenario", "no-such-one"], 2, "scenario no-such-one: no such file, and the library has only"),
        (["--ledger", "/"], 2, "/: a new ledger expected, the file is there already"),
        (["--ledger", "no/such/folder/l"], 2, "no/such/folder/l: a ledger in an existing folder expected"),
        (["--resume", "--ledger", "missing"], 2, "missing: a ledger expected, there is no such file"),
        (["--bundle", "missing.covey", "--devices", "1", "--seconds", "1"], 1, "missing.covey"),
    ],
)
def test_wrong_orders_are_one_line(tmp_path, words, code, line):
    scenario = tmp_path / "s.toml"
    scenario.write_text(SCENARIO.format(prefix="x", more="", devices=1, seconds=1))
    base = ["sim", "fleet", "--quiet", "--scenario", str(scenario), "--ledger", str(tmp_path / "l")]
    said = covey(tmp_path, "fleet", *base, *words, code=code)
    assert line in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "l").exists()


def test_without_a_broker_it_says_so_and_keeps_what_was_written(bundle, tmp_path):
    _, words = order(tmp_path, bundle, free_port(), devices=1, seconds=3)
    said = covey(tmp_path, "fleet", *words[:-1], "1", code=1)
    assert "no device could connect: connection refused" in said
    written, waiting = ledger(tmp_path)
    assert len(written) == waiting > 0
