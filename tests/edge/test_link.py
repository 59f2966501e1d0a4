"""The device's connection against a real Mosquitto: presence, TLS, refusals, sizes, new sessions."""

import datetime as dt
import ipaddress
import logging
import socket
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from covey import wire
from covey.errors import LinkError
from covey.runtime import Backoff
from edge.link import Link, read_password, tls_context
from edge_cloud import Cloud
from servers import Mosquitto, free_port, unique, wait_for

pytestmark = pytest.mark.broker
LOG = logging.getLogger("test.link")


@pytest.fixture
def server(tmp_path):
    with Mosquitto(tmp_path / "m") as one:
        yield one


def make_link(port, device, **more):
    return Link(device, "127.0.0.1", port, LOG, backoff=Backoff(0.05, 0.1), **more)


def stepping(link, predicate, what, timeout_s=10.0):
    received = []

    def turn():
        received.extend(link.step(time.monotonic()))
        return predicate(received)

    wait_for(turn, timeout_s, what)
    return received


def connect(link):
    return stepping(link, lambda _: link.connected, "connected")


def test_birth_on_connect_and_goodbye_on_close(server):
    device = unique("d")
    with Cloud(server.port) as cloud:
        link = make_link(server.port, device)
        connect(link)
        wait_for(lambda: cloud.presences, 5, "birth")
        session = link.session
        link.close()
        wait_for(lambda: len(cloud.presences) == 2, 5, "goodbye")
        said = [(name, p.online, p.session) for name, p in cloud.presences]
        assert said == [(device, True, session), (device, False, session)]


@pytest.mark.parametrize(
    "cut", [lambda client: client.socket().shutdown(socket.SHUT_RDWR), lambda client: client._sock_close()]
)
def test_the_will_speaks_for_a_device_that_vanishes(server, cut):
    device = unique("d")
    with Cloud(server.port) as cloud:
        link = make_link(server.port, device)
        connect(link)
        session = link.session
        wait_for(lambda: cloud.presences, 5, "birth")
        cut(link._client)
        wait_for(lambda: len(cloud.presences) >= 2, 5, "will")
        assert cloud.presences[1] == (device, wire.Presence(False, session))
        connect(link)  # and it comes back by itself, in a session of another name
        stepping(link, lambda _: link.connected and link.session != session, "a new session, by itself")
        link.close()


def test_retained_messages_come_with_every_new_connection(server):
    device = unique("d")
    with Cloud(server.port) as cloud:
        cloud.tell(device, "desired", wire.Command("x", "ping", 0.0), retain=True)
        link = make_link(server.port, device)
        for _ in range(2):
            received = stepping(link, lambda got: {m.kind for m in got} >= {"desired", "gateway"}, "retained messages")
            assert received
            link.drop("again", time.monotonic())
            assert not link.connected
        link.close()


def test_only_own_messages_come(server):
    device, other = unique("d"), unique("d")
    with Cloud(server.port) as cloud:
        link = make_link(server.port, device)
        connect(link)
        cloud.tell(other, "command", wire.Command("not mine", "ping", 0.0))
        cloud.tell(device, "command", wire.Command("mine", "ping", 0.0))
        received = stepping(link, lambda got: [m for m in got if m.kind == "command"], "a command")
        commands = [wire.decode(wire.Command, m.payload).id for m in received if m.kind == "command"]
        assert commands == ["mine"]
        link.close()


def test_too_large_an_event_is_refused_before_it_is_queued(server):
    link = make_link(server.port, unique("d"))
    connect(link)
    with pytest.raises(LinkError, match="at most 65536 bytes"):
        link.publish("summary", b"x" * (wire.MAX_EVENT_BYTES + 1))
    assert link.connected
    link.close()


def test_the_brokers_own_limit_counts_too(tmp_path):
    with Mosquitto(tmp_path / "m", "allow_anonymous true\nmax_packet_size 2000\n") as server:
        link = make_link(server.port, unique("d"))
        connect(link)
        with pytest.raises(LinkError, match="at most 1744 bytes"):
            link.publish("summary", b"x" * 1900)
        link.close()


def test_no_more_than_the_broker_allows_is_handed_over(server):
    link = make_link(server.port, unique("d"))
    connect(link)
    server.pause()
    try:
        taken = sum(link.publish("summary", b"{}") for _ in range(100))
        assert taken < 100
        assert link.room == 0
    finally:
        server.resume()
    stepping(link, lambda _: link.unconfirmed == 0, "PUBACKs")
    link.close()


def test_no_broker_is_an_ordinary_state():
    link = make_link(free_port(), unique("d"))
    for _ in range(20):
        assert link.step(time.monotonic()) == []
        time.sleep(0.01)
    assert not link.connected
    assert not link.publish("summary", b"{}")
    link.close()


def certificates(folder):
    """A CA, a server and a client certificate, made here."""
    now = dt.datetime.now(dt.timezone.utc)

    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def write(path, certificate, key):
        path.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.with_suffix(".key").write_bytes(text)

    def make(subject, issuer, key, signer, extension):
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1))
        builder = builder.not_valid_after(now + dt.timedelta(hours=1))
        return builder.add_extension(extension, critical=True).sign(signer, hashes.SHA256())

    ca = ec.generate_private_key(ec.SECP256R1())
    write(folder / "ca", make("test ca", "test ca", ca, ca, x509.BasicConstraints(ca=True, path_length=None)), ca)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    for who in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        write(folder / who, make(who, "test ca", key, ca, address), key)


def test_tls_with_a_client_certificate_and_not_without(tmp_path):
    certificates(tmp_path)
    port = free_port()
    lines = f"listener {port} 127.0.0.1\ncafile {tmp_path / 'ca.pem'}\ncertfile {tmp_path / 'server.pem'}\n"
    lines += f"keyfile {tmp_path / 'server.key'}\nrequire_certificate true\nallow_anonymous true\n"
    with Mosquitto(tmp_path / "m", lines, port):
        ca, client = str(tmp_path / "ca.pem"), (str(tmp_path / "client.pem"), str(tmp_path / "client.key"))
        good = make_link(port, unique("d"), tls=tls_context(ca, *client))
        connect(good)
        good.close()
        nobody = make_link(port, unique("d"), tls=tls_context(ca))
        plain = make_link(port, unique("d"))
        for bad in (nobody, plain):
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                bad.step(time.monotonic())
                assert not bad.connected
                time.sleep(0.02)
            bad.close()


def test_a_refused_password_is_told_once_and_tried_again(tmp_path, caplog):
    with Mosquitto(tmp_path / "m", "allow_anonymous false\n") as server:
        link = make_link(server.port, unique("d"), user="u", password="wrong")
        with caplog.at_level("WARNING"):
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                link.step(time.monotonic())
                time.sleep(0.02)
        link.close()
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(told) == 1
    assert "not authorized" in told[0]


def test_missing_files_are_one_line(tmp_path):
    with pytest.raises(LinkError, match="no-such"):
        tls_context(str(tmp_path / "no-such.pem"))
    with pytest.raises(LinkError, match="no-such"):
        read_password(str(tmp_path / "no-such"))
